"""The real file system: the only module that does file I/O."""

from __future__ import annotations

import errno
import mmap
import os
import re
import stat
import sys
from typing import Final

from walstore.errors import UnsupportedPlatformError
from walstore.fs.api import Appender, File, Lock
from walstore.fs.os_append import MapAppender, PwriteAppender
from walstore.fs.os_process import kernel_boot_id

try:
    import fcntl
except ImportError:  # Windows. Importing and MemoryPersistence work there; opening a store is refused by check().
    fcntl = None  # type: ignore[assignment]  # Nothing reaches it after check() has refused.

__all__ = ["OsFileSystem"]

_MAPPABLE: Final = frozenset({"ext4", "xfs", "tmpfs"})
"""Where a write to an allocated mapped page can't fail; on a full copy-on-write file system it is a fatal SIGBUS."""

_NETWORKED: Final = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "fuse.ceph", "fuse.sshfs", "fuse.glusterfs", "lustre"}
    | {"gfs2", "ocfs2", "orangefs", "beegfs", "fuse.s3fs", "fuse.rclone", "fuse.gcsfuse", "virtiofs"}
)
_MOUNTS: Final = "/proc/self/mountinfo"
_OCTAL: Final = re.compile(r"\\([0-7]{3})")  # How the table of mounts writes blanks in paths.
_SMALL_BYTES: Final = 4096


class OsFileSystem:
    """The file systems of the operating system (Linux). Any thread may use it."""

    def __init__(self) -> None:
        # Looked up once for each directory: that takes ten system calls, in which a busy thread would take the GIL.
        self._kinds: dict[str, str] = {}

    def check(self, directory: str) -> None:
        """Raise ``UnsupportedPlatformError`` where a store can't keep its promises. Creates nothing."""
        if fcntl is None or not all(hasattr(os, name) for name in ("fdatasync", "posix_fallocate", "pread")):
            raise UnsupportedPlatformError(
                f"a store needs flock, fdatasync and fallocate, which {sys.platform} lacks: use MemoryPersistence "
                "here, or run on Linux"
            )
        kind = self._kinds[directory] = _file_system_kind(directory)
        if kind in _NETWORKED:
            raise UnsupportedPlatformError(
                f"{directory} is on {kind}, a network file system, where locks and syncs do not hold: put the store on "
                "a local disk"
            )

    def boot_id(self) -> bytes:
        """Return the kernel's boot id."""
        return kernel_boot_id()

    def list_directory(self, directory: str) -> list[str]:
        """Return the names in ``directory``."""
        return os.listdir(directory)

    def make_directory(self, directory: str) -> None:
        """Create ``directory`` with mode 0700."""
        os.mkdir(directory, 0o700)

    def sync_directory(self, directory: str) -> None:
        """Sync the entries of ``directory``."""
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            _close(descriptor)

    def create(self, path: str) -> File:
        """Create a file with mode 0600 and open it."""
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        return _OsFile(os.open(path, flags, 0o600), self._is_mappable(path))

    def open(self, path: str, *, writable: bool = False) -> File:
        """Open a regular file. Raises ``OSError`` for a symbolic link, and for anything that is no regular file."""
        return _OsFile(_open_regular(path, os.O_RDWR if writable else os.O_RDONLY), self._is_mappable(path))

    def rename(self, source: str, target: str) -> None:
        """Rename a file."""
        os.rename(source, target)

    def unlink(self, path: str) -> None:
        """Remove a file."""
        os.unlink(path)

    def lock(self, path: str) -> Lock | None:
        """Lock a file with ``flock``, creating it when missing; None when it is locked elsewhere."""
        return _flock(_open_regular(path, os.O_RDWR | os.O_CREAT), fcntl.LOCK_EX)

    def lock_shared(self, path: str) -> Lock | None:
        """Lock a file with a shared ``flock``, which needs no permission to write; None when it is locked elsewhere."""
        return _flock(_open_regular(path, os.O_RDONLY), fcntl.LOCK_SH)

    def read_small(self, path: str) -> bytes:
        """Return the first 4 KiB of a file."""
        descriptor = _open_regular(path, os.O_RDONLY)
        try:
            return _read_whole(descriptor, 0, _SMALL_BYTES)
        finally:
            _close(descriptor)

    def _is_mappable(self, path: str) -> bool:
        directory = os.path.dirname(path)
        if directory not in self._kinds:
            self._kinds[directory] = _file_system_kind(directory)
        return self._kinds[directory] in _MAPPABLE


