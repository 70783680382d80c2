"""What the engine asks of a file system, and nothing else.

Everything raises ``OSError`` with an ``errno``, as the operating system does; what an error means is decided above.
Paths are absolute or relative strings with ``/``. ``walstore.testing.sim_fs`` implements the same protocols in memory.
"""

from __future__ import annotations

from typing import Protocol

__all__ = ["Appender", "File", "FileSystem", "Lock"]


class Appender(Protocol):
    """Appends to the preallocated rest of a file."""

    one_step: bool
    """Whether ``write`` and ``seal`` are steps that no other thread and no signal handler can cut in two. Where they
    are not, one thread must do all of them."""

    def write(self, data: bytes, /) -> object:
        """Append ``data`` whole. The bytes are the kernel's on return: they survive the death of this process.

        Raises ``ValueError``, having written nothing, when ``data`` does not fit or the appender was sealed.
        """
        ...

    def tell(self) -> int:
        """Return the offset in the file where the next write goes; after ``seal``, the end of the appendable part."""
        ...

    def seal(self) -> int:
        """Let no further write succeed, for ever.

        Returns an offset at or before the end of what was written (a write that raced with this call may lie behind
        it). The file may be truncated only after ``seal``.
        """
        ...


class File(Protocol):
    """An open regular file. All offsets and sizes are in bytes."""

    def size(self) -> int:
        """Return the length of the file."""
        ...

    def read(self, offset: int, size: int) -> bytes:
        """Return ``size`` bytes from ``offset``; fewer only where the file ends. Any thread may call it."""
        ...

    def write(self, offset: int, data: bytes) -> None:
        """Write all of ``data`` at ``offset``. After an error any part of it may have been written."""
        ...

    def allocate(self, size: int, *, written: bool = False) -> None:
        """Make the file ``size`` bytes long, reading as zeros, with the space for them reserved.

        Space that was ``written`` takes longer to make. A sync of it needs no journal then, which would hold up whoever
        writes to the next page of a mapping; but it syncs larger pieces, so that many small syncs take longer.
        """
        ...

    def truncate(self, size: int) -> None:
        """Cut the file to ``size`` bytes."""
        ...

    def sync(self) -> None:
        """Return once all bytes of the file, mapped ones included, and its length are on the device.

        After an error the bytes may be gone, whatever a later call says. Any thread may call it.
        """
        ...

    def appender(self, start: int, end: int) -> Appender:
        """Return an appender over the bytes from ``start`` to ``end``, which must be allocated."""
        ...

    def close(self) -> None:
        """Give the descriptor back, and the appender's mapping. Closing twice is fine."""
        ...


class Lock(Protocol):
    """The exclusive lock on a file, held until it is released or the process ends."""

    def read(self) -> bytes:
        """Return the content of the lock file."""
        ...

    def write(self, data: bytes) -> None:
        """Replace the content of the lock file, durably. A crash leaves the old content, the new, or a mixture."""
        ...

    def is_at(self, path: str) -> bool:
        """Whether the locked file is the one that is found at ``path`` now."""
        ...

    def release(self) -> None:
        """Unlock and close. Releasing twice is fine."""
        ...

    def abandon(self) -> None:
        """Close without unlocking: for a forked child, whose parent still holds the lock."""
        ...


class FileSystem(Protocol):
    """A file system."""

    def check(self, directory: str) -> None:
        """Raise ``UnsupportedPlatformError`` where a store can't keep its promises in (or as) ``directory``.

        ``directory`` need not exist; its parent is looked at then. Nothing is created.
        """
        ...

    def boot_id(self) -> bytes:
        """Return 16 bytes that are the same until the machine loses its memory, and differ afterwards."""
        ...

    def list_directory(self, directory: str) -> list[str]:
        """Return the names in ``directory``, in any order."""
        ...

    def make_directory(self, directory: str) -> None:
        """Create ``directory`` for this user alone (0700)."""
        ...

    def sync_directory(self, directory: str) -> None:
        """Return once all creations, renames and removals in ``directory`` are on the device."""
        ...

    def create(self, path: str) -> File:
        """Create a file for this user alone (0600), open for reading and writing; it must not exist."""
        ...

    def open(self, path: str, *, writable: bool = False) -> File:
        """Open an existing regular file. Never follows a symbolic link as the last part of ``path``."""
        ...

    def rename(self, source: str, target: str) -> None:
        """Rename a file within its directory, replacing ``target``."""
        ...

    def unlink(self, path: str) -> None:
        """Remove a file; it must exist."""
        ...

    def lock(self, path: str) -> Lock | None:
        """Open (creating it when missing) and lock a file; None when it is locked elsewhere."""
        ...

    def lock_shared(self, path: str) -> Lock | None:
        """Lock an existing file together with others who do so, without writing; None when ``lock`` holds it."""
        ...

    def read_small(self, path: str) -> bytes:
        """Return the first 4 KiB of a file without taking any lock: for naming the holder of one."""
        ...
