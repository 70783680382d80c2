"""The buffer of the level ``BUFFERED``: one list for ever, drained into the log by the keeper."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Generic, NoReturn

from walstore.engine.environment import Codec, EventT, StateT
from walstore.engine.keeper import Keeper
from walstore.engine.log import Log, Refusal
from walstore.engine.payloads import payloads
from walstore.format.layout import FrameKind

__all__ = ["Buffer", "Refuser"]

_EVENTS_PER_FRAME: Final = 512


class Buffer(Generic[EventT, StateT]):
    """Events that were recorded and are not in the log yet. ``add`` may be called from any thread."""

    def __init__(self, log: Log, codec: Codec[EventT, StateT], keeper: Keeper, events_max: int) -> None:
        self._log = log
        self._codec = codec
        self._keeper = keeper
        self.events_max = events_max
        # Never replaced by another list: a thread that is about to append would append to the wrong one.
        self.items: list[EventT] = []
        """What is in the buffer."""
        self.sink: list[EventT] | Refuser = self.items
        """Where an event goes: ``items``, or what raises."""
        self._drained = 0

    def __len__(self) -> int:
        return len(self.items)

    def add(self, event: EventT) -> None:
        """Take an event.

        Raises what draining raises when the buffer is full and can't be drained; nothing is recorded then.
        """
        if len(self.items) >= self.events_max:
            self._keeper.call(self.drain)
        # Looking the sink up and appending to it come without a call between them, so no other thread can swap the
        # sink and drain the list in between.
        self.sink.append(event)

    @property
    def events(self) -> int:
        """How many events were ever taken. Counted when they leave, which spares whoever adds them the counting."""
        return self._drained + len(self.items)

    def drain(self) -> None:
        """Append to the log what was in the buffer when the call began. For the keeper.

        What can't be appended stays in the buffer, in order, and the error is raised.
        """
        items = self.items
        remaining = len(items)
        while remaining > 0:
            count = min(remaining, _EVENTS_PER_FRAME)
            for piece, payload in payloads(self._codec.encode_events, items[:count]):
                self._log.append(FrameKind.EVENTS, payload)
                self._drained += len(piece)
                del items[: len(piece)]
            remaining -= count

    def append_batch(self, payload: bytes) -> None:
        """Append the payload of a frame to the log, behind what is in the buffer. For the keeper."""
        self.drain()
        self._log.append(FrameKind.EVENTS, payload)

    def pending(self) -> list[Sequence[EventT]]:
        """Return what is in the buffer, without taking it out. For the keeper."""
        return [self.items[:]]

    def refuse(self, refusal: Refusal) -> None:
        """Let every further ``add`` raise. What is in the buffer can still be drained."""
        self.sink = Refuser(refusal)

    def accept(self) -> None:
        """Take events again, after ``refuse``."""
        self.sink = self.items


class Refuser:
    """Stands in for the list of a buffer that takes no more events."""

    def __init__(self, refusal: Refusal) -> None:
        self._refusal = refusal

    def append(self, _: object) -> NoReturn:
        """Raise the refusal."""
        raise self._refusal()
