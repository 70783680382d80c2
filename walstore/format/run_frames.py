"""Frames of one event that says that a run started or finished, from pieces that are ready.

Where names are equally long, such events differ in the name, the instant and the outcome only, and those of one job in
the last two. What does not differ is made once, for every length and for jobs that are recorded often, so that encoding
an event is two C calls.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final, NamedTuple

import msgpack

from walstore.format.frame import frame_body
from walstore.format.layout import ALIGNMENT_BYTES, FrameKind
from walstore.model.events import FINISHED, STARTED
from walstore.model.names import check_name_bytes

__all__ = ["CUT_INSTANT_MIN_NS", "EIGHT_BYTES", "SHAPES", "RunFrames", "RunShape"]

CUT_INSTANT_MIN_NS: Final = 2**32
"""From here on msgpack gives an instant eight bytes; earlier ones (of 1970, before 00:00:05) take fewer."""
EIGHT_BYTES: Final = 0xCF
"""What msgpack writes before them."""

_INSTANT_BYTES: Final = 1 + 8
_OUTCOME_BYTES: Final = 1
# The rest of a frame's body from the instant on, by how much padding ends it.
_STARTED_TAILS: Final = [struct.Struct(f">q{padding}x").pack for padding in range(ALIGNMENT_BYTES)]
_FINISHED_TAILS: Final = [struct.Struct(f">qB{padding}x").pack for padding in range(ALIGNMENT_BYTES)]


class RunShape(NamedTuple):
    """What the frames of all names have in common that take the same number of bytes.

    The bodies are ``started(started_head, name, EIGHT_BYTES, at_ns)`` and ``finished(finished_head, name, EIGHT_BYTES,
    at_ns, outcome)``, where the name is UTF-8, the outcome is msgpack's byte for True or False, and the instant is at
    least ``CUT_INSTANT_MIN_NS``.
    """

    started_head: bytes
    started: Callable[[bytes, bytes, int, int], bytes]
    finished_head: bytes
    finished: Callable[[bytes, bytes, int, int, int], bytes]

    @classmethod
    def of(cls, name_bytes: int) -> RunShape:
        """Return that of the names that take so many bytes."""
        name = "n" * name_bytes
        started_head, padding = _head(msgpack.packb((STARTED, name, CUT_INSTANT_MIN_NS)), name_bytes + _INSTANT_BYTES)
        started = struct.Struct(f">{len(started_head)}s{name_bytes}sBq{padding}x").pack
        finished_head, padding = _head(
            msgpack.packb((FINISHED, name, CUT_INSTANT_MIN_NS, True)), name_bytes + _INSTANT_BYTES + _OUTCOME_BYTES
        )
        finished = struct.Struct(f">{len(finished_head)}s{name_bytes}sBqB{padding}x").pack
        return cls(started_head, started, finished_head, finished)


class _Shapes(dict[int, RunShape]):
    def __missing__(self, name_bytes: int) -> RunShape:
        check_name_bytes(name_bytes)
        shape = self[name_bytes] = RunShape.of(name_bytes)
        return shape


SHAPES: Final[dict[int, RunShape]] = _Shapes()
"""The shapes by the bytes that the name takes, each made when it is first asked for. ``ValueError`` for too many."""


class RunFrames(NamedTuple):
    """The two beginnings of a job's frames, each with the function that makes the rest.

    The bodies are ``started + started_tail(at_ns)`` and ``finished + finished_tail(at_ns, outcome)``, of which the same
    holds as for a ``RunShape``.
    """

    started: bytes
    started_tail: Callable[[int], bytes]
    finished: bytes
    finished_tail: Callable[[int, int], bytes]

    @classmethod
    def of(cls, job: str) -> RunFrames:
        """Return those of a job."""
        name = job.encode()
        shape = SHAPES[len(name)]
        started, finished = (head + name + bytes((EIGHT_BYTES,)) for head in (shape.started_head, shape.finished_head))
        return cls(
            started,
            _STARTED_TAILS[-len(started) % ALIGNMENT_BYTES],
            finished,
            _FINISHED_TAILS[-(len(finished) + _OUTCOME_BYTES) % ALIGNMENT_BYTES],
        )


def _head(payload: bytes, rest_bytes: int) -> tuple[bytes, int]:
    """Return the body of a frame up to the last ``rest_bytes`` of its payload, and how much padding follows them."""
    padding = -len(payload) % ALIGNMENT_BYTES
    return frame_body(FrameKind.EVENTS, payload)[: -(rest_bytes + padding)], padding
