"""The Celery application whose beat is killed: it sends into a folder of messages, one file each."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from celery import Celery
from celery.schedules import crontab, schedule, solar

__all__ = ["MESSAGES", "PERIODS_S", "SLEEPERS", "application"]

MESSAGES: Final = "messages"
"""The folder that messages are sent to."""

PERIODS_S: Final = {"run.fast": 0.03, "run.medium": 0.07, "run.slow": 0.2, "run.added": 0.11}
"""The entries that are due again and again, by the tasks that they send."""

SLEEPERS: Final = ("sleep.interval", "sleep.crontab", "celery.backend_cleanup") + (
    ("sleep.solar",) if find_spec("ephem") else ()
)
"""The entries that are due once in a day, and so hardly ever in a test."""


def application(directory: Path) -> Celery:
    """Return the application that keeps everything in a directory."""
    for folder in (MESSAGES, "results"):
        (directory / folder).mkdir(exist_ok=True)
    victim = Celery("victim", broker=os.environ.get("VICTIM_BROKER", "filesystem://"), set_as_current=False)
    in_messages = str(directory / MESSAGES)
    victim.conf.update(
        broker_transport_options={
            "data_folder_in": in_messages,
            "data_folder_out": in_messages,
            "control_folder": str(directory / "control"),
        }
        if "VICTIM_BROKER" not in os.environ
        else {},
        # Results that do not expire by themselves make Celery add an entry of its own.
        result_backend=f"file://{directory / 'results'}",
        timezone="Europe/Berlin",
        beat_schedule={
            task: {"task": task, "schedule": schedule(period_s), "args": (task, 1)}
            for task, period_s in PERIODS_S.items()
            if task != "run.added"
        }
        | {
            "sleep.interval": {"task": "sleep.interval", "schedule": 86_400, "relative": True},
            "sleep.crontab": {
                "task": "sleep.crontab",
                "schedule": crontab(minute="59", hour="23", day_of_month="28-31", month_of_year="2"),
                "options": {"queue": "nightly", "expires": 3600},
            },
        }
        | (
            {"sleep.solar": {"task": "sleep.solar", "schedule": solar("sunset", -37.81753, 144.96715)}}
            if "sleep.solar" in SLEEPERS
            else {}
        ),
    )
    victim.add_periodic_task(PERIODS_S["run.added"], victim.signature("run.added"), name="run.added")
    return victim
