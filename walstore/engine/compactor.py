"""When the log is compacted into a snapshot, and seeing to it: one at a time; large ones by a worker process."""

from __future__ import annotations

import logging
import threading
from typing import Final, Generic

from walstore.engine.commit import Commit
from walstore.engine.environment import Environment, EventT, Plug, StateT, Worker
from walstore.engine.keeper import Keeper
from walstore.engine.log import Log
from walstore.engine.segment import Identity
from walstore.engine.snapshot import check_ends
from walstore.engine.survey import covered_names, survey
from walstore.engine.view import View
from walstore.engine.worker import answer_of, start_worker, write_merged
from walstore.errors import CorruptionError, StorageError, StoreClosedError, storage_error, storage_errors
from walstore.format.filenames import snapshot_name, temporary_name
from walstore.format.layout import FileKind, Header
from walstore.fs.api import File
from walstore.fs.atomic import SyncFailedError, create_atomically, sync_directory
from walstore.options import WalOptions

__all__ = ["Compactor"]

_RETRY_NS: Final = 10_000_000_000
_OLD_SEGMENTS_MAX: Final = 16
_logger = logging.getLogger("walstore")


class _AbandonedError(Exception):
    """The store is being closed while its log is compacted."""


class Compactor(Generic[EventT, StateT]):
    """Folds everything below a fresh segment into a snapshot, and removes what that covers.

    ``events`` counts what was recorded, so that an idle store is left alone. A compaction that fails loses nothing.
    """

    def __init__(
        self,
        environment: Environment,
        directory: str,
        identity: Identity,
        plug: Plug[EventT, StateT],
        options: WalOptions,
        keeper: Keeper,
        log: Log,
        commit: Commit,
    ) -> None:
        self._environment = environment
        self._fs = environment.fs
        self._directory = directory
        self._identity = identity
        self._plug = plug
        self._options = options
        self._keeper = keeper
        self._log = log
        self._commit = commit
        # Reentrant: a signal handler, or the closing of a forgotten store, may come in the middle of a compaction.
        self._busy = threading.RLock()
        self._starting = threading.RLock()
        self._thread: threading.Thread | None = None
        self._finished = False
        self._abandoned = False
        self._worker: Worker | None = None
        self._is_worker_spared = False
        self._attempt: tuple[int, int] | None = None
        """The LSN and the count of events of an attempt that failed: what lies below it is still good to compact."""
        self._retry_at_ns = 0
        self._events_covered = 0
        self._old_segments = 0
        self.snapshot_lsn = 0
        self.snapshot_bytes = 0
        self.last_checkpoint_ns: int | None = None
        self.last_error: str | None = None

    def start_from(self, snapshot_lsn: int, snapshot_bytes: int, segments: int) -> None:
        """Say which snapshot the store has when it is opened, and how many segments above it are older."""
        self._old_segments = segments
        self.snapshot_lsn = snapshot_lsn
        self.snapshot_bytes = snapshot_bytes

    def log_bytes(self) -> int:
        """Return the bytes of the log above the snapshot."""
        return self._log.end_lsn() - self.snapshot_lsn

    def after_flush(self, events: int) -> None:
        """Compact if it is due: at once where the store is small, else in the background. A failure is no error."""
        log_bytes = self.log_bytes()
        grown = events != self._events_covered and log_bytes > self._options.compaction_ratio * self.snapshot_bytes
        if not grown and not self._has_too_many_segments():
            return
        if self.snapshot_bytes + log_bytes <= self._options.small_store_bytes:
            self._run_reporting(events)
        else:
            self._run_in_background(events)

    def when_grown(self, events: int) -> None:
        """Compact in the background if the log has outgrown its bound though nobody asks. For the keeper."""
        bound = max(self._options.small_store_bytes, self._options.compaction_ratio * self.snapshot_bytes)
        grown = events != self._events_covered and self.log_bytes() > bound
        if (grown or self._has_too_many_segments()) and self._environment.monotonic_ns() >= self._retry_at_ns:
            self._run_in_background(events)

    def run(self, events: int) -> None:
        """Compact now, after one that is under way. Raises what goes wrong; ``StoreClosedError`` after ``abandon``."""
        try:
            with self._busy:
                self._attempt = None
                self._compact(events)
        except _AbandonedError as error:
            raise StoreClosedError(f"the store {self._directory} was closed while its log was compacted") from error

    def finish(self) -> None:
        """Start no further compaction, and return when the one under way has ended.

        It is not cut short, since short openings would never compact a long log then.
        """
        self._finished = True
        with self._starting:
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()
        with self._busy:
            """So has one that runs in another caller's thread."""

    def abandon(self) -> None:
        """Let a compaction that is under way end at its next frame, without a snapshot, and return when it has.

        Once the lock of the store is released, nobody may publish a snapshot or remove a file any more.
        """
        self._abandoned = True
        worker = self._worker
        if worker is not None:
            worker.kill()
        self.finish()

    def is_running_here(self) -> bool:
        """Whether the calling thread is the compactor's own."""
        return self._thread is threading.current_thread()

    def _run_in_background(self, events: int) -> None:
        if not self._environment.threads:
            self._run_reporting(events)
            return
        # Never waited for: the keeper gets here, and whoever holds it may be waiting for the keeper.
        if not self._starting.acquire(blocking=False):
            return
        try:
            if self._finished or (self._thread is not None and self._thread.is_alive()):
                return
            thread = threading.Thread(
                target=self._run_reporting, args=(events,), name="walstore-compactor", daemon=True
            )
            thread.start()
            self._thread = thread
        except RuntimeError as error:
            self._note_failure(f"no thread can be started: {error}")
        finally:
            self._starting.release()

    def _run_reporting(self, events: int) -> None:
        if not self._busy.acquire(blocking=False):
            return
        try:
            self._compact(events)
        except _AbandonedError:
            _logger.info("compaction of %s abandoned: the store is being closed", self._directory)
        except Exception as error:  # noqa: BLE001  # Whatever it was: nobody else sees it, and it loses nothing.
            self._note_failure(str(error) or repr(error))
        finally:
            self._busy.release()

    def _note_failure(self, reason: str) -> None:
        self.last_error = reason
        self._retry_at_ns = self._environment.monotonic_ns() + _RETRY_NS
        _logger.warning("compaction of %s failed and will be tried again: %s", self._directory, reason)

    def _compact(self, events: int) -> None:
        self._raise_if_abandoned()
        if events == self._events_covered and self._old_segments <= 1:
            return
        with storage_errors(f"compacting the log of {self._directory}"):
            if self._attempt is None:
                # An attempt that failed is repeated where it was: else each would leave a segment more.
                self._attempt = (self._log.rotate(), events)
            base_lsn, events = self._attempt
            # Nobody is waited for: the snapshot will hold what somebody else is syncing just now, and a signal handler
            # may wait for this compaction in the middle of a sync of its own thread, as one does that closes the store.
            self._commit.settle()
            snapshot_bytes = self._write(base_lsn)
            if base_lsn > self.snapshot_lsn:
                self.snapshot_lsn, self.snapshot_bytes = base_lsn, snapshot_bytes
            self._attempt = None
            self._events_covered = events
            self._old_segments = 0
            self.last_checkpoint_ns = self._environment.wall_ns()
            self.last_error = None
            self._keeper.call(self._remove_covered)

    def _open_view(self, end_lsn: int) -> View[EventT, StateT]:
        files = survey(self._fs, self._directory, self._plug, created=True)
        assert files is not None
        return View(files, end_lsn, self._plug, before_frame=self._raise_if_abandoned)

    def _write(self, lsn: int) -> int:
        header = self._identity.header(FileKind.SNAPSHOT, lsn, 0, self._environment.nonce())
        # The name carries the epoch, so that nobody can take the unfinished file of another opening for its own.
        temporary = temporary_name(f"{snapshot_name(lsn)}-{self._identity.epoch:08x}")
        apart = self._is_done_apart(lsn)
        size = 0

        def fill(file: File) -> None:
            nonlocal size
            if apart:
                self._fill_apart(temporary, header)
            else:
                self._fill_here(file, header)
            size = self._check(file, header)
            self._raise_if_abandoned()
            self._log.check_fence()

        try:
            name = snapshot_name(lsn)
            create_atomically(self._fs, self._directory, name, temporary, fill, self._raise_if_abandoned).close()
            # A signal handler may have closed the store while this thread waited for the device.
            self._raise_if_abandoned()
        except SyncFailedError as error:
            raise self._commit.poison(error, self._directory) from error
        return size

    def _check(self, file: File, header: Header) -> int:
        try:
            return check_ends(file, header)
        except ValueError as error:
            self._is_worker_spared = True
            raise StorageError(
                f"the new snapshot of {self._directory} does not read back as it was to be written ({error}); nothing "
                "is lost: it is removed, and written again later"
            ) from error

    def _fill_here(self, file: File, header: Header) -> None:
        view = self._keeper.call(lambda: self._open_view(header.lsn))
        try:
            write_merged(self._fs, self._directory, file, header, view, self._options.merge_memory_bytes)
        finally:
            view.close()

    def _is_done_apart(self, lsn: int) -> bool:
        """Whether a process of its own does the merge: a large one, unless the last attempt at that went wrong."""
        spared, self._is_worker_spared = self._is_worker_spared, False
        can_start = self._environment.start_worker is not None and self._plug.name is not None
        total_bytes = self.snapshot_bytes + lsn - self.snapshot_lsn
        return can_start and not spared and total_bytes > self._options.small_store_bytes

    def _fill_apart(self, temporary: str, header: Header) -> None:
        """Let a worker fill the file. Only this process renames and removes files, and only while it has the lock."""
        # Taken back where the worker did its part, or said why it could not: then another one will.
        self._is_worker_spared = True
        try:
            worker = start_worker(
                self._environment, self._plug, self._directory, temporary, header, self._options.merge_memory_bytes
            )
        except OSError as error:
            raise storage_error(error, f"starting a process that compacts {self._directory}") from error
        self._worker = worker
        try:
            # Whoever abandons the compaction kills the worker that is noted here, or is noticed now.
            self._raise_if_abandoned()
            trouble = answer_of(worker, self._directory)
            self._raise_if_abandoned()
        except (OSError, CorruptionError):
            self._is_worker_spared = False
            raise
        finally:
            self._worker = None
            worker.close()
        if trouble is not None:
            raise StorageError(trouble)
        self._is_worker_spared = False

    def _has_too_many_segments(self) -> bool:
        """Whether many openings, however little they recorded, have left a segment each."""
        return self._old_segments > _OLD_SEGMENTS_MAX

    def _raise_if_abandoned(self) -> None:
        if self._abandoned:
            raise _AbandonedError

    def _remove_covered(self) -> None:
        for name in covered_names(self._fs.list_directory(self._directory), self.snapshot_lsn):
            self._fs.unlink(f"{self._directory}/{name}")
        try:
            sync_directory(self._fs, self._directory)
        except SyncFailedError as error:
            raise self._commit.poison(error, self._directory) from error
