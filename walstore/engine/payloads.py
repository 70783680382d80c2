"""Payloads that fit into frames, however large the events or records in them are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from walstore.format.layout import PAYLOAD_BYTES_MAX

__all__ = ["payloads"]

T = TypeVar("T")


def payloads(encode: Callable[[Sequence[T]], bytes], items: Sequence[T]) -> Iterator[tuple[Sequence[T], bytes]]:
    """Yield ``items`` in pieces, in order, each with its payload: one piece, unless it is too long for a frame.

    A single item must fit, which is up to whoever lets it in.
    """
    payload = encode(items)
    if len(payload) <= PAYLOAD_BYTES_MAX or len(items) <= 1:
        yield items, payload
        return
    middle = len(items) // 2
    yield from payloads(encode, items[:middle])
    yield from payloads(encode, items[middle:])
