"""Snapshots: the folded state of everything below an LSN, sorted by key, in frames that can be read one by one."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Final, Generic

from walstore.engine.environment import Codec, EventT, StateT
from walstore.engine.payloads import payloads
from walstore.engine.segment import FrameReader, read_header
from walstore.errors import CorruptionError
from walstore.format.frame import encode_frame, frame_bytes
from walstore.format.index import INDEX_ENTRIES_MAX, IndexEntry, Trailer, decode_index, encode_index
from walstore.format.layout import HEADER_BYTES, FileKind, FrameKind, Header
from walstore.fs.api import File

__all__ = ["Snapshot", "write_snapshot"]

_RECORDS_PER_FRAME: Final = 512


def write_snapshot(
    file: File, header: Header, codec: Codec[EventT, StateT], records: Iterable[tuple[str, StateT]]
) -> Trailer:
    """Write a snapshot into an empty file. ``records`` come settled, in strictly ascending order of their keys."""
    file.write(0, header.encode())
    position = HEADER_BYTES
    entries: list[IndexEntry] = []

    def append(kind: FrameKind, payload: bytes) -> None:
        nonlocal position
        frame = encode_frame(kind, payload, header.nonce)
        file.write(position, frame)
        position += len(frame)

    remaining = iter(records)
    while batch := list(islice(remaining, _RECORDS_PER_FRAME)):
        for piece, payload in payloads(codec.encode_records, batch):
            entries.append(IndexEntry(piece[0][0], position, len(piece)))
            append(FrameKind.RECORDS, payload)
    trailer = Trailer(position, sum(entry.records for entry in entries), len(entries))
    for start in range(0, len(entries), INDEX_ENTRIES_MAX):
        append(FrameKind.INDEX, encode_index(entries[start : start + INDEX_ENTRIES_MAX]))
    append(FrameKind.TRAILER, trailer.encode())
    return trailer


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
        for offset, kind, payload in self._frames(entry.offset, self.trailer.index_offset):
            if kind is not FrameKind.RECORDS:
                break
            try:
                records = self._codec.decode_records(payload)
            except ValueError as error:
                raise self._corrupt(str(error), offset) from error
            keys = [key for key, _ in records]
            number = bisect_left(self.index, entry)
            following = [later.first_id for later in self.index[number + 1 : number + 2]]
            as_indexed = len(keys) == entry.records > 0 and keys[0] == entry.first_id
            if not as_indexed or sorted({*keys, *following}) != keys + following:
                raise self._corrupt("the records of a frame are not those that the index says, in order", offset)
            return records
        raise self._corrupt("the index does not fit the frames of the snapshot", entry.offset)

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
