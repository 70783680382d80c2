"""Who reads in the simulation: readers that are kept open, and iterators that are held while other things happen."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress

from tests.crash.worlds import World, jobs_of
from walstore.errors import StoreNotFoundError
from walstore.model.records import SchedulerJobRecord
from walstore.testing.model import Jobs
from walstore.testing.sim_fs import SimCrash
from walstore.wal import WalPersistence

__all__ = ["Readers"]

_Stream = tuple[Iterator[SchedulerJobRecord], list[SchedulerJobRecord], list[Jobs]]
"""An ``iter_jobs`` under way, what it has given, and the states that it may be giving."""


class Readers:
    """The readers of one life. ``expected`` lets those errors of the device pass that the script ordered."""

    def __init__(self, expected: Callable[[], AbstractContextManager[None]]) -> None:
        self._expected = expected
        self._kept: list[WalPersistence] = []
        self._streams: list[_Stream] = []

    @property
    def is_streaming(self) -> bool:
        """Whether there are iterators that hold files open."""
        return bool(self._streams)

    def read(self, world: World, *, keep: bool) -> None:
        """Open the store read-only, look at it, and keep the reader if told to."""
        floor = world.history.process_floor
        with self._expected():
            try:
                reader = world.read()
            except StoreNotFoundError:
                assert floor == 0, "a store that was there is not found"
                return
            self._look_through(world, reader)
            if keep:
                self._kept.append(reader)

    def look(self, world: World) -> None:
        """Look through the readers that are kept."""
        for reader in self._kept:
            self._look_through(world, reader)

    def begin(self, world: World, store_floor: int) -> None:
        """Begin to iterate, in the open store, where at least so many units must be shown, and in a reader."""
        readers = [(reader, world.history.process_floor) for reader in self._kept[:1]]
        if world.store is not None:
            readers.append((world.store, store_floor))
        for reader, floor in readers:
            stream = reader.iter_jobs()
            with self._expected():
                first = next(stream, None)
                self._streams.append((stream, [] if first is None else [first], world.history.allowed(floor)))

    def end(self) -> None:
        """Take the rest of all iterators: each gives one state, one that was there when it began."""
        while self._streams:
            # Taken off only afterwards: should the world end in here, all of them are let go of in the same way.
            stream, given, states = self._streams[0]
            with self._expected():
                jobs = [*given, *stream]
                allowed = [[job for _, job in sorted(state.items())] for state in states]
                assert jobs in allowed, "iter_jobs gave another state than when it began"
            del self._streams[0]

    def leave(self) -> None:
        """Let go of everything in a world that has ended."""
        for stream, _, _ in self._streams:
            with suppress(SimCrash):
                stream.close()  # type: ignore[attr-defined]  # It is a generator.
        self._streams.clear()
        self._kept.clear()

    def _look_through(self, world: World, reader: WalPersistence) -> None:
        history = world.history
        with self._expected():
            seen = jobs_of(reader)
            assert seen in history.allowed(history.process_floor), history.describe(seen, history.process_floor)
