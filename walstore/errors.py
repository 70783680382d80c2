"""The exception tree.

::

    SchedulerPersistenceError          anything that keeps a store from doing what it was asked
    ├── StoreNotFoundError             there is no store at the path (or it holds another kind of records)
    ├── StoreLockedError               another process (or this one) has the store open for writing
    ├── StoreClosedError               the store object was closed, or was opened read-only
    ├── StorePoisonedError             a sync failed: nothing more can be promised by this opening
    ├── StorageError                   the operating system refused an operation (keeps ``errno``)
    │   └── StorageFullError           no space: the call did not go through, and may be tried again
    ├── CorruptionError                acknowledged bytes are damaged or missing (file, offset, LSN)
    ├── NewerFormatError               the store was written by a newer release
    ├── ForkedProcessError             the store was opened before a fork, and this is the child
    ├── FencedError                    another writer has taken over
    └── UnsupportedPlatformError       this platform or file system can't keep the promises

Every message says what happened, where, and what to do. Wrong arguments are ``TypeError`` and ``ValueError``,
raised before anything is recorded; they are not part of this tree.
"""

from __future__ import annotations

import errno as _errno
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = [
    "OPENING",
    "CorruptionError",
    "FencedError",
    "ForkedProcessError",
    "NewerFormatError",
    "SchedulerPersistenceError",
    "StorageError",
    "StorageFullError",
    "StoreClosedError",
    "StoreLockedError",
    "StoreNotFoundError",
    "StorePoisonedError",
    "UnsupportedPlatformError",
    "storage_error",
    "storage_errors",
]

OPENING = "opening the store"
"""How ``doing`` begins where a store is opened for writing, which may be refused where reading is not."""

_FULL = frozenset({_errno.ENOSPC, _errno.EDQUOT})
_DENIED = frozenset({_errno.EACCES, _errno.EPERM, _errno.EROFS})
_TOO_MANY = frozenset({_errno.EMFILE, _errno.ENFILE})


class SchedulerPersistenceError(Exception):
    """The root of everything that a persistence raises for a reason other than a wrong argument."""


class StoreNotFoundError(SchedulerPersistenceError):
    """There is no store at the path, and none was to be created; or it holds another kind of records."""


class StoreLockedError(SchedulerPersistenceError):
    """The store is open for writing elsewhere. The message names the host, the process and since when."""


class StoreClosedError(SchedulerPersistenceError):
    """The store object was closed (or opened read-only) and takes no such call any more."""


class StorePoisonedError(SchedulerPersistenceError):
    """A sync failed, so the kernel may have dropped what it had not written.

    A second sync would succeed without the data being on the device, so the store refuses everything but reading
    what is known to be durable. Close it, look at the device, and open it again: recovery finds out what is there.
    """


class StorageError(SchedulerPersistenceError):
    """The operating system refused an operation; ``errno`` is kept."""

    def __init__(self, message: str, errno: int | None = None) -> None:
        super().__init__(message)
        self.errno = errno


class StorageFullError(StorageError):
    """No space is left. The call that raises it has recorded nothing, and works again when there is space.

    What was recorded before it stays: at ``BUFFERED`` in the buffer, where ``sync`` or ``close`` could not write it.
    """


class CorruptionError(SchedulerPersistenceError):
    """Bytes that were acknowledged as durable are damaged or missing. Nothing was changed and nothing is guessed.

    ``what`` is the damage, ``path`` the file, ``offset`` the byte in it where reading failed, and ``lsn`` the same
    place in the log (None where the damage is not in the log).
    """

    def __init__(self, what: str, *, path: str, offset: int | None = None, lsn: int | None = None) -> None:
        place = path
        if offset is not None:
            place += f", offset {offset}"
        if lsn is not None:
            place += f" (LSN {lsn})"
        super().__init__(
            f"{what}: {place}. The store was not changed. Copy the whole directory before anything else, check the "
            "device, and restore from a copy; without one, `walstore salvage` makes a new store of what still "
            "verifies. A device that lies about flushes looks the same."
        )
        self.what = what
        self.path = path
        self.offset = offset
        self.lsn = lsn


class NewerFormatError(SchedulerPersistenceError):
    """The store was written by a newer release. Nothing is wrong with it: open it with that release."""


class ForkedProcessError(SchedulerPersistenceError):
    """The store was opened before a fork and this is the child: open a store in the process that uses it."""


class FencedError(SchedulerPersistenceError):
    """Another writer has taken over; this one may not write any more."""


class UnsupportedPlatformError(SchedulerPersistenceError):
    """The platform or the file system can't keep what a store promises."""


def storage_error(error: OSError, doing: str) -> StorageError:
    """Return the error of this tree for an ``OSError`` met while ``doing`` something (a phrase with the path in it)."""
    reason = error.strerror or str(error)
    if error.filename is not None and str(error.filename) not in doing:
        reason += f" ({error.filename})"
    if error.errno in _FULL:
        return StorageFullError(
            f"no space left while {doing} ({reason}). This call did not go through; what was recorded before it is "
            "kept: free some space and call again.",
            error.errno,
        )
    advice = "Check the path, its permissions and the device, then try again."
    if error.errno in _DENIED:
        advice = "Check the permissions and the mount, then try again."
        if doing.startswith(OPENING):
            advice += " To look only, open it with read_only=True."
    if error.errno in _TOO_MANY:
        advice = "Raise the limit of open files (ulimit -n), then try again."
    return StorageError(f"{reason} while {doing}. {advice}", error.errno)


@contextmanager
def storage_errors(doing: str) -> Iterator[None]:
    """Turn an ``OSError`` that comes out of the block into the error of this tree (see ``storage_error``)."""
    try:
        yield
    except OSError as error:
        raise storage_error(error, doing) from error
