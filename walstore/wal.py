"""``WalPersistence``: the contract of a scheduler's persistence on the engine's log and snapshots."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from itertools import islice, starmap
from pathlib import Path
from types import TracebackType

from walstore.engine.environment import Environment, Plug
from walstore.engine.merge import MemorySpill, merged
from walstore.engine.opening import open_for_reading
from walstore.engine.recovery import Progress, RecoveryReport
from walstore.engine.stats import StoreStats
from walstore.engine.store import Store
from walstore.engine.view import View
from walstore.engine.watch import unwatch, watch
from walstore.errors import SchedulerPersistenceError, StoreClosedError, StorePoisonedError, storage_errors
from walstore.format.codec import JobCodec
from walstore.fs.os_fs import OsFileSystem
from walstore.fs.os_process import describe_process, random_bytes, start_worker
from walstore.hotpath import HotPath, finished_form, hot_path, started_form
from walstore.model.events import CANCELLED, Event, EventForm, Restored, form_of, forms_of, scheduled_form
from walstore.model.names import Instant, JobId, id_of, instant_ns
from walstore.model.records import JobState, SchedulerJobRecord, record_of, uncollected
from walstore.model.reducer import JobReducer
from walstore.model.schedule import Schedule
from walstore.options import Durability, WalOptions
from walstore.persistence import SchedulerPersistence

__all__ = ["JOBS", "WalPersistence", "os_environment"]

JOBS: Plug[EventForm, JobState] = Plug(JobCodec(), JobReducer(), "walstore.wal:JOBS")
"""What the engine needs to know of jobs."""

_RESTORE_BATCH = 512

JobStore = Store[EventForm, JobState]


def os_environment() -> Environment:
    """Return the real world: the operating system's files, clocks and randomness."""
    return Environment(
        fs=OsFileSystem(),
        random_bytes=random_bytes,
        monotonic_ns=time.monotonic_ns,
        wall_ns=time.time_ns,
        holder=describe_process,
        start_worker=start_worker,
    )


