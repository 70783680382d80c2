"""How a command ends: the exit codes, and which of them an error is."""

from __future__ import annotations

import errno
from enum import IntEnum

from walstore.errors import CorruptionError, SchedulerPersistenceError, StorageError

__all__ = ["MEANINGS", "Exit", "UsageError", "error_document", "exit_of"]


class Exit(IntEnum):
    """The exit codes."""

    OK = 0
    DAMAGE = 1
    USAGE = 2
    REFUSED = 3
    HUNG_UP = 129
    INTERRUPTED = 130
    PIPE_CLOSED = 141
    TERMINATED = 143


MEANINGS = {
    Exit.OK: "all is well",
    Exit.DAMAGE: "damage: bytes of the store do not verify or can't be read; or the demo or a copy found a difference",
    Exit.USAGE: "the command line is wrong",
    Exit.REFUSED: (
        "no store there, or it can't be used: locked, of a newer format, of other records, no permission, disk full"
    ),
    Exit.HUNG_UP: "the terminal was closed (SIGHUP)",
    Exit.INTERRUPTED: "interrupted (Ctrl-C)",
    Exit.PIPE_CLOSED: "whoever read standard output has ended, as `head` does",
    Exit.TERMINATED: "asked to end (SIGTERM)",
}
"""What each exit code means, for people."""


class UsageError(Exception):
    """The command line asks for what can't be. ``usage`` comes before the message where people read it."""

    def __init__(self, message: str, usage: str = "") -> None:
        super().__init__(message)
        self.usage = usage


def exit_of(error: SchedulerPersistenceError) -> Exit:
    """Return the exit code of a command that ends with this error."""
    unreadable = isinstance(error, StorageError) and error.errno == errno.EIO
    return Exit.DAMAGE if unreadable or isinstance(error, CorruptionError) else Exit.REFUSED


def error_document(error: UsageError | SchedulerPersistenceError) -> dict[str, object]:
    """Return an error as a JSON object; file, offset and LSN are null where the error names none."""
    place = error if isinstance(error, CorruptionError) else None
    return {
        "type": type(error).__name__,
        "message": str(error),
        "file": place.path if place else None,
        "offset": place.offset if place else None,
        "lsn": place.lsn if place else None,
    }
