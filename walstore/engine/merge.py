"""Folding a log onto a snapshot in the order of the keys, in bounded memory.

The log's events are sorted by key in runs that fit into memory. Then the snapshot is gone through frame by frame, and
each is given what the runs hold for its range of keys; where they hold nothing it stays as it is. So the memory follows
an option, neither the number of keys nor the length of the log, and the work follows what has changed.
"""

from __future__ import annotations

import errno
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Final, Generic, Protocol

from walstore.engine.environment import EventT, StateT
from walstore.engine.payloads import payloads
from walstore.engine.snapshot import Batch, StoredFrame
from walstore.engine.view import View
from walstore.format.filenames import temporary_name
from walstore.format.frame import BadFrameError, NeedMore, decode_frame, encode_frame
from walstore.format.index import IndexEntry
from walstore.format.layout import FrameKind
from walstore.fs.api import File, FileSystem

__all__ = ["FileSpill", "MemorySpill", "Spill", "merged", "merged_frames"]

_OBJECTS_PER_BYTE: Final = 16
"""About how many bytes a record or an event takes in memory for each byte that it has on disk."""
_EVENTS_PER_CHUNK: Final = 256


class Spill(Protocol):
    """Holds the payloads of each run until it is folded."""

    def append(self, run: int, payload: bytes) -> None:
        """Add a payload to a run."""
        ...

    def read(self, run: int) -> Iterator[bytes]:
        """Yield the payloads of a run in the order in which they were added."""
        ...

    def close(self) -> None:
        """Give everything back."""
        ...


class MemorySpill:
    """Holds the runs in memory, still encoded: for readers, who write nothing."""

    def __init__(self) -> None:
        self._runs: dict[int, list[bytes]] = {}

    def append(self, run: int, payload: bytes) -> None:
        """Add a payload to a run."""
        self._runs.setdefault(run, []).append(payload)

    def read(self, run: int) -> Iterator[bytes]:
        """Yield the payloads of a run."""
        return iter(self._runs.get(run, ()))

    def close(self) -> None:
        """Let go of the payloads."""
        self._runs.clear()


