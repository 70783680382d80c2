"""A view: snapshot and log up to one position, open for reading, whatever the writer does meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final, Generic

from walstore.engine.environment import EventT, Plug, StateT
from walstore.engine.segment import FrameReader
from walstore.engine.survey import Files, Link
from walstore.errors import CorruptionError
from walstore.format.index import IndexEntry
from walstore.format.layout import HEADER_BYTES, FrameKind

__all__ = ["View"]

_DECODED_AT_ONCE_BYTES: Final = 32 * 1024
"""The payloads of so many bytes are decoded in one go, which pays where each of them is one event."""


class View(Generic[EventT, StateT]):
    """The events and records of a store up to ``end_lsn``, and ``pending`` events that follow them.

    For one thread. Reading raises ``CorruptionError``, and ``OSError`` where the device does.
    """

    def __init__(
        self,
        files: Files[EventT, StateT],
        end_lsn: int,
        plug: Plug[EventT, StateT],
        pending: Sequence[Sequence[EventT]] = (),
        before_frame: Callable[[], None] = lambda: None,
    ) -> None:
        """``before_frame`` is called before each frame of events or records; what it raises ends the reading."""
        self._before_frame = before_frame
        self._files = files
        self.pending = pending
        self.plug = plug
        self.snapshot = files.snapshot
        self.end_lsn = end_lsn

    @property
    def log_bytes(self) -> int:
        """The bytes of the log above the snapshot."""
        return self.end_lsn - self._files.floor_lsn

    def records(self) -> Iterator[tuple[str, StateT]]:
        """Yield the records of the snapshot, in the order of their keys."""
        for entry in self.snapshot.index if self.snapshot is not None else ():
            yield from self.frame_records(entry)

    def frame_records(self, entry: IndexEntry) -> list[tuple[str, StateT]]:
        """Return the records of one frame of the snapshot."""
        self._before_frame()
        assert self.snapshot is not None
        return self.snapshot.frame_records(entry)

    def frame_payload(self, entry: IndexEntry) -> bytes:
        """Return the payload of one frame of the snapshot, still encoded."""
        self._before_frame()
        assert self.snapshot is not None
        return self.snapshot.frame_payload(entry)

    def events(self) -> Iterator[Sequence[EventT]]:
        """Yield the events above the snapshot in the order in which they were recorded, frame by frame."""
        decode = self.plug.codec.decode_many
        some: list[tuple[Link, int, bytes]] = []
        size_bytes = 0
        for place in self._payloads():
            some.append(place)
            size_bytes += len(place[2])
            if size_bytes >= _DECODED_AT_ONCE_BYTES:
                yield self._decoded(decode, some)
                some, size_bytes = [], 0
        if some:
            yield self._decoded(decode, some)
        yield from self.pending

    def frames(self) -> Iterator[tuple[int, Sequence[EventT]]]:
        """Yield the events in the log above the snapshot with the LSN of their frame."""
        for link, offset, payload in self._payloads():
            yield link.base_lsn + offset, self._decode(link, offset, payload)

    def _decoded(
        self, decode: Callable[[Sequence[bytes]], Sequence[EventT]], some: list[tuple[Link, int, bytes]]
    ) -> Sequence[EventT]:
        try:
            return decode([payload for _, _, payload in some])
        except ValueError:
            # One of them is wrong. Which one, and how, is told by decoding them one by one.
            return [event for place in some for event in self._decode(*place)]

    def _decode(self, link: Link, offset: int, payload: bytes) -> Sequence[EventT]:
        try:
            return self.plug.codec.decode_events(payload)
        except ValueError as error:
            raise CorruptionError(
                f"a frame that verifies holds something else than events ({error})",
                path=link.path,
                offset=offset,
                lsn=link.base_lsn + offset,
            ) from error

    def _payloads(self) -> Iterator[tuple[Link, int, bytes]]:
        """Yield the payload of each frame of events above the snapshot, with its segment and offset."""
        for link in self._files.chain:
            reader = FrameReader(
                link.file, link.header.nonce, HEADER_BYTES, min(link.end, self.end_lsn - link.base_lsn)
            )
            for offset, frame in reader:
                self._before_frame()
                if frame.kind is FrameKind.EVENTS:
                    yield link, offset, frame.payload
            if reader.trouble is not None:
                raise CorruptionError(
                    f"the log can't be read where it could be before ({reader.trouble})",
                    path=link.path,
                    offset=reader.position,
                    lsn=link.base_lsn + reader.position,
                )

    def fold(self) -> dict[str, StateT]:
        """Return the settled state of every key, all in memory."""
        states: dict[str, StateT] = {}
        for entry in self.snapshot.index if self.snapshot is not None else ():
            states.update(self.frame_records(entry))
        fold = self.plug.reducer.fold
        is_changed = False
        for events in self.events():
            fold(states, events)
            is_changed = True
        if is_changed:
            return dict(zip(states, map(self.plug.reducer.settled, states.values()), strict=True))
        return states

    def close(self) -> None:
        """Close the files."""
        self._files.close()
