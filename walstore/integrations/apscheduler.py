"""``WalJobStore``: a job store for APScheduler 3.11 that survives what its process does not.

Needs the extra ``apscheduler``. Jobs are pickled as APScheduler's own stores do it; the engine never looks into them.
"""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

from walstore.engine.environment import Environment
from walstore.errors import StoreClosedError
from walstore.integrations.apscheduler_runs import ENDS, OrphanedJobRun, Runs
from walstore.integrations.due_index import DueIndex
from walstore.integrations.entries import EntryStore, OrphanedRun, Quarantined
from walstore.integrations.entry_model import datetime_of_us, us_of
from walstore.options import Durability, WalOptions

try:
    from apscheduler.events import EVENT_SCHEDULER_STARTED
    from apscheduler.job import Job
    from apscheduler.jobstores.base import BaseJobStore, ConflictingIdError, JobLookupError
    from apscheduler.util import maybe_ref
except ImportError as missing:
    raise ImportError("WalJobStore needs APScheduler 3.11: install walstore[apscheduler]") from missing

__all__ = ["KIND", "OrphanedJobRun", "WalJobStore"]

KIND = "aps/1"
"""The kind of the store, in the headers of its files."""

_UNREADABLE = (Exception, SystemExit)
"""What restoring a job may raise: the module with its code is imported, and may do whatever it likes."""


