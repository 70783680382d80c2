"""A store seen from outside: when it syncs, when it compacts, what it reports. On a simulated disk, without threads."""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import count, pairwise

import pytest

from walstore import Durability, Finished, Manual, Scheduled, Started, WalOptions, WalPersistence
from walstore.engine.environment import Environment
from walstore.engine.recovery import Situation
from walstore.errors import (
    CorruptionError,
    ForkedProcessError,
    StorageError,
    StorageFullError,
    StoreClosedError,
    StoreLockedError,
    StoreNotFoundError,
    StorePoisonedError,
    UnsupportedPlatformError,
)
from walstore.format.frame import frame_bytes
from walstore.format.layout import HEADER_BYTES, SEGMENT_RESERVE_BYTES, Watermark
from walstore.fs.api import File
from walstore.testing.sim_fs import SimFileSystem

pytestmark = pytest.mark.mutation

SECOND_NS = 1_000_000_000


@dataclass
class World:
    """A simulated disk and a clock that stands still until it is moved."""

    fs: SimFileSystem = field(default_factory=SimFileSystem)
    now_ns: int = 0
    numbers: int = 0
    threads: bool = False

    @contextmanager
    def open(
        self, durability: Durability = Durability.PROCESS, options: WalOptions | None = None, **arguments: bool
    ) -> Iterator[WalPersistence]:
        store = WalPersistence(
            "/jobs",
            durability=durability,
            options=options if options is not None else WalOptions(),
            clock=lambda: self.now_ns,
            environment=self.environment(),
            **arguments,  # type: ignore[arg-type]  # create and read_only.
        )
        with store:
            yield store

    def environment(self) -> Environment:
        def random_bytes(size: int) -> bytes:
            self.numbers += 1
            return self.numbers.to_bytes(size, "big")

        return Environment(
            fs=self.fs,
            random_bytes=random_bytes,
            monotonic_ns=lambda: self.now_ns,
            wall_ns=lambda: self.now_ns,
            holder=lambda: {"host": "simulated", "pid": 1},
            threads=self.threads,
        )

    def tick(self, store: WalPersistence, after_ns: int = SECOND_NS) -> None:
        """Let time pass and do what the keeper would do then."""
        self.now_ns += after_ns
        assert store._store is not None
        store._store.tick()

    def names(self, ending: str) -> list[str]:
        return [name for name in self.fs.list_directory("/jobs") if name.endswith(ending)]


def counters(store: WalPersistence) -> dict[str, int]:
    return {str(record.id): record.consecutive_failures for record in store.load_all()}


def test_one_settling_sync_and_then_silence() -> None:
    world = World()
    with world.open() as store:
        world.tick(store)  # Makes the next segment ready.
        store.record_started("job.a", 1)
        syncs = []
        for _ in range(5):
            before = world.fs.calls
            world.tick(store)
            syncs.append(world.fs.calls - before)
        # The sync and its watermark; the sync of the watermark; nothing.
        assert syncs == [2, 1, 0, 0, 0]
        assert store.stats().durable_lsn < store.stats().end_lsn
        store.record_started("job.a", 2)
        world.tick(store)
        assert store.stats().syncs == 3


def test_syncs_of_the_background_keep_their_interval() -> None:
    world = World()
    with world.open() as store:
        syncs = []
        for after_ns in (SECOND_NS, 1, SECOND_NS - 2, 1, SECOND_NS - 1, 1):
            store.record_started("job.a", world.now_ns)
            world.tick(store, after_ns)
            syncs.append(store.stats().syncs)
        assert syncs == [1, 1, 1, 2, 2, 3]


def test_sync_of_nothing_new_costs_nothing() -> None:
    world = World()
    with world.open() as store:
        store.record_started("job.a", 1)
        store.sync()
        before = world.fs.calls
        store.sync()
        store.sync()
        assert world.fs.calls == before


