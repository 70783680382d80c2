"""The index and the trailer of a snapshot."""

from __future__ import annotations

import struct

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from walstore.format.index import INDEX_ENTRIES_MAX, IndexEntry, Trailer, decode_index, encode_index
from walstore.format.layout import PAYLOAD_BYTES_MAX
from walstore.model.names import NAME_BYTES_MAX

pytestmark = pytest.mark.mutation

U64 = st.integers(0, 2**64 - 1)
texts = st.text(st.characters(codec="utf-8"))


@given(st.lists(st.builds(IndexEntry, texts, U64, U64), max_size=20))
def test_an_index_reads_back(entries: list[IndexEntry]) -> None:
    payload = encode_index(entries)
    assert decode_index(payload) == entries
    assert msgpack.unpackb(payload) == [list(entry) for entry in entries]


def test_the_longest_index_fits_in_a_frame() -> None:
    assert INDEX_ENTRIES_MAX == 4096
    entry = IndexEntry("a." + "x" * (NAME_BYTES_MAX - 2), 2**64 - 1, 2**64 - 1)
    assert len(encode_index([entry] * INDEX_ENTRIES_MAX)) <= PAYLOAD_BYTES_MAX


@pytest.mark.parametrize(
    "content",
    [
        *[None, 1, "x", {}, {"a.b": 1}, [1], ["a.b"], [[]], [["a.b", 1]], [["a.b", 1, 2, 3]], [[1, 1, 1]]],
        *[[["a.b", "1", 1]], [["a.b", 1.0, 1]], [["a.b", None, 1]], [[b"a.b", 1, 1]], [["a.b", 1, 1], None]],
    ],
)
def test_what_is_no_index_is_refused(content: object) -> None:
    with pytest.raises(ValueError):
        decode_index(msgpack.packb(content))


def test_the_reason_of_a_refusal_is_told() -> None:
    with pytest.raises(ValueError, match=r"^the payload is not the msgpack of this format: "):
        decode_index(msgpack.packb({"a.b": 1}))
    with pytest.raises(ValueError, match=r"^not an entry of an index: \('a\.b', 1\)$"):
        decode_index(msgpack.packb([["a.a", 1, 1], ["a.b", 1]]))


@given(st.binary(max_size=60))
def test_any_bytes_are_an_index_or_refused(payload: bytes) -> None:
    try:
        entries = decode_index(payload)
    except ValueError:
        return
    assert all(isinstance(entry, IndexEntry) for entry in entries)


def test_every_shorter_index_is_refused() -> None:
    payload = encode_index([IndexEntry("a.b", 104, 7), IndexEntry("ä.c", 2**40, 1)])
    for length in range(len(payload)):
        with pytest.raises(ValueError, match="msgpack"):
            decode_index(payload[:length])
    with pytest.raises(ValueError, match="msgpack"):
        decode_index(payload + b"\0")


@given(U64, U64, U64)
def test_a_trailer_reads_back(index_offset: int, records: int, frames: int) -> None:
    trailer = Trailer(index_offset, records, frames)
    assert trailer.encode() == struct.pack(">QQQ", index_offset, records, frames)
    assert Trailer.decode(trailer.encode()) == trailer


@pytest.mark.parametrize("length", [0, 8, 23, 25, 48])
def test_what_is_no_trailer_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match=r"^a trailer has 24 bytes$"):
        Trailer.decode(bytes(length))