class WalPersistence(SchedulerPersistence):
    """The state of scheduled jobs in a directory, as a write-ahead log and snapshots.

    Recording costs the same at any number of jobs. Methods may be called from any thread; calls of one thread are
    recorded in their order. What an event survives once its call has returned is the ``durability`` of the store, and
    ``sync`` and ``flush_checkpoint`` return when all that was recorded before is on the device, at every level.

    All methods raise ``StoreClosedError`` after ``close``, ``StorePoisonedError`` after a sync has failed,
    ``ForkedProcessError`` in a child that was forked, ``StorageFullError`` and ``StorageError`` when the operating
    system refuses, having recorded nothing. A signal handler may record; the outcome of a call that a signal
    interrupted with an exception is unknown.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        durability: Durability = Durability.PROCESS,
        create: bool = True,
        read_only: bool = False,
        options: WalOptions | None = None,
        clock: Callable[[], int] = time.time_ns,
        progress: Progress | None = None,
        environment: Environment | None = None,
    ) -> None:
        """Open the store in the directory ``path``, creating or recovering it.

        ``create=False`` requires that it exists. ``read_only=True`` takes no lock and writes nothing; each reading call
        shows the store as it is then, also while another process writes to it. ``clock`` returns nanoseconds since
        1970: the instant of ``record_scheduled``. ``progress`` is told, on a long recovery, how many bytes of how many
        are read. ``environment`` is the world to run in, for simulations.

        Raises ``StoreNotFoundError`` (no store there, or a directory with other things in it), ``StoreLockedError``,
        ``CorruptionError``, ``NewerFormatError``, ``UnsupportedPlatformError``, ``StorageError``, and ``TypeError``
        for wrong arguments.
        """
        if not isinstance(durability, Durability):
            raise TypeError(f"durability must be a Durability, not {durability!r}")
        self._options = options if options is not None else WalOptions()
        if not isinstance(self._options, WalOptions):
            raise TypeError(f"options must be WalOptions, not {options!r}")
        self._clock = clock
        with storage_errors(f"finding the directory that {path} is relative to"):
            self._directory = str(Path(path).absolute())
        environment = environment if environment is not None else os_environment()
        self._environment = environment
        self._store: JobStore | None = None
        self._record: Callable[[EventForm], None]
        self._closed = False
        if read_only:
            files, _, self._recovery = open_for_reading(environment, self._directory, JOBS, progress)
            files.close()
            self._record = self._refuse_to_record
        else:
            store = Store(
                environment, self._directory, JOBS, durability, self._options, create=create, progress=progress
            )
            self._store = store
            self._recovery = store.recovery
            self._record = store.record
            self._take_hot_path(store, durability)
            self._finalizer = watch(self, store)

    # The contract.

    def record_scheduled(self, id: JobId, schedule: Schedule) -> None:
        """Record that a job was given a schedule, as of the store's clock."""
        self._record(scheduled_form(id, schedule, instant_ns(self._clock(), "the instant of the clock")))

    def record_started(self, id: JobId, started_at: Instant) -> None:
        """Record that a run of a job began. An unknown job is created with the schedule ``Manual``."""
        self._record(started_form(id, started_at))

    def record_finished(self, id: JobId, finished_at: Instant, success: bool) -> None:
        """Record how a run of a job ended. For an unknown job this is accepted and creates nothing."""
        self._record(finished_form(id, finished_at, success))

    def cancel(self, id: JobId) -> None:
        """Record that a job was cancelled: it is gone, for ever. An unknown job is no error."""
        self._record((CANCELLED, id_of(id)))

    def load_all(self) -> list[SchedulerJobRecord]:
        """Return every job as of the call: all calls that returned before it are seen, whatever the durability.

        Once the store is poisoned: what is known to be durable. Raises ``CorruptionError``.
        """
        view = self._open_view()
        with storage_errors(f"reading {self._directory}"), uncollected():
            try:
                states = view.fold()
            finally:
                view.close()
            return list(starmap(record_of, states.items()))

    def flush_checkpoint(self, *, compact: bool = False) -> None:
        """Return when every call that returned before it is on the device; compact the log into a snapshot when due.

        Compaction is due when the log has grown past ``WalOptions.compaction_ratio`` of the snapshot. A small store is
        compacted before the call returns, a large one in the background; a compaction that fails loses nothing, shows
        in ``stats`` and is tried again. ``compact=True`` compacts now, waits, and raises what goes wrong.
        """
        self._writer().checkpoint(compact=compact)

    # Beyond the contract.

    def record_many(self, events: Iterable[Event]) -> None:
        """Record several events as one: after a crash all of them are there, or none.

        Raises ``TypeError`` or ``ValueError`` when one of them is wrong, or when they take more than 16 MiB.
        """
        store = self._writer()
        now_ns = instant_ns(self._clock(), "the instant of the clock")
        store.record_batch(forms_of(events, now_ns))

    def restore(self, records: Iterable[SchedulerJobRecord]) -> None:
        """Put jobs to the states that ``records`` say, whatever they were before. Other jobs stay as they are.

        Records go in by batches of 512, each of which is whole or absent after a crash; a crash in between, or an
        iterable that raises, leaves the batches before it in place. Raises ``ValueError`` for a cancelled record.
        """
        store = self._writer()
        remaining = iter(records)
        while batch := list(islice(remaining, _RESTORE_BATCH)):
            store.record_batch([form_of(Restored(record), 0) for record in batch])

    def sync(self) -> None:
        """Return when every call that returned before it is on the device."""
        self._writer().sync()

    def iter_jobs(self) -> Iterator[SchedulerJobRecord]:
        """Yield every job as of the first step, in the order of their ids, in bounded memory.

        The memory follows ``WalOptions.merge_memory_bytes``; a writer puts what does not fit into temporary files in
        the directory. One thread may use the iterator; it holds files open until it ends or is closed.
        """
        records = self._store.records() if self._store is not None else self._read_records()
        # Whoever closes this iterator closes the one below with it, and is told what goes wrong there.
        with closing(records):
            for job, state in records:
                yield record_of(job, state)

    def stats(self) -> StoreStats:
        """Return the figures that an operator graphs. Raises ``StoreClosedError`` for a store opened read-only."""
        return self._writer().stats()

    @property
    def recovery(self) -> RecoveryReport:
        """What this opening found and did."""
        return self._recovery

    @property
    def path(self) -> Path:
        """The directory of the store."""
        return Path(self._directory)

    @property
    def closed(self) -> bool:
        """Whether ``close`` was called."""
        return self._closed

    def close(self) -> None:
        """Sync everything, end the log with the mark of a clean close and release the lock. Closing twice is fine.

        A compaction that is under way is waited for.

        Raises ``StorePoisonedError`` when a sync had failed, so that nobody takes a lost event for a kept one, and
        ``StorageError`` when closing fails; the lock is released all the same. One exception: ``StorageFullError``
        while events are in the buffer leaves the store open, so that closing can be tried again when there is space.
        """
        if self._store is None:
            self._closed = True
            return
        try:
            self._store.close()
        finally:
            self._closed = self._store.closed
            if self._closed:
                unwatch(self._store, self._finalizer)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close. An error that is on its way already is not replaced by the one it comes from."""
        try:
            self.close()
        except StorePoisonedError:
            if not isinstance(error, SchedulerPersistenceError):
                raise

    def __repr__(self) -> str:
        state = "closed" if self._closed else "read-only" if self._store is None else "open"
        return f"<WalPersistence {self._directory} {state}>"

    def _take_hot_path(self, store: JobStore, durability: Durability) -> None:
        """Let this instance record by the hot path, where there is one and no subclass wants to see the calls."""
        twins = hot_path(store, durability)
        if twins is None:
            return
        for name, twin in twins._asdict().items():
            if getattr(type(self), name) is _METHODS[name]:
                setattr(self, name, twin)

    def _refuse_to_record(self, _: EventForm) -> None:
        self._writer()

    def _writer(self) -> JobStore:
        if self._store is None:
            raise StoreClosedError(f"{self._directory} was opened read-only: open it without read_only to do this")
        return self._store

    def _open_view(self) -> View[EventForm, JobState]:
        if self._store is not None:
            return self._store.view()
        if self._closed:
            raise StoreClosedError(f"the store {self._directory} was closed: open it again")
        files, end_lsn, _ = open_for_reading(self._environment, self._directory, JOBS)
        return View(files, end_lsn, JOBS)

    def _read_records(self) -> Generator[tuple[str, JobState]]:
        view = self._open_view()
        with storage_errors(f"reading {self._directory}"):
            try:
                yield from merged(view, self._options.merge_memory_bytes, MemorySpill())
            finally:
                view.close()


_METHODS = {name: getattr(WalPersistence, name) for name in HotPath._fields}
"""The methods that have a twin."""
