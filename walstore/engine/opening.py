"""Opening a store: finding or creating the directory, taking the lock, recovering; and looking at one read-only."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, Generic

from walstore.engine.environment import Environment, EventT, Plug, StateT
from walstore.engine.recovery import Progress, RecoveryReport, Situation, recover
from walstore.engine.repair import keep_torn_tail, reframe, remove_leftovers
from walstore.engine.segment import Identity, Segment, create_segment
from walstore.engine.survey import Files, is_store, survey
from walstore.errors import OPENING, FencedError, StorageError, StoreLockedError, StoreNotFoundError, storage_errors
from walstore.format.filenames import LOCK_NAME, is_temporary
from walstore.format.layout import FileKind
from walstore.fs.api import FileSystem, Lock
from walstore.options import WalOptions

__all__ = ["Opened", "describe_holder", "find_directory", "open_for_reading", "open_for_writing", "sign_lock"]

_LOCK_BYTES: Final = 256
_READ_ATTEMPTS: Final = 1000
_FIRST_EPOCH: Final = 1


@dataclass(slots=True)
class Opened:
    """What a writer starts with. ``watermark_lsn`` is where its own segment begins."""

    directory: str
    lock: Lock
    identity: Identity
    live: Segment
    start_lsn: int
    snapshot_lsn: int
    snapshot_bytes: int
    old_segments: int
    """Segments above the snapshot that earlier openings left."""
    report: RecoveryReport

    def check_fence(self) -> None:
        """Raise ``FencedError`` where the directory was moved, removed or replaced under the open store."""
        with storage_errors(f"looking at {self.directory}"):
            is_ours = self.lock.is_at(f"{self.directory}/{LOCK_NAME}")
        if not is_ours:
            raise FencedError(
                f"{self.directory} was moved, removed or replaced while this store had it open. What was recorded "
                "since then is not safe: close the store and look for the directory"
            )


def open_for_writing(
    environment: Environment,
    directory: str,
    plug: Plug[EventT, StateT],
    options: WalOptions,
    *,
    create: bool,
    progress: Progress | None,
) -> Opened:
    """Take the lock of a store and recover it, or create it.

    Raises ``StoreNotFoundError``, ``StoreLockedError``, ``CorruptionError``, ``NewerFormatError``,
    ``UnsupportedPlatformError`` and ``StorageError``. The lock is not held then.
    """
    fs = environment.fs
    fs.check(directory)
    started_ns = environment.monotonic_ns()
    with storage_errors(f"{OPENING} {directory}"):
        find_directory(fs, directory, create=create)
        lock = fs.lock(f"{directory}/{LOCK_NAME}")
        if lock is None:
            raise StoreLockedError(
                f"{directory} is open for writing in {describe_holder(fs, directory)}. Close it there, or open it here "
                "with read_only=True."
            )
        try:
            opening = _Opening(environment, directory, plug, options, progress, lock)
            return opening.run(started_ns, create=create)
        except BaseException:
            lock.release()
            raise


def open_for_reading(
    environment: Environment, directory: str, plug: Plug[EventT, StateT], progress: Progress | None = None
) -> tuple[Files[EventT, StateT], int, RecoveryReport]:
    """Return the files of a store, the LSN up to which they read, and the report. Takes no lock and writes nothing.

    A writer may be at work: where files changed while they were read, they are read again. Raises what
    ``open_for_writing`` raises, except for ``StoreLockedError``.
    """
    fs = environment.fs
    fs.check(directory)
    started_ns = environment.monotonic_ns()
    with storage_errors(f"reading the store {directory}"):
        for _ in range(_READ_ATTEMPTS):
            names = find_directory(fs, directory, create=False)
            found = _read_once(environment, directory, plug, progress, names)
            if found is not None:
                files, end_lsn, situation, events, torn_bytes = found
                duration_ns = environment.monotonic_ns() - started_ns
                return files, end_lsn, RecoveryReport(situation, events, torn_bytes, None, duration_ns)
    raise StorageError(f"the files of {directory} changed at each of {_READ_ATTEMPTS} attempts to read them: try again")


def _read_once(
    environment: Environment,
    directory: str,
    plug: Plug[EventT, StateT],
    progress: Progress | None,
    names: list[str],
) -> tuple[Files[EventT, StateT], int, Situation, int, int] | None:
    """Return what ``open_for_reading`` needs, or None when the directory changed meanwhile.

    Trouble counts only where the directory did not change: a checkpoint removes what a reader is about to open, and a
    recovery cuts it.
    """
    fs = environment.fs
    files: Files[EventT, StateT] | None = None
    try:
        files = survey(fs, directory, plug, created=_was_created(fs, directory, names))
        if files is None or not files.chain:
            raise StoreNotFoundError(f"{directory} holds a store whose creation was never finished: nothing to read")
        end = recover(files, plug.codec, fs.boot_id(), progress)
        # Descriptors keep what was read, so only a tail that seems torn needs a second look where files changed.
        if end.situation is not Situation.TORN or not _has_changed(fs, directory, names):
            kept, files = files, None
            return kept, end.end_lsn, end.situation, end.events, end.torn_bytes
    except Exception:
        if not _has_changed(fs, directory, names):
            raise
    finally:
        if files is not None:
            files.close()
    return None


class _Opening(Generic[EventT, StateT]):
    """One opening for writing, with the lock held."""

    def __init__(
        self,
        environment: Environment,
        directory: str,
        plug: Plug[EventT, StateT],
        options: WalOptions,
        progress: Progress | None,
        lock: Lock,
    ) -> None:
        self._environment = environment
        self._fs = environment.fs
        self._directory = directory
        self._plug = plug
        self._options = options
        self._progress = progress
        self._lock = lock

    def run(self, started_ns: int, *, create: bool) -> Opened:
        files = survey(self._fs, self._directory, self._plug, created=bool(self._lock.read()))
        try:
            if files is not None and files.chain:
                opened = self._recover(files, started_ns)
            elif create:
                self._remove_temporary(files)
                opened = self._create(started_ns)
            else:
                raise StoreNotFoundError(f"{self._directory} holds a store that was never finished: create it")
        finally:
            if files is not None:
                files.close()
        try:
            sign_lock(self._environment, self._lock)
        except BaseException:
            opened.live.file.close()
            raise
        return opened

    def _create(self, started_ns: int) -> Opened:
        # Whoever made the directory, perhaps an opening that crashed: its own name must be on the device as well.
        self._fs.sync_directory(_parent(self._directory))
        identity = self._identity(self._environment.random_bytes(16), _FIRST_EPOCH)
        header = identity.header(FileKind.SEGMENT, 0, self._options.segment_bytes_min, self._environment.nonce())
        live = create_segment(self._fs, self._directory, header)
        return Opened(
            self._directory, self._lock, identity, live, 0, 0, 0, 0, self._report(Situation.CREATED, started_ns)
        )

    def _recover(self, files: Files[EventT, StateT], started_ns: int) -> Opened:
        # The last opening may have died between naming a file and syncing the directory. What is built on such a file
        # must not outlive it in a power loss.
        self._fs.sync_directory(self._directory)
        end = recover(files, self._plug.codec, self._fs.boot_id(), self._progress)
        # Not before it is known that the store is not refused: one that is stays as it was found.
        self._remove_temporary(files)
        last = files.chain[-1].header
        identity = self._identity(last.store_id, last.epoch + 1)
        kept_at = keep_torn_tail(self._fs, self._directory, end, identity.epoch)
        live = reframe(
            self._fs, self._directory, files, end, identity, self._environment.nonce(), self._options.segment_bytes_min
        )
        try:
            remove_leftovers(self._fs, self._directory, files, end)
        except BaseException:
            live.file.close()
            raise
        return Opened(
            self._directory,
            self._lock,
            identity,
            live,
            end.watermark_lsn,
            files.floor_lsn,
            files.snapshot.length if files.snapshot is not None else 0,
            sum(link.base_lsn < end.watermark_lsn for link in files.chain),
            self._report(end.situation, started_ns, end.events, end.torn_bytes, kept_at),
        )

    def _remove_temporary(self, files: Files[EventT, StateT] | None) -> None:
        for name in files.temporary if files is not None else ():
            # A worker that the opening before has left behind may be removing its own at this moment.
            with suppress(FileNotFoundError):
                self._fs.unlink(f"{self._directory}/{name}")

    def _report(
        self, situation: Situation, started_ns: int, events: int = 0, torn_bytes: int = 0, kept_at: str | None = None
    ) -> RecoveryReport:
        duration_ns = self._environment.monotonic_ns() - started_ns
        return RecoveryReport(situation, events, torn_bytes, kept_at, duration_ns)

    def _identity(self, store_id: bytes, epoch: int) -> Identity:
        return Identity(store_id, self._plug.codec.id, self._plug.reducer.id, self._fs.boot_id(), epoch)


def sign_lock(environment: Environment, lock: Lock) -> None:
    """Write who holds the lock. A LOCK that is not empty also says, for ever, that there was a segment."""
    content = json.dumps({**environment.holder(), "since_ns": environment.wall_ns()})
    lock.write(content.encode()[:_LOCK_BYTES].ljust(_LOCK_BYTES))


def find_directory(fs: FileSystem, directory: str, *, create: bool) -> list[str]:
    """Return the names in the directory of a store; create it where asked to. Raises ``StoreNotFoundError``."""
    try:
        names = fs.list_directory(directory)
    except FileNotFoundError:
        if not create:
            raise StoreNotFoundError(f"there is no store at {directory}: check the path, or create one") from None
        try:
            fs.make_directory(directory)
        except FileExistsError:
            # Either another process was faster, or what is there is a link to nothing.
            return _find_existing(fs, directory)
        except FileNotFoundError:
            raise StoreNotFoundError(
                f"{directory} can't be created: {_parent(directory)} does not exist; create that first"
            ) from None
        return []
    except NotADirectoryError:
        raise StoreNotFoundError(f"{directory} is no directory: a store is one; give another path") from None
    if not is_store(names) and (names or not create):
        what = "holds other things and no store" if names else "is empty: there is no store in it"
        raise StoreNotFoundError(
            f"{directory} {what}; give the path of a store, or of a directory that does not exist yet"
        )
    return names


def _find_existing(fs: FileSystem, directory: str) -> list[str]:
    try:
        return fs.list_directory(directory)
    except FileNotFoundError:
        raise StoreNotFoundError(f"{directory} is a symbolic link to nothing: give the path of a store") from None


def _has_changed(fs: FileSystem, directory: str, names: list[str]) -> bool:
    """Whether other files count in the directory than when ``names`` were listed."""
    now = fs.list_directory(directory)
    return {name for name in now if not is_temporary(name)} != {name for name in names if not is_temporary(name)}


def _parent(directory: str) -> str:
    return directory.rpartition("/")[0] or "/"


def _was_created(fs: FileSystem, directory: str, names: list[str]) -> bool:
    return LOCK_NAME in names and bool(fs.read_small(f"{directory}/{LOCK_NAME}"))


def describe_holder(fs: FileSystem, directory: str) -> str:
    """Return who has the store open for writing, as LOCK says."""
    try:
        content = json.loads(fs.read_small(f"{directory}/{LOCK_NAME}"))
        since = datetime.fromtimestamp(0, UTC) + timedelta(seconds=content["since_ns"] // 1_000_000_000)
        return f"process {content['pid']} on {content['host']}, since {since:%Y-%m-%d %H:%M:%S} UTC"
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return "another process, which has not said which"
