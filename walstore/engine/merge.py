"""Folding a log onto a snapshot in the order of the keys, in bounded memory.

The log's events are dealt out to partitions by ranges of keys; then each partition is folded onto its stretch of the
snapshot. So the memory follows an option, neither the number of keys nor the length of the log.
"""

from __future__ import annotations

import errno
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import Final, Generic, Protocol

from walstore.engine.environment import EventT, StateT
from walstore.engine.payloads import payloads
from walstore.engine.view import View
from walstore.format.filenames import temporary_name
from walstore.format.frame import BadFrameError, NeedMore, decode_frame, encode_frame
from walstore.format.layout import FrameKind
from walstore.fs.api import File, FileSystem

__all__ = ["FileSpill", "MemorySpill", "Spill", "merged"]

_OBJECTS_PER_BYTE: Final = 16
"""About how many bytes a record or an event takes in memory for each byte that it has on disk."""
_SAMPLES_MAX: Final = 4096
_EVENTS_PER_SPILL: Final = 256


class Spill(Protocol):
    """Holds the payloads of each partition until it is folded."""

    def append(self, partition: int, payload: bytes) -> None:
        """Add a payload to a partition."""
        ...

    def read(self, partition: int) -> Iterator[bytes]:
        """Yield the payloads of a partition in the order in which they were added."""
        ...

    def close(self) -> None:
        """Give everything back."""
        ...


class MemorySpill:
    """Holds the partitions in memory, still encoded: for readers, who write nothing."""

    def __init__(self) -> None:
        self._partitions: dict[int, list[bytes]] = {}

    def append(self, partition: int, payload: bytes) -> None:
        """Add a payload to a partition."""
        self._partitions.setdefault(partition, []).append(payload)

    def read(self, partition: int) -> Iterator[bytes]:
        """Yield the payloads of a partition."""
        return iter(self._partitions.get(partition, ()))

    def close(self) -> None:
        """Let go of the payloads."""
        self._partitions.clear()


class FileSpill:
    """Holds the payloads in one temporary file, as frames. ``name`` must be unused in the directory."""

    def __init__(self, fs: FileSystem, directory: str, name: str, seed: int) -> None:
        self._fs = fs
        self._path = f"{directory}/{temporary_name(name)}"
        self._seed = seed
        self._file: File | None = None
        self._end = 0
        self._extents: dict[int, list[tuple[int, int]]] = {}
        """For each partition the offset and the size of its frames."""

    def append(self, partition: int, payload: bytes) -> None:
        """Add a payload to a partition. Raises ``OSError``."""
        if self._file is None:
            self._file = self._fs.create(self._path)
        frame = encode_frame(FrameKind.EVENTS, payload, self._seed)
        self._file.write(self._end, frame)
        self._extents.setdefault(partition, []).append((self._end, len(frame)))
        self._end += len(frame)

    def read(self, partition: int) -> Iterator[bytes]:
        """Yield the payloads of a partition. Raises ``OSError``, also when they don't read back."""
        for offset, size in self._extents.get(partition, ()):
            assert self._file is not None
            try:
                frame = decode_frame(self._file.read(offset, size), 0, self._seed, size)
            except BadFrameError as error:
                raise OSError(errno.EIO, f"A temporary file does not read back ({error})", self._path) from error
            if isinstance(frame, NeedMore):
                raise OSError(errno.EIO, "A temporary file is cut short", self._path)
            yield frame.payload

    def close(self) -> None:
        """Remove the file."""
        if self._file is not None:
            file, self._file = self._file, None
            file.close()
            try:
                self._fs.unlink(self._path)
            except FileNotFoundError:
                """Another opening of the store has cleared it away, or a forked child its copy of an iterator."""


def merged(view: View[EventT, StateT], memory_bytes: int, spill: Spill) -> Iterator[tuple[str, StateT]]:
    """Yield every key with its settled state in the order of the keys, in about ``memory_bytes`` of memory."""
    settled = view.plug.reducer.settled
    limit_bytes = memory_bytes // _OBJECTS_PER_BYTE
    snapshot_bytes = view.snapshot.length if view.snapshot is not None else 0
    if snapshot_bytes + view.log_bytes <= limit_bytes:
        states = view.fold()
        for key in sorted(states):
            yield key, settled(states[key])
        return
    partitions = _Partitions(view, limit_bytes, spill)
    partitions.deal_out()
    for states in partitions.fold():
        for key in sorted(states):
            yield key, settled(states[key])


class _Partitions(Generic[EventT, StateT]):
    """The ranges of keys, and the events dealt out to them."""

    def __init__(self, view: View[EventT, StateT], limit_bytes: int, spill: Spill) -> None:
        self._view = view
        self._codec = view.plug.codec
        self._reducer = view.plug.reducer
        self._spill = spill
        self._bounds = self._choose_bounds(limit_bytes)
        """The first key of each partition but the first."""

    def deal_out(self) -> None:
        """Put every event of the log into its partition."""
        key_of, bounds = self._reducer.key, self._bounds
        waiting: list[list[EventT]] = [[] for _ in range(len(bounds) + 1)]
        for events in self._view.events():
            for event in events:
                number = bisect_right(bounds, key_of(event))
                waiting[number].append(event)
                if len(waiting[number]) >= _EVENTS_PER_SPILL:
                    self._spill_events(number, waiting[number])
                    waiting[number].clear()
        for number, rest in enumerate(waiting):
            if rest:
                self._spill_events(number, rest)

    def fold(self) -> Iterator[dict[str, StateT]]:
        """Yield the states of one partition after another, in the order of their keys."""
        records = self._view.records()
        # Reading on until a record is beyond the bound takes one record too many: it belongs to a later partition.
        ahead = next(records, None)
        for number in range(len(self._bounds) + 1):
            states: dict[str, StateT] = {}
            while ahead is not None and (number == len(self._bounds) or ahead[0] < self._bounds[number]):
                states[ahead[0]] = ahead[1]
                ahead = next(records, None)
            for payload in self._spill.read(number):
                self._reducer.fold(states, self._codec.decode_events(payload))
            yield states

    def _spill_events(self, number: int, events: list[EventT]) -> None:
        for _, payload in payloads(self._codec.encode_events, events):
            self._spill.append(number, payload)

    def _choose_bounds(self, limit_bytes: int) -> list[str]:
        """Cut the keys into ranges of about equal weight, from the snapshot's index and a sample of the log's keys."""
        snapshot = self._view.snapshot
        weights: list[tuple[str, float]] = []
        if snapshot is not None and snapshot.index:
            ends = [*(entry.offset for entry in snapshot.index[1:]), snapshot.trailer.index_offset]
            weights = [(entry.first_id, end - entry.offset) for entry, end in zip(snapshot.index, ends, strict=True)]
        samples = self._sample_keys()
        weights += [(key, self._view.log_bytes / len(samples)) for key in samples]
        weights.sort()
        bounds: list[str] = []
        weight = 0.0
        for key, more in weights:
            if weight + more > limit_bytes and weight and (not bounds or key > bounds[-1]):
                bounds.append(key)
                weight = 0.0
            weight += more
        return bounds

    def _sample_keys(self) -> Sequence[str]:
        """Return the keys of evenly spaced events, at most ``_SAMPLES_MAX``, however many events there are."""
        key_of = self._reducer.key
        samples: list[str] = []
        stride, number = 1, 0
        for events in self._view.events():
            for event in events:
                if number % stride == 0:
                    samples.append(key_of(event))
                    if len(samples) > _SAMPLES_MAX:
                        del samples[1::2]
                        stride *= 2
                number += 1
        return samples
