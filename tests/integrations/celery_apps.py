"""Applications of Celery whose time a test decides, and what their schedulers send."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from celery import Celery
from celery.beat import PersistentScheduler, Scheduler
from celery.signals import before_task_publish

from walstore.integrations.celery import WalScheduler

__all__ = ["START", "TimedCelery", "application", "opened", "run_due"]

START = datetime(2026, 3, 28, 12, 0, 0, 500_000, tzinfo=UTC)
"""A day before the clocks of Europe go forward."""


class TimedCelery(Celery):
    """An application that is at an instant of the test's choice."""

    instant = START

    def now(self) -> datetime:
        return self.instant.astimezone(self.timezone)

    def later(self, **duration: float) -> None:
        self.instant += timedelta(**duration)


def application(
    schedule: Mapping[str, Mapping[str, object]], instant: datetime = START, **settings: object
) -> TimedCelery:
    """Return an application that sends into memory and has this ``beat_schedule``."""
    app = TimedCelery("timed", broker="memory://", set_as_current=False)
    # Results that never expire: else Celery adds an entry of its own.
    app.conf.update({"result_expires": None, "beat_schedule": dict(schedule)}, **settings)
    app.instant = instant
    return app


@contextmanager
def opened(
    app: Celery, directory: Path, kind: type[WalScheduler | PersistentScheduler] = WalScheduler
) -> Iterator[Any]:
    """Open a scheduler on a store in a directory, and close it."""
    scheduler = kind(app=app, schedule_filename=str(directory / "schedule"))
    try:
        yield scheduler
    finally:
        scheduler.close()


def run_due(scheduler: Scheduler) -> list[str]:
    """Tick until nothing is due; return the tasks that were sent."""
    sent: list[str] = []

    def note(sender: str, **_: object) -> None:
        sent.append(sender)

    before_task_publish.connect(note, weak=False)
    try:
        while scheduler.tick() == 0:
            pass
    finally:
        before_task_publish.disconnect(note)
    return sent
