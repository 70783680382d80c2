"""What another thread or a signal handler does while a sync is under way, made to happen at each sync in turn."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

import pytest

from tests.crash.worlds import DIRECTORY, LEVELS, World, contents, jobs_of
from walstore.engine.recovery import Situation
from walstore.errors import SchedulerPersistenceError
from walstore.fs.api import File
from walstore.model.events import Started
from walstore.options import Durability
from walstore.testing.sim_file import SimAppender, SimFile
from walstore.testing.sim_fs import SimFileSystem
from walstore.wal import WalPersistence

pytestmark = pytest.mark.mutation


class _WatchedFileSystem(SimFileSystem):
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
        assert isinstance(self._world, _WatchedFileSystem)
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
        assert isinstance(self._world, _WatchedFileSystem)
        self._world.happens(operation, path)


def _start(world: World, count: int) -> None:
    """Record ``count`` runs, each of a job of its own."""
    assert world.store is not None
    for _ in range(count):
        number = len(world.history.states)
        world.history.attempt([Started(f"job.n{number}", number)])
        world.store.record_started(f"job.n{number}", number)
        if world.level is not Durability.BUFFERED:
            world.history.acknowledge(power=world.level is Durability.POWER)


def _sync(world: World) -> None:
    assert world.store is not None
    # It promises nothing for what comes while it is under way.
    units = len(world.history.states) - 1
    world.store.sync()
    world.history.acknowledge(power=True, units=units)


def _start_and_sync(world: World, count: int) -> None:
    _start(world, count)
    _sync(world)


def _tick(world: World) -> None:
    assert world.store is not None
    assert world.store._store is not None
    world.now_ns += world.options.sync_interval_ns
    world.store._store.tick()


OTHERS: dict[str, Callable[[World], object]] = {
    "records": lambda world: _start(world, 1),
    "fills a segment": lambda world: _start(world, 30),
    "syncs": _sync,
    "records and syncs": lambda world: _start_and_sync(world, 1),
    "fills a segment and syncs": lambda world: _start_and_sync(world, 30),
}


def _work(world: World) -> None:
    for count in (3, 30, 1):
        _start(world, count)
        _sync(world)
    _tick(world)
    _start(world, 25)
    _tick(world)
    _start(world, 1)
    _sync(world)


@pytest.mark.parametrize("level", LEVELS, ids=lambda level: level.value)
@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("place", ["before", "after"])
def test_whatever_happens_during_a_sync_is_kept(place: str, other: str, level: Durability) -> None:
    for nth in range(1, 1000):
        fs = _WatchedFileSystem()
        world = World(1, fs)
        world.recover(level)
        fs.let(place, nth, lambda world=world: OTHERS[other](world))  # type: ignore[misc]  # Bound here.
        _work(world)
        assert jobs_of(world.store) == world.history.states[-1]  # type: ignore[arg-type]  # It is open.
        for seed in range(4):
            after = world.after_power_loss(seed)
            after.recover()
            after.drop()
        if fs.other is not None:
            assert nth > 5
            return


def test_a_writer_that_opens_leaves_a_reader_what_it_shows() -> None:
    for closed in (True, False):
        world = World(1)
        world.recover(Durability.PROCESS)
        _start(world, 5)
        if closed:
            world.close()
        else:
            _sync(world)
            _start(world, 30)
            world = world.after_process_crash()
        reader = world.read()
        seen = jobs_of(reader)
        assert seen == world.history.states[-1]
        streamed = reader.iter_jobs()
        first = next(streamed)
        world.recover()
        assert jobs_of(reader) == seen
        assert [first, *streamed] == [seen[job] for job in sorted(seen)]
        assert contents(world.fs)
        reader.close()
        world.close()


class _InterruptedFileSystem(SimFileSystem):
    """Lets a signal handler run right after the n-th call for a snapshot, in the thread that makes the call."""

    def __init__(self) -> None:
        super().__init__(1)
        self.make_directory("/data")
        self.sync_directory("/")
        self.skips = 0
        self.handler: Callable[[], object] | None = None

    def returned(self, path: str) -> None:
        if self.handler is None or "snapshot-" not in path:
            return
        if self.skips:
            self.skips -= 1
            return
        handler, self.handler = self.handler, None
        handler()

    def create(self, path: str) -> File:
        super().create(path)
        self.returned(path)
        return _InterruptedFile(self, path, self._file(path), writable=True)

    def rename(self, source: str, target: str) -> None:
        super().rename(source, target)
        self.returned(target)


class _InterruptedFile(SimFile):
    def write(self, offset: int, data: bytes) -> None:
        super().write(offset, data)
        assert isinstance(self._world, _InterruptedFileSystem)
        self._world.returned(self._path)

    def sync(self) -> None:
        super().sync()
        assert isinstance(self._world, _InterruptedFileSystem)
        self._world.returned(self._path)


@pytest.mark.parametrize("succeeded", [False, True])
def test_a_compaction_whose_store_a_signal_handler_closed_changes_nothing_any_more(succeeded: bool) -> None:
    for skips in range(1000):
        fs = _InterruptedFileSystem()
        world = World(1, fs)
        store = world.recover(Durability.PROCESS)
        _start(world, 40)
        left: list[dict[str, bytes]] = []

        def take_over(world: World = world, left: list[dict[str, bytes]] = left) -> None:
            world.close()
            if succeeded:
                world.recover(Durability.PROCESS)
                _start(world, 3)
            left.append(_lasting(world))

        fs.skips, fs.handler = skips, take_over
        try:
            store.flush_checkpoint(compact=True)
        except SchedulerPersistenceError:
            assert left
        if not left:
            assert skips > 3
            return
        assert _lasting(world) == left[0]
        world.recover()
        world.close()


def _lasting(world: World) -> dict[str, bytes]:
    return {name: content for name, content in contents(world.fs).items() if not name.endswith(".tmp")}


class _RotationSeenFileSystem(_WatchedFileSystem):
    """Tells when a segment was begun, once it is asked to."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = threading.Event()

    def create(self, path: str) -> File:
        file = super().create(path)
        self.begun.set()
        return file


