"""Salvage of a store that is damaged anywhere: every frame that is intact comes out, and every other one is named."""

from __future__ import annotations

import errno
import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from fuzz.damage import node_of
from fuzz.stores import STORES
from tests.crash.salvaging import Layout, check_salvage
from tests.crash.worlds import DIRECTORY, World, contents, crash_seeds, jobs_of
from walstore.engine.recovery import Situation
from walstore.engine.salvage import Salvaged, gather, salvage
from walstore.errors import CorruptionError, StorageError, StoreLockedError, StoreNotFoundError
from walstore.format.filenames import parse_segment, parse_snapshot, segment_name
from walstore.format.layout import HEADER_BYTES
from walstore.model.records import JobState
from walstore.options import Durability
from walstore.testing.model import NOW_NS, Jobs
from walstore.testing.sim_fs import Operation, SimCrash, SimFileSystem
from walstore.wal import JOBS, WalPersistence

pytestmark = pytest.mark.mutation

_SECTOR_BYTES = 512


def flip_bits(world: World) -> Iterator[None]:
    for name, content in contents(world.fs).items():
        data = node_of(world, name).data
        for position in range(len(content)):
            # In the header and the first frame all eight, then one in every other byte: the fuzzer flips the others.
            for bit in range(8) if position < 160 else (position // 2 % 8,) if position % 2 else ():
                data[position] ^= 1 << bit
                yield
                data[position] ^= 1 << bit


def cut_everywhere(world: World) -> Iterator[None]:
    for name, content in contents(world.fs).items():
        node = node_of(world, name)
        for length in range(len(content)):
            node.data = bytearray(content[:length])
            yield
        node.data = bytearray(content)


def zero_each_sector(world: World) -> Iterator[None]:
    for name, content in contents(world.fs).items():
        node = node_of(world, name)
        for size in (_SECTOR_BYTES, 64):
            for start in range(0, len(content), size):
                node.data[start : start + size] = bytes(len(node.data[start : start + size]))
                yield
                node.data = bytearray(content)


def delete_each(world: World) -> Iterator[None]:
    entries = world.fs._directory(DIRECTORY).entries
    for name in list(entries):
        node = entries.pop(name)
        yield
        entries[name] = node


@pytest.mark.parametrize("name", STORES)
@pytest.mark.parametrize("damage", [flip_bits, cut_everywhere, zero_each_sector, delete_each])
def test_what_is_intact_comes_out_and_what_is_not_is_named(
    damage: Callable[[World], Iterator[None]], name: str
) -> None:
    original = STORES[name](Durability.PROCESS, 1)
    twin = original.fork(original.fs.clone())
    layout = Layout(contents(twin.fs))
    whole = check_salvage(twin, layout)
    assert whole is not None
    assert whole.gaps == []
    named = 0
    for _ in damage(twin):
        found = check_salvage(twin, layout)
        named += found is not None and found.is_damaged
    assert named
    assert contents(twin.fs) == contents(original.fs)


NEW = "/data/new"


def make(world: World, fs: SimFileSystem) -> Salvaged[JobState]:
    """Salvage the store of a world on a copy of its file system."""
    return salvage(world.fork(fs).environment(), DIRECTORY, NEW, JOBS, 1024)


def closed() -> World:
    return STORES["closed"](Durability.PROCESS, 1)


def damaged() -> tuple[World, Jobs]:
    """Return a world whose store is refused, and the jobs that verify in it."""
    original = closed()
    twin = original.fork(original.fs.clone())
    name = max(name for name in contents(twin.fs) if parse_segment(name))
    node_of(twin, name).data[HEADER_BYTES + 20] ^= 1
    return twin, Layout(contents(original.fs)).expected(contents(twin.fs)).jobs


def open_new(world: World, fs: SimFileSystem, *, read_only: bool = False) -> WalPersistence:
    return WalPersistence(NEW, read_only=read_only, options=world.options, environment=world.fork(fs).environment())


def names_of_new(fs: SimFileSystem) -> list[str]:
    return fs.list_directory(NEW) if "new" in fs.list_directory("/data") else []


def test_the_new_store_works() -> None:
    world, jobs = damaged()
    fs = world.fs.clone()
    make(world, fs)
    assert "UNFINISHED" not in names_of_new(fs)
    with open_new(world, fs) as store:
        assert store.recovery.situation is Situation.CLEAN
        assert jobs_of(store) == jobs
        store.record_started("after.salvage", 1)
    with open_new(world, fs) as store:
        assert set(jobs_of(store)) == {*jobs, "after.salvage"}
        store.flush_checkpoint(compact=True)
    assert set(jobs_of(open_new(world, fs, read_only=True))) == {*jobs, "after.salvage"}
    # It may be damaged and salvaged as any other, and a salvaged copy of a whole store has no gap.
    again = salvage(world.fork(fs).environment(), NEW, "/data/again", JOBS, 1024)
    assert again.gaps == []
    assert set(again.states) == {*jobs, "after.salvage"}


def crash_points() -> range:
    world, _ = damaged()
    fs = world.fs.clone()
    before = fs.calls
    make(world, fs)
    return range(1, fs.calls - before + 1)


def check_outcome(world: World, fs: SimFileSystem, jobs: Jobs) -> str:
    """Say what a new store is after a crash: absent, refused or complete, to a reader and to a writer alike."""
    if not names_of_new(fs):
        return "absent"
    found = []
    for read_only in (True, False):
        try:
            with open_new(world, fs, read_only=read_only) as store:
                assert jobs_of(store) == jobs
            found.append("complete")
        except (StoreNotFoundError, CorruptionError):
            found.append("refused")
    assert found[0] == found[1]
    return found[0]


def test_a_crash_leaves_no_store_or_a_whole_one() -> None:
    world, jobs = damaged()
    source = contents(world.fs)
    outcomes: Counter[str] = Counter()
    for call in crash_points():
        for seed in crash_seeds(12):
            fs = world.fs.clone()
            fs.crash_after(call)
            with pytest.raises(SimCrash):
                make(world, fs)
            after = fs.power_loss(random.Random(f"{call} {seed}")) if seed else fs.process_crash()
            outcomes[check_outcome(world, after, jobs)] += 1
            assert contents(world.fork(after).fs) == source
    assert set(outcomes) == {"absent", "refused", "complete"}


def test_what_was_reported_made_survives_a_power_loss() -> None:
    world, jobs = damaged()
    for seed in crash_seeds(20):
        fs = world.fs.clone()
        make(world, fs)
        assert check_outcome(world, fs.power_loss(random.Random(seed)), jobs) == "complete"


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize(
    "operation",
    [
        "allocate",
        "append",
        "create",
        "lock",
        "lock_write",
        "make_directory",
        "rename",
        "sync",
        "sync_directory",
        "write",
    ],
)
def test_an_error_leaves_nothing_but_the_directory(operation: Operation, error: int) -> None:
    world, jobs = damaged()
    for nth in range(1, 20):
        fs = world.fs.clone()
        fs.fail(operation, error, nth=nth)
        with suppress(StorageError):
            make(world, fs)
            # There are fewer such calls.
            assert nth > 1 or operation == "append"
            return
        assert names_of_new(fs) == []
        make(world, fs)
        with open_new(world, fs) as store:
            assert jobs_of(store) == jobs


def test_what_the_device_can_not_read_is_a_gap() -> None:
    world, _ = damaged()
    whole = gather(world.fs, DIRECTORY, JOBS)
    for name in contents(world.fs):
        if name == "LOCK":
            continue
        for times in (1, 2):
            fs = world.fs.clone()
            # Once, and reading by sectors succeeds; twice, and a sector is lost too. The header is read before.
            fs.fail("read", errno.EIO, nth=2, path_contains=name, times=times)
            found = gather(fs, DIRECTORY, JOBS)
            unread = [gap for gap in found.gaps if gap.path.endswith(name) and "the device" in gap.what]
            assert bool(unread) == (times == 2)
            if times == 1:
                assert found == whole
            assert all(gap.is_damage for gap in unread)


def test_a_header_that_the_device_can_not_read_takes_the_file() -> None:
    world, _ = damaged()
    (snapshot,) = (name for name in contents(world.fs) if parse_snapshot(name) is not None)
    world.fs.fail("read", errno.EIO, path_contains=snapshot)
    found = gather(world.fs, DIRECTORY, JOBS)
    (gap,) = (gap for gap in found.gaps if gap.loses == "records")
    assert (gap.path, gap.offset, gap.what) == (f"{DIRECTORY}/{snapshot}", 0, "the device can't read it")


def test_a_store_in_use_is_left_alone() -> None:
    world = closed()
    twin = world.fork(world.fs.clone())
    twin.open()
    with pytest.raises(StoreLockedError, match="open for writing in process 1 on sim"):
        make(twin, twin.fs)
    assert names_of_new(twin.fs) == []
    twin.close()
    make(twin, twin.fs)


def test_nobody_can_open_the_store_for_writing_meanwhile() -> None:
    world, _ = damaged()
    seen = []

    def progress(_: str) -> None:
        with pytest.raises(StoreLockedError):
            world.open()
        seen.append(True)

    gather(world.fs, DIRECTORY, JOBS, progress)
    assert seen


@pytest.mark.parametrize("target", [DIRECTORY, f"{DIRECTORY}/new"])
def test_the_new_store_is_not_made_within_the_damaged_one(target: str) -> None:
    world, _ = damaged()
    before = contents(world.fs)
    with pytest.raises(StorageError, match=f"^{target} lies in {DIRECTORY}, which must not be changed: give another"):
        salvage(world.environment(), DIRECTORY, target, JOBS, 1024)
    assert contents(world.fs) == before


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("notes", "is not empty: give the path of a directory that does not exist yet"),
        (
            "UNFINISHED",
            "holds what was never finished: remove it, and nothing is lost, since it was made from another store",
        ),
    ],
)
def test_a_directory_that_is_not_empty_is_refused_and_left_alone(name: str, what: str) -> None:
    world, _ = damaged()
    fs = world.fs.clone()
    fs.make_directory(NEW)
    fs.create(f"{NEW}/{name}").close()
    with pytest.raises(StorageError, match=f"^{NEW} {what}$") as caught:
        make(world, fs)
    assert caught.value.errno == errno.ENOTEMPTY
    assert fs.list_directory(NEW) == [name]