@pytest.mark.parametrize("durability", list(Durability))
def test_flush_checkpoint_leaves_a_small_store_a_fresh_snapshot_and_a_short_log(durability: Durability) -> None:
    world = World()
    with world.open(durability) as store:
        for at_ns in range(100):
            store.record_started(f"job.number{at_ns}", at_ns)
        store.flush_checkpoint()
        assert len(world.names(".snap")) == len(world.names(".wal")) == 1
        stats = store.stats()
        assert stats.log_bytes < 200
        assert stats.snapshot_lsn + stats.log_bytes == stats.end_lsn
        assert stats.snapshot_bytes == len(world.fs._file(f"/jobs/{world.names('.snap')[0]}").data)
        assert len(store.load_all()) == 100
        calls = world.fs.calls
        store.flush_checkpoint()  # Nothing is new.
        store.flush_checkpoint(compact=True)
        assert world.fs.calls == calls
        snapshots = world.names(".snap")
        store.record_started("job.number1", 1000)
        store.flush_checkpoint()  # Something is, but a log of one event is not worth a new snapshot.
        assert world.names(".snap") == snapshots
        store.flush_checkpoint(compact=True)
        assert world.names(".snap") != snapshots
        assert store.stats().log_bytes < 200
    with world.open() as store:
        assert store.recovery.events_replayed == 0
        assert store.stats().snapshot_bytes == len(world.fs._file(f"/jobs/{world.names('.snap')[0]}").data)
        assert len(store.load_all()) == 100


def test_a_log_that_outgrows_its_bound_is_compacted_though_nobody_asks() -> None:
    world = World()
    options = WalOptions(small_store_bytes=4096, segment_bytes_min=1024, segment_bytes_max=1024)
    with world.open(options=options) as store:
        longest = 0
        store.record_started("job.counter", 0)
        for at_ns in range(1000):
            store.record_finished("job.counter", at_ns, False)
            if at_ns % 10 == 0:
                world.tick(store)
            longest = max(longest, store.stats().log_bytes)
        assert longest < 4096 + 1024
        assert counters(store) == {"job.counter": 1000}
        assert store.stats().last_checkpoint_ns is not None


def test_segments_grow_up_to_their_maximum() -> None:
    world = World()
    options = WalOptions(segment_bytes_min=1024, segment_bytes_max=5000, small_store_bytes=1 << 30)
    lengths = {}
    with world.open(options=options) as store:
        for at_ns in range(500):
            store.record_started("job.a", at_ns)
            live = world.names(".wal")[-1]
            lengths[live] = len(world.fs._file(f"/jobs/{live}").data)
    assert list(lengths.values())[:5] == [1024, 4096, 5000, 5000, 5000]


@pytest.mark.parametrize("ticks", [0, 1])
def test_segments_of_a_store_that_compacts_often_stay_small(ticks: int) -> None:
    world = World()
    with world.open() as store:
        for at_ns in range(20):
            for _ in range(ticks):
                world.tick(store)
            store.record_started("job.a", at_ns)
            store.flush_checkpoint(compact=True)
        (live,) = world.names(".wal")
        assert len(world.fs._file(f"/jobs/{live}").data) == WalOptions().segment_bytes_min


def test_a_snapshot_of_nothing_is_one() -> None:
    world = World()
    with world.open() as store:
        store.record_started("job.a", 1)
        store.cancel("job.a")
        store.flush_checkpoint(compact=True)
    for read_only in (True, False):
        with world.open(read_only=read_only) as store:
            assert store.load_all() == list(store.iter_jobs()) == []
            assert store.recovery.events_replayed == 0
    assert len(world.names(".snap")) == 1


def test_closing_waits_for_the_compaction_in_the_background() -> None:
    world = World(threads=True)
    with world.open(options=WalOptions(small_store_bytes=1 << 30)) as store:
        store.record_many(Started(f"job.number{number}", number) for number in range(2000))
    with world.open(options=WalOptions(small_store_bytes=1024)):
        """It begins with the opening."""
    assert len(world.names(".snap")) == len(world.names(".wal")) == 1
    with world.open() as store:
        assert store.recovery.events_replayed == 0
        assert len(store.load_all()) == 2000


