"""Founding: a new store that begins with records, whole or not at all."""

from __future__ import annotations

import errno
from collections.abc import Iterable
from typing import Final

from walstore.engine.environment import Environment, EventT, Plug, StateT
from walstore.engine.opening import sign_lock
from walstore.engine.segment import Identity, create_segment
from walstore.engine.snapshot import in_batches, write_snapshot
from walstore.errors import StorageError, StoreLockedError, StoreNotFoundError, storage_errors
from walstore.format.filenames import LOCK_NAME, UNFINISHED_NAME, segment_name, snapshot_name, temporary_name
from walstore.format.frame import encode_frame
from walstore.format.layout import HEADER_BYTES, FileKind, FrameKind, Watermark
from walstore.fs.api import File, FileSystem, Lock
from walstore.fs.atomic import create_atomically

__all__ = ["check_vacant", "found_store"]

_EPOCH: Final = 1
_BASE_LSN: Final = HEADER_BYTES
"""As if an empty segment had gone before. Not 0: a store that lost its snapshot must not look like an empty one."""


def check_vacant(fs: FileSystem, directory: str) -> None:
    """Raise ``StorageError`` unless a store can be founded in ``directory``, which must be empty or not there."""
    with storage_errors(f"looking for a place at {directory}"):
        try:
            names = fs.list_directory(directory)
        except FileNotFoundError:
            _check_parent(fs, directory)
            return
        if UNFINISHED_NAME in names:
            raise StorageError(
                f"{directory} holds what was never finished: remove it, and nothing is lost, since it was made from "
                "another store",
                errno.ENOTEMPTY,
            )
        if names:
            raise StorageError(
                f"{directory} is not empty: give the path of a directory that does not exist yet", errno.ENOTEMPTY
            )


def found_store(
    environment: Environment,
    directory: str,
    plug: Plug[EventT, StateT],
    records: Iterable[tuple[str, StateT]],
    segment_bytes: int,
) -> None:
    """Make a store of ``records``, which come settled, in strictly ascending order of their keys.

    On return it is on the device, closed cleanly. After a crash it is there, or the directory is empty, missing, or
    refused. Raises ``StorageError`` and what ``records`` raises, having removed all but the directory.
    """
    fs = environment.fs
    fs.check(directory)
    check_vacant(fs, directory)
    with storage_errors(f"making the store {directory}"):
        try:
            fs.make_directory(directory)
        except FileExistsError:
            """It is empty, as was just seen."""
        marker = f"{directory}/{UNFINISHED_NAME}"
        fs.create(marker).close()
        lock: Lock | None = None
        try:
            # As long as the marker lies there, nothing in the directory but a whole store can be opened.
            fs.sync_directory(directory)
            fs.sync_directory(_parent(directory))
            lock = fs.lock(f"{directory}/{LOCK_NAME}")
            if lock is None:
                raise StoreLockedError(f"{directory} was empty, and is being used now: give another path")
            _write_files(environment, directory, plug, records, segment_bytes)
            sign_lock(environment, lock)
            fs.unlink(marker)
            fs.sync_directory(directory)
        except BaseException as error:
            _clear(fs, directory, error, locked=lock is not None)
            raise
        finally:
            if lock is not None:
                lock.release()


def _parent(directory: str) -> str:
    return directory.rpartition("/")[0] or "/"


def _check_parent(fs: FileSystem, directory: str) -> None:
    parent = _parent(directory)
    try:
        fs.list_directory(parent)
    except FileNotFoundError:
        raise StoreNotFoundError(f"{directory} can't be created: {parent} does not exist; create that first") from None


def _write_files(
    environment: Environment,
    directory: str,
    plug: Plug[EventT, StateT],
    records: Iterable[tuple[str, StateT]],
    segment_bytes: int,
) -> None:
    fs = environment.fs
    identity = Identity(environment.random_bytes(16), plug.codec.id, plug.reducer.id, fs.boot_id(), _EPOCH)
    snapshot_seed, segment_seed = environment.nonce(), environment.nonce()
    name = snapshot_name(_BASE_LSN)
    header = identity.header(FileKind.SNAPSHOT, _BASE_LSN, 0, snapshot_seed)

    def fill_snapshot(file: File) -> None:
        write_snapshot(file, header, plug.codec, in_batches(records))

    def fill_segment(file: File) -> int:
        # True once the segment has its name, since it is synced before.
        payload = Watermark(_BASE_LSN + HEADER_BYTES, clean=True).encode()
        mark = encode_frame(FrameKind.WATERMARK, payload, segment_seed)
        file.write(HEADER_BYTES, mark)
        return HEADER_BYTES + len(mark)

    # The snapshot first: without a segment it is refused, and so is a segment whose base is not 0 without a snapshot.
    create_atomically(fs, directory, name, temporary_name(name), fill_snapshot).close()
    segment = identity.header(FileKind.SEGMENT, _BASE_LSN, segment_bytes, segment_seed)
    create_segment(fs, directory, segment, fill_segment).file.close()


def _clear(fs: FileSystem, directory: str, error: BaseException, *, locked: bool) -> None:
    """Remove what was written, the marker last: as long as it is there, nothing else is taken for a store."""
    snapshot, segment = snapshot_name(_BASE_LSN), segment_name(_BASE_LSN, _EPOCH)
    ours = [segment, temporary_name(segment), snapshot, temporary_name(snapshot), LOCK_NAME] if locked else []
    try:
        names = fs.list_directory(directory)
        for name in ours:
            if name in names:
                fs.unlink(f"{directory}/{name}")
        fs.sync_directory(directory)
        fs.unlink(f"{directory}/{UNFINISHED_NAME}")
    except OSError as second:
        error.add_note(f"{directory} could not be cleared: {second}")