def test_closing_in_the_middle_of_a_sync_waits_for_no_compaction_that_waits_for_this_sync() -> None:
    """A signal handler closes the store: nothing that closing waits for may need what the interrupted sync holds."""
    fs = _RotationSeenFileSystem()
    world = World(1, fs)
    store = WalPersistence(DIRECTORY, options=world.options, environment=replace(world.environment(), threads=True))
    for number in range(3):
        store.record_started(f"job.n{number}", number)
    assert store._store is not None
    compactor, events = store._store._compactor, store._store._events

    def handle() -> None:
        fs.begun.clear()
        threading.Thread(target=compactor._run_reporting, args=(events,), daemon=True).start()
        fs.begun.wait()
        store.close()

    def interrupted_sync() -> None:
        with suppress(SchedulerPersistenceError):
            store.sync()

    fs.let("before", 1, handle)
    interrupted = threading.Thread(target=interrupted_sync, daemon=True)
    interrupted.start()
    interrupted.join(timeout=30)
    assert not interrupted.is_alive()
    assert set(jobs_of(world.open())) == {"job.n0", "job.n1", "job.n2"}
    world.close()


@pytest.mark.parametrize("level", [Durability.PROCESS, Durability.POWER], ids=lambda level: level.value)
def test_a_call_whose_store_is_closed_right_after_its_append_has_recorded(level: Durability) -> None:
    """Closing has synced the event, so that the call has nothing more to wait for, and nothing to complain about."""
    fs = _WatchedFileSystem()
    world = World(1, fs)
    store = world.recover(level)
    fs.let("append", 1, store.close)
    store.record_started("job.n1", 1)
    assert store.closed
    world.drop()
    reopened = world.open()
    assert reopened.recovery.situation is Situation.CLEAN
    assert set(jobs_of(reopened)) == {"job.n1"}
    world.close()
