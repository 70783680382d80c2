"""Rows of msgpack, which payloads are made of, read in memory that follows the bytes that are there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import repeat, starmap

import msgpack

__all__ = ["ROWS_AT_ONCE_MAX", "unpack_all", "unpack_row", "unpack_rows"]

_ARRAY_16 = b"\xdc"
ROWS_AT_ONCE_MAX = 1024
"""What a hostile payload can ask for at each level of nesting when the rows are unpacked in one call: 8 KiB."""


def unpack_row(payload: bytes, cells_max: int) -> object:
    """Return what a payload holds, with tuples for arrays, none of which has more than ``cells_max`` elements.

    Raises ``ValueError`` for maps, and for what is not msgpack.
    """
    try:
        content: object = msgpack.unpackb(payload, use_list=False, max_array_len=cells_max, max_map_len=0)
    except (msgpack.UnpackException, ValueError, RecursionError) as error:
        raise _bad(error) from error
    return content


def unpack_rows(payload: bytes, cells_max: int) -> Iterator[object]:
    """Yield the elements of an array of any length, each of them as ``unpack_row`` returns it.

    msgpack makes room for as many elements as an array says that it has, at every level of nesting, before it has seen
    one of them: a few hundred bytes can ask for gigabytes. So the one array that may be long is taken apart here, and
    those in it are bounded. Raises ``ValueError``, after the elements before the place that is wrong.
    """
    unpacker = msgpack.Unpacker(use_list=False, max_buffer_size=len(payload), max_array_len=cells_max, max_map_len=0)
    unpacker.feed(payload)
    try:
        # One call for each element, none of which runs in Python.
        yield from starmap(unpacker.unpack, repeat((), unpacker.read_array_header()))
    except (msgpack.UnpackException, ValueError, RecursionError) as error:
        raise _bad(error) from error
    if unpacker.tell() != len(payload):
        raise ValueError("something follows the msgpack array that the payload is")


def unpack_all(payload: bytes, cells_max: int) -> Sequence[object]:
    """Return the elements of an array of any length; the rows may have more than ``cells_max`` elements, a little.

    Up to 1,024 rows take one call, a third of the time of ``unpack_rows``. Raises ``ValueError``.
    """
    rows = int.from_bytes(payload[1:3], "big")
    if payload[:1] != _ARRAY_16 or rows > ROWS_AT_ONCE_MAX:
        return list(unpack_rows(payload, cells_max))
    content = unpack_row(payload, max(rows, cells_max))
    assert isinstance(content, tuple)
    return content


def _bad(error: Exception) -> ValueError:
    return ValueError(f"the payload is not the msgpack of this format: {error}")
