"""The last frames of a snapshot: the index of its frames of records, and the trailer."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from reprlib import repr as short
from typing import Final, NamedTuple

import msgpack

from walstore.format.rows import unpack_rows

__all__ = ["INDEX_ENTRIES_MAX", "IndexEntry", "Trailer", "decode_index", "encode_index"]

INDEX_ENTRIES_MAX: Final = 4096
"""Entries in one frame of the index."""

_TRAILER: Final = struct.Struct(">QQQ")


class IndexEntry(NamedTuple):
    """One frame of records: the first id in it, its offset in the file, and how many records it has."""

    first_id: str
    offset: int
    records: int


class Trailer(NamedTuple):
    """The end of a snapshot: where the index begins, and how many records and frames of records there are."""

    index_offset: int
    records: int
    frames: int

    def encode(self) -> bytes:
        """Return the payload of the trailer."""
        return _TRAILER.pack(*self)

    @classmethod
    def decode(cls, payload: bytes) -> Trailer:
        """Read the payload of a trailer. Raises ``ValueError`` when it is none."""
        if len(payload) != _TRAILER.size:
            raise ValueError("a trailer has 24 bytes")
        return cls(*_TRAILER.unpack(payload))


def encode_index(entries: Sequence[IndexEntry]) -> bytes:
    """Return the payload of one frame of the index."""
    return msgpack.packb(entries)


def decode_index(payload: bytes) -> list[IndexEntry]:
    """Read the payload of one frame of the index. Raises ``ValueError`` when it is none."""
    entries = []
    for row in unpack_rows(payload, len(IndexEntry._fields)):
        match row:
            case (str(first_id), int(offset), int(records)):
                entries.append(IndexEntry(first_id, offset, records))
            case _:
                raise ValueError(f"not an entry of an index: {short(row)}")
    return entries
