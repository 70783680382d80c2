"""The file of the next segment, made ready ahead: what is seen of it in the directory, on a disk without threads."""

from __future__ import annotations

import errno
import logging
import random
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from tests.engine.test_store import SECOND_NS, World
from walstore import Durability, Started, WalOptions, WalPersistence
from walstore.engine.salvage import gather
from walstore.errors import CorruptionError, StorageError, StorePoisonedError
from walstore.format.layout import HEADER_BYTES, Header
from walstore.testing.sim_fs import Operation, SimCrash, SimFileSystem
from walstore.wal import JOBS

pytestmark = pytest.mark.mutation

SMALL = WalOptions(segment_bytes_min=1024, segment_bytes_max=1024)
LARGE_BATCH = 100


def fill(store: WalPersistence, world: World) -> int:
    """Record until the next segment has begun, and return the calls to the file system of the call that began it."""
    segments = len(world.names(".wal"))
    while True:
        before = world.fs.calls
        store.record_started("job.a", 1)
        if len(world.names(".wal")) > segments:
            return world.fs.calls - before


def test_a_rotation_only_names_what_is_ready() -> None:
    world = World()
    with world.open(options=SMALL) as store:
        created = fill(store, world)
        world.tick(store)
        assert len(world.names(".tmp")) == 1
        named = fill(store, world)
        assert not world.names(".tmp")
        # The append that finds the segment full, the name, the append that finds room.
        assert named < 4 < created
        world.tick(store)
        assert len(world.names(".tmp")) == 1
    assert not world.names(".tmp")
    with world.open(options=SMALL) as store:
        assert len(store.load_all()) == 1


@pytest.mark.parametrize("level", Durability)
def test_all_is_there_when_the_process_ends_right_after_a_rotation(level: Durability) -> None:
    world = World()
    with world.open(level, SMALL) as store:
        for _ in range(3):
            world.tick(store)
            if level is Durability.BUFFERED:
                store.record_many([Started("job.a", 1)] * LARGE_BATCH)
            else:
                fill(store, world)
        store.record_finished("job.a", 2, False)
        if level is Durability.BUFFERED:
            world.tick(store)
        after = World(world.fs.clone())
    assert len(after.names(".tmp")) <= 1
    with after.open(level, SMALL) as store:
        assert [record.consecutive_failures for record in store.load_all()] == [1]
        assert not after.names(".tmp")


def test_what_was_not_ready_in_time_serves_the_next_rotation() -> None:
    world = World()
    with world.open(options=SMALL) as store:
        world.tick(store)
        (ready,) = world.names(".tmp")
        # Too large for what is ready.
        store.record_many([Started("job.a", 1)] * LARGE_BATCH)
        assert world.names(".tmp") == [ready]
        fill(store, world)
        assert not world.names(".tmp")
        store.record_finished("job.a", 2, False)
        after = World(world.fs.clone())
    with after.open(options=SMALL) as store:
        assert [record.consecutive_failures for record in store.load_all()] == [1]


@pytest.mark.parametrize("stays", [False, True])
def test_what_was_not_ready_in_time_gives_way_to_what_the_next_segment_needs(stays: bool) -> None:
    world = World()
    with world.open(options=SMALL) as store:
        world.tick(store)
        store.record_many([Started("job.a", 1)] * LARGE_BATCH)
        (late,) = world.names(".tmp")
        if stays:
            world.fs.fail("unlink", errno.EIO)
        world.tick(store, 1)  # Too soon for a sync, whose watermark would need the next segment.
        assert (late in world.names(".tmp")) == stays
        assert len(set(world.names(".tmp")) - {late}) == 1
        assert store.stats().last_background_error is None
        fill(store, world)
        assert set(world.names(".tmp")) <= {late}
    with world.open(options=SMALL) as store:
        assert len(store.load_all()) == 1


def test_a_name_that_can_not_be_given_is_told_and_leaves_nothing() -> None:
    world = World()
    with world.open(options=SMALL) as store:
        world.tick(store)
        segments = world.names(".wal")
        world.fs.fail("rename", errno.EIO)
        with pytest.raises(StorageError, match="starting a new segment in /jobs"):
            fill(store, world)
        assert (world.names(".wal"), world.names(".tmp")) == (segments, [])
        assert fill(store, world)
    with world.open(options=SMALL) as store:
        assert len(store.load_all()) == 1


def test_after_a_failed_sync_of_the_directory_the_log_stays_as_it_is() -> None:
    """Also where the thread that makes a segment ready comes with it only then: a second sync may lie."""
    world = World()
    calls: list[int] = []
    with pytest.raises(StorePoisonedError), world.open(options=SMALL) as store:
        world.tick(store)
        fill(store, world)
        world.fs.fail("sync_directory", errno.EIO)
        with pytest.raises(StorePoisonedError):
            store.sync()
        calls.append(world.fs.calls)
        assert store._store is not None
        store._store.log.settle()
        calls.append(world.fs.calls)
    # Looked at out here: closing raises why the store is poisoned, instead of any other error.
    assert calls == [calls[0]] * 2


def test_an_error_in_a_segment_that_was_made_ready_ahead_names_its_file() -> None:
    world = World()
    with world.open(options=SMALL) as store:
        world.tick(store)
        fill(store, world)
        world.fs.fail("append", errno.EIO)
        with pytest.raises(StorageError, match=f"while writing to /jobs/{max(world.names('.wal'))}"):
            store.record_started("job.a", 2)
        store.record_started("job.a", 3)
        assert [record.last_started_at_ns for record in store.load_all()] == [3]


