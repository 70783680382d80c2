"""Floors: what a call can't be faster than, each as one plain Python function of the same two arguments."""

from __future__ import annotations

import mmap
import os
from abc import abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import msgpack
from xxhash import xxh3_64_digest

from bench.target import NOTHING, POWER_LOSS, PROCESS_DEATH, Target
from bench.timing import Call
from bench.workloads import Starts, State
from walstore.model.events import STARTED

__all__ = ["FLOORS", "BareAppend", "MapFloor", "PackbMapFloor", "SyncFloor", "SyncZeroedFloor"]

_FILE_BYTES: Final = 256 << 20
_MAP_BYTES: Final = 64 << 20


class _Floor(Target):
    """Takes the events as walstore does: the instant at which a run began."""

    def record(self, job: str, state: State) -> None:
        raise NotImplementedError("a floor takes events, not records")

    def forget(self, job: str) -> None:
        raise NotImplementedError("a floor takes events, not records")

    def record_many(self, rows: Sequence[tuple[str, State]]) -> None:
        """Hold nothing: there is nothing that a floor does with a job that it knows."""

    @abstractmethod
    def record_started(self, job: str, at_ns: int) -> None:
        """Store that a run began."""

    def started(self, work: Starts) -> tuple[Call[Any], Sequence[Any]]:
        return self.record_started, work.ats


class BareAppend(_Floor):
    """A Python method that appends a tuple to a list."""

    name = "floor: list.append of a tuple"
    survives = NOTHING

    def __init__(self, directory: Path) -> None:
        assert directory.is_dir()
        self._items: list[tuple[int, str, int]] = []

    def record_started(self, job: str, at_ns: int) -> None:
        self._items.append((STARTED, job, at_ns))

    def close(self) -> None:
        self._items.clear()


class _Mapped(_Floor):
    """Packs an event, and writes it with its checksum into a file that is allocated, written and in memory."""

    pack: Callable[[object], bytes]

    def __init__(self, directory: Path) -> None:
        self._file = (directory / "floor").open("w+b")
        _fill_with_zeros(self._file.fileno(), _MAP_BYTES)
        self._map = mmap.mmap(self._file.fileno(), _MAP_BYTES, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE)
        # Written once, so that no call pays for the first touch of a page.
        self._map.write(bytes(_MAP_BYTES))
        self._map.seek(0)
        pack, write, rewind = self.pack, self._map.write, self._map.seek

        def record_started(job: str, at_ns: int) -> None:
            payload = pack((STARTED, job, at_ns))
            try:
                write(xxh3_64_digest(payload) + payload)
            except ValueError:
                rewind(0)

        self._record_started = record_started

    def record_started(self, job: str, at_ns: int) -> None:
        self._record_started(job, at_ns)

    def started(self, work: Starts) -> tuple[Call[Any], Sequence[Any]]:
        return self._record_started, work.ats

    def sync(self) -> None:
        os.fdatasync(self._file.fileno())

    def close(self) -> None:
        self._map.close()
        self._file.close()


class PackbMapFloor(_Mapped):
    """The same with ``msgpack.packb``, which makes a packer for each call."""

    name = "floor: packb + xxh3 + mmap.write"
    survives = PROCESS_DEATH
    pack = staticmethod(msgpack.packb)


class MapFloor(_Mapped):
    """The same with one packer for all calls, which is faster."""

    name = "floor: Packer.pack + xxh3 + mmap.write"
    survives = PROCESS_DEATH
    pack = msgpack.Packer().pack


class SyncFloor(_Floor):
    """``pwrite`` of an event into a preallocated file, and ``fdatasync``."""

    name = "floor: pwrite + fdatasync, fallocated"
    survives = POWER_LOSS

    def __init__(self, directory: Path) -> None:
        self._file = (directory / "floor").open("w+b")
        self._offset = 0
        self.prepare(self._file.fileno())
        os.fsync(self._file.fileno())
        self._pack = msgpack.Packer().pack

    def prepare(self, descriptor: int) -> None:
        """Allocate the file, as walstore does it."""
        os.posix_fallocate(descriptor, 0, _FILE_BYTES)

    def record_started(self, job: str, at_ns: int) -> None:
        payload = self._pack((STARTED, job, at_ns))
        descriptor = self._file.fileno()
        self._offset += os.pwrite(descriptor, xxh3_64_digest(payload) + payload, self._offset)
        os.fdatasync(descriptor)

    def close(self) -> None:
        self._file.close()


class SyncZeroedFloor(SyncFloor):
    """The same into a file that was written before, so that the file system has nothing to note for a sync."""

    name = "floor: pwrite + fdatasync, zeroed"
    survives = POWER_LOSS

    def prepare(self, descriptor: int) -> None:
        _fill_with_zeros(descriptor, _MAP_BYTES)


def _fill_with_zeros(descriptor: int, size_bytes: int) -> None:
    zeros = bytes(1 << 20)
    for _ in range(0, size_bytes, len(zeros)):
        os.write(descriptor, zeros)


FLOORS: Final[tuple[type[Target], ...]] = (BareAppend, MapFloor, PackbMapFloor, SyncFloor, SyncZeroedFloor)
"""All of them."""
