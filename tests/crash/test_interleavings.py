"""What another thread or a signal handler does while a sync is under way, made to happen at each sync in turn."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

import pytest

from fuzz.interleavings import MEETINGS, WatchedFileSystem, interleave, start_runs, sync
from tests.crash.worlds import DIRECTORY, World, contents, jobs_of
from walstore.engine.recovery import Situation
from walstore.errors import SchedulerPersistenceError
from walstore.fs.api import File
from walstore.options import Durability
from walstore.testing.sim_file import SimFile
from walstore.testing.sim_fs import SimFileSystem
from walstore.wal import WalPersistence

pytestmark = pytest.mark.mutation


@pytest.mark.parametrize("meeting", MEETINGS, ids=str)
def test_whatever_happens_during_a_sync_is_kept(meeting: tuple[str, str, Durability]) -> None:
    assert max(interleave(meeting, 1)) >= 5


def test_a_writer_that_opens_leaves_a_reader_what_it_shows() -> None:
    for closed in (True, False):
        world = World(1)
        world.recover(Durability.PROCESS)
        start_runs(world, 5)
        if closed:
            world.close()
        else:
            sync(world)
            start_runs(world, 30)
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
        start_runs(world, 40)
        left: list[dict[str, bytes]] = []

        def take_over(world: World = world, left: list[dict[str, bytes]] = left) -> None:
            world.close()
            if succeeded:
                world.recover(Durability.PROCESS)
                start_runs(world, 3)
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


class _RotationSeenFileSystem(WatchedFileSystem):
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
    compactor, events = store._store._compactor, store._store.events

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
    fs = WatchedFileSystem()
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