def test_openings_leave_few_segments_however_little_they_record() -> None:
    world = World()
    segments = []
    for at_ns in range(60):
        with world.open() as store:
            store.record_started("job.a", at_ns)
        segments.append(len(world.names(".wal")))
    # The seventeenth old segment is one too many.
    assert segments[:17] == list(range(1, 18))
    assert max(segments) == 17
    assert len(world.names(".snap")) == 1
    with world.open() as store:
        assert [record.last_started_at_ns for record in store.load_all()] == [59]


def test_a_compaction_that_fails_loses_nothing_shows_and_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    with world.open() as store:
        store.record_started("job.a", 1)
        world.fs.fail("write", errno.EIO, path_contains="snapshot")
        with caplog.at_level(logging.WARNING, logger="walstore"):
            store.flush_checkpoint()
        told = "compaction of /jobs failed and will be tried again: Input/output error"
        assert caplog.messages[-1].startswith(told)
        assert "Input/output error" in str(store.stats().last_background_error)
        assert counters(store) == {"job.a": 0}
        assert world.names(".tmp") == []
        store.flush_checkpoint()
        assert store.stats().last_background_error is None
        assert len(world.names(".snap")) == 1
        store.record_started("job.a", 2)
        world.fs.fail("write", errno.EIO, path_contains="snapshot")
        with pytest.raises(StorageError, match="compacting"):
            store.flush_checkpoint(compact=True)
        store.flush_checkpoint(compact=True)
        assert counters(store) == {"job.a": 0}


def test_a_compaction_in_the_background_is_tried_again_ten_seconds_after_it_failed() -> None:
    world = World()
    with world.open(options=WalOptions(small_store_bytes=1)) as store:
        world.fs.fail("write", errno.EIO, path_contains="snapshot", times=2)
        store.record_many(Started(f"job.n{number}", 1) for number in range(100))
        world.tick(store)
        for after_ns in (10 * SECOND_NS - 1, 1):
            assert "Input/output error" in str(store.stats().last_background_error)
            world.tick(store, after_ns)
        world.tick(store, 10 * SECOND_NS - 1)
        assert world.names(".snap") == []
        world.tick(store, 1)
        assert store.stats().last_background_error is None
        assert len(world.names(".snap")) == 1


def test_nothing_is_compacted_anew_but_segments_that_are_left() -> None:
    world = World()
    with world.open() as store:
        store.record_started("job.a", 1)
        store.flush_checkpoint(compact=True)
    segments = []
    for _ in range(4):
        with world.open() as store:
            store.flush_checkpoint(compact=True)
        segments.append(len(world.names(".wal")))
    assert segments == [2, 1, 2, 1]


def test_a_compaction_that_fails_for_want_of_memory_says_so() -> None:
    class Small(SimFileSystem):
        def create(self, path: str) -> File:
            if "snapshot" in path:
                raise MemoryError
            return super().create(path)

    world = World(fs=Small())
    with world.open() as store:
        store.record_started("job.a", 1)
        store.flush_checkpoint()
        assert store.stats().last_background_error == "MemoryError()"
        assert counters(store) == {"job.a": 0}


@pytest.mark.parametrize("read_only", [False, True])
def test_where_a_store_can_not_be_kept_none_is_created(read_only: bool) -> None:
    world = World()
    world.fs.unsupported = "a network file system"
    with pytest.raises(UnsupportedPlatformError, match="/jobs: a network"), world.open(read_only=read_only):
        pass
    assert world.fs.list_directory("/") == []


def test_a_directory_that_never_stands_still_is_given_up() -> None:
    class Restless(SimFileSystem):
        listings = count(1)

        def list_directory(self, directory: str) -> list[str]:
            return [*super().list_directory(directory), f"log-{next(self.listings):016x}-00000001.wal"]

    world = World(fs=Restless())
    world.fs.make_directory("/jobs")
    with pytest.raises(StorageError, match=r"^the files of /jobs changed at each of 1000 attempts to read them"):
        WalPersistence("/jobs", environment=world.environment(), read_only=True)


