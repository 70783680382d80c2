"""The store: one opening of a directory for writing, from recovery to close."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Generator, Sequence
from typing import Generic

from walstore.engine.buffer import Buffer
from walstore.engine.commit import Commit
from walstore.engine.compactor import Compactor
from walstore.engine.environment import Environment, EventT, Plug, StateT
from walstore.engine.keeper import Keeper
from walstore.engine.log import Log
from walstore.engine.merge import FileSpill, merged
from walstore.engine.opening import open_for_writing
from walstore.engine.recovery import Progress
from walstore.engine.stats import StoreStats
from walstore.engine.survey import survey
from walstore.engine.view import View
from walstore.errors import (
    ForkedProcessError,
    SchedulerPersistenceError,
    StorageFullError,
    StoreClosedError,
    StorePoisonedError,
    storage_errors,
)
from walstore.format.layout import PAYLOAD_BYTES_MAX, FrameKind
from walstore.options import Durability, WalOptions

__all__ = ["Store"]

_logger = logging.getLogger("walstore")


class Store(Generic[EventT, StateT]):
    """A directory open for writing. Events come in checked; what they mean is the plug's business.

    All methods may be called from any thread.
    """

    def __init__(
        self,
        environment: Environment,
        directory: str,
        plug: Plug[EventT, StateT],
        durability: Durability,
        options: WalOptions,
        *,
        create: bool = True,
        progress: Progress | None = None,
    ) -> None:
        """Open or create the store. Raises what ``open_for_writing`` raises."""
        opened = open_for_writing(environment, directory, plug, options, create=create, progress=progress)
        self.directory = directory
        self.recovery = opened.report
        self._environment = environment
        self._plug, self._options = plug, options
        self._buffered = durability is Durability.BUFFERED
        self._on_device = durability is Durability.POWER
        self._lock = opened.lock
        self._start_lsn = opened.live.base_lsn
        self.logged_events = opened.report.events_replayed
        """Events in the log that did not come through the buffer; whoever appends them counts."""
        self._background_error: str | None = None
        self._next_sync_ns = environment.monotonic_ns() + options.sync_interval_ns
        self._closed = self._is_closing = False
        self._closing_lock = threading.RLock()
        interval_ns = options.drain_interval_ns if self._buffered else options.sync_interval_ns
        self._keeper = Keeper(self.tick, interval_ns, environment.monotonic_ns, environment.threads)
        fence = opened.check_fence
        self.log = Log(environment, directory, opened.identity, options, durability, self._keeper, opened.live, fence)
        # The segment was synced whole before it got its name.
        self._commit = Commit(self.log, self.log.end_lsn(), self._on_poison)
        self.buffer = Buffer(self.log, plug.codec, self._keeper, options.buffer_events)
        self._compactor = Compactor(
            environment, directory, opened.identity, plug, options, self._keeper, self.log, self._commit
        )
        self._compactor.start_from(opened.snapshot_lsn, opened.snapshot_bytes, opened.old_segments)
        self.record: Callable[[EventT], None] = {
            Durability.BUFFERED: self.buffer.add,
            Durability.PROCESS: self._record_in_process,
            Durability.POWER: self._record_on_device,
        }[durability]
        """Record one checked event: on return it survives what the durability of the store says."""
        try:
            self._keeper.start()
            self._keeper.post(self.log.settle)
            # Not left to the first tick, so that the shortest of openings does its part.
            self._compactor.when_grown(self.events)
        except BaseException:
            self._shut()
            raise

    @property
    def events(self) -> int:
        """Events that the opening found in the log, and all that were recorded since."""
        return self.logged_events + self.buffer.events

    def record_batch(self, events: Sequence[EventT]) -> None:
        """Record checked events in one frame: after a crash all of them are there, or none.

        Raises ``ValueError`` when they are too long for one frame (16 MiB encoded).
        """
        if not events:
            return
        payload = self._plug.codec.encode_events(events)
        if len(payload) > PAYLOAD_BYTES_MAX:
            raise ValueError(
                f"{len(events)} events take {len(payload)} bytes, and one batch may take {PAYLOAD_BYTES_MAX}: record "
                "them in several batches"
            )
        if self._buffered:
            self._keeper.call(lambda: self.buffer.append_batch(payload))
        else:
            self.log.append(FrameKind.EVENTS, payload)
        self.logged_events += len(events)
        if self._on_device:
            self._commit.sync_recorded()

    def _record_in_process(self, event: EventT) -> None:
        self.log.append(FrameKind.EVENTS, self._plug.codec.encode_events((event,)))
        # The interpreter switches threads at calls and jumps only, so with a GIL no count is lost.
        self.logged_events += 1

    def _record_on_device(self, event: EventT) -> None:
        self._record_in_process(event)
        self._commit.sync_recorded()

    def sync(self) -> None:
        """Return when everything recorded before the call is on the device."""
        if self._closed:
            raise self._closed_error()
        self._drain()
        self._commit.sync()

    def checkpoint(self, *, compact: bool) -> None:
        """Sync; then compact the log if it is due. ``compact`` does it in any case, and raises when it fails."""
        self.sync()
        if compact:
            self._compactor.run(self.events)
        else:
            self._compactor.after_flush(self.events)

    def view(self) -> View[EventT, StateT]:
        """Return all that was recorded before the call, at one point of time; the caller closes it.

        Once the store is poisoned, what is known to be durable.
        """
        if self._closed:
            raise self._closed_error()
        return self._keeper.call(self._open_view)

    def records(self) -> Generator[tuple[str, StateT]]:
        """Yield every key and its settled state as of the first step, in the order of the keys, in bounded memory."""
        nonce = self._environment.nonce()
        spill = FileSpill(self._environment.fs, self.directory, f"spill-{nonce:016x}", nonce)
        view = self.view()
        with storage_errors(f"reading {self.directory}"):
            try:
                yield from merged(view, self._options.merge_memory_bytes, spill)
            finally:
                view.close()
                spill.close()

    def stats(self) -> StoreStats:
        """Return the figures of the store now."""
        if self._closed:
            raise self._closed_error()
        end_lsn = self.log.end_lsn()
        return StoreStats(
            events=self.events - self.recovery.events_replayed,
            buffered_events=len(self.buffer),
            log_written_bytes=end_lsn - self._start_lsn,
            syncs=self._commit.syncs,
            durable_lsn=self._commit.durable_lsn,
            end_lsn=end_lsn,
            log_bytes=end_lsn - self._compactor.snapshot_lsn,
            snapshot_lsn=self._compactor.snapshot_lsn,
            snapshot_bytes=self._compactor.snapshot_bytes,
            last_checkpoint_ns=self._compactor.last_checkpoint_ns,
            last_background_error=self._background_error or self._compactor.last_error,
        )

    def tick(self) -> None:
        """Do what is due: drain the buffer, sync after the interval, start a compaction. The keeper calls it.

        What goes wrong is kept for ``stats`` and logged; a failed sync also poisons the store.
        """
        if self._commit.failure is not None or self._closed:
            return
        try:
            self.log.settle()
            if self._buffered:
                self.buffer.drain()
            now_ns = self._environment.monotonic_ns()
            if now_ns >= self._next_sync_ns and self._commit.settle():
                self._next_sync_ns = now_ns + self._options.sync_interval_ns
            self._compactor.when_grown(self.events)
            self._background_error = None
        except Exception as error:  # The keeper must live on, whatever it was.
            if str(error) != self._background_error:
                self._background_error = str(error)
                _logger.warning(
                    "%s: %s", self.directory, error, exc_info=not isinstance(error, SchedulerPersistenceError)
                )

    @property
    def closed(self) -> bool:
        """Whether the store was closed, or abandoned in a forked child."""
        return self._closed

    def close(self) -> None:
        """Drain, sync, mark the log as closed cleanly, and release the lock. Closing twice is fine.

        A compaction that is under way is waited for; an exception that ends the waiting (Ctrl-C) abandons it.

        Raises the first error when the store was poisoned, and what goes wrong now; the lock is released all the same,
        and a store that was not closed cleanly is recovered at the next opening. One exception: ``StorageFullError``
        while events are in the buffer leaves the store open, so that closing it can be tried again when there is space.
        """
        with self._closing_lock:
            # A signal handler may close while the call that it interrupted is closing: that one goes on afterwards.
            if self._closed or self._is_closing:
                return
            self._is_closing = True
            try:
                self._close()
            finally:
                self._is_closing = False

    def is_running_here(self) -> bool:
        """Whether the calling thread is one of the store's own, in which it can't be closed."""
        return any(part.is_running_here() for part in (self._keeper, self._compactor, self.log))

    def _close(self) -> None:
        self.buffer.refuse(self._closed_error)
        try:
            self._commit.raise_if_poisoned()
            self._drain()
        except StorageFullError:
            self.buffer.accept()
            raise
        except BaseException:
            self._shut()
            raise
        try:
            self._compactor.finish()
            self._commit.finish(self._closed_error)
        finally:
            self._shut()

    def _shut(self) -> None:
        """Give everything back. Whatever fails here leaves the lock held until the process ends, which is safe."""
        self._compactor.abandon()
        self.log.refuse(self._closed_error)
        self._keeper.stop()
        self._closed = True
        with storage_errors(f"closing {self.directory}"):
            self.log.close()
            self._lock.release()

    def abandon_after_fork(self) -> None:
        """Make this copy of the store unusable, in a forked child; touches no file and no lock of the parent."""

        def refusal() -> ForkedProcessError:
            return ForkedProcessError(f"{self.directory} was opened before this process was forked: open it in here")

        self._closed_error = refusal  # type: ignore[method-assign]  # Every later call tells why.
        self._closed = True
        self.buffer.refuse(refusal)
        self.log.abandon(refusal)
        self._lock.abandon()

    def _closed_error(self) -> SchedulerPersistenceError:
        return StoreClosedError(f"the store {self.directory} was closed: open it again")

    def _drain(self) -> None:
        if self._buffered:
            self._keeper.call(self.buffer.drain)

    def _open_view(self) -> View[EventT, StateT]:
        # One look at the failure: a sync that fails between two would leave out what lies between log and buffer.
        if self._commit.failure is None:
            pending, end_lsn = self.buffer.pending(), self.log.end_lsn()
        else:
            pending, end_lsn = [], self._commit.durable_lsn
        with storage_errors(f"reading {self.directory}"):
            files = survey(self._environment.fs, self.directory, self._plug, created=True)
        assert files is not None
        return View(files, end_lsn, self._plug, pending)

    def _on_poison(self, failure: StorePoisonedError) -> None:
        _logger.error("%s", failure)
        self.buffer.refuse(lambda: StorePoisonedError(str(failure)))
        self.log.refuse(lambda: StorePoisonedError(str(failure)))
