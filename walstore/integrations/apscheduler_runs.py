"""What is recorded of the runs of APScheduler, and what is done where it can't be."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from walstore.errors import SchedulerPersistenceError
from walstore.integrations.entries import EntryStore, now_us
from walstore.integrations.entry_model import us_of

try:
    from apscheduler.events import EVENT_JOB_ERROR, EVENT_JOB_EXECUTED, EVENT_JOB_MAX_INSTANCES, EVENT_JOB_MISSED
    from apscheduler.job import Job
except ImportError as missing:
    raise ImportError("WalJobStore needs APScheduler 3.11: install walstore[apscheduler]") from missing

__all__ = ["ENDS", "OrphanedJobRun", "Runs"]

ENDS: int = EVENT_JOB_EXECUTED | EVENT_JOB_ERROR | EVENT_JOB_MISSED | EVENT_JOB_MAX_INSTANCES
"""The events by which APScheduler tells what became of a run."""

_Action = Callable[[EntryStore], None]


@dataclass(frozen=True, slots=True)
class OrphanedJobRun:
    """A run that was handed to an executor, and of which nothing was heard until its process was gone.

    It may have done its work, a part of it, or nothing. Runs that were handed over together, since several had become
    due, are one.
    """

    job_id: str
    scheduled_at: datetime
    """When it was due; of several, the last one."""
    started_at: datetime
    """When it was handed over."""
    is_removed: bool
    """Whether the job is gone: it was removed meanwhile, or this was its last run. APScheduler won't run it again."""
    job: Job | None
    """The job, also where ``is_removed``, for running it again; None where it can't be restored."""


class Runs:
    """The runs of one opening of a store.

    What follows from a run that goes on already (its end, the next run time of its job) has nobody to raise to when it
    can't be recorded: APScheduler would only log it, or end its loop. It is kept, in order, and ``record_kept`` raises
    until all of it is recorded.
    """

    def __init__(self, entries: EntryStore, alias: str, logger: logging.Logger) -> None:
        self.entries = entries
        self._alias = alias
        self._logger = logger
        self._kept: deque[_Action] = deque()
        self._handed_over: set[str] = set()
        """Jobs of which a run was just handed over, and whose next run time was not told yet."""
        self._refusal: SchedulerPersistenceError | None = None
        """Why a run was not handed over."""

    def begin(self, job_id: str, scheduled_at: datetime) -> bool:
        """Record that a run is about to be handed over. False: it must not be, and ``record_kept`` will say why."""
        try:
            self.entries.started(job_id, us_of(scheduled_at))
        except SchedulerPersistenceError as error:
            self._refusal = error
            return False
        self._handed_over.add(job_id)
        return True

    def on_end(self, event: Any) -> None:  # noqa: ANN401  # APScheduler has no types.
        """Record what became of a run. APScheduler logs what this raises, and ``record_kept`` raises it again."""
        if event.jobstore != self._alias:
            return
        action: _Action
        if event.code == EVENT_JOB_MAX_INSTANCES:
            action = partial(EntryStore.dropped, key=event.job_id, number=us_of(event.scheduled_run_times[-1]))
        elif event.code == EVENT_JOB_MISSED:
            action = partial(EntryStore.dropped, key=event.job_id, number=us_of(event.scheduled_run_time))
        else:
            number, success = us_of(event.scheduled_run_time), event.code == EVENT_JOB_EXECUTED
            action = partial(EntryStore.finished, key=event.job_id, number=number, success=success, at_us=now_us())
        self._record_or_keep(action)

    def on_start(self, _: object) -> None:
        """Record that the runs were reported that had been cut off. What this raises is told as that of ``on_end``."""
        self._record_or_keep(EntryStore.settle_orphaned_runs)

    def record(self, job_id: str, action: _Action) -> None:
        """Record something about a job, after all that is kept. For one thread at a time.

        Raises when that is impossible; but right after a run of the job was handed over it is kept instead.
        """
        is_consequence = job_id in self._handed_over
        self._handed_over.discard(job_id)
        try:
            self._record_kept()
            action(self.entries)
        except SchedulerPersistenceError:
            if not is_consequence:
                raise
            self._logger.exception('What follows from the run of job "%s" can\'t be recorded yet', job_id)
            self._kept.append(action)

    def record_kept(self) -> None:
        """Record what is kept, and start over: nothing was just handed over. Raises what is left to say."""
        self._handed_over.clear()
        refusal, self._refusal = self._refusal, None
        self._record_kept()
        if refusal is not None:
            raise refusal

    def close(self) -> None:
        """Record what is kept and close the store; it is closed whatever this raises."""
        try:
            self._record_kept()
        finally:
            self.entries.close()

    def _record_or_keep(self, action: _Action) -> None:
        # At once, whatever is kept, since this is in no order with it. And without a lock, so that at POWER the ends of
        # several runs share a sync.
        try:
            action(self.entries)
        except SchedulerPersistenceError:
            self._kept.append(action)
            raise

    def _record_kept(self) -> None:
        while self._kept:
            self._kept[0](self.entries)
            self._kept.popleft()