class _OsFile:
    def __init__(self, descriptor: int, is_mappable: bool) -> None:
        self._descriptor = descriptor
        self._is_mappable = is_mappable
        self._map: mmap.mmap | None = None

    def size(self) -> int:
        return os.fstat(self._descriptor).st_size

    def read(self, offset: int, size: int) -> bytes:
        return _read_whole(self._descriptor, offset, size)

    def write(self, offset: int, data: bytes) -> None:
        _write_whole(self._descriptor, offset, data)

    def allocate(self, size: int, *, written: bool = False) -> None:
        os.posix_fallocate(self._descriptor, 0, size)
        if written:
            _write_zeros(self._descriptor, size)

    def truncate(self, size: int) -> None:
        os.ftruncate(self._descriptor, size)

    def sync(self) -> None:
        os.fdatasync(self._descriptor)

    def appender(self, start: int, end: int) -> Appender:
        if not self._is_mappable:
            return PwriteAppender(self, start, end)
        self._map = mmap.mmap(self._descriptor, end)
        self._map.seek(start)
        return MapAppender(self._map)

    def close(self) -> None:
        if self._map is not None:
            self._map.close()
            self._map = None
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            _close(descriptor)

    def __del__(self) -> None:
        # An exception may come between opening a file and handing it on to who closes it.
        self.close()


class _OsLock:
    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        status = os.fstat(descriptor)
        self._identity = status.st_dev, status.st_ino

    def read(self) -> bytes:
        return _read_whole(self._descriptor, 0, _SMALL_BYTES)

    def write(self, data: bytes) -> None:
        _write_whole(self._descriptor, 0, data)
        os.ftruncate(self._descriptor, len(data))
        os.fdatasync(self._descriptor)

    def is_at(self, path: str) -> bool:
        try:
            status = os.stat(path)
        except FileNotFoundError:
            return False
        return (status.st_dev, status.st_ino) == self._identity

    def release(self) -> None:
        # Unlocked by name and not just closed: a child that is about to exec may hold a copy for a moment longer.
        try:
            if self._descriptor >= 0:
                fcntl.flock(self._descriptor, fcntl.LOCK_UN)
        finally:
            self.abandon()

    def abandon(self) -> None:
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            _close(descriptor)


def _flock(descriptor: int, kind: int) -> Lock | None:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        _close(descriptor)
        return None
    except BaseException:
        _close(descriptor)
        raise
    return _OsLock(descriptor)


def _close(descriptor: int) -> None:
    """Give a descriptor back, which Linux does whatever it reports: a second try could close another file.

    An error here tells nothing either: what has to be on the device was synced before.
    """
    try:
        os.close(descriptor)
    except OSError as error:
        if error.errno == errno.EBADF:
            raise


def _read_whole(descriptor: int, offset: int, size: int) -> bytes:
    """Return ``size`` bytes, or all up to the end of the file. Python itself repeats what a signal interrupts."""
    data = os.pread(descriptor, size, offset)
    if len(data) == size or not data:
        return data
    # A read may be short without the file having ended.
    parts = [data]
    missing = size - len(data)
    while missing and (data := os.pread(descriptor, missing, offset + size - missing)):
        parts.append(data)
        missing -= len(data)
    return b"".join(parts)


def _write_whole(descriptor: int, offset: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        offset += written
        view = view[written:]


def _write_zeros(descriptor: int, size: int) -> None:
    """Write zeros to all of a file, in one call that lets other threads run.

    The kernel does it in pieces of 64 KiB, and will sync whole pieces. One write of all would make pieces of megabytes.
    """
    zeros = os.memfd_create("zeros", os.MFD_CLOEXEC)
    try:
        os.ftruncate(zeros, size)
        position = 0  # As the file's own: nothing else moves it.
        while position < size:
            position += os.sendfile(descriptor, zeros, position, size - position)
    finally:
        _close(zeros)


def _open_regular(path: str, flags: int) -> int:
    # O_NONBLOCK keeps a FIFO that lies in wait under this name from blocking the open for ever.
    descriptor = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        _close(descriptor)
        raise OSError(errno.EINVAL, "Not a regular file", path)
    return descriptor


def _file_system_kind(path: str) -> str:
    """Return the kind of file system that ``path``, or its nearest existing parent, lies on; "" when unknown."""
    path = os.path.realpath(path)
    while not os.path.exists(path) and path != os.path.dirname(path):
        path = os.path.dirname(path)
    best, kind = "", ""
    try:
        with open(_MOUNTS, encoding="utf-8", errors="surrogateescape") as mounts:
            for line in mounts:
                before, _, after = line.partition(" - ")
                point = _OCTAL.sub(lambda escape: chr(int(escape[1], 8)), before.split()[4])
                inside = path == point or path.startswith(point.rstrip("/") + "/")
                # Of several mounts on one point, the last one is on top.
                if inside and len(point) >= len(best):
                    best, kind = point, after.split()[0]
    except (OSError, IndexError):
        return ""
    return kind