@pytest.mark.parametrize("operation", ["create", "allocate", "write", "sync"])
def test_trouble_ahead_is_no_error(operation: Operation, caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    caplog.set_level(logging.DEBUG)
    with world.open(options=SMALL) as store:
        world.fs.fail(operation, errno.ENOSPC)
        world.tick(store)
        assert store.stats().last_background_error is None
        reason = "[Errno 28] No space left on device: '/jobs/next-0000000000000000-00000001.tmp'"
        assert caplog.messages[-1] == f"the next segment of /jobs could not be made ready: {reason}"
        assert not world.names(".tmp")
        world.tick(store)
        assert len(world.names(".tmp")) == 1


@pytest.mark.parametrize("operation", ["allocate", "sync"])
def test_what_can_not_be_removed_is_told_and_left_to_the_next_opening(
    operation: Operation, caplog: pytest.LogCaptureFixture
) -> None:
    world = World()
    caplog.set_level(logging.DEBUG)
    with world.open(options=SMALL) as store:
        world.fs.fail(operation, errno.ENOSPC)
        world.fs.fail("unlink", errno.EIO)
        world.tick(store)
        (left,) = world.names(".tmp")
        path = f"/jobs/{left}"
        assert f"{path} could not be removed: [Errno 5] Input/output error: '{path}'" in caplog.messages
        assert store.stats().last_background_error is None
        world.fs.heal()
    with world.open(options=SMALL):
        assert not world.names(".tmp")


def test_a_thread_makes_one_segment_after_another_ready(tmp_path: Path) -> None:
    path = tmp_path / "jobs"
    with WalPersistence(path, options=SMALL) as store:
        for segments in range(1, 4):
            deadline = time.monotonic() + 30
            while not (ready := list(path.glob("next-*.tmp"))) and time.monotonic() < deadline:
                time.sleep(0.001)
            assert len(ready) == 1
            assert len(list(path.glob("log-*.wal"))) == segments
            while len(list(path.glob("log-*.wal"))) == segments:
                store.record_started("job.a", segments)
    with WalPersistence(path) as store:
        assert [record.last_started_at_ns for record in store.load_all()] == [3]


def test_where_no_thread_can_be_started_the_store_does_without_and_tries_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    world = World()
    environment = replace(world.environment(), threads=True)
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name == "walstore-successor":
            raise RuntimeError("can't start new thread")
        start(thread)

    # The keeper's own ticks are an hour away, by a clock that stands still.
    options = replace(SMALL, sync_interval_ns=3600 * SECOND_NS)
    with WalPersistence("/jobs", options=options, clock=lambda: 0, environment=environment) as store:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            for _ in range(2):
                world.tick(store)
                assert not world.names(".tmp")
                assert caplog.messages[-1] == (
                    "the next segment of /jobs could not be made ready: can't start new thread"
                )
            fill(store, world)
        world.tick(store)
        deadline = time.monotonic() + 30
        while not world.names(".tmp") and time.monotonic() < deadline:
            time.sleep(0.001)
        assert len(world.names(".tmp")) == 1
    assert not world.names(".tmp")


def test_a_segment_behind_another_one_than_it_was_made_for_is_refused_and_salvage_tells() -> None:
    world = World()
    with world.open(options=SMALL) as store:
        for _ in range(3):
            world.tick(store)
            fill(store, world)
        after = World(world.fs.clone())
    name = max(after.names(".wal"))
    file = after.fs.open(f"/jobs/{name}", writable=True)
    header = Header.decode(file.read(0, HEADER_BYTES))
    assert header.follows_lsn is not None
    assert not gather(after.fs, "/jobs", JOBS).is_damaged
    file.write(0, replace(header, follows_lsn=header.follows_lsn + 8).encode())
    with pytest.raises(CorruptionError, match="made to follow") as caught, after.open(options=SMALL):
        """It must not open."""
    assert (caught.value.path, caught.value.offset, caught.value.lsn) == (
        f"/jobs/{name}",
        0,
        int(name.split("-")[1], 16),
    )
    found = gather(after.fs, "/jobs", JOBS)
    assert found.is_damaged
    assert any("made to follow" in gap.what for gap in found.gaps)


def test_salvage_tells_what_is_missing_before_a_segment_of_which_only_the_name_is_left() -> None:
    world = World()
    with world.open(options=SMALL) as store:
        world.tick(store)
        fill(store, world)
        after = World(world.fs.clone())
    first, last = sorted(after.names(".wal"))
    base_lsn = int(last.split("-")[1], 16)
    after.fs.open(f"/jobs/{last}", writable=True).write(0, b"?")
    # As if the last frames of the first one, which was not cut yet, had never reached the device.
    after.fs.open(f"/jobs/{first}", writable=True).write(base_lsn - 64, bytes(64))
    found = gather(after.fs, "/jobs", JOBS)
    assert (base_lsn - 64, base_lsn) in [(gap.from_lsn, gap.to_lsn) for gap in found.gaps]


def test_a_power_loss_during_a_rotation_right_after_another_one_leaves_no_gap() -> None:
    for call in range(1, 50):
        world = World(SimFileSystem(call))
        with suppress(SimCrash), world.open(options=SMALL) as store:
            world.tick(store)
            fill(store, world)  # Only named; nothing has synced the directory since.
            world.fs.crash_after(call)
            while True:
                store.record_started("job.a", 1)
        for seed in range(30):
            after = World(world.fs.power_loss(random.Random(seed)))
            with after.open(options=SMALL) as store:
                assert {str(record.id) for record in store.load_all()} <= {"job.a"}
