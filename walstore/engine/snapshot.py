"""Snapshots: the folded state of everything below an LSN, sorted by key, in frames that can be read one by one."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from operator import lt
from typing import Final, Generic, NamedTuple, TypeVar

from walstore.engine.environment import Codec, EventT, StateT
from walstore.engine.payloads import payloads
from walstore.engine.segment import FrameReader, read_header
from walstore.errors import CorruptionError
from walstore.format.frame import encode_frame, frame_bytes
from walstore.format.index import INDEX_ENTRIES_MAX, IndexEntry, Trailer, decode_index, encode_index
from walstore.format.layout import HEADER_BYTES, FileKind, FrameKind, Header
from walstore.fs.api import File

__all__ = ["Batch", "Snapshot", "StoredFrame", "check_ends", "in_batches", "write_snapshot"]

T = TypeVar("T")
_RECORDS_PER_FRAME: Final = 512
_RECORDS_MIN: Final = _RECORDS_PER_FRAME // 2
"""A frame with fewer is joined with the next one, and one with three times as many is divided."""


class StoredFrame(NamedTuple, Generic[StateT]):
    """A frame of records as it stands in a snapshot. Its payload can be written into the next one as it is."""

    entry: IndexEntry
    payload: bytes
    decode: Callable[[], list[tuple[str, StateT]]]
    """Returns its records, checked."""


Batch = StoredFrame[StateT] | list[tuple[str, StateT]]
"""Settled records in the order of their keys, still encoded or not."""


def in_batches(items: Iterable[T]) -> Iterator[list[T]]:
    """Yield all items, as many at a time as fit well into one frame."""
    remaining = iter(items)
    while batch := list(islice(remaining, _RECORDS_PER_FRAME)):
        yield batch


def write_snapshot(
    file: File, header: Header, codec: Codec[EventT, StateT], batches: Iterable[Batch[StateT]]
) -> Trailer:
    """Write a snapshot into an empty file. All records come settled, in strictly ascending order of their keys.

    Frames that come as they are stored are copied, and changed ones keep about their limits: so a later change of few
    records touches few frames again.
    """
    writer = _Writer(file, header, codec)
    for batch in batches:
        writer.add(batch)
    return writer.finish()


class _Writer(Generic[EventT, StateT]):
    """Divides records into frames and appends them to a file."""

    def __init__(self, file: File, header: Header, codec: Codec[EventT, StateT]) -> None:
        self._file = file
        self._seed = header.nonce
        self._codec = codec
        self._entries: list[IndexEntry] = []
        self._waiting: list[tuple[str, StateT]] = []
        file.write(0, header.encode())
        self._position = HEADER_BYTES

    def add(self, batch: Batch[StateT]) -> None:
        if isinstance(batch, StoredFrame):
            if not self._waiting:
                self._append_records(batch.entry.first_id, batch.entry.records, batch.payload)
                return
            batch = batch.decode()
        self._waiting += batch
        while len(self._waiting) >= _RECORDS_MIN:
            some = _RECORDS_PER_FRAME if len(self._waiting) >= _RECORDS_PER_FRAME + _RECORDS_MIN else None
            self._append_waiting(some)

    def finish(self) -> Trailer:
        if self._waiting:
            self._append_waiting(None)
        entries = self._entries
        trailer = Trailer(self._position, sum(entry.records for entry in entries), len(entries))
        for start in range(0, len(entries), INDEX_ENTRIES_MAX):
            self._append(FrameKind.INDEX, encode_index(entries[start : start + INDEX_ENTRIES_MAX]))
        self._append(FrameKind.TRAILER, trailer.encode())
        return trailer

    def _append_waiting(self, some: int | None) -> None:
        records = self._waiting[:some]
        del self._waiting[:some]
        for piece, payload in payloads(self._codec.encode_records, records):
            self._append_records(piece[0][0], len(piece), payload)

    def _append_records(self, first_id: str, count: int, payload: bytes) -> None:
        self._entries.append(IndexEntry(first_id, self._position, count))
        self._append(FrameKind.RECORDS, payload)

    def _append(self, kind: FrameKind, payload: bytes) -> None:
        frame = encode_frame(kind, payload, self._seed)
        self._file.write(self._position, frame)
        self._position += len(frame)


def check_ends(file: File, header: Header) -> int:
    """Check the header, the index and the trailer of a snapshot that was just written, and return its length.

    In well below a millisecond: a thread of ours that runs longer holds up all the others. The frames of records were
    read back by whoever wrote them. Raises ``ValueError``.
    """
    length = file.size()
    trailer_offset = length - frame_bytes(len(Trailer(0, 0, 0).encode()))
    if trailer_offset < HEADER_BYTES or file.read(0, HEADER_BYTES) != header.encode():
        raise ValueError("the snapshot does not begin with the header that it was to have")
    last = list(FrameReader(file, header.nonce, trailer_offset, length))
    if len(last) != 1 or last[0][1].kind is not FrameKind.TRAILER:
        raise ValueError("the snapshot does not end with a trailer")
    trailer = Trailer.decode(last[0][1].payload)
    if not HEADER_BYTES <= trailer.index_offset <= trailer_offset:
        raise ValueError("the trailer points outside the snapshot")
    index = FrameReader(file, header.nonce, trailer.index_offset, trailer_offset)
    if any(frame.kind is not FrameKind.INDEX for _, frame in index) or index.trouble is not None:
        raise ValueError("the index of the snapshot is damaged")
    return length


class Snapshot(Generic[EventT, StateT]):
    """A snapshot open for reading. Its header, index and trailer were checked when it was opened."""

    def __init__(self, file: File, path: str, codec: Codec[EventT, StateT], reducer_id: str) -> None:
        """Check the file from its header to its trailer, without reading the records.

        Raises ``CorruptionError``, ``NewerFormatError`` and ``StoreNotFoundError``; the caller closes the file.
        """
        self._file = file
        self._codec = codec
        self.path = path
        self.header = read_header(file, path, FileKind.SNAPSHOT, codec.id, reducer_id)
        self.lsn = self.header.lsn
        self.length = file.size()
        self.trailer = self._read_trailer()
        self.index = self._read_index()

    def check(self) -> None:
        """Read every frame of records and check it, without decoding. Raises ``CorruptionError``."""
        offsets = iter([*(entry.offset for entry in self.index), -1])
        for offset, kind, _ in self._frames(HEADER_BYTES, self.trailer.index_offset):
            if kind is not FrameKind.RECORDS or offset != next(offsets):
                raise self._corrupt("the index does not fit the frames of the snapshot", offset)
        if next(offsets) != -1:
            raise self._corrupt("the snapshot has fewer frames than its index says", self.trailer.index_offset)

    def frame_records(self, entry: IndexEntry) -> list[tuple[str, StateT]]:
        """Return the records of one frame. Raises ``CorruptionError``."""
        try:
            records = self._codec.decode_records(self.frame_payload(entry))
        except ValueError as error:
            raise self._corrupt(str(error), entry.offset) from error
        keys = [key for key, _ in records]
        following = [later.first_id for later in self._after(entry)]
        as_indexed = len(keys) == entry.records > 0 and keys[0] == entry.first_id
        if not as_indexed or not all(map(lt, keys, [*keys[1:], *following])):
            raise self._corrupt("the records of a frame are not those that the index says, in order", entry.offset)
        return records

    def frame_payload(self, entry: IndexEntry) -> bytes:
        """Return the payload of one frame, still encoded. Raises ``CorruptionError``."""
        end = next((later.offset for later in self._after(entry)), self.trailer.index_offset)
        for _, kind, payload in self._frames(entry.offset, end):
            if kind is FrameKind.RECORDS:
                return payload
            break
        raise self._corrupt("the index does not fit the frames of the snapshot", entry.offset)

    def _after(self, entry: IndexEntry) -> list[IndexEntry]:
        """Return the entry behind one of the index, if there is one."""
        number = bisect_left(self.index, entry)
        return self.index[number + 1 : number + 2]

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _read_trailer(self) -> Trailer:
        start = self.length - frame_bytes(len(Trailer(0, 0, 0).encode()))
        if start < HEADER_BYTES:
            raise self._corrupt("the snapshot is cut short", self.length)
        for offset, kind, payload in self._frames(start, self.length):
            if kind is not FrameKind.TRAILER:
                break
            try:
                return Trailer.decode(payload)
            except ValueError as error:
                raise self._corrupt(str(error), offset) from error
        raise self._corrupt("the snapshot does not end with a trailer", start)

    def _read_index(self) -> list[IndexEntry]:
        entries: list[IndexEntry] = []
        trailer_offset = self.length - frame_bytes(len(self.trailer.encode()))
        if not HEADER_BYTES <= self.trailer.index_offset <= trailer_offset:
            raise self._corrupt("the trailer points outside the snapshot", trailer_offset)
        for offset, kind, payload in self._frames(self.trailer.index_offset, trailer_offset):
            if kind is not FrameKind.INDEX:
                raise self._corrupt("the index of the snapshot is damaged", offset)
            try:
                entries += decode_index(payload)
            except ValueError as error:
                raise self._corrupt(str(error), offset) from error
        keys = [entry.first_id for entry in entries]
        counts_fit = sum(entry.records for entry in entries) == self.trailer.records
        offsets = [HEADER_BYTES - 1, *(entry.offset for entry in entries), self.trailer.index_offset]
        in_order = sorted(set(keys)) == keys and sorted(set(offsets)) == offsets
        if len(entries) != self.trailer.frames or not counts_fit or not in_order:
            raise self._corrupt("the index does not fit the trailer of the snapshot", self.trailer.index_offset)
        return entries

    def _frames(self, start: int, end: int) -> Iterator[tuple[int, FrameKind, bytes]]:
        reader = FrameReader(self._file, self.header.nonce, start, end)
        for offset, frame in reader:
            yield offset, frame.kind, frame.payload
        if reader.trouble is not None:
            raise self._corrupt(reader.trouble, reader.position)

    def _corrupt(self, what: str, offset: int) -> CorruptionError:
        return CorruptionError(f"the snapshot does not verify ({what})", path=self.path, offset=offset)