def test_a_compaction_that_keeps_failing_leaves_no_segment_behind_each_time() -> None:
    world = World()
    with world.open() as store:
        store.record_started("job.a", 1)
        files = set()
        for _ in range(20):
            world.fs.fail("write", errno.ENOSPC, path_contains="snapshot")
            store.flush_checkpoint()
            files.add(len(world.fs.list_directory("/jobs")))
        assert files == {3}  # LOCK, what is to be compacted, and the live segment.
        store.record_started("job.b", 1)
        store.flush_checkpoint()
        store.flush_checkpoint(compact=True)
        assert counters(store) == {"job.a": 0, "job.b": 0}
        assert len(world.fs.list_directory("/jobs")) == 3


@pytest.mark.parametrize("reason", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
def test_want_of_descriptors_is_no_failed_sync(reason: int) -> None:
    world = World()
    options = WalOptions(segment_bytes_min=1024, segment_bytes_max=1024)
    with world.open(options=options) as store:
        world.fs.fail("sync_directory", reason)
        recorded, refused = 0, 0
        for at_ns in range(100):
            try:
                store.record_started(f"job.number{at_ns}", at_ns)
                recorded += 1
            except StorageError:
                refused += 1
        assert (recorded, refused) == (99, 1)
        store.sync()
        assert len(store.load_all()) == 99
    with world.open() as store:
        assert len(store.load_all()) == 99


def test_a_failed_sync_of_the_directory_is_poison() -> None:
    world = World()
    options = WalOptions(segment_bytes_min=1024, segment_bytes_max=1024)
    with world.open(options=options) as store:
        world.fs.fail("sync_directory", errno.EIO)
        with pytest.raises(StorePoisonedError):
            for at_ns in range(100):
                store.record_started(f"job.number{at_ns}", at_ns)
        with pytest.raises(StorePoisonedError):
            store.close()
    with world.open() as store:
        assert 0 < len(store.load_all()) < 100


def test_a_batch_keeps_its_place_behind_what_is_buffered() -> None:
    world = World()
    with world.open(Durability.BUFFERED) as store:
        store.record_started("job.a", 1)
        store.record_many([Finished("job.a", 2, False), Finished("job.a", 3, False)])
        store.record_finished("job.a", 4, True)
        assert [record.consecutive_failures for record in store.load_all()] == [0]
        assert [record.last_finished_at_ns for record in store.load_all()] == [4]


@pytest.mark.parametrize("durability", list(Durability))
def test_an_opening_reports_what_it_found(durability: Durability) -> None:
    world = World()
    elapsed_ns = 0

    def monotonic_ns() -> int:
        nonlocal elapsed_ns
        elapsed_ns += 7
        return elapsed_ns

    with world.open(durability) as store:
        store.record_many([Started("job.a", 1), Finished("job.a", 2, False)])
        store.record_started("job.a", 3)
        assert store.stats().events == 3
    for read_only in (True, False):
        environment = replace(world.environment(), monotonic_ns=monotonic_ns)
        with WalPersistence("/jobs", environment=environment, read_only=read_only) as store:
            report = store.recovery
            assert (report.situation, report.events_replayed) == (Situation.CLEAN, 3)
            assert (report.torn_bytes, report.kept_at, report.duration_ns) == (0, None, 7)
            if not read_only:
                assert (store.stats().events, store.stats().snapshot_bytes, store.stats().snapshot_lsn) == (0, 0, 0)


def test_an_opening_has_room_for_all_that_was_not_synced() -> None:
    """It goes into a new segment, which is longer than those of the store where it must be, and no longer."""
    options = WalOptions(segment_bytes_min=1024, segment_bytes_max=1 << 20)
    lengths, mark_bytes = set(), frame_bytes(len(Watermark(0).encode()))
    for events in range(1, 100):
        world = World()
        with world.open() as store:
            store.record_started("job.a", 0)
            world.tick(store)
            for number in range(events):
                store.record_started("job.a", number)
            after = World(world.fs.clone())
            tail_bytes = store.stats().end_lsn - store.stats().durable_lsn
        with after.open(options=options) as store:
            assert [record.last_started_at_ns for record in store.load_all()] == [events - 1]
            name = max(after.names(".wal"))
            length = after.fs.open(f"/jobs/{name}").size()
            assert length == max(1024, HEADER_BYTES + tail_bytes + mark_bytes + SEGMENT_RESERVE_BYTES)
            lengths.add(length)
    assert len(lengths) > 1


def test_a_store_that_is_open_is_refused_by_the_name_of_its_holder() -> None:
    world = World(now_ns=1_700_000_000 * SECOND_NS + SECOND_NS - 1)
    with world.open():
        with pytest.raises(StoreLockedError) as caught, world.open():
            pass
        assert str(caught.value) == (
            "/jobs is open for writing in process 1 on simulated, since 2023-11-14 22:13:20 UTC. Close it there, or "
            "open it here with read_only=True."
        )
        for content in (b"", b"7", b"{}", b'{"pid": 1, "host": "x", "since_ns": 1e400}', b"\xff"):
            world.fs._file("/jobs/LOCK").data[:] = content
            with pytest.raises(StoreLockedError, match="in another process, which has not said which"), world.open():
                pass


def test_stats_add_up() -> None:
    world = World()
    with world.open(Durability.BUFFERED) as store:
        store.record_scheduled("job.a", Manual())
        store.record_many([Started("job.a", 1), Finished("job.a", 2, False)])
        store.record_started("job.a", 3)
        stats = store.stats()
        assert (stats.events, stats.buffered_events) == (4, 1)
        written_bytes = stats.log_written_bytes
        world.tick(store, 1)
        stats = store.stats()
        assert (stats.events, stats.buffered_events) == (4, 0)
        assert (stats.snapshot_lsn, stats.snapshot_bytes, stats.last_background_error) == (0, 0, None)
        assert written_bytes < stats.log_written_bytes == stats.end_lsn
    with world.open() as store:
        opened = store.stats()
        # What the opening itself has written, and nothing of what there was before.
        assert 0 < opened.log_written_bytes < stats.end_lsn
        store.record_many([Started("job.a", 4), Started("job.a", 5)])
        store.record_many([Started("job.a", 6)])
        assert store.stats().events == 3
        assert store.stats().log_written_bytes - opened.log_written_bytes == store.stats().end_lsn - opened.end_lsn > 0
    with world.open(read_only=True) as reader, pytest.raises(StoreClosedError, match="read-only"):
        reader.stats()


def test_a_batch_that_is_too_long_is_refused_whole() -> None:
    world = World()
    with world.open() as store:
        long_name = "job." + "x" * 1000
        with pytest.raises(ValueError, match="in several batches"):
            store.record_many(Started(f"{long_name}{number}", 1) for number in range(17_000))
        with pytest.raises(TypeError, match="an event is"):
            store.record_many([Scheduled("job.a", Manual()), "no event"])  # type: ignore[list-item]  # On purpose.
        store.record_many([])
        assert store.load_all() == []
        # A long one that fits gets a segment of its own size.
        store.record_many(Started(f"{long_name}{number}", 1) for number in range(1000))
        assert len(store.load_all()) == 1000


@pytest.mark.parametrize("durability", [Durability.BUFFERED, Durability.PROCESS])
def test_a_poisoned_store_shows_what_is_durable_and_releases_its_lock(durability: Durability) -> None:
    world = World()
    with world.open(durability) as store:
        store.record_started("job.durable", 1)
        store.sync()
        store.record_started("job.lost", 1)
        world.fs.fail("sync", errno.EIO, lost=True)
        with pytest.raises(StorePoisonedError, match=r"\. Close the store, look at the device, and open it again: "):
            store.sync()
        for call in (store.sync, store.flush_checkpoint, lambda: store.record_started("job.late", 1)):
            with pytest.raises(StorePoisonedError, match=r"^Input/output error while syncing /jobs/log-.*\.wal: "):
                call()
        assert counters(store) == {"job.durable": 0}
        calls = world.fs.calls
        world.tick(store)
        assert world.fs.calls == calls
        with pytest.raises(StorePoisonedError, match="Input/output error"):
            store.close()
    with world.open() as store:
        assert "job.durable" in counters(store)


def test_a_sync_that_fails_in_the_background_is_told_by_the_next_call(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    with world.open() as store:
        world.tick(store)  # Makes the next segment ready.
        store.record_started("job.a", 1)
        world.fs.fail("sync", errno.ENOSPC)
        for _ in range(3):
            world.tick(store)
        told = str(store.stats().last_background_error)
        assert "syncing" in told
        assert caplog.messages == [told, f"/jobs: {told}"]
        assert not any(record.exc_info for record in caplog.records)
        with pytest.raises(StorePoisonedError):
            store.record_started("job.a", 2)
        with pytest.raises(StorePoisonedError):
            store.close()


def test_a_finished_segment_that_can_not_be_cut_is_poison_for_who_must_be_durable() -> None:
    world = World()
    with world.open(Durability.POWER, WalOptions(segment_bytes_min=1024, segment_bytes_max=1024)) as store:
        world.fs.fail("truncate", errno.EIO, times=100)
        # It is in the log, so nobody may be told that nothing was recorded.
        with pytest.raises(StorePoisonedError, match=r"Input/output error.* while syncing what was recorded: ") as told:
            for at_ns in range(100):
                store.record_started("job.a", at_ns)
        assert isinstance(told.value.__cause__, StorageError)
        world.fs.heal()
        with pytest.raises(StorePoisonedError, match="while syncing what was recorded"):
            store.close()
    with world.open() as store:
        assert store.load_all()[0].last_started_at_ns == at_ns


def test_a_watermark_that_can_not_be_written_is_poison() -> None:
    world = World()
    with world.open() as store:
        store.record_started("job.a", 1)
        world.fs.fail("append", errno.EIO, times=2)
        why = (
            r"^Input/output error while syncing the log and writing a watermark to /jobs/log-[-0-9a-f]*\.wal: what had"
        )
        with pytest.raises(StorePoisonedError, match=why):
            store.sync()
        with pytest.raises(StorePoisonedError, match=why):
            store.close()
    with world.open() as store:
        assert counters(store) == {"job.a": 0}


def test_the_body_of_a_with_keeps_its_own_error() -> None:
    world = World()
    with pytest.raises(KeyError), world.open() as store:
        store.record_started("job.a", 1)
        raise KeyError("mine")
    with world.open() as store:
        assert store.recovery.situation is Situation.CLEAN


def test_a_full_disk_is_no_poison() -> None:
    world = World()
    options = WalOptions(segment_bytes_min=1024, segment_bytes_max=1024)
    with world.open(options=options) as store:
        store.record_started("job.counter", 0)
        world.fs.capacity_bytes = 2500
        recorded = 0
        with pytest.raises(StorageFullError, match="This call did not go through"):
            while True:
                store.record_finished("job.counter", recorded, False)
                recorded += 1
        assert recorded > 10
        store.sync()
        assert counters(store) == {"job.counter": recorded}
        with pytest.raises(StorageFullError):
            store.record_finished("job.counter", 0, False)
        world.fs.capacity_bytes = None
        store.record_finished("job.counter", 0, False)
        assert counters(store) == {"job.counter": recorded + 1}
    with world.open() as store:
        assert counters(store) == {"job.counter": recorded + 1}


def test_a_full_disk_keeps_what_is_buffered_until_there_is_space() -> None:
    world = World()
    options = WalOptions(segment_bytes_min=1024, segment_bytes_max=1024, buffer_events=50)
    with world.open(Durability.BUFFERED, options) as store:
        store.record_started("job.counter", 0)
        world.fs.capacity_bytes = 1500
        recorded = 0
        with pytest.raises(StorageFullError):
            while True:
                store.record_finished("job.counter", recorded, False)
                recorded += 1
        assert counters(store) == {"job.counter": recorded}
        world.tick(store)
        assert "no space left" in str(store.stats().last_background_error)
        for call in (store.sync, store.flush_checkpoint, store.close):
            # Of what these were called for, all was recorded.
            with pytest.raises(StorageFullError, match="what was recorded before it is kept") as told:
                call()
            assert "recorded nothing" not in str(told.value)
        assert not store.closed
        assert counters(store) == {"job.counter": recorded}
        world.fs.capacity_bytes = None
        world.tick(store)
        assert store.stats().last_background_error is None
        store.record_finished("job.counter", recorded, False)
    with world.open() as store:
        assert counters(store) == {"job.counter": recorded + 1}


def test_the_buffer_is_drained_when_it_is_full() -> None:
    world = World()
    with world.open(Durability.BUFFERED, WalOptions(buffer_events=50)) as store:
        held = []
        for at_ns in range(102):
            store.record_started("job.a", at_ns)
            held.append(store.stats().buffered_events)
    assert held == [*range(1, 51), *range(1, 51), 1, 2]


@pytest.mark.parametrize("durability", list(Durability))
def test_the_copy_of_a_store_in_a_forked_child_refuses_and_says_why(durability: Durability) -> None:
    world = World()
    why = "^/jobs was opened before this process was forked: open it in here$"
    with world.open(durability) as store:
        store.record_started("job.a", 1)
        assert store._store is not None
        calls = world.fs.calls
        store._store.abandon_after_fork()
        for call in (lambda: store.record_started("job.a", 1), store.sync, store.load_all, store.stats):
            with pytest.raises(ForkedProcessError, match=why):
                call()
        store.close()
        assert world.fs.calls == calls


@pytest.mark.parametrize("durability", list(Durability))
def test_a_closed_store_refuses_and_says_so(durability: Durability) -> None:
    world = World()
    with world.open(durability) as store:
        store.record_started("job.a", 1)
    for call in (lambda: store.record_started("job.a", 1), store.sync, store.load_all, store.stats):
        with pytest.raises(StoreClosedError, match="the store /jobs was closed: open it again"):
            call()


def test_iter_jobs_is_of_one_point_of_time_and_in_order() -> None:
    world = World()
    options = WalOptions(merge_memory_bytes=8 * 1024, segment_bytes_min=1024, segment_bytes_max=4096)
    with world.open(options=options) as store:
        for number in range(2000):
            store.record_started(f"job.number{number:04d}", number)
        store.flush_checkpoint(compact=True)
        for number in range(0, 3000, 3):
            store.record_started(f"job.number{number:04d}", 10_000)
        jobs = store.iter_jobs()
        first = next(jobs)
        store.cancel("job.number1999")
        store.flush_checkpoint(compact=True)
        found = [first, *jobs]
        names = [str(record.id) for record in found]
        assert names == sorted(names)
        assert len(names) == len(set(names)) == 2000 + 333
        assert "job.number1999" in names
        assert [record.last_started_at_ns for record in found[:4]] == [10_000, 1, 2, 10_000]
        abandoned = store.iter_jobs()
        next(abandoned)
        abandoned.close()  # type: ignore[attr-defined]  # It is a generator.
        assert world.names(".tmp") == []
        for number in range(0, 3000, 100):
            store.record_started(f"job.number{number:04d}", 20_000 + number)
        names = sorted({*names, *(f"job.number{number:04d}" for number in range(0, 3000, 100))} - {"job.number1999"})
    with world.open(options=options, read_only=True) as reader:
        calls = world.fs.calls
        started = {str(record.id): record.last_started_at_ns for record in reader.iter_jobs()}
        assert list(started) == names
        assert all(started[f"job.number{number:04d}"] == 20_000 + number for number in range(0, 3000, 100))
        assert world.fs.calls == calls


def test_a_long_recovery_reports_progress() -> None:
    world = World()
    with world.open(options=WalOptions(small_store_bytes=1 << 40)) as store:
        for _ in range(3):
            store.record_many(Started(f"job.{'x' * 1000}{number}", 1) for number in range(15_000))
    told: list[tuple[int, int]] = []
    with WalPersistence(
        "/jobs", environment=world.environment(), progress=lambda done, total: told.append((done, total))
    ) as store:
        assert len(store.load_all()) == 15_000
    assert told
    assert told == sorted(told)
    assert all(0 < done <= total for done, total in told)
    assert all(later - earlier >= 16 * 1024 * 1024 for earlier, later in pairwise([0, *(done for done, _ in told)]))


@pytest.mark.parametrize(
    ("cut", "reason"), [(False, r"does not read back \(the checksum of the frame"), (True, "is cut short")]
)
def test_a_temporary_file_that_does_not_read_back_is_no_corruption(cut: bool, reason: str) -> None:
    world = World()
    with world.open(options=WalOptions(merge_memory_bytes=256 * 1024)) as store:
        for number in range(1200):
            store.record_started(f"job.number{number:04d}", number)
        jobs = store.iter_jobs()
        next(jobs)
        (name,) = world.names(".tmp")
        data = world.fs._file(f"/jobs/{name}").data
        data[-1] ^= 1
        if cut:
            del data[-10:]
        with pytest.raises(StorageError, match=f"A temporary file {reason}.*{name}"):
            list(jobs)
        assert world.names(".tmp") == []
        assert len(store.load_all()) == 1200


def test_what_can_not_be_a_store_is_refused_and_left_alone() -> None:
    world = World()
    with pytest.raises(StoreNotFoundError, match="no store at /jobs"), world.open(create=False):
        pass
    with pytest.raises(StoreNotFoundError, match="no store at /jobs"), world.open(read_only=True):
        pass
    assert "jobs" not in world.fs.list_directory("/")
    world.fs.make_directory("/jobs")
    advice = "; give the path of a store, or of a directory that does not exist yet"
    with (
        pytest.raises(StoreNotFoundError, match=f"^/jobs is empty: there is no store in it{advice}$"),
        world.open(create=False),
    ):
        pass
    for name in ("LOCK", "CURRENT"):  # As other programs have them.
        world.fs.create(f"/jobs/{name}").close()
    with pytest.raises(StoreNotFoundError, match=f"^/jobs holds other things and no store{advice}$"), world.open():
        pass
    assert sorted(world.fs.list_directory("/jobs")) == ["CURRENT", "LOCK"]
    world.fs.unlink("/jobs/CURRENT")
    with pytest.raises(StoreNotFoundError, match="never finished: create it"), world.open(create=False):
        pass
    with pytest.raises(StoreNotFoundError, match="never finished: nothing to read"), world.open(read_only=True):
        pass
    with world.open() as store:
        assert store.recovery.situation is Situation.CREATED
    world.fs.create("/file").close()
    with pytest.raises(StoreNotFoundError, match="is no directory"):
        WalPersistence("/file", environment=world.environment())
    with pytest.raises(StoreNotFoundError, match="/missing does not exist"):
        WalPersistence("/missing/jobs", environment=world.environment())


def test_a_missing_log_is_corruption_and_no_new_store() -> None:
    world = World()
    with world.open() as store:
        store.record_started("job.a", 1)
    for name in world.names(".wal"):
        world.fs.unlink(f"/jobs/{name}")
    with pytest.raises(CorruptionError, match="log of the store is missing"), world.open():
        pass


def test_options_and_arguments_are_checked_before_anything_is_created() -> None:
    world = World()
    for arguments in ({"durability": "process"}, {"options": {"sync_interval_ns": 1}}):
        with pytest.raises(TypeError):
            WalPersistence("/jobs", environment=world.environment(), **arguments)
    assert world.fs.list_directory("/") == []


def test_a_leftover_that_is_removed_meanwhile_is_no_error() -> None:
    """A worker whose parent was killed removes its own temporary file, maybe while the next opening does so."""
    world = World()
    with world.open() as store:
        store.record_started("job.a", 1)
    world.fs.create("/jobs/spill-0000000000000001.tmp").close()
    world.fs.fail("unlink", errno.ENOENT, path_contains="spill")
    with world.open() as again:
        assert [str(job.id) for job in again.load_all()] == ["job.a"]
