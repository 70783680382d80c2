"""The buffer of the level ``BUFFERED``: one list for ever, drained into the log by the keeper."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Generic, NoReturn

from walstore.engine.environment import Codec, EventT, StateT
from walstore.engine.keeper import Keeper
from walstore.engine.log import Log, Refusal
from walstore.engine.payloads import payloads
from walstore.format.layout import FrameKind

__all__ = ["Buffer"]

_EVENTS_PER_FRAME: Final = 512


class Buffer(Generic[EventT, StateT]):
    """Events that were recorded and are not in the log yet. ``add`` may be called from any thread."""

    def __init__(self, log: Log, codec: Codec[EventT, StateT], keeper: Keeper, events_max: int) -> None:
        self._log = log
        self._codec = codec
        self._keeper = keeper
        self._events_max = events_max
        # Never replaced by another list: a thread that is about to append would append to the wrong one.
        self._items: list[EventT] = []
        self._sink: list[EventT] | _Refuser = self._items

    def __len__(self) -> int:
        return len(self._items)

    def add(self, event: EventT) -> None:
        """Take an event.

        Raises what draining raises when the buffer is full and can't be drained; nothing is recorded then.
        """
        if len(self._items) >= self._events_max:
            self._keeper.call(self.drain)
        # Looking the sink up and appending to it come without a call between them, so no other thread can swap the
        # sink and drain the list in between.
        self._sink.append(event)

    def drain(self) -> None:
        """Append to the log what was in the buffer when the call began. For the keeper.

        What can't be appended stays in the buffer, in order, and the error is raised.
        """
        items = self._items
        remaining = len(items)
        while remaining > 0:
            count = min(remaining, _EVENTS_PER_FRAME)
            for piece, payload in payloads(self._codec.encode_events, items[:count]):
                self._log.append(FrameKind.EVENTS, payload)
                del items[: len(piece)]
            remaining -= count

    def append_batch(self, payload: bytes) -> None:
        """Append the payload of a frame to the log, behind what is in the buffer. For the keeper."""
        self.drain()
        self._log.append(FrameKind.EVENTS, payload)

    def pending(self) -> list[Sequence[EventT]]:
        """Return what is in the buffer, without taking it out. For the keeper."""
        return [self._items[:]]

    def refuse(self, refusal: Refusal) -> None:
        """Let every further ``add`` raise. What is in the buffer can still be drained."""
        self._sink = _Refuser(refusal)

    def accept(self) -> None:
        """Take events again, after ``refuse``."""
        self._sink = self._items


class _Refuser:
    def __init__(self, refusal: Refusal) -> None:
        self._refusal = refusal

    def append(self, _: object) -> NoReturn:
        raise self._refusal()
