"""The two ways to append to a preallocated file: into a mapping, and with ``pwrite`` where mapping is not safe."""

from __future__ import annotations

import mmap
import os
import sys
from collections.abc import Callable

from walstore.fs.api import File

__all__ = ["MapAppender", "PwriteAppender"]


class MapAppender:
    """Appends by one C call into the mapped file, which the GIL makes atomic: no lock, no system call."""

    def __init__(self, target: mmap.mmap) -> None:
        # An attribute holding the C method itself, so that callers reach it without a Python frame in between.
        self.write: Callable[[bytes], object] = target.write
        self.one_step = bool(getattr(sys, "_is_gil_enabled", lambda: True)())
        self._map = target

    def tell(self) -> int:
        """Return where the next write goes."""
        return self._map.tell()

    def seal(self) -> int:
        """Let no further write succeed; a write that comes between the two calls lies behind the offset returned."""
        end = self._map.tell()
        self._map.seek(0, os.SEEK_END)
        return end


class PwriteAppender:
    """Appends with ``pwrite``."""

    one_step = False

    def __init__(self, file: File, start: int, end: int) -> None:
        self._file = file
        self._position = start
        self._end = end

    def write(self, data: bytes) -> None:
        """Append ``data``, or raise and leave zeros behind the end."""
        if len(data) > self._end - self._position:
            raise ValueError("the segment is full or sealed")
        try:
            self._file.write(self._position, data)
        except OSError:
            # A part may have been written: it must not stay behind a shorter frame that comes next.
            self._file.write(self._position, bytes(len(data)))
            raise
        self._position += len(data)

    def tell(self) -> int:
        """Return where the next write goes."""
        return self._position

    def seal(self) -> int:
        """Let no further write succeed."""
        end, self._position = self._position, self._end
        return end
