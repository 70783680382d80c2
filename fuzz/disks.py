"""File systems in image files that lose their power. Made and mounted here, touching no other; for root only.

A cut is ``FS_IOC_SHUTDOWN`` without flushing the journal: whatever had not been synced is gone with the page cache when
the file system is unmounted, and mounting it again replays the journal, as after a power loss.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import random
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Self

from fuzz.tools import UnavailableError, tool

__all__ = ["Disk", "private_mounts"]

_FS_IOC_SHUTDOWN: Final = 0x8004587D
_NO_LOG_FLUSH: Final = 2
_CLONE_NEWNS: Final = 0x20000
_MS_PRIVATE_REC: Final = 0x40000 | 0x4000
_WRITE_AND_WAIT: Final = 7
_PAGE_BYTES: Final = 4096
_IMAGE_BYTES: Final = {"ext4": 64 * 1024**2, "xfs": 400 * 1024**2}
_MAKE: Final = {"ext4": ("mkfs.ext4", "-q", "-F"), "xfs": ("mkfs.xfs", "-q", "-f")}


class Disk:
    """A file system in an image file below ``root``, mounted while it is used as a context manager."""

    def __init__(self, root: Path, kind: str) -> None:
        """Make the file system. Raises ``UnavailableError``."""
        self._image = root.resolve() / f"{kind}.img"
        self.path = root.resolve() / f"{kind}-mount"
        """Where it is mounted."""
        self._kind = kind
        self._mounted = False
        self.path.mkdir()
        with self._image.open("wb") as image:
            image.truncate(_IMAGE_BYTES[kind])
        name, *options = _MAKE[kind]
        _call([tool(name), *options, str(self._image)])

    def __enter__(self) -> Self:
        self.mount()
        return self

    def __exit__(self, *_: object) -> None:
        self.unmount()

    def mount(self) -> None:
        """Mount it, which replays its journal. Its loop device goes when it is unmounted. May be unavailable."""
        _call([tool("mount"), "-t", self._kind, "-o", "loop,noatime", str(self._image), str(self.path)])
        self._mounted = True

    def unmount(self) -> None:
        """Unmount it, unless it is not mounted. Nothing may have a file of it open."""
        if self._mounted:
            _call([tool("umount"), str(self.path)])
            self._mounted = False

    def stop(self) -> None:
        """Let nothing more reach the image: not what is in the page cache, nor what is in the journal's memory."""
        descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._assert_own(descriptor)
            fcntl.ioctl(descriptor, _FS_IOC_SHUTDOWN, struct.pack("I", _NO_LOG_FLUSH))
        finally:
            os.close(descriptor)

    def write_back_some(self, directory: Path, choice: random.Random) -> None:
        """Write some pages of the files in ``directory`` to the image, as the kernel may at any time, in any order."""
        libc = ctypes.CDLL(None, use_errno=True)
        for path in sorted(directory.glob("*")):
            with path.open("rb") as file:
                for offset in range(0, os.fstat(file.fileno()).st_size, _PAGE_BYTES):
                    if choice.random() < 0.5:
                        # Unlike a sync it writes pages and nothing else: no metadata, no journal.
                        libc.sync_file_range(
                            file.fileno(), ctypes.c_int64(offset), ctypes.c_int64(_PAGE_BYTES), _WRITE_AND_WAIT
                        )

    def _assert_own(self, descriptor: int) -> None:
        """Refuse to stop anything but the file system that was made here."""
        device = os.fstat(descriptor).st_dev
        number = f"{os.major(device)}:{os.minor(device)}"
        mounts = [line.split() for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()]
        mine = [row for row in mounts if row[4] == str(self.path)]
        backing = Path(f"/sys/dev/block/{number}/loop/backing_file").read_text(encoding="utf-8").strip()
        assert self._mounted
        assert [row[2] for row in mine] == [number], f"{self.path} is not mounted just once, from {number}: {mine}"
        assert backing == str(self._image), f"{number} is a loop device on {backing}, not on {self._image}"
        assert device != self._image.parent.stat().st_dev
        assert self.path.parent == self._image.parent


@contextmanager
def private_mounts() -> Iterator[None]:
    """Let nobody else see what is mounted in the block; it vanishes with this process, however that ends.

    Raises ``UnavailableError`` where that is not allowed.
    """
    if sys.platform != "linux" or os.geteuid() != 0:
        raise UnavailableError("cutting the power of a file system needs root, on Linux")
    libc = ctypes.CDLL(None, use_errno=True)
    directory = Path.cwd()
    with Path("/proc/self/ns/mnt").open("rb") as before:
        _check(libc.unshare(_CLONE_NEWNS), "a private mount namespace")
        try:
            _check(libc.mount(b"none", b"/", None, _MS_PRIVATE_REC, None), "making mounts private")
            yield
        finally:
            _check(libc.setns(before.fileno(), _CLONE_NEWNS), "leaving the private mount namespace")
            # Entering a namespace of mounts ends in its root.
            os.chdir(directory)


def _check(result: int, doing: str) -> None:
    if result:
        raise UnavailableError(f"{doing}: {os.strerror(ctypes.get_errno())}")


def _call(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UnavailableError(f"{' '.join(command)}: {done.stderr.strip() or done.returncode}")
