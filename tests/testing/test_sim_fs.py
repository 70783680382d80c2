"""The simulated disk loses what a disk may lose, and nothing else."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import random
import sys
import threading
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from walstore.errors import UnsupportedPlatformError
from walstore.fs.api import File, FileSystem
from walstore.testing.sim_fs import Operation, SimCrash, SimFileSystem

SECTOR = 512
Tree = dict[str, bytes]


class Scripted(random.Random):
    """Takes the draws that it is told to, then the first possible ones, and notes how many there were to take from."""

    def __init__(self, plan: list[int]) -> None:
        super().__init__(0)
        self.plan = plan
        self.taken: list[tuple[int, int]] = []

    def draw(self, count: int) -> int:
        place = len(self.taken)
        taken = self.plan[place] if place < len(self.plan) else 0
        self.taken.append((taken, count))
        return taken

    def random(self) -> float:
        return (0.0, 0.999999)[self.draw(2)]

    def randrange(self, start: int, stop: int | None = None, step: int = 1) -> int:
        assert stop is None
        assert step == 1
        return self.draw(start)


def every_outcome(fs: SimFileSystem) -> Iterator[SimFileSystem]:
    plan: list[int] = []
    while True:
        choice = Scripted(plan)
        yield fs.power_loss(choice)
        while choice.taken and choice.taken[-1][0] + 1 == choice.taken[-1][1]:
            choice.taken.pop()
        if not choice.taken:
            return
        plan = [taken for taken, _ in choice.taken]
        plan[-1] += 1


def some_outcomes(fs: SimFileSystem, count: int = 200) -> Iterator[SimFileSystem]:
    for _ in range(count):
        yield fs.power_loss()


def content(fs: FileSystem, path: str) -> bytes:
    file = fs.open(path)
    data = file.read(0, file.size() + 1)
    file.close()
    return data


def tree(fs: FileSystem, directory: str = "/") -> Tree:
    return {name: content(fs, f"{directory}/{name}") for name in fs.list_directory(directory)}


def trees(outcomes: Iterator[SimFileSystem]) -> set[frozenset[tuple[str, bytes]]]:
    return {frozenset(tree(fs).items()) for fs in outcomes}


def frozen(*each: Tree) -> set[frozenset[tuple[str, bytes]]]:
    return {frozenset(one.items()) for one in each}


def durable_file(fs: FileSystem, path: str, data: bytes) -> File:
    file = new_file(fs, path, data)
    fs.sync_directory("/")
    return file


def new_file(fs: FileSystem, path: str, data: bytes) -> File:
    """Write a file whose bytes, but not whose name, are durable."""
    file = fs.create(path)
    file.write(0, data)
    file.sync()
    return file


# What a file keeps.


def test_synced_bytes_survive_every_power_loss() -> None:
    fs = SimFileSystem()
    durable_file(fs, "a", b"abc" * 1000)
    assert trees(some_outcomes(fs)) == frozen({"a": b"abc" * 1000})


def test_unsynced_sectors_survive_or_not_one_by_one() -> None:
    fs = SimFileSystem()
    file = durable_file(fs, "a", b"o" * 3 * SECTOR)
    file.write(0, b"n" * 3 * SECTOR)
    seen = set()
    for after in some_outcomes(fs, 600):
        data = content(after, "a")
        assert len(data) == 3 * SECTOR
        assert set(data) <= set(b"on")
        seen.add(tuple(data[at : at + SECTOR] for at in range(0, len(data), SECTOR)))
    whole = [b"o" * SECTOR, b"n" * SECTOR]
    assert set(itertools.product(whole, repeat=3)) <= seen
    assert any(sector not in whole for sectors in seen for sector in sectors), "no sector was ever torn"


def test_a_torn_sector_keeps_the_synced_bytes_that_nothing_wrote_over() -> None:
    fs = SimFileSystem()
    file = fs.create("a")
    file.allocate(SECTOR)
    file.write(0, b"s" * 100)
    file.sync()
    fs.sync_directory("/")
    file.write(100, b"n" * 200)
    rest = set()
    for after in some_outcomes(fs, 400):
        data = content(after, "a")
        assert data[:100] == b"s" * 100
        assert data[300:] == bytes(SECTOR - 300)
        rest.add(data[100:300])
    assert {bytes(200), b"n" * 200} < rest


def test_a_sector_may_show_what_it_held_between_two_syncs() -> None:
    fs = SimFileSystem()
    file = durable_file(fs, "a", b"o" * SECTOR)
    for letter in (b"m", b"n"):
        file.write(0, letter * SECTOR)
    seen = {content(after, "a") for after in some_outcomes(fs, 1000)}
    assert {b"o" * SECTOR, b"m" * SECTOR, b"n" * SECTOR} <= seen


def test_sectors_never_synced_may_come_back_as_zeros() -> None:
    fs = SimFileSystem()
    file = durable_file(fs, "a", b"")
    file.allocate(2 * SECTOR)
    appender = file.appender(0, 2 * SECTOR)
    for _ in range(4):
        appender.write(b"f" * (SECTOR // 2))
    seen = {content(after, "a") for after in some_outcomes(fs, 600)}
    zeros, frames = bytes(SECTOR), b"f" * SECTOR
    assert {b"", zeros + zeros, zeros + frames, frames + zeros, frames + frames} <= seen
    assert {len(data) for data in seen} == {0, 2 * SECTOR}


def test_zeros_come_back_only_where_nothing_was_synced() -> None:
    fs = SimFileSystem()
    file = fs.create("a")
    file.allocate(3 * SECTOR)
    file.write(0, b"s" * (SECTOR + 100))
    file.sync()
    fs.sync_directory("/")
    file.write(0, b"n" * 3 * SECTOR)
    seen = [content(after, "a") for after in some_outcomes(fs, 600)]
    assert all(0 not in data[: SECTOR + 100] for data in seen)
    # The second sector was synced in part, the third one not at all.
    assert {data[SECTOR:] for data in seen} > {
        first + second
        for first in (b"s" * 100 + bytes(SECTOR - 100), b"n" * SECTOR)
        for second in (bytes(SECTOR), b"n" * SECTOR)
    }


def test_a_large_file_may_lose_everything_or_nothing() -> None:
    fs = SimFileSystem()
    file = durable_file(fs, "a", b"o" * 100 * SECTOR)
    file.write(0, b"n" * 100 * SECTOR)
    seen = {content(after, "a") for after in some_outcomes(fs, 50)}
    assert {b"o" * 100 * SECTOR, b"n" * 100 * SECTOR} < seen


def test_a_length_that_was_not_synced_may_be_any_since() -> None:
    fs = SimFileSystem()
    file = durable_file(fs, "a", b"x" * 1000)
    file.truncate(100)
    file.allocate(5000)
    file.truncate(2000)
    assert {len(content(after, "a")) for after in some_outcomes(fs.clone())} == {1000, 100, 5000, 2000}
    assert file.read(0, 3000) == b"x" * 100 + bytes(1900)
    file.sync()
    assert trees(some_outcomes(fs, 50)) == frozen({"a": b"x" * 100 + bytes(1900)})


def test_a_truncation_that_did_not_happen_gives_the_bytes_back_or_zeros() -> None:
    fs = SimFileSystem()
    file = durable_file(fs, "a", b"x" * 1000)
    file.truncate(100)
    seen = {content(after, "a") for after in some_outcomes(fs)}
    assert {b"x" * 1000, b"x" * 100 + bytes(900), b"x" * 100} <= seen
    assert all(data[:100] == b"x" * 100 for data in seen)


FileStep = tuple[str, int, int]
file_steps = st.lists(
    st.tuples(
        st.sampled_from(["write", "append", "allocate", "truncate", "sync"]), st.integers(0, 2000), st.integers(1, 1500)
    ),
    max_size=12,
)


class NaiveFile:
    """Every byte may come back as anything it was since the last sync, every length likewise."""

    def __init__(self) -> None:
        self.live = b""
        self.lengths = {0}
        self.bytes: list[set[int]] = []

    def become(self, data: bytes) -> None:
        self.live = data
        self.lengths.add(len(data))
        self.bytes.extend({0} for _ in range(len(data) - len(self.bytes)))
        for place, possible in enumerate(self.bytes):
            possible.add(data[place] if place < len(data) else 0)

    def sync(self) -> None:
        self.lengths = {len(self.live)}
        self.bytes = [{byte} for byte in self.live]

    def allows(self, data: bytes) -> bool:
        return len(data) in self.lengths and all(
            byte in possible for byte, possible in zip(data, self.bytes, strict=False)
        )


def take_step(file: File, naive: NaiveFile, step: FileStep, fill: int) -> None:
    operation, offset, size = step
    data = bytes([fill]) * size
    length = len(naive.live)
    if operation == "sync":
        file.sync()
        naive.sync()
    elif operation == "write":
        file.write(offset, data)
        naive.become(naive.live.ljust(offset, b"\0")[:offset] + data + naive.live[offset + size :])
    elif operation == "append":
        file.allocate(length + size)
        naive.become(naive.live + bytes(size))
        appender = file.appender(length, length + size)
        appender.write(data[: size // 2])
        naive.become(naive.live[:length] + data[: size // 2] + bytes(size - size // 2))
        appender.write(data[size // 2 :])
        naive.become(naive.live[:length] + data)
        appender.seal()
    elif operation == "allocate":
        file.allocate(max(size, length))
        naive.become(naive.live.ljust(size, b"\0"))
    else:
        file.truncate(min(offset, length))
        naive.become(naive.live[:offset])


@given(file_steps, st.integers(0, 2**32))
def test_a_file_agrees_with_a_naive_one(steps: list[FileStep], seed: int) -> None:
    fs = SimFileSystem(seed)
    file = durable_file(fs, "a", b"")
    naive = NaiveFile()
    for fill, step in enumerate(steps, start=1):
        take_step(file, naive, step, fill)
        assert file.size() == len(naive.live)
        assert file.read(0, 20_000) == naive.live
    for after in some_outcomes(fs, 8):
        assert naive.allows(content(after, "a"))
    assert content(fs.process_crash(), "a") == naive.live


# What a directory keeps.


def test_a_creation_that_was_not_synced_may_be_gone_although_the_bytes_were_synced() -> None:
    fs = SimFileSystem()
    new_file(fs, "a", b"1")
    assert trees(every_outcome(fs)) == frozen({}, {"a": b"1"})
    fs = SimFileSystem()
    new_file(fs, "a", b"1")
    fs.sync_directory("/")
    assert trees(every_outcome(fs)) == frozen({"a": b"1"})


def test_a_rename_is_whole_or_not_at_all() -> None:
    fs = SimFileSystem()
    durable_file(fs, "a", b"old")
    durable_file(fs, "b", b"new")
    fs.rename("b", "a")
    assert tree(fs) == {"a": b"new"}
    assert trees(every_outcome(fs)) == frozen({"a": b"old", "b": b"new"}, {"a": b"new"})


def test_a_later_change_of_another_name_may_come_first() -> None:
    fs = SimFileSystem()
    durable_file(fs, "old", b"1")
    new_file(fs, "new", b"2")
    fs.unlink("old")
    assert {} in [tree(after) for after in every_outcome(fs)]
    fs = SimFileSystem()
    durable_file(fs, "old", b"1")
    new_file(fs, "new", b"2")
    fs.sync_directory("/")
    fs.unlink("old")
    assert trees(every_outcome(fs)) == frozen({"old": b"1", "new": b"2"}, {"new": b"2"})


def test_the_directory_itself_may_vanish_with_all_in_it() -> None:
    fs = SimFileSystem()
    fs.make_directory("d")
    new_file(fs, "d/a", b"1")
    fs.sync_directory("d")
    assert {tuple(after.list_directory("/")) for after in every_outcome(fs)} == {(), ("d",)}
    fs = SimFileSystem()
    fs.make_directory("d")
    fs.sync_directory("/")
    new_file(fs, "d/a", b"1")
    assert {tuple(after.list_directory("d")) for after in every_outcome(fs)} == {(), ("a",)}


names = st.sampled_from("abc")
changes = st.lists(
    st.one_of(
        st.tuples(st.just("create"), names, names),
        st.tuples(st.just("rename"), names, names),
        st.tuples(st.just("unlink"), names, names),
        st.tuples(st.just("sync"), names, names),
    ),
    max_size=6,
)


def apply_change(entries: Tree, change: tuple[str, str, str], data: bytes) -> None:
    operation, name, target = change
    if operation == "create":
        entries[name] = data
    elif operation == "unlink":
        del entries[name]
    else:
        entries[target] = entries.pop(name)


@given(changes)
def test_a_directory_shows_exactly_what_the_rule_allows(steps: list[tuple[str, str, str]]) -> None:
    fs = SimFileSystem()
    live: Tree = {"a": b"a", "b": b"b"}
    for name, data in live.items():
        durable_file(fs, name, data)
    durable = dict(live)
    pending: list[tuple[tuple[str, str, str], bytes]] = []
    for number, step in enumerate(steps):
        operation, name, target = step
        data = bytes([number])
        if operation == "sync":
            fs.sync_directory("/")
            durable, pending = dict(live), []
            continue
        if (operation == "create") == (name in live) or (operation == "rename" and name == target):
            continue
        if operation == "create":
            new_file(fs, name, data)
        elif operation == "rename":
            fs.rename(name, target)
        else:
            fs.unlink(name)
        apply_change(live, step, data)
        pending.append((step, data))
    assert tree(fs) == live

    def touched(number: int) -> set[str]:
        operation, name, target = pending[number][0]
        return {name, target} if operation == "rename" else {name}

    allowed = []
    for happened in itertools.product([False, True], repeat=len(pending)):
        broken = any(
            happened[later] and not happened[earlier] and touched(earlier) & touched(later)
            for earlier, later in itertools.combinations(range(len(pending)), 2)
        )
        if not broken:
            entries = dict(durable)
            for (change, data), did in zip(pending, happened, strict=True):
                if did:
                    apply_change(entries, change, data)
            allowed.append(entries)
    assert trees(every_outcome(fs)) == frozen(*allowed)


def test_what_survived_is_durable() -> None:
    fs = SimFileSystem()
    file = fs.create("a")
    file.write(0, b"x" * 2000)
    for after in some_outcomes(fs, 30):
        assert trees(some_outcomes(after.clone(), 5)) == frozen(tree(after))


# The end of a world.


def test_a_process_crash_loses_nothing_and_makes_nothing_durable() -> None:
    fs = SimFileSystem()
    durable_file(fs, "gone", b"0")
    fs.create("a").write(0, b"unsynced")
    fs.unlink("gone")
    boot_id = fs.boot_id()
    after = fs.process_crash()
    assert tree(after) == {"a": b"unsynced"}
    assert after.boot_id() == boot_id
    assert frozen({"gone": b"0"}, {"a": b"unsynced"}) < trees(some_outcomes(after))


def test_a_boot_id_lasts_until_the_power_goes() -> None:
    fs = SimFileSystem(3)
    boot_id = fs.boot_id()
    assert len(boot_id) == 16
    assert fs.boot_id() == boot_id
    assert len({boot_id, *(after.boot_id() for after in some_outcomes(fs, 5))}) == 6


@pytest.mark.parametrize("end", [SimFileSystem.power_loss, SimFileSystem.process_crash])
def test_nothing_works_in_a_world_that_ended(end: Callable[[SimFileSystem], SimFileSystem]) -> None:
    fs = SimFileSystem()
    file = durable_file(fs, "a", b"123")
    file.allocate(100)
    appender = file.appender(3, 100)
    lock = fs.lock("LOCK")
    assert lock is not None
    end(fs)
    calls: list[Callable[[], object]] = [
        lambda: appender.write(b"x"), appender.tell, appender.seal,
        file.size, lambda: file.read(0, 1), lambda: file.write(0, b"x"), lambda: file.allocate(200),
        lambda: file.truncate(0), file.sync, lambda: file.appender(0, 1),
        lock.read, lambda: lock.write(b"x"),
        lambda: fs.check("/"), fs.boot_id, lambda: fs.list_directory("/"), lambda: fs.make_directory("d"),
        lambda: fs.sync_directory("/"), lambda: fs.create("b"), lambda: fs.open("a"), lambda: fs.rename("a", "b"),
        lambda: fs.unlink("a"), lambda: fs.lock("LOCK"), lambda: fs.read_small("a"),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(SimCrash):
            call()
    file.close()
    lock.release()
    lock.abandon()


def run_all_counted(fs: SimFileSystem) -> None:
    lock = fs.lock("LOCK")
    assert lock is not None
    lock.write(b"me")
    fs.make_directory("d")
    fs.sync_directory("/")
    file = fs.create("d/a")
    file.allocate(100)
    appender = file.appender(0, 100)
    appender.write(b"frame")
    appender.seal()
    file.write(50, b"x")
    file.truncate(60)
    file.sync()
    fs.rename("d/a", "d/b")
    fs.unlink("d/b")


ALL_COUNTED: list[tuple[Operation, str]] = [
    ("lock", "/LOCK"), ("lock_write", "/LOCK"), ("make_directory", "/d"), ("sync_directory", "/"), ("create", "/d/a"),
    ("allocate", "/d/a"), ("append", "/d/a"), ("write", "/d/a"), ("truncate", "/d/a"), ("sync", "/d/a"),
    ("rename", "/d/a -> /d/b"), ("unlink", "/d/b"),
]  # fmt: skip


def test_all_calls_that_change_or_sync_are_counted() -> None:
    fs = SimFileSystem()
    run_all_counted(fs)
    assert fs.trace == ALL_COUNTED
    assert fs.calls == len(ALL_COUNTED)


@pytest.mark.parametrize("n", range(1, len(ALL_COUNTED) + 1))
def test_a_crash_comes_at_exactly_the_nth_call_before_it_takes_effect(n: int) -> None:
    fs = SimFileSystem()
    fs.crash_after(n)
    with pytest.raises(SimCrash, match=f"call {n}, {ALL_COUNTED[n - 1][0]}"):
        run_all_counted(fs)
    assert fs.trace == ALL_COUNTED[:n]
    with pytest.raises(SimCrash):
        fs.list_directory("/")
    after = fs.process_crash()
    assert after.list_directory("/") == ["LOCK", "d"][: (n > 1) + (n > 3)]
    if n > 5:
        expected = {6: b"", 7: bytes(100), 8: b"frame" + bytes(95), 9: b"frame" + bytes(45) + b"x" + bytes(49)}
        cut = b"frame" + bytes(45) + b"x" + bytes(9)
        assert tree(after, "d") == {"b" if n == 12 else "a": expected.get(n, cut)}


def test_a_crash_is_counted_from_now_and_no_handler_of_errors_takes_it() -> None:
    fs = SimFileSystem()
    fs.create("a")
    fs.crash_after(2)
    fs.create("b")
    with pytest.raises(SimCrash), contextlib.suppress(Exception):
        fs.create("c")
    with pytest.raises(ValueError, match="number 1"):
        fs.crash_after(0)


def test_a_clone_goes_its_own_way() -> None:
    fs = SimFileSystem()
    file = durable_file(fs, "a", b"old")
    file.write(0, b"new")
    twin = fs.clone()
    assert twin.boot_id() == fs.boot_id()
    twin.open("a", writable=True).sync()
    assert trees(some_outcomes(twin, 20)) == frozen({"a": b"new"})
    file.write(0, b"odd")
    assert content(fs, "a") == b"odd"
    assert frozen({"a": b"old"}, {"a": b"odd"}) <= trees(some_outcomes(fs))


def test_a_world_can_be_looked_at_before_each_of_its_calls() -> None:
    fs = SimFileSystem()
    steps: list[tuple[Operation, str]] = []

    def look(step: tuple[Operation, str]) -> None:
        assert fs.trace == steps
        steps.append(step)
        twin = fs.clone(random.Random(1))
        assert twin.calls == 0
        if step == ("unlink", "/d/b"):
            assert tree(twin, "d") == tree(fs, "d")
            assert set(tree(twin, "d")) == {"b"}

    fs.before_call = look
    run_all_counted(fs)
    assert steps == fs.trace == ALL_COUNTED


def test_what_is_written_while_a_sync_is_under_way_may_be_lost() -> None:
    fs = SimFileSystem()
    file = durable_file(fs, "a", b"")

    def write_late(step: tuple[Operation, str]) -> None:
        assert step == ("sync", "/a")
        fs.after_sync = None
        file.write(SECTOR, b"late")

    file.write(0, b"x" * SECTOR)
    fs.after_sync = write_late
    file.sync()
    seen = trees(some_outcomes(fs))
    assert frozen({"a": b"x" * SECTOR}, {"a": b"x" * SECTOR + b"late"}) <= seen
    assert all(dict(files)["a"].startswith(b"x" * SECTOR) for files in seen)


def test_a_look_with_a_choice_of_its_own_changes_nothing() -> None:
    def run(look: Callable[[SimFileSystem], object]) -> bytes:
        fs = SimFileSystem(1)
        file = fs.create("a")
        look(fs)
        fs.fail("write", errno.EIO)
        with pytest.raises(OSError, match="Input/output"):
            file.write(0, bytes(range(100)))
        return content(fs, "a")

    assert run(lambda fs: fs.clone(random.Random(1))) == run(lambda _: None)
    assert run(lambda fs: fs.clone()) != run(lambda _: None)
    first, second = (SimFileSystem(1).process_crash(random.Random(7)) for _ in range(2))
    assert trees(some_outcomes(first)) == trees(some_outcomes(second))


def test_the_same_seed_gives_the_same_world() -> None:
    def run(seed: int) -> list[Tree]:
        fs = SimFileSystem(seed)
        for name in "abc":
            fs.create(name).write(0, random.Random(name).randbytes(5000))
        return [tree(after) for after in (*some_outcomes(fs, 10), fs.power_loss(random.Random(7)))]

    assert run(1) == run(1)
    assert run(1)[:-1] != run(2)[:-1]
    assert run(1)[-1] == run(2)[-1]


# Faults.


def test_the_nth_matching_call_fails_as_often_as_ordered() -> None:
    fs = SimFileSystem()
    a, b = fs.create("a"), fs.create("b")
    fs.fail("sync", errno.EIO, nth=2, times=2, path_contains="a")
    for file, fails in [(a, False), (b, False), (a, True), (b, False), (a, True), (a, False)]:
        if fails:
            with pytest.raises(OSError, match="/a") as caught:
                file.sync()
            assert caught.value.errno == errno.EIO
        else:
            file.sync()


def test_every_operation_can_fail_and_then_has_no_effect() -> None:
    fs = SimFileSystem()
    file = durable_file(fs, "a", b"123")
    file.allocate(100)
    appender = file.appender(3, 100)
    lock = fs.lock("LOCK")
    assert lock is not None
    calls: dict[Operation, Callable[[], object]] = {
        "allocate": lambda: file.allocate(200),
        "append": lambda: appender.write(b"x"),
        "create": lambda: fs.create("b"),
        "list_directory": lambda: fs.list_directory("/"),
        "lock": lambda: fs.lock("other"),
        "lock_read": lock.read,
        "lock_write": lambda: lock.write(b"x"),
        "make_directory": lambda: fs.make_directory("d"),
        "open": lambda: fs.open("a"),
        "read": lambda: file.read(0, 1),
        "read_small": lambda: fs.read_small("a"),
        "rename": lambda: fs.rename("a", "b"),
        "size": file.size,
        "sync": file.sync,
        "sync_directory": lambda: fs.sync_directory("/"),
        "truncate": lambda: file.truncate(100),
        "unlink": lambda: fs.unlink("a"),
    }
    before = tree(fs)
    for operation, call in calls.items():
        fs.fail(operation, errno.EIO)
        with pytest.raises(OSError, match="Input/output"):
            call()
    assert tree(fs) == before
    assert appender.tell() == 3


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EINTR], ids=errno.errorcode.get)
def test_a_failed_write_leaves_any_part_of_its_data(code: int) -> None:
    parts = set()
    for seed in range(40):
        fs = SimFileSystem(seed)
        file = fs.create("a")
        fs.fail("write", code)
        with pytest.raises(OSError, match=os.strerror(code)) as caught:
            file.write(0, b"data")
        assert caught.value.errno == code
        parts.add(content(fs, "a"))
    assert parts == {b"data"[:size] for size in range(5)}


def test_faults_that_have_not_happened_can_be_forgotten() -> None:
    fs = SimFileSystem()
    assert not fs.heal()
    fs.fail("create", errno.EIO)
    assert fs.heal()
    fs.create("a")
    assert not fs.heal()


def test_a_failed_sync_that_lies_loses_bytes_that_reads_still_show() -> None:
    fs = SimFileSystem()
    file = durable_file(fs, "a", b"o" * 2 * SECTOR)
    file.write(0, b"n" * 2 * SECTOR)
    fs.fail("sync", errno.EIO, lost=True)
    with pytest.raises(OSError, match="Input/output"):
        file.sync()
    file.sync()
    assert content(fs, "a") == b"n" * 2 * SECTOR
    assert tree(fs.clone().process_crash()) == {"a": b"n" * 2 * SECTOR}
    assert trees(some_outcomes(fs.clone(), 50)) == frozen({"a": b"o" * 2 * SECTOR})
    # Writing to a sector again makes it dirty again, all of it.
    file.write(0, b"x")
    file.sync()
    assert trees(some_outcomes(fs, 50)) == frozen({"a": b"x" + b"n" * (SECTOR - 1) + b"o" * SECTOR})


def test_a_failed_sync_that_does_not_lie_may_be_repeated() -> None:
    fs = SimFileSystem()
    file = durable_file(fs, "a", b"old")
    file.write(0, b"new")
    fs.fail("sync", errno.EIO)
    with pytest.raises(OSError, match="Input/output"):
        file.sync()
    assert frozen({"a": b"old"}, {"a": b"new"}) <= trees(some_outcomes(fs.clone(), 50))
    file.sync()
    assert trees(some_outcomes(fs, 50)) == frozen({"a": b"new"})


def test_a_truncated_file_does_not_remember_what_a_sync_lost_in_it() -> None:
    fs = SimFileSystem()
    file = durable_file(fs, "a", b"o" * 2 * SECTOR)
    file.write(0, bytes(2 * SECTOR))
    fs.fail("sync", errno.EIO, lost=True)
    with pytest.raises(OSError, match="Input/output"):
        file.sync()
    file.truncate(100)
    file.sync()
    file.allocate(2 * SECTOR)
    file.sync()
    assert trees(some_outcomes(fs, 20)) == frozen({"a": bytes(2 * SECTOR)})


def test_a_truncation_that_a_lying_sync_covered_counts_once_its_length_is_synced() -> None:
    fs = SimFileSystem()
    file = durable_file(fs, "a", b"o" * 2 * SECTOR)
    file.truncate(SECTOR)
    fs.fail("sync", errno.EIO, lost=True)
    with pytest.raises(OSError, match="Input/output"):
        file.sync()
    file.sync()
    file.allocate(2 * SECTOR)
    file.sync()
    assert trees(some_outcomes(fs, 20)) == frozen({"a": b"o" * SECTOR + bytes(SECTOR)})


def test_faults_that_could_never_fire_are_refused() -> None:
    fs = SimFileSystem()
    with pytest.raises(ValueError, match="no such operation"):
        fs.fail("fsync", errno.EIO)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="count from 1"):
        fs.fail("sync", errno.EIO, nth=0)
    with pytest.raises(ValueError, match="count from 1"):
        fs.fail("sync", errno.EIO, times=0)
    with pytest.raises(ValueError, match="only a sync"):
        fs.fail("write", errno.EIO, lost=True)


def test_a_full_disk_takes_what_fits() -> None:
    fs = SimFileSystem()
    fs.capacity_bytes = 1000
    file = fs.create("a")
    file.allocate(600)
    other = fs.create("b")
    too_much_for_it: list[Callable[[], object]] = [lambda: other.allocate(401), lambda: other.write(0, b"x" * 401)]
    for too_much in too_much_for_it:
        with pytest.raises(OSError, match="No space") as caught:
            too_much()
        assert caught.value.errno == errno.ENOSPC
    assert content(fs, "b") == b"x" * 400
    calls: list[Callable[[], object]] = [
        lambda: fs.create("c"),
        lambda: fs.make_directory("d"),
        lambda: other.write(5000, b"x"),
    ]
    for call in calls:
        with pytest.raises(OSError, match="No space"):
            call()
    file.write(0, b"y" * 600)
    file.appender(0, 600).write(b"z" * 600)
    assert sorted(tree(fs)) == ["a", "b"]
    fs.unlink("b")
    file.allocate(1000)
    assert fs.process_crash().capacity_bytes == 1000


# Errors and handles as the operating system has them.


def test_errors_are_those_of_the_operating_system() -> None:
    fs = SimFileSystem()
    fs.make_directory("d")
    fs.create("a")
    calls: list[tuple[Callable[[], object], type[OSError], int]] = [
        (lambda: fs.open("none"), FileNotFoundError, errno.ENOENT),
        (lambda: fs.open("none/a"), FileNotFoundError, errno.ENOENT),
        (lambda: fs.open("a/b"), NotADirectoryError, errno.ENOTDIR),
        (lambda: fs.open("d"), IsADirectoryError, errno.EISDIR),
        (lambda: fs.create("a"), FileExistsError, errno.EEXIST),
        (lambda: fs.create("none/a"), FileNotFoundError, errno.ENOENT),
        (lambda: fs.make_directory("d"), FileExistsError, errno.EEXIST),
        (lambda: fs.make_directory("/"), FileExistsError, errno.EEXIST),
        (lambda: fs.list_directory("none"), FileNotFoundError, errno.ENOENT),
        (lambda: fs.list_directory("a"), NotADirectoryError, errno.ENOTDIR),
        (lambda: fs.sync_directory("none"), FileNotFoundError, errno.ENOENT),
        (lambda: fs.sync_directory("a"), NotADirectoryError, errno.ENOTDIR),
        (lambda: fs.rename("none", "a"), FileNotFoundError, errno.ENOENT),
        (lambda: fs.rename("a", "d"), IsADirectoryError, errno.EISDIR),
        (lambda: fs.unlink("none"), FileNotFoundError, errno.ENOENT),
        (lambda: fs.unlink("d"), IsADirectoryError, errno.EISDIR),
        (lambda: fs.read_small("none"), FileNotFoundError, errno.ENOENT),
        (lambda: fs.lock("none/LOCK"), FileNotFoundError, errno.ENOENT),
    ]
    for call, kind, code in calls:
        with pytest.raises(kind) as caught:
            call()
        assert caught.value.errno == code
    assert sorted(fs.list_directory("/")) == ["a", "d"]
    with pytest.raises(ValueError, match="within its directory"):
        fs.rename("a", "d/a")


def test_a_closed_or_read_only_file_refuses_as_the_kernel_does() -> None:
    fs = SimFileSystem()
    new_file(fs, "a", b"123")
    reader = fs.open("a")
    calls: list[tuple[Callable[[], object], int]] = [
        (lambda: reader.write(0, b"x"), errno.EBADF),
        (lambda: reader.allocate(10), errno.EBADF),
        (lambda: reader.truncate(0), errno.EINVAL),
        (lambda: reader.appender(0, 1), errno.EACCES),
        (lambda: reader.read(-1, 1), errno.EINVAL),
    ]
    for call, code in calls:
        with pytest.raises(OSError, match="/a") as caught:
            call()
        assert caught.value.errno == code
    reader.sync()
    reader.close()
    reader.close()
    after_close: list[Callable[[], object]] = [reader.size, reader.sync, lambda: reader.read(0, 1)]
    for call in after_close:
        with pytest.raises(OSError, match="/a") as caught:
            call()
        assert caught.value.errno == errno.EBADF


def test_a_file_renamed_to_its_own_name_stays() -> None:
    fs = SimFileSystem()
    durable_file(fs, "a", b"1")
    fs.rename("a", "./a")
    assert tree(fs) == {"a": b"1"}
    assert trees(every_outcome(fs)) == frozen({"a": b"1"})


def test_paths_with_and_without_a_slash_are_the_same() -> None:
    fs = SimFileSystem()
    fs.make_directory("/d/")
    new_file(fs, "d/./a", b"1")
    assert content(fs, "//d/a") == b"1"
    assert fs.list_directory("/d") == ["a"]


def test_a_file_outlives_its_name() -> None:
    fs = SimFileSystem()
    file = new_file(fs, "a", b"1")
    new_file(fs, "b", b"2")
    fs.rename("b", "a")
    file.write(0, b"3")
    assert file.read(0, 10) == b"3"
    assert tree(fs) == {"a": b"2"}


def test_reads_end_where_the_file_ends() -> None:
    fs = SimFileSystem()
    file = new_file(fs, "a", b"x" * 5000)
    assert file.read(4990, 100) == b"x" * 10
    assert file.read(6000, 1) == b""
    assert fs.read_small("a") == b"x" * 4096


def test_an_appender_appends_until_it_is_full_or_sealed() -> None:
    fs = SimFileSystem()
    file = fs.create("a")
    file.allocate(20)
    appender = file.appender(5, 15)
    appender.write(b"1234")
    assert appender.tell() == 9
    with pytest.raises(ValueError, match="do not fit"):
        appender.write(b"1234567")
    appender.write(b"56")
    assert file.read(0, 20) == bytes(5) + b"123456" + bytes(9)
    assert appender.seal() == 11
    assert appender.tell() == 15
    for data in (b"7", b""):
        with pytest.raises(ValueError, match="sealed"):
            appender.write(data)
    assert appender.seal() == 11
    file.truncate(11)
    assert content(fs, "a") == bytes(5) + b"123456"


def test_an_appender_needs_allocated_bytes_and_an_open_file() -> None:
    fs = SimFileSystem()
    file = fs.create("a")
    with pytest.raises(ValueError, match="allocate first"):
        file.appender(0, 1)
    file.allocate(10)
    appender = file.appender(0, 10)
    with pytest.raises(ValueError, match=r"call seal\(\) first"):
        file.truncate(9)
    file.close()
    calls: list[Callable[[], object]] = [lambda: appender.write(b"x"), appender.tell, appender.seal]
    for call in calls:
        with pytest.raises(ValueError, match="closed"):
            call()


def test_a_lock_is_exclusive_until_released_or_its_world_ends() -> None:
    fs = SimFileSystem()
    lock = fs.lock("LOCK")
    assert lock is not None
    lock.write(b"a long name")
    lock.write(b"me")
    assert fs.lock("LOCK") is None
    assert lock.read() == fs.read_small("LOCK") == b"me"
    lock.release()
    lock.release()
    with pytest.raises(OSError, match="LOCK"):
        lock.write(b"x")
    second = fs.lock("LOCK")
    assert second is not None
    second.abandon()
    second.release()
    assert fs.lock("LOCK") is None
    after = fs.process_crash()
    third = after.lock("LOCK")
    assert third is not None
    assert after.lock("LOCK") is None
    after.sync_directory("/")
    assert after.power_loss().lock("LOCK") is not None


def test_what_was_never_closed_is_told() -> None:
    fs = SimFileSystem()
    files = [fs.create("b"), fs.open("b")]
    locks = [fs.lock("LOCK"), fs.lock("OTHER")]
    assert fs.lock("LOCK") is None
    assert fs.open_paths == ["/LOCK", "/OTHER", "/b", "/b"]
    with pytest.raises(FileExistsError):
        fs.create("b")
    for file in (*files, *files):
        file.close()
    for lock in locks:
        assert lock is not None
    fs.clone().open("b")
    assert fs.open_paths == ["/LOCK", "/OTHER"]
    locks[0].release()  # type: ignore[union-attr]  # Looked at above.
    locks[1].abandon()  # type: ignore[union-attr]
    assert fs.open_paths == []


def test_check_refuses_only_when_told_to() -> None:
    fs = SimFileSystem()
    fs.check("nowhere")
    fs.unsupported = "no flock here"
    with pytest.raises(UnsupportedPlatformError, match="no flock here"):
        fs.check("nowhere")
    assert fs.process_crash().unsupported == "no flock here"


def test_threads_append_without_losing_or_mixing_frames() -> None:
    fs = SimFileSystem()
    file = fs.create("a")
    file.allocate(4 * 500 * 8)
    appender = file.appender(0, 4 * 500 * 8)

    def append(letter: bytes) -> None:
        for _ in range(500):
            appender.write(letter * 8)

    threads = [threading.Thread(target=append, args=(letter,)) for letter in (b"a", b"b", b"c", b"d")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    data = file.read(0, file.size())
    frames = [data[at : at + 8] for at in range(0, len(data), 8)]
    assert {frame: frames.count(frame) for frame in set(frames)} == {
        letter * 8: 500 for letter in (b"a", b"b", b"c", b"d")
    }


def test_an_append_that_another_of_its_own_thread_interrupts_is_still_one_step() -> None:
    def append(moment: int) -> tuple[int, bytes]:
        """Append "out", and "in" at the ``moment``-th call or return within; return how many there were."""
        fs = SimFileSystem()
        file = fs.create("a")
        file.allocate(5)
        appender = file.appender(0, 5)
        events = 0

        def interrupt(*_: object) -> None:
            nonlocal events
            events += 1
            if events == moment:
                appender.write(b"in")

        sys.setprofile(interrupt)
        appender.write(b"out")
        sys.setprofile(None)
        return events, file.read(0, 5)

    events, _ = append(0)
    results = {append(moment)[1] for moment in range(1, events)}
    assert results == {b"inout", b"outin"}
