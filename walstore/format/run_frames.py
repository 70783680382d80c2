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
from walstore.model.names import NAME_BYTES_MAX

__all__ = [
    "CUT_INSTANT_MIN_NS",
    "EIGHT_BYTES",
    "FINISHED_SHAPES",
    "STARTED_SHAPES",
    "RunShape",
    "run_shapes",
]

CUT_INSTANT_MIN_NS: Final = 2**32
"""From here on msgpack gives an instant eight bytes; earlier ones (of 1970, before 00:00:05) take fewer."""
EIGHT_BYTES: Final = 0xCF
"""What msgpack writes before them."""

RunShape = tuple[bytes, Callable[..., bytes]]
"""What comes before the name, and the function that makes a body of that, the name in UTF-8, and what comes behind it:
``EIGHT_BYTES``, the instant (at least ``CUT_INSTANT_MIN_NS``), and, for a run that finished, msgpack's byte for the
outcome."""


def run_shapes(kind: int) -> list[RunShape]:
    """Return the shapes of one kind of event by the bytes that the name takes, each made when it is first used."""
    codes, rest = ("Bq", (CUT_INSTANT_MIN_NS,)) if kind == STARTED else ("BqB", (CUT_INSTANT_MIN_NS, True))

    def first(_: bytes, name: bytes, *values: int) -> bytes:
        name_bytes = len(name)
        payload = msgpack.packb((kind, "n" * name_bytes, *rest))
        padding = -len(payload) % ALIGNMENT_BYTES
        head = frame_body(FrameKind.EVENTS, payload)[: -(name_bytes + struct.calcsize(f">{codes}") + padding)]
        pack = struct.Struct(f">{len(head)}s{name_bytes}s{codes}{padding}x").pack
        shapes[name_bytes] = head, pack
        return pack(head, name, *values)

    shapes: list[RunShape] = [(b"", first)] * (NAME_BYTES_MAX + 1)
    return shapes


# Lists: from a dict that makes what is missing, the interpreter takes a tenth of a call longer to get a shape.
STARTED_SHAPES: Final = run_shapes(STARTED)
FINISHED_SHAPES: Final = run_shapes(FINISHED)