def test_where_nothing_verifies_there_is_an_error_and_no_new_store() -> None:
    original = closed()
    world = original.fork(original.fs.clone())
    for name in contents(world.fs):
        if name != "LOCK":
            node_of(world, name).data[0] ^= 1
    with pytest.raises(CorruptionError, match="not one record or event"):
        make(world, world.fs)
    assert "new" not in world.fs.list_directory("/data")


def test_zeros_at_the_end_are_a_gap_where_another_segment_followed() -> None:
    original = closed()
    world = original.fork(original.fs.clone())
    *_, before, last = sorted(name for name in contents(world.fs) if parse_segment(name))
    world.fs.unlink(f"{DIRECTORY}/{last}")
    data = node_of(world, before).data
    data[-16:] = bytes(16)
    gaps = gather(world.fs, DIRECTORY, JOBS).gaps
    assert any(gap.offset is not None and gap.length and gap.offset + gap.length == len(data) for gap in gaps)


def test_where_no_file_is_left_there_is_an_error() -> None:
    original = closed()
    world = original.fork(original.fs.clone())
    for name in set(contents(world.fs)) - {"LOCK"}:
        world.fs.unlink(f"{DIRECTORY}/{name}")
    with pytest.raises(CorruptionError, match="not one record or event"):
        gather(world.fs, DIRECTORY, JOBS)
    world.fs._file(f"{DIRECTORY}/LOCK").data.clear()
    with pytest.raises(StoreNotFoundError, match="never finished"):
        gather(world.fs, DIRECTORY, JOBS)


