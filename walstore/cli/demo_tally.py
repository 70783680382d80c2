"""The tally that a replaying child of ``walstore demo`` keeps in a mapped file, where it outlives the child."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Self

__all__ = ["Tally"]

_ACKNOWLEDGED, _SYNCED, _LATENCIES = 0, 1, 2
_WORD_BYTES = 8


class Tally:
    """How many events of the trace were acknowledged and synced, and how long each call took.

    One word of 8 bytes each in a shared mapping: a store to it costs some 50 ns and is the kernel's at once, so the
    parent reads what a killed child wrote. One process writes at a time. A context manager that unmaps.
    """

    def __init__(self, path: Path) -> None:
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 0)
        self._words = memoryview(self._map).cast("Q")

    @classmethod
    def create(cls, path: Path, events: int) -> Self:
        """Make the file for a trace of so many events; it must not exist."""
        # Written rather than only made long: a store to a page that the disk has no room for would be fatal.
        with path.open("xb") as file:
            file.write(bytes((_LATENCIES + events) * _WORD_BYTES))
        return cls(path)

    @property
    def acknowledged(self) -> int:
        """The number of events, from the start of the trace, whose calls have returned; 0 until a store is open."""
        return self._words[_ACKNOWLEDGED]

    @acknowledged.setter
    def acknowledged(self, events: int) -> None:
        self._words[_ACKNOWLEDGED] = events

    @property
    def synced(self) -> int:
        """The number of events, from the start of the trace, that a ``sync`` which has returned covers."""
        return self._words[_SYNCED]

    @synced.setter
    def synced(self, events: int) -> None:
        self._words[_SYNCED] = events

    def took(self, position: int, latency_ns: int) -> None:
        """Note how long the call took that recorded the event at ``position`` (the first one of a batch)."""
        self._words[_LATENCIES + position] = max(latency_ns, 1)

    def latencies_ns(self) -> list[int]:
        """Return the latencies of all calls, in ascending order. An event that was recorded again counts once."""
        return sorted(filter(None, self._words[_LATENCIES:]))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._words.release()
        self._map.close()