class WalJobStore(BaseJobStore):  # type: ignore[misc]  # APScheduler has no types.
    """Jobs in a directory, as a write-ahead log. Plugin alias: ``walstore``.

    Beside the jobs, every run is recorded when it is handed to its executor and when it ends, so that the runs that
    were cut off with their process are found when the store starts again: they are in ``orphaned_runs``, logged, passed
    to ``on_orphaned_run``, and then recorded as failed.

    A job that can't be restored, since its code is gone or its state is damaged, is in ``quarantined``. It stays in the
    store and does not run; the next start tries it again.

    Methods raise ``SchedulerPersistenceError`` when something can't be recorded, and nothing was recorded then. What
    follows from a run that goes on already (its end, the next run time of its job) has nobody to raise to. It is kept
    and ``get_due_jobs`` raises until it is recorded: so APScheduler begins no further runs meanwhile, logs the reason,
    and tries again after its ``jobstore_retry_interval``.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        durability: Durability | str = Durability.PROCESS,
        options: WalOptions | None = None,
        pickle_protocol: int = pickle.HIGHEST_PROTOCOL,
        on_orphaned_run: Callable[[OrphanedJobRun], object] | str | None = None,
        environment: Environment | None = None,
    ) -> None:
        """Describe a store in the directory ``path``; ``start`` opens it.

        ``durability`` may be its value (``"process"``) and ``on_orphaned_run`` a textual reference
        (``"module:function"``), for configurations. ``on_orphaned_run`` is called while the store starts, for each run
        that was cut off; what it raises ends the start. It may add jobs to the scheduler. Once these are recorded and
        the scheduler has started, it is recorded that the runs were reported: when the process is killed before, the
        next start reports the same runs. ``environment`` is the world to run in, for simulations.
        """
        super().__init__()
        self.path = Path(path)
        self.orphaned_runs: tuple[OrphanedJobRun, ...] = ()
        """The runs that were cut off with an earlier process, as the last ``start`` found them."""
        self._durability = Durability(durability)
        self._options = options
        self._environment = environment
        self._pickle_protocol = pickle_protocol
        self._on_orphaned_run = maybe_ref(on_orphaned_run)
        self._runs: Runs | None = None
        # Reentrant: a signal handler may come in the middle of a call.
        self._lock = threading.RLock()
        self._blobs: dict[str, bytes] = {}
        self._due = DueIndex()
        """All jobs but the quarantined ones."""

    # What the scheduler calls.

    def start(self, scheduler: Any, alias: str) -> None:  # noqa: ANN401  # APScheduler has no types.
        """Open the store, creating or recovering it, and report the runs that were cut off.

        Raises what ``EntryStore`` raises: a store that can't be read stops the start of the scheduler.
        """
        # A start that another store of the scheduler has failed leaves this one open.
        self.shutdown()
        super().start(scheduler, alias)
        entries = EntryStore(
            self.path,
            kind=KIND,
            durability=self._durability,
            options=self._options,
            environment=self._environment,
            logger=self._logger,
        )
        self._runs = Runs(entries, alias, self._logger)
        try:
            self._take_over(entries)
        except BaseException:
            self.shutdown()
            raise
        if scheduler is not None:
            scheduler.add_listener(self._runs.on_end, ENDS)
            # Not before the jobs are recorded that were added instead of what was cut off.
            scheduler.add_listener(self._runs.on_start, EVENT_SCHEDULER_STARTED)
        if scheduler is None or scheduler.running:
            entries.settle_orphaned_runs()

    def shutdown(self) -> None:
        """Close the store. Raises what can't be recorded any more; the lock of the store is released all the same."""
        runs, self._runs = self._runs, None
        if runs is None:
            return
        if self._scheduler is not None:
            self._scheduler.remove_listener(runs.on_end)
            self._scheduler.remove_listener(runs.on_start)
        self._blobs.clear()
        self._due.clear()
        runs.close()

    def lookup_job(self, job_id: str) -> Job | None:
        """Return a job; None where there is none of this id, or it is quarantined."""
        with self._lock:
            self._running()
            return self._restored(job_id) if job_id in self._blobs else None

    def get_due_jobs(self, now: datetime) -> list[Job]:
        """Return the jobs that are due, in the order of their run times; costs in proportion to these."""
        with self._lock:
            # When it is shut down, the loop of the scheduler asks once more: a closed store has nothing to run.
            if self._runs is None:
                return []
            self._runs.record_kept()
            return self._all_restored(self._due.due(us_of(now)))

    def get_next_run_time(self) -> datetime | None:
        """Return when the first job is due, in UTC; None where none ever is."""
        with self._lock:
            first_us = self._due.first()
            return None if first_us is None else datetime_of_us(first_us)

    def get_all_jobs(self) -> list[Job]:
        """Return all jobs but the quarantined ones, in the order of their run times, paused ones last."""
        with self._lock:
            self._running()
            return self._all_restored(self._due.all())

    def add_job(self, job: Job) -> None:
        """Record a new job. Raises ``ConflictingIdError`` where there is one of this id, quarantined or not."""
        with self._lock:
            runs = self._running()
            if job.id in self._blobs:
                raise ConflictingIdError(job.id)
            self._put(runs, job)

    def update_job(self, job: Job) -> None:
        """Record the new state of a job. Raises ``JobLookupError`` where there is none of this id."""
        with self._lock:
            runs = self._running()
            if job.id not in self._blobs:
                raise JobLookupError(job.id)
            self._put(runs, job)

    def remove_job(self, job_id: str) -> None:
        """Remove a job, a quarantined one as well. Raises ``JobLookupError`` where there is none of this id."""
        with self._lock:
            runs = self._running()
            if job_id not in self._blobs:
                raise JobLookupError(job_id)
            runs.record(job_id, lambda entries: entries.remove(job_id))
            del self._blobs[job_id]
            self._due.discard(job_id)

    def remove_all_jobs(self) -> None:
        """Remove all jobs, the quarantined ones as well."""
        with self._lock:
            runs = self._running()
            runs.record_kept()
            runs.entries.clear()
            self._blobs.clear()
            self._due.clear()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} (path={self.path})>"

    # What applications ask.

    @property
    def quarantined(self) -> dict[str, Quarantined]:
        """The jobs that can't be restored, by id, as far as they were asked for since the start."""
        return self._running().entries.quarantined

    def sync(self) -> None:
        """Return when all that was recorded before is on the device."""
        with self._lock:
            runs = self._running()
            runs.record_kept()
            runs.entries.sync()

    def _running(self) -> Runs:
        if self._runs is None:
            raise StoreClosedError(f"the job store {self.path} is not open: start its scheduler")
        return self._runs

    def _take_over(self, entries: EntryStore) -> None:
        for key, entry in entries.found.items():
            if entry.is_present:
                self._blobs[key] = entry.blob
                self._due.put(key, entry.next_run_us)
        entries.found.clear()
        self.orphaned_runs = tuple(map(self._orphan_of, entries.orphaned_runs))
        for orphan in self.orphaned_runs:
            self._logger.warning(
                'Run of job "%s" (scheduled at %s, handed over at %s) was cut off with its process',
                orphan.job_id,
                orphan.scheduled_at,
                orphan.started_at,
            )
            if self._on_orphaned_run is not None:
                self._on_orphaned_run(orphan)

    def _orphan_of(self, orphan: OrphanedRun) -> OrphanedJobRun:
        entry, run = orphan.entry, orphan.run
        try:
            job = self._unpickled(entry.key, entry.blob)
        except _UNREADABLE as error:
            self._logger.warning('Job "%s", of which a run was cut off, can\'t be restored: %r', entry.key, error)
            job = None
        return OrphanedJobRun(
            job_id=entry.key,
            scheduled_at=datetime_of_us(run.number),
            started_at=datetime_of_us(run.started_us),
            is_removed=not entry.is_present,
            job=job,
        )

    def _put(self, runs: Runs, job: Job) -> None:
        blob = pickle.dumps(job.__getstate__(), self._pickle_protocol)
        due_us = _due_us(job)
        runs.record(job.id, lambda entries: entries.put(job.id, blob, due_us))
        self._blobs[job.id] = blob
        self._due.put(job.id, due_us)

    def _all_restored(self, keys: Iterable[str]) -> list[Job]:
        return [job for job in map(self._restored, keys) if job is not None]

    def _restored(self, key: str) -> Job | None:
        blob = self._blobs[key]
        try:
            job = self._unpickled(key, blob)
        except _UNREADABLE as error:
            self._due.discard(key)
            self._running().entries.quarantine(key, blob, error)
            return None
        # Usually what is there already. What was imported may have been put down less precisely than it is in the job.
        self._due.put(key, _due_us(job))
        return job

    def _unpickled(self, key: str, blob: bytes) -> Job:
        job = _StoredJob.__new__(_StoredJob)
        job.__setstate__(pickle.loads(blob))  # noqa: S301  # As all stores of APScheduler do.
        if job.id != key:
            raise ValueError(f"this is the state of a job {job.id!r}")
        job._runs, job._scheduler, job._jobstore_alias = self._running(), self._scheduler, self._alias
        return job


def _due_us(job: Job) -> int | None:
    return None if job.next_run_time is None else us_of(job.next_run_time)


class _StoredJob(Job):  # type: ignore[misc]  # APScheduler has no types.
    """A job that tells its store when a run is about to be handed over.

    APScheduler itself tells it, with ``EVENT_JOB_SUBMITTED``, when the run goes on already and may even have ended: a
    process that is killed before would leave a run that nobody finds.
    """

    __slots__ = ("_runs",)
    _runs: Runs

    def _get_run_times(self, now: datetime) -> list[datetime]:
        # The scheduler asks for them right before it hands the job over, and leaves it for later where there are none.
        run_times: list[datetime] = super()._get_run_times(now)
        return run_times if run_times and self._runs.begin(self.id, run_times[-1]) else []
