"""The one way to create a file of a store: finished and on the device before it has its name."""

from __future__ import annotations

import errno
from collections.abc import Callable

from walstore.fs.api import File, FileSystem

__all__ = ["SyncFailedError", "create_atomically", "sync_directory"]

# Opening the directory may fail for lack of descriptors or memory. Nothing was synced then, and nothing is lost.
_OUT_OF_RESOURCES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})


class SyncFailedError(OSError):
    """The sync of a directory failed: what was created in it may be gone after a crash."""


def create_atomically(
    fs: FileSystem,
    directory: str,
    name: str,
    temporary: str,
    fill: Callable[[File], None],
    before_naming: Callable[[], None] = lambda: None,
) -> File:
    """Create ``name`` in ``directory`` with what ``fill`` writes, and return it open.

    ``before_naming`` is called when all is on the device but the name, and may raise: the sync before it can be long.

    On return the file, its bytes, its length and its name are on the device. After a crash at any point it is there
    whole or not at all, but for a file called ``temporary``. Raises what ``fill``, ``before_naming`` and the file
    system raise; the temporary file is then removed where that is possible. ``SyncFailedError`` means that ``name`` is
    there, but may not be there after a crash; a failed sync of the file itself is as harmless as any other error: it
    has no name yet.
    """
    path = f"{directory}/{temporary}"
    try:
        file = fs.create(path)
    except FileExistsError:
        # Left by an attempt that could not remove it either.
        fs.unlink(path)
        file = fs.create(path)
    try:
        fill(file)
        file.sync()
        before_naming()
        fs.rename(path, f"{directory}/{name}")
        path = f"{directory}/{name}"
        sync_directory(fs, directory)
    except BaseException as error:
        file.close()
        try:
            if not isinstance(error, SyncFailedError):
                fs.unlink(path)
        except OSError as second:
            # The first error is the one to tell; the leftover is removed at the next opening.
            error.add_note(f"{path} could not be removed: {second}")
        raise
    return file


def sync_directory(fs: FileSystem, directory: str) -> None:
    """Sync a directory. Raises ``SyncFailedError``, or ``OSError`` where the directory could not even be opened."""
    try:
        fs.sync_directory(directory)
    except OSError as error:
        if error.errno in _OUT_OF_RESOURCES:
            raise
        raise SyncFailedError(error.errno, error.strerror, directory) from error
