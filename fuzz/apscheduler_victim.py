"""A process with a scheduler of APScheduler, which does what an application does until it is killed, and keeps a diary.

A line of the diary is written with one system call, before or after what it tells of, so that a kill leaves no doubt
about the order. Jobs and their runs are told apart by the instants for which they are planned.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from apscheduler.events import EVENT_JOB_EXECUTED, EVENT_JOB_SUBMITTED
from apscheduler.jobstores.base import JobLookupError
from apscheduler.schedulers.background import BackgroundScheduler

__all__ = ["EXTRA", "GRID_START", "ONCE", "STEP", "TICKS", "MakeStore", "live", "us_of", "us_of_now"]

TICKS: Final = ["tick0", "tick1", "tick2"]
STEP: Final = timedelta(milliseconds=20)
GRID_START: Final = datetime(2026, 1, 1, tzinfo=UTC)
"""Every run of a tick is planned for this instant and a multiple of the step."""
ONCE: Final = "once"
EXTRA: Final = "extra"
_EXTRAS_MAX: Final = 20
_FAR: Final = datetime(2100, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)

MakeStore = Callable[[Callable[[Any], None]], Any]
"""Makes a job store, which is told whom to tell of an orphaned run."""

_diary = -1


def us_of(instant: datetime) -> int:
    """Return an instant in microseconds since the start of the grid."""
    return (instant - GRID_START) // _MICROSECOND


def us_of_now() -> int:
    """Return the current instant as ``us_of`` does."""
    return us_of(datetime.now(UTC))


def note(*words: object) -> None:
    """Write a line into the diary."""
    os.write(_diary, f"{' '.join(map(str, words))}\n".encode())


def work(job_id: str, version: int, busy_s: float) -> None:
    """Be the function of all jobs."""
    note("begin", job_id)
    time.sleep(busy_s)
    note("end", job_id, version)


def live(make_store: MakeStore, diary: str, seed: str, number: int) -> None:
    """Start a scheduler and go on until the kill."""
    global _diary  # noqa: PLW0603  # The functions of jobs find it nowhere else.
    _diary = os.open(diary, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    store = make_store(lambda run: note("orphan", run.job_id, us_of(run.scheduled_at), us_of(run.started_at)))
    defaults = {"misfire_grace_time": None, "coalesce": True, "max_instances": 1}
    scheduler = BackgroundScheduler(jobstores={"default": store}, job_defaults=defaults, timezone=UTC)
    scheduler.start(paused=True)
    # After the listener of the store, which has recorded by then what these note.
    scheduler.add_listener(
        lambda event: note("submitted", event.job_id, us_of(event.scheduled_run_times[-1])), EVENT_JOB_SUBMITTED
    )
    scheduler.add_listener(
        lambda event: note("recorded", event.job_id, us_of(event.scheduled_run_time), us_of_now()), EVENT_JOB_EXECUTED
    )
    jobs = scheduler.get_jobs()
    for job in jobs:
        note("found", job.id, us_of(job.next_run_time), job.args[1])
    note("opened")
    scheduler.resume()
    _Application(scheduler, random.Random(f"life {seed} {number}"), number).go_on({job.id for job in jobs})


class _Application:
    """What adds, changes and removes jobs."""

    def __init__(self, scheduler: Any, choice: random.Random, life: int) -> None:  # noqa: ANN401  # It has no types.
        self._scheduler = scheduler
        self._choice = choice
        self._life = life
        self._count = 0

    def go_on(self, known: set[str]) -> None:
        """Do one thing after another, for ever."""
        for tick in TICKS:
            if tick not in known:
                self._add(tick, "interval", seconds=STEP.total_seconds(), start_date=GRID_START)
        self._extras = sorted(job for job in known if job.startswith(EXTRA))
        while True:
            action = self._choice.choices([self._once, self._more, self._less, self._change], [4, 2, 2, 2])[0]
            action()
            time.sleep(self._choice.random() * 0.004)

    def _new_id(self, kind: str) -> str:
        self._count += 1
        return f"{kind}-{self._life}-{self._count}"

    def _add(self, job_id: str, trigger: str, **options: object) -> None:
        note("adding", job_id)
        busy_s = self._choice.random() ** 3 * (0.015 if trigger == "interval" else 0.15)
        job = self._scheduler.add_job(work, trigger, args=[job_id, 0, busy_s], id=job_id, **options)
        note("added", job_id, us_of(job.next_run_time))

    def _remove(self, job_id: str) -> None:
        note("removing", job_id)
        try:
            self._scheduler.remove_job(job_id)
        except JobLookupError:
            """It has had its last run."""
        else:
            note("removed", job_id)

    def _once(self) -> None:
        job_id = self._new_id(ONCE)
        self._add(job_id, "date", run_date=datetime.now(UTC) + self._choice.random() * STEP)
        if self._choice.random() < 0.2:
            self._remove(job_id)

    def _more(self) -> None:
        if len(self._extras) < _EXTRAS_MAX:
            self._extras.append(self._new_id(EXTRA))
            self._add(self._extras[-1], "date", run_date=_FAR + self._choice.randrange(10**6) * STEP)

    def _less(self) -> None:
        if self._extras:
            self._remove(self._extras.pop(self._choice.randrange(len(self._extras))))

    def _change(self) -> None:
        job = self._scheduler.get_job(self._choice.choice(TICKS))
        version = job.args[1] + 1
        note("changing", job.id, version)
        job.modify(args=[job.id, version, self._choice.random() * 0.015])
        note("changed", job.id, version)
