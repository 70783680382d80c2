"""A crash at every call to the file system: what was acknowledged is there afterwards, and nothing that never was."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.crash.worlds import DIRECTORY, LEVELS, OPTIONS, SCRIPT, World, contents, crash_seeds, jobs_of
from walstore.engine.recovery import RecoveryReport, Situation
from walstore.format.filenames import parse_segment
from walstore.format.layout import HEADER_BYTES
from walstore.model.events import Started
from walstore.options import Durability
from walstore.testing.sim_fs import SimFileSystem

each_level = pytest.mark.parametrize("level", LEVELS, ids=lambda level: level.value)


def count_calls(work: Callable[[World], object], world: World) -> int:
    """Return how many calls that change something ``work`` makes on a world, which is used up."""
    before = world.fs.calls
    work(world)
    world.drop()
    return world.fs.calls - before


def run_script(level: Durability) -> Callable[[World], object]:
    return lambda world: world.run(SCRIPT[level])


def crashed(seed: int, level: Durability, call: int) -> World:
    """Return the world that ended at the n-th call of the scripted workload."""
    world = World(seed)
    world.fs.crash_after(call)
    assert world.crashes(lambda: world.run(SCRIPT[level]))
    return world


def check_kept(before: dict[str, bytes], after: dict[str, bytes], report: RecoveryReport) -> None:
    """Check that the bytes which a recovery cut off are kept as they were, where there is one line of segments only."""
    if report.kept_at is None:
        return
    name = report.kept_at.removeprefix(f"{DIRECTORY}/")
    kept = after[name]
    assert len(kept) == report.torn_bytes
    segments = sorted((parsed, data) for file, data in before.items() if (parsed := parse_segment(file)))
    if len({parsed.epoch for parsed, _ in segments}) > 1:
        return
    start_lsn = int(name.split("-")[1], 16)
    expected = b""
    ends = [parsed.base_lsn for parsed, _ in segments[1:]]
    for (parsed, data), end_lsn in zip(segments, [*ends, segments[-1][0].base_lsn + len(segments[-1][1])], strict=True):
        if end_lsn > start_lsn:
            start = max(start_lsn - parsed.base_lsn, HEADER_BYTES)
            expected += data[start : end_lsn - parsed.base_lsn].rstrip(b"\0")
    assert kept == expected


def check_goes_on(world: World, level: Durability) -> None:
    """Check that a store which was just recovered records, syncs, closes and opens again."""
    store = world.store
    assert store is not None
    unit = (Started("after.crash", 1),)
    world.history.attempt(unit)
    store.record_started("after.crash", 1)
    store.sync()
    world.history.acknowledge(power=True)
    assert jobs_of(store) == world.history.states[-1]
    world.close()
    store = world.recover(level)
    assert store.recovery.situation is Situation.CLEAN
    assert store.recovery.torn_bytes == 0
    world.drop()


def check_recovery(world: World, level: Durability) -> RecoveryReport:
    """Recover a world after a crash; check what was found, that a reader sees the same, and that the store goes on."""
    before = contents(world.fs) if _is_there(world.fs) else {}
    exists = any(parse_segment(name) for name in before)
    if exists:
        calls = world.fs.calls
        reader = world.read()
        seen = jobs_of(reader)
        assert world.fs.calls == calls
    store = world.recover(level)
    report = store.recovery
    assert (report.situation is Situation.CREATED) == (not exists)
    if exists:
        assert jobs_of(store) == seen
        assert reader.recovery.situation is report.situation
        assert reader.recovery.torn_bytes == report.torn_bytes
        assert reader.recovery.events_replayed == report.events_replayed
        reader.close()
    check_kept(before, contents(world.fs), report)
    check_goes_on(world, level)
    return report


def _is_there(fs: SimFileSystem) -> bool:
    return "store" in fs.list_directory("/data")


@each_level
def test_crash_at_every_call(level: Durability) -> None:
    situations: Counter[tuple[str, Situation]] = Counter()
    for seed in crash_seeds(1):
        for call in range(1, count_calls(run_script(level), World(seed)) + 1):
            world = crashed(seed, level, call)
            report = check_recovery(world.after_process_crash(), level)
            situations["process", report.situation] += 1
            # The frames of a process that died are whole, and the kernel lost none.
            assert report.situation is not Situation.TORN
            for choice in range(4):
                after = world.after_power_loss(1000 * call + choice)
                situations["power", check_recovery(after, level).situation] += 1
    for kind in ("process", "power"):
        for situation in (Situation.CREATED, Situation.CLEAN, Situation.UNCLEAN):
            assert situations[kind, situation], situations
    assert situations["power", Situation.TORN], situations


def recover_only(level: Durability) -> Callable[[World], object]:
    return lambda world: world.recover(level)


def _crash_again(world: World, level: Durability, choice: random.Random, depth: int) -> None:
    """Crash the recovery of a world at every call, then recover; deeper ones at one call each."""
    calls = count_calls(recover_only(level), world.fork(world.fs.clone()))
    for call in range(1, calls + 1) if depth else [choice.randint(1, calls)]:
        again = world.fork(world.fs.clone())
        again.fs.crash_after(call)
        assert again.crashes(lambda world=again: world.recover(level))  # type: ignore[misc]  # Bound here.
        for after in (again.after_process_crash(), again.after_power_loss(choice.randrange(10**9))):
            if depth:
                _crash_again(after, level, choice, depth - 1)
            after.recover(level)
            check_goes_on(after, level)


@each_level
def test_crash_in_the_recovery_from_a_crash(level: Durability) -> None:
    for seed in crash_seeds(1):
        choice = random.Random(f"again {seed}")
        calls = count_calls(run_script(level), World(seed))
        for call in sorted(choice.sample(range(1, calls + 1), 20)):
            world = crashed(seed, level, call)
            _crash_again(world.after_process_crash(), level, choice, 1)
            _crash_again(world.after_power_loss(call), level, choice, 1)


@pytest.mark.mutation
@each_level
def test_recovering_twice_gives_the_same(level: Durability) -> None:
    calls = count_calls(run_script(level), World(1))
    for call in range(1, calls + 1, 3):
        world = crashed(1, level, call).after_power_loss(call)
        first = jobs_of(world.recover(level))
        for twin in (world.after_process_crash(), world.after_power_loss(call)):
            store = twin.recover(level)
            assert jobs_of(store) == first
            # An opening that compacts ends with a watermark, which need not be whole after a power loss.
            assert store.recovery.situation in {Situation.UNCLEAN, Situation.TORN}
            twin.drop()


@pytest.mark.mutation
def test_what_an_interrupted_creation_left_is_made_durable_by_the_next_one() -> None:
    for call in range(1, count_calls(lambda world: world.recover(), World(1)) + 1):
        world = World(1)
        world.fs.crash_after(call)
        assert world.crashes(world.recover)
        world = world.after_process_crash()
        world.recover(Durability.POWER)
        world.run(SCRIPT[Durability.POWER][1:4])
        for seed in range(10):
            after = world.after_power_loss(seed)
            after.recover()
            after.drop()


@pytest.mark.mutation
def test_a_buffer_longer_than_one_frame_is_drained_whole() -> None:
    world = World(1)
    world.options = replace(OPTIONS, buffer_events=2_000)
    store = world.recover(Durability.BUFFERED)
    for number in range(1_300):
        world.history.attempt([Started(f"job.n{number}", number)])
        store.record_started(f"job.n{number}", number)
    store.sync()
    world.history.acknowledge(power=True)
    for seed in range(3):
        after = world.after_power_loss(seed)
        after.recover()
        after.drop()
