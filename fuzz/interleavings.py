"""What another thread does while a sync is under way, made to happen before and after each sync in turn.

Where real threads meet by chance, here every meeting is tried: one thing in the middle of each sync of a workload, on
the simulated disk and in one thread, then a power loss.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from typing import Final

from fuzz.harness import Deadline, Tally, main
from tests.crash.worlds import DIRECTORY, LEVELS, World, jobs_of
from walstore.fs.api import File
from walstore.model.events import Started
from walstore.options import Durability
from walstore.testing.sim_file import SimAppender, SimFile
from walstore.testing.sim_fs import SimFileSystem

__all__ = ["MEETINGS", "WatchedFileSystem", "interleave", "run", "start_runs", "sync"]

_LOOKS: Final = 3
"""Syncs after which it is looked at what a power loss leaves, from the one on that was met."""
_OUTCOMES: Final = 2
"""Power losses at each of them."""


class WatchedFileSystem(SimFileSystem):
    """Lets something else happen before or after the n-th sync of a segment that has its name, once."""

    def __init__(self) -> None:
        super().__init__(1)
        self.make_directory("/data")
        self.sync_directory("/")
        self.place = ""
        self.skips = 0
        self.other: Callable[[], object] | None = None

    def let(self, place: str, nth: int, other: Callable[[], object]) -> None:
        self.place, self.skips, self.other = place, nth - 1, other

    def happens(self, place: str, path: str) -> None:
        name = path.removeprefix(f"{DIRECTORY}/").removesuffix(".tmp")
        if place != self.place or self.other is None or name not in self.list_directory(DIRECTORY):
            return
        if self.skips:
            self.skips -= 1
            return
        other, self.other = self.other, None
        other()

    def create(self, path: str) -> File:
        super().create(path)
        return _WatchedFile(self, path, self._file(path), writable=True)


class _WatchedFile(SimFile):
    """A file that tells its world when a sync of it begins and ends."""

    def sync(self) -> None:
        assert isinstance(self._world, WatchedFileSystem)
        self._world.happens("before", self._path)
        super().sync()
        self._world.happens("after", self._path)

    def appender(self, start: int, end: int) -> SimAppender:
        return _WatchedAppender(self._world, self._path, self._node, start, end)


class _WatchedAppender(SimAppender):
    """An appender that tells its world when something was appended."""

    def write(self, data: bytes, /) -> None:
        super().write(data)
        operation, path = self._step
        assert isinstance(self._world, WatchedFileSystem)
        self._world.happens(operation, path)


def start_runs(world: World, count: int) -> None:
    """Record ``count`` runs, each of a job of its own."""
    assert world.store is not None
    for _ in range(count):
        number = len(world.history.states)
        world.history.attempt([Started(f"job.n{number}", number)])
        world.store.record_started(f"job.n{number}", number)
        if world.level is not Durability.BUFFERED:
            world.history.acknowledge(power=world.level is Durability.POWER)


def sync(world: World) -> None:
    """Sync, and note what that acknowledges."""
    assert world.store is not None
    # It promises nothing for what comes while it is under way.
    units = len(world.history.states) - 1
    world.store.sync()
    world.history.acknowledge(power=True, units=units)


def _start_and_sync(world: World, count: int) -> None:
    start_runs(world, count)
    sync(world)


def _tick(world: World) -> None:
    assert world.store is not None
    assert world.store._store is not None
    world.now_ns += world.options.sync_interval_ns
    world.store._store.tick()


OTHERS: dict[str, Callable[[World], object]] = {
    "records": lambda world: start_runs(world, 1),
    "fills a segment": lambda world: start_runs(world, 30),
    "syncs": sync,
    "records and syncs": lambda world: _start_and_sync(world, 1),
    "fills a segment and syncs": lambda world: _start_and_sync(world, 30),
}


def _work(world: World) -> Iterator[None]:
    """Do the workload, and pause after each sync: later a compaction may take away what a crash then would show."""
    for count in (3, 30, 1):
        start_runs(world, count)
        sync(world)
        yield
        # Nothing of one's own is new, but what came while the first sync was under way is.
        sync(world)
        yield
    _tick(world)
    yield
    start_runs(world, 25)
    _tick(world)
    start_runs(world, 1)
    sync(world)
    yield


Meeting = tuple[str, str, Durability]
"""Whether before or after the sync, what happens there, and the level of the store."""
MEETINGS: Final[list[Meeting]] = list(itertools.product(["before", "after"], OTHERS, LEVELS))


def interleave(meeting: Meeting, seed: int) -> Iterator[int]:
    """Run the workload once for each of its syncs, and yield which one it was after each outcome that was checked."""
    place, other, level = meeting
    for nth in range(1, 1000):
        fs = WatchedFileSystem()
        world = World(seed, fs)
        world.recover(level)
        fs.let(place, nth, lambda world=world: OTHERS[other](world))  # type: ignore[misc]  # Bound here.
        looks = _LOOKS
        for _ in _work(world):
            if fs.other is None and looks:
                looks -= 1
                for outcome in range(_OUTCOMES):
                    after = world.fork(world.fs.clone()).after_power_loss(seed * _OUTCOMES + outcome)
                    after.recover()
                    after.drop()
                    yield nth
        assert jobs_of(world.store) == world.history.states[-1]  # type: ignore[arg-type]  # It is open.
        world.drop()
        if fs.other is not None:
            return


def run(seconds: float, seed: int) -> Tally:
    """Try all meetings, as far as the time goes."""
    tally, deadline = Tally("interleavings"), Deadline(seconds)
    meetings = MEETINGS[:]
    random.Random(f"interleavings {seed}").shuffle(meetings)
    for meeting in meetings:
        try:
            for _ in interleave(meeting, seed):
                tally.points += 1
                if deadline.passed():
                    break
        except Exception as error:  # noqa: BLE001  # Whatever comes of it is what this harness looks for.
            tally.failures.append(f"seed {seed}, {meeting}: {type(error).__name__}: {error}")
        tally.runs += 1
        if tally.failures or deadline.passed():
            break
    tally.seconds = deadline.elapsed()
    return tally


if __name__ == "__main__":
    main(run, __doc__ or "")
