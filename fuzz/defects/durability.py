"""Defects of what "on the device" means: syncs left out, acknowledgements and watermarks that come too early."""

from __future__ import annotations

from contextlib import suppress
from typing import cast

from fuzz.defects.planting import defect, swap
from walstore.engine import opening
from walstore.engine.commit import Commit
from walstore.engine.log import Log, Refusal
from walstore.engine.segment import Segment
from walstore.engine.store import Store
from walstore.engine.survey import Files
from walstore.errors import storage_error
from walstore.format.layout import Watermark
from walstore.fs import atomic
from walstore.fs.api import File, FileSystem
from walstore.model.events import EventForm
from walstore.model.records import JobState

__all__: list[str] = []

JobOpening = opening._Opening[EventForm, JobState]
JobStore = Store[EventForm, JobState]


@defect("simulate", "small_worlds")
def acknowledge_before_sync() -> None:
    """Callers are answered at once, and the sync that they wait for comes later (Redis, everysec)."""

    def sync(self: Commit) -> None:
        self.raise_if_poisoned()

    swap(Commit, "sync", sync)


@defect("simulate", "small_worlds")
def skip_the_data_sync() -> None:
    """Everything is done but the sync of the data itself (LevelDB on macOS, whose fsync does not flush the drive)."""

    def sync_file(self: Commit, file: File, path: str) -> None:
        del file, path
        self.raise_if_poisoned()
        self.syncs += 1

    swap(Commit, "_sync_file", sync_file)


@defect("simulate", "small_worlds")
def skip_the_sync_of_sealed_segments() -> None:
    """Only the live segment is synced, and what a rotation left behind is forgotten (RocksDB, with several logs)."""

    def unsynced(self: Log) -> tuple[int, list[Segment], Segment]:
        return self.end_lsn(), [], self.live

    swap(Log, "unsynced", unsynced)


@defect("simulate", "small_worlds")
def skip_the_directory_sync_after_create() -> None:
    """The directory above a new store is never synced, so a power loss takes all of it (ALICE found it often)."""
    swap(opening, "_parent", lambda directory: directory)


@defect("simulate", "small_worlds")
def skip_the_directory_sync_after_rename() -> None:
    """A finished file gets its name, and the directory is not synced (LevelDB, with its CURRENT file)."""
    swap(atomic, "sync_directory", lambda _fs, _directory: None)


class _Forgetful:
    """A file system whose first sync of a directory is left out."""

    def __init__(self, fs: FileSystem) -> None:
        self._fs = fs
        self._left_out = False

    def __getattr__(self, name: str) -> object:
        return getattr(self._fs, name)

    def sync_directory(self, directory: str) -> None:
        if self._left_out:
            self._fs.sync_directory(directory)
        self._left_out = True


@defect("simulate", "small_worlds")
def skip_the_directory_sync_of_recovery() -> None:
    """Recovery builds on a file whose name is not on the device yet, and a power loss takes that from under it."""
    recover = JobOpening._recover

    def hasty(self: JobOpening, files: Files[EventForm, JobState], started_ns: int) -> opening.Opened:
        fs = self._fs
        self._fs = cast("FileSystem", _Forgetful(fs))
        try:
            return recover(self, files, started_ns)
        finally:
            self._fs = fs

    swap(opening._Opening, "_recover", hasty)


@defect("simulate", "small_worlds", "threads")
def watermark_ahead_of_the_sync() -> None:
    """The watermark is written before the sync that it tells of, and may reach the device without it."""

    def sync(self: Commit) -> None:
        end_lsn = self._log.end_lsn()
        mark = Watermark(end_lsn).encode()
        self._log.append_watermark(mark)
        self.durable_lsn = max(self.durable_lsn, self._sync_files())
        self._settled = True

    swap(Commit, "_sync", sync)


@defect("threads", "simulate")
def watermark_sampled_after_the_sync() -> None:
    """The watermark names the end of the log after the sync, and so covers what was appended meanwhile."""
    sync_files = Commit._sync_files

    def sync_then_sample(self: Commit) -> int:
        sync_files(self)
        return self._log.end_lsn()

    swap(Commit, "_sync_files", sync_then_sample)


@defect("threads", "simulate")
def followers_acknowledged_by_a_sync_that_began_before() -> None:
    """Who appended while a sync was under way is told that it covered them."""
    sync = Commit._sync

    def generous(self: Commit) -> None:
        sync(self)
        self.durable_lsn = self._log.end_lsn()

    swap(Commit, "_sync", generous)


@defect("interleavings", "threads")
def sealed_meanwhile_counts_as_synced() -> None:
    """After a sync all sealed segments are struck off, also one that was sealed, and grew, during that sync."""

    def synced(self: Log, sealed: list[Segment]) -> None:
        del sealed
        while self._unsynced:
            self._unsynced.pop().file.close()

    swap(Log, "synced", synced)


@defect("simulate", "small_worlds")
def clean_mark_ahead_of_the_sync() -> None:
    """Closing writes the mark of a clean end first and syncs it together with the data that it vouches for."""

    def finish(self: Commit, refusal: Refusal) -> None:
        with self._lock:
            self.raise_if_poisoned()
            self._log.refuse(refusal)
            end_lsn = self._log.end_lsn()
            self._log.write_last(Watermark(end_lsn, clean=True).encode())
            self.durable_lsn = self._sync_files() or end_lsn

    swap(Commit, "finish", finish)


@defect("threads", "simulate")
def retry_after_a_failed_sync() -> None:
    """A failed sync is repeated, and its success believed (PostgreSQL before 12: "fsyncgate")."""
    sync_file = Commit._sync_file

    def insist(self: Commit, file: File, path: str) -> None:
        with suppress(OSError):
            file.sync()
        sync_file(self, file, path)

    swap(Commit, "_sync_file", insist)


@defect("threads", "simulate")
def failed_sync_is_an_error_like_any_other() -> None:
    """A failed sync raises once, and the next caller just syncs again (SQLite and Redis, by a study of 2020)."""

    def sync_file(self: Commit, file: File, path: str) -> None:
        try:
            file.sync()
        except OSError as error:
            raise storage_error(error, f"syncing {path}") from error
        self.syncs += 1

    swap(Commit, "_sync_file", sync_file)


@defect("threads")
def failed_sync_wakes_nobody() -> None:
    """The leader of a group commit whose sync fails leaves without waking those who wait for it: they hang."""

    def sync(self: Commit) -> None:
        target_lsn = self._log.end_lsn()
        while not self._is_durable(target_lsn):
            self._lock.acquire()
            if not self._is_durable(target_lsn):
                self._sync()
            self._lock.release()

    swap(Commit, "sync", sync)


@defect("simulate", "small_worlds")
def sync_without_drain() -> None:
    """``sync`` syncs the log, and leaves in the buffer what was recorded before it."""

    def sync(self: JobStore) -> None:
        if self._closed:
            raise self._closed_error()
        self._commit.sync()

    swap(Store, "sync", sync)


@defect("interleavings")
def log_taken_for_quiet_though_something_came_during_the_sync() -> None:
    """What came between a sync and its watermark counts as the watermark does: as nothing that has to be synced."""
    sync = Commit._sync

    def quiet(self: Commit) -> None:
        sync(self)
        self._quiet_lsn = self._log.end_lsn()

    swap(Commit, "_sync", quiet)