class FileSpill:
    """Holds the payloads in one temporary file, as frames. ``name`` must be unused in the directory."""

    def __init__(self, fs: FileSystem, directory: str, name: str, seed: int) -> None:
        self._fs = fs
        self._path = f"{directory}/{temporary_name(name)}"
        self._seed = seed
        self._file: File | None = None
        self._end = 0
        self._extents: dict[int, list[tuple[int, int]]] = {}
        """For each run the offset and the size of its frames."""

    def append(self, run: int, payload: bytes) -> None:
        """Add a payload to a run. Raises ``OSError``."""
        if self._file is None:
            self._file = self._fs.create(self._path)
        frame = encode_frame(FrameKind.EVENTS, payload, self._seed)
        self._file.write(self._end, frame)
        self._extents.setdefault(run, []).append((self._end, len(frame)))
        self._end += len(frame)

    def read(self, run: int) -> Iterator[bytes]:
        """Yield the payloads of a run. Raises ``OSError``, also when they don't read back."""
        for offset, size in self._extents.get(run, ()):
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
    merge = _Merge(view, memory_bytes // _OBJECTS_PER_BYTE, spill)
    for entry, end in merge.ranges():
        if entry is not None and not merge.has_events_below(end):
            yield from view.frame_records(entry)
            continue
        for batch in merge.fold(entry, end):
            yield from batch


def merged_frames(view: View[EventT, StateT], memory_bytes: int, spill: Spill) -> Iterator[Batch[StateT]]:
    """Yield the same as ``merged`` in batches, and the frames that no event touches as they stand in the snapshot."""
    merge = _Merge(view, memory_bytes // _OBJECTS_PER_BYTE, spill)
    for entry, end in merge.ranges():
        if entry is not None and not merge.has_events_below(end):
            yield StoredFrame(entry, view.frame_payload(entry), partial(view.frame_records, entry))
        else:
            yield from merge.fold(entry, end)


class _Run(Generic[EventT]):
    """Events in the order of their keys; those of one key in the order in which they were recorded."""

    def __init__(self, chunks: Iterator[tuple[list[str], Sequence[EventT]]]) -> None:
        self._chunks = chunks
        self._keys: list[str] = []
        self._events: Sequence[EventT] = ()
        self._begin = 0

    def has_below(self, end: str | None) -> bool:
        """Whether there are events whose key is below ``end``, or any at all where it is None."""
        while self._begin == len(self._keys):
            chunk = next(self._chunks, None)
            if chunk is None:
                return False
            (self._keys, self._events), self._begin = chunk, 0
        return end is None or self._keys[self._begin] < end

    def take_below(self, end: str | None) -> Iterator[tuple[list[str], Sequence[EventT]]]:
        """Yield these events and their keys, piece by piece; they are taken out of the run."""
        while self.has_below(end):
            begin = self._begin
            self._begin = len(self._keys) if end is None else bisect_left(self._keys, end, begin)
            yield self._keys[begin : self._begin], self._events[begin : self._begin]


class _Merge(Generic[EventT, StateT]):
    """One way through the snapshot and the runs."""

    def __init__(self, view: View[EventT, StateT], limit_bytes: int, spill: Spill) -> None:
        self._view = view
        self._codec = view.plug.codec
        self._reducer = view.plug.reducer
        self._limit_bytes = limit_bytes
        self._spill = spill
        self._heads: list[tuple[str, int]] = []
        """The first key of each chunk of a run, and about the bytes of the chunk."""
        self._runs = self._sort_log()
        self._cuts = self._choose_cuts()

    def ranges(self) -> Iterator[tuple[IndexEntry | None, str | None]]:
        """Yield each frame of the snapshot with the key below which its range ends; one range of None without any."""
        index = self._view.snapshot.index if self._view.snapshot is not None else []
        if not index:
            yield None, None
        for number, entry in enumerate(index, 1):
            yield entry, index[number].first_id if number < len(index) else None

    def has_events_below(self, end: str | None) -> bool:
        """Whether an event that is left has a key below ``end``."""
        return any(run.has_below(end) for run in self._runs)

    def fold(self, entry: IndexEntry | None, end: str | None) -> Iterator[list[tuple[str, StateT]]]:
        """Yield the settled states of one range: in one batch, or in several where many keys have come into it."""
        records = self._view.frame_records(entry) if entry is not None else []
        stops: list[str | None] = []
        while self._cuts and (end is None or self._cuts[-1] < end):
            stops.append(self._cuts.pop())
        for stop in (*stops, end):
            count = len(records) if stop is None else bisect_left(records, stop, key=lambda record: record[0])
            batch = self._fold_onto(dict(records[:count]), stop)
            del records[:count]
            if batch:
                yield batch

    def _fold_onto(self, states: dict[str, StateT], stop: str | None) -> list[tuple[str, StateT]]:
        touched: set[str] = set()
        # A key's events are in several runs, one after another in time.
        for run in self._runs:
            for keys, events in run.take_below(stop):
                touched.update(keys)
                self._reducer.fold(states, events)
        for key in touched.intersection(states):
            states[key] = self._reducer.settled(states[key])
        return [(key, states[key]) for key in sorted(states)]

    def _sort_log(self) -> list[_Run[EventT]]:
        """Read the log and return its runs: one in memory where it is short, else as many as it takes, spilled."""
        is_short = self._view.log_bytes <= self._limit_bytes
        events: list[EventT] = []
        runs: list[_Run[EventT]] = []
        begin_lsn = None
        for lsn, more in self._view.frames():
            begin_lsn = lsn if begin_lsn is None else begin_lsn
            if not is_short and lsn - begin_lsn >= self._limit_bytes:
                runs.append(self._spilled(len(runs), events))
                events, begin_lsn = [], lsn
            events += more
        for more in self._view.pending:
            events += more
        if events:
            runs.append(_Run(self._chunks_of(events)) if not runs else self._spilled(len(runs), events))
        return runs

    def _chunks_of(self, events: list[EventT]) -> Iterator[tuple[list[str], Sequence[EventT]]]:
        """Sort the events of one run, and return them in chunks."""
        key_of = self._reducer.key
        # A stable sort: events of one key stay in the order in which they were recorded.
        events.sort(key=key_of)
        chunks = [events[begin : begin + _EVENTS_PER_CHUNK] for begin in range(0, len(events), _EVENTS_PER_CHUNK)]
        chunk_bytes = self._view.log_bytes // max(len(chunks), 1)
        self._heads += [(key_of(chunk[0]), chunk_bytes) for chunk in chunks]
        return ((list(map(key_of, chunk)), chunk) for chunk in chunks)

    def _spilled(self, number: int, events: list[EventT]) -> _Run[EventT]:
        key_of, codec = self._reducer.key, self._codec
        events.sort(key=key_of)
        for begin in range(0, len(events), _EVENTS_PER_CHUNK):
            for chunk, payload in payloads(codec.encode_events, events[begin : begin + _EVENTS_PER_CHUNK]):
                self._heads.append((key_of(chunk[0]), len(payload)))
                self._spill.append(number, payload)
        read = (codec.decode_events(payload) for payload in self._spill.read(number))
        return _Run((list(map(key_of, chunk)), chunk) for chunk in read)

    def _choose_cuts(self) -> list[str]:
        """Return, from the last to the first, keys between which new keys of the log take about ``limit_bytes``."""
        self._heads.sort()
        cuts: list[str] = []
        weight = 0
        for key, more in self._heads:
            if weight + more > self._limit_bytes and weight and (not cuts or key > cuts[-1]):
                cuts.append(key)
                weight = 0
            weight += more
        cuts.reverse()
        return cuts
