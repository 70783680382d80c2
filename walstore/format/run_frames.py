"""Frames of one event that says that a run started or finished, from pieces that are ready.

Where names are equally long, such events differ in the name, the instant and the outcome only. What does not differ is
made once for every length, so that encoding an event is two C calls: of the name, and of all.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

import msgpack

from walstore.format.frame import frame_body
from walstore.format.layout import ALIGNMENT_BYTES, FrameKind
from walstore.model.events import FINISHED, STARTED
from walstore.model.names import check_name_bytes

__all__ = [
    "CUT_INSTANT_MIN_NS",
    "EIGHT_BYTES",
    "FINISHED_SHAPES",
    "STARTED_SHAPES",
    "RunShape",
]

CUT_INSTANT_MIN_NS: Final = 2**32
"""From here on msgpack gives an instant eight bytes; earlier ones (of 1970, before 00:00:05) take fewer."""
EIGHT_BYTES: Final = 0xCF
"""What msgpack writes before them."""

RunShape = tuple[bytes, Callable[..., bytes]]
"""What comes before the name, and the function that makes a body of that, the name in UTF-8, and what comes behind it:
``EIGHT_BYTES``, the instant (at least ``CUT_INSTANT_MIN_NS``), and, for a run that finished, msgpack's byte for the
outcome."""


class _Shapes(dict[int, RunShape]):
    """The shapes of one kind of event by the bytes that the name takes, each made when it is first asked for."""

    def __init__(self, kind: int, codes: str, *rest: object) -> None:
        super().__init__()
        self._kind, self._codes, self._rest = kind, codes, rest
        self._rest_bytes = struct.calcsize(f">{codes}")

    def __missing__(self, name_bytes: int) -> RunShape:
        """Make a shape. Raises ``ValueError`` when no name is that long."""
        check_name_bytes(name_bytes)
        payload = msgpack.packb((self._kind, "n" * name_bytes, *self._rest))
        padding = -len(payload) % ALIGNMENT_BYTES
        head = frame_body(FrameKind.EVENTS, payload)[: -(name_bytes + self._rest_bytes + padding)]
        pack = struct.Struct(f">{len(head)}s{name_bytes}s{self._codes}{padding}x").pack
        shape = self[name_bytes] = head, pack
        return shape


STARTED_SHAPES: Final = _Shapes(STARTED, "Bq", CUT_INSTANT_MIN_NS)
FINISHED_SHAPES: Final = _Shapes(FINISHED, "BqB", CUT_INSTANT_MIN_NS, True)
