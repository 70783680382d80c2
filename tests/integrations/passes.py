"""A scheduler of APScheduler that looks for due jobs when it is told to, and jobs for it that tell what they did."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from math import inf

from apscheduler.executors.debug import DebugExecutor
from apscheduler.job import Job
from apscheduler.schedulers.base import BaseScheduler

__all__ = ["AGO", "PassScheduler", "calls", "during", "fail", "work"]

AGO = datetime.now(UTC) - timedelta(hours=1)
"""When jobs are due that are due at once."""

calls: list[str] = []
during: list[Callable[[], object]] = []


def work(name: str = "") -> None:
    """Be a job: note the call, and do what a test wants done meanwhile."""
    calls.append(name)
    for action in during:
        action()


def fail() -> None:
    """Be a job that fails."""
    raise RuntimeError("a job that fails")


class PassScheduler(BaseScheduler):  # type: ignore[misc]  # APScheduler has no types.
    """A scheduler without a loop of its own: the passes are made by the test, and jobs run in them."""

    def __init__(self, store: object, **options: object) -> None:
        defaults = {"misfire_grace_time": None}
        executors = {"default": DebugExecutor()}
        super().__init__(
            jobstores={"default": store}, executors=executors, job_defaults=defaults, timezone=UTC, **options
        )

    def wakeup(self) -> None:
        """Wait for the next pass."""

    def shutdown(self, *, wait: bool = True) -> None:
        """Shut down."""
        super().shutdown(wait)

    def make_pass(self) -> float:
        """Run what is due. Returns in how many seconds the next pass is due."""
        seconds: float | None = self._process_jobs()
        return inf if seconds is None else seconds

    def add_due(
        self, job_id: str, trigger: str = "interval", func: Callable[..., object] = work, **options: object
    ) -> Job:
        """Add a job that is due."""
        if trigger == "interval":
            options.setdefault("hours", 24)
        return self.add_job(func, trigger, id=job_id, next_run_time=AGO, **options)