def test_files_of_another_store_are_left_out() -> None:
    original, other = closed(), World(7)
    other.recover()
    assert other.store is not None
    other.store.record_started("another.store", 1)
    other.close()
    world = original.fork(original.fs.clone())
    (foreign,) = (data for name, data in contents(other.fs).items() if parse_segment(name))
    last = max(name for name in contents(world.fs) if parse_segment(name))
    node_of(world, last).data = bytearray(foreign)
    found = gather(world.fs, DIRECTORY, JOBS)
    assert "another.store" not in found.states
    assert found.states
    assert [gap.what for gap in found.gaps if gap.path.endswith(last)] == ["the file belongs to another store"]


def test_a_file_under_another_name_still_counts() -> None:
    original = closed()
    world = original.fork(original.fs.clone())
    whole = gather(world.fs, DIRECTORY, JOBS)
    last = max(name for name in contents(world.fs) if parse_segment(name))
    world.fs.rename(f"{DIRECTORY}/{last}", f"{DIRECTORY}/{segment_name(1 << 40, 9)}")
    found = gather(world.fs, DIRECTORY, JOBS)
    assert found.states == whole.states
    (gap,) = found.gaps
    assert (gap.loses, gap.is_damage) == ("nothing", True)


def test_an_older_snapshot_helps_out_where_it_is_still_there() -> None:
    """As a crash leaves it between the naming of a snapshot and the removal of what that covers."""
    world = World(3)
    store = world.recover(Durability.PROCESS)
    for number in range(6):
        store.record_started(f"job.n{number}", NOW_NS + number)
    store.flush_checkpoint(compact=True)
    store.record_started("job.n0", NOW_NS + 10)
    store.cancel("job.n1")
    world.fs.fail("unlink", errno.EIO)
    with pytest.raises(StorageError):
        store.flush_checkpoint(compact=True)
    store.record_started("job.n2", NOW_NS + 20)
    world.close()
    jobs = gather(world.fs, DIRECTORY, JOBS).states
    older, newest = sorted(name for name in contents(world.fs) if parse_snapshot(name) is not None)
    assert older != newest
    node_of(world, newest).data[HEADER_BYTES + 30] ^= 1
    found = gather(world.fs, DIRECTORY, JOBS)
    assert found.states == jobs
    assert [gap.path for gap in found.gaps] == [f"{DIRECTORY}/{newest}"]
