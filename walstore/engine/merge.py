"""Folding a log onto a snapshot in the order of the keys, in bounded memory.

The log's events are dealt out to partitions by ranges of keys; then each partition is folded onto its stretch of the
snapshot. So the memory follows an option, neither the number of keys nor the length of the log.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Final, Generic, Protocol

from walstore.engine.environment import EventT, StateT
from walstore.engine.segment import FrameReader
from walstore.engine.view import View
from walstore.format.filenames import temporary_name
from walstore.format.frame import encode_frame
from walstore.format.layout import FrameKind
from walstore.fs.api import File, FileSystem

__all__ = ["FileSpill", "MemorySpill", "Spill", "merged"]

_OBJECTS_PER_BYTE: Final = 8
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
    """Holds each partition in a temporary file, as frames. ``prefix`` must be unused in the directory."""

    def __init__(self, fs: FileSystem, directory: str, prefix: str, seed: int) -> None:
        self._fs = fs
        self._path = f"{directory}/{prefix}"
        self._seed = seed
        self._files: dict[int, tuple[File, str, int]] = {}

    def append(self, partition: int, payload: bytes) -> None:
        """Add a payload to a partition. Raises ``OSError``."""
        if partition not in self._files:
            path = temporary_name(f"{self._path}-{partition}")
            self._files[partition] = (self._fs.create(path), path, 0)
        file, path, position = self._files[partition]
        frame = encode_frame(FrameKind.EVENTS, payload, self._seed)
        file.write(position, frame)
        self._files[partition] = (file, path, position + len(frame))

    def read(self, partition: int) -> Iterator[bytes]:
        """Yield the payloads of a partition. Raises ``OSError``, also when they don't read back."""
        if partition not in self._files:
            return
        file, path, end = self._files[partition]
        reader = FrameReader(file, self._seed, 0, end)
        for _, frame in reader:
            yield frame.payload
        if reader.trouble is not None:
            raise OSError(f"the temporary file {path} does not read back: {reader.trouble}")

    def close(self) -> None:
        """Remove the files."""
        while self._files:
            _, (file, path, _) = self._files.popitem()
            file.close()
            self._fs.unlink(path)


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
                    self._spill.append(number, self._codec.encode_events(waiting[number]))
                    waiting[number].clear()
        for number, rest in enumerate(waiting):
            if rest:
                self._spill.append(number, self._codec.encode_events(rest))

    def fold(self) -> Iterator[dict[str, StateT]]:
        """Yield the states of one partition after another, in the order of their keys."""
        records = self._view.records()
        for number in range(len(self._bounds) + 1):
            states: dict[str, StateT] = {}
            if number < len(self._bounds):
                bound = self._bounds[number]
                for key, state in records:
                    if key >= bound:
                        # The first record of the next partition is put back in front of the others.
                        records = chain([(key, state)], records)
                        break
                    states[key] = state
            else:
                states.update(records)
            for payload in self._spill.read(number):
                self._reducer.fold(states, self._codec.decode_events(payload))
            yield states

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
