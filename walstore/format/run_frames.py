"""Frames of one event that says that a run started or finished, cut where the instant goes.

All events of one job that say the same differ in eight bytes only. What comes before them is made once for each job, so
that encoding an event is two C calls.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final, NamedTuple

import msgpack

from walstore.format.frame import frame_body
from walstore.format.layout import ALIGNMENT_BYTES, FrameKind
from walstore.model.events import FINISHED, STARTED

__all__ = ["CUT_INSTANT_MIN_NS", "RunFrames"]

CUT_INSTANT_MIN_NS: Final = 2**32
"""From here on msgpack gives an instant eight bytes; earlier ones (of 1970, before 00:00:05) take fewer."""

_INSTANT_BYTES: Final = 8
_OUTCOME_BYTES: Final = 1
# The rest of a frame's body from the instant on, by how much padding ends it.
_STARTED_TAILS: Final = [struct.Struct(f">q{padding}x").pack for padding in range(ALIGNMENT_BYTES)]
_FINISHED_TAILS: Final = [struct.Struct(f">qB{padding}x").pack for padding in range(ALIGNMENT_BYTES)]


class RunFrames(NamedTuple):
    """The two beginnings of a job's frames, each with the function that makes the rest.

    The bodies are ``started + started_tail(at_ns)`` and ``finished + finished_tail(at_ns, outcome)``, where the outcome
    is msgpack's byte for True or False, and the instant is at least ``CUT_INSTANT_MIN_NS``.
    """

    started: bytes
    started_tail: Callable[[int], bytes]
    finished: bytes
    finished_tail: Callable[[int, int], bytes]

    @classmethod
    def of(cls, job: str) -> RunFrames:
        """Return those of a job."""
        started, started_padding = _cut(msgpack.packb((STARTED, job, CUT_INSTANT_MIN_NS)), _INSTANT_BYTES)
        finished, finished_padding = _cut(
            msgpack.packb((FINISHED, job, CUT_INSTANT_MIN_NS, True)), _INSTANT_BYTES + _OUTCOME_BYTES
        )
        return cls(started, _STARTED_TAILS[started_padding], finished, _FINISHED_TAILS[finished_padding])


def _cut(payload: bytes, tail_bytes: int) -> tuple[bytes, int]:
    """Return the body of a frame up to the last ``tail_bytes`` of its payload, and how much padding follows them."""
    padding = -len(payload) % ALIGNMENT_BYTES
    return frame_body(FrameKind.EVENTS, payload)[: -(tail_bytes + padding)], padding
