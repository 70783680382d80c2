"""Every bit flipped, every file cut at every length, every file deleted: the state that was there, or a refusal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import pairwise
from typing import Final

import pytest

from tests.crash.worlds import DIRECTORY, OPTIONS, World, contents, jobs_of
from walstore.engine.recovery import Situation
from walstore.errors import CorruptionError
from walstore.format.filenames import parse_segment, parse_snapshot
from walstore.format.frame import frame_bytes
from walstore.format.layout import Watermark
from walstore.model.events import Event, Finished, Scheduled, Started
from walstore.model.schedule import Periodic
from walstore.options import Durability
from walstore.testing.model import NOW_NS
from walstore.testing.sim_disk import FileNode

EXACT: Final = "exact"
PREFIX: Final = "earlier prefix"
REFUSED: Final = "refused"
_MARK_BYTES: Final = frame_bytes(len(Watermark(0).encode()))
_SMALL: Final = replace(OPTIONS, segment_bytes_max=1024)


def _start(world: World, numbers: range) -> None:
    assert world.store is not None
    for number in numbers:
        world.history.attempt([Started(f"job.n{number % 3}", NOW_NS + number)])
        world.store.record_started(f"job.n{number % 3}", NOW_NS + number)
        world.history.acknowledge(power=False)


def _sync(world: World) -> None:
    assert world.store is not None
    world.store.sync()
    world.history.acknowledge(power=True)


def _with_everything() -> World:
    """Return a world whose store has a snapshot, a segment of an earlier opening, and one being written."""
    world = World(1)
    world.options = _SMALL
    store = world.recover(Durability.PROCESS)
    unit: list[Event] = [
        Scheduled("job.n1", Periodic(every_ns=5), NOW_NS),
        Started("job.n1", NOW_NS + 1),
        Finished("job.n1", NOW_NS + 2, False),
    ]
    world.history.attempt(unit)
    store.record_many(unit)
    _start(world, range(3))
    store.flush_checkpoint(compact=True)
    world.history.acknowledge(power=True)
    _start(world, range(3, 6))
    world.close()
    world.recover(Durability.PROCESS)
    return world


@cache
def _closed() -> World:
    world = _with_everything()
    _start(world, range(6, 9))
    world.close()
    return world


def _unclosed() -> World:
    """Return the world of a store whose process died after a sync and some more events, in two segments."""
    world = _with_everything()
    _start(world, range(6, 8))
    _sync(world)
    _start(world, range(8, 24))
    return world.after_process_crash()


def _rebooted(world: World) -> World:
    """Return the same after a power loss that happened to lose nothing, as the kernel had written all back."""
    twin = world.fork(world.fs.clone())
    twin.fs._boot_id = bytes(16)
    twin.history.process_floor = twin.history.power_floor
    return twin


@cache
def _killed() -> World:
    world = _unclosed()
    # The kernel that holds the frames has not stopped: only the last one can have been cut short.
    world.history.power_floor = len(world.history.states) - 2
    return world


@cache
def _powerless() -> World:
    return _rebooted(_unclosed())


@cache
def _recovered() -> World:
    """Return a world that lost its power right after a recovery, which had made all that it found durable."""
    world = _unclosed()
    world.recover()
    return _rebooted(world.after_process_crash())


def _node(world: World, name: str) -> FileNode:
    return world.fs._file(f"{DIRECTORY}/{name}")


def _look(world: World) -> str:
    """Open the store read-only, which judges as a writer does, and say what comes of it; anything else fails."""
    try:
        reader = world.read()
        found = jobs_of(reader)
    except CorruptionError:
        return REFUSED
    reader.close()
    history = world.history
    if found == history.states[-1]:
        return EXACT
    assert found in history.allowed(history.power_floor), history.describe(found, history.power_floor)
    # A shorter log has to say so.
    assert reader.recovery.situation is Situation.TORN
    return PREFIX


def _superseded_bytes(world: World) -> int:
    """Return how many bytes of the segments lie behind the place where the next one begins."""
    segments = sorted(
        (parsed, len(data)) for name, data in contents(world.fs).items() if (parsed := parse_segment(name))
    )
    return sum(parsed.base_lsn + length - successor.base_lsn for (parsed, length), (successor, _) in pairwise(segments))


def _kind(name: str) -> str:
    if parse_segment(name):
        return "segment"
    return "snapshot" if parse_snapshot(name) is not None else name.split("-", maxsplit=1)[0]


def _flip_every_bit(world: World) -> Counter[tuple[str, str]]:
    outcomes: Counter[tuple[str, str]] = Counter()
    for name, content in contents(world.fs).items():
        data = _node(world, name).data
        for position in range(len(content)):
            for bit in range(8):
                data[position] ^= 1 << bit
                outcomes[_kind(name), _look(world)] += 1
                data[position] ^= 1 << bit
        assert bytes(data) == content
    return outcomes


def _cut_everywhere(world: World) -> Counter[tuple[str, str]]:
    outcomes: Counter[tuple[str, str]] = Counter()
    for name, content in contents(world.fs).items():
        node = _node(world, name)
        for length in range(len(content)):
            node.data = bytearray(content[:length])
            outcomes[_kind(name), _look(world)] += 1
        node.data = bytearray(content)
    return outcomes


def _delete_each(world: World) -> Counter[tuple[str, str]]:
    outcomes: Counter[tuple[str, str]] = Counter()
    for name in contents(world.fs):
        twin = world.fork(world.fs.clone())
        twin.fs.unlink(f"{DIRECTORY}/{name}")
        outcomes[_kind(name), _look(twin)] += 1
    return outcomes


Damage = Callable[[World], Counter[tuple[str, str]]]
each_damage = pytest.mark.parametrize("damage", [_flip_every_bit, _cut_everywhere, _delete_each])


@each_damage
def test_damage_to_a_closed_store(damage: Damage) -> None:
    outcomes = damage(_closed())
    assert {kind for kind, _ in outcomes} == {"LOCK", "segment", "snapshot"}
    assert {outcome for kind, outcome in outcomes if kind == "LOCK"} == {EXACT}
    assert {outcome for kind, outcome in outcomes if kind == "snapshot"} == {REFUSED}
    # What may go: the mark of the clean close, since all that it stands behind is there then, and what lies behind the
    # place where another segment took over.
    harmless_bytes = _superseded_bytes(_closed())
    expected: dict[Damage, int] = {
        _flip_every_bit: 8 * (harmless_bytes + _MARK_BYTES),
        _cut_everywhere: harmless_bytes,
        _delete_each: 0,
    }
    assert outcomes["segment", EXACT] == expected[damage]
    assert outcomes["segment", REFUSED] > outcomes["segment", EXACT]
    assert not outcomes["segment", PREFIX]


@each_damage
@pytest.mark.parametrize("world", [_killed, _powerless, _recovered])
def test_damage_to_a_store_that_was_not_closed(world: Callable[[], World], damage: Damage) -> None:
    outcomes = damage(world())
    assert {outcome for kind, outcome in outcomes if kind == "LOCK"} == {EXACT}
    assert {outcome for kind, outcome in outcomes if kind == "snapshot"} == {REFUSED}
    assert outcomes["segment", REFUSED]
    # A lost or shortened file is never taken for a shorter log; a flipped bit is, where no watermark covers it.
    may_be_torn = damage is _flip_every_bit and world is not _recovered
    assert bool(outcomes["segment", PREFIX]) == may_be_torn
    if damage is _flip_every_bit:
        assert outcomes["segment", EXACT]


@pytest.mark.parametrize("world", [_closed, _killed, _powerless, _recovered])
def test_a_writer_judges_as_a_reader_does_and_changes_nothing_that_it_refuses(world: Callable[[], World]) -> None:
    intact = world()
    for name, content in contents(intact.fs).items():
        for position in range(0, len(content), 5):
            twin = intact.fork(intact.fs.clone())
            _node(twin, name).data[position] ^= 1 << position % 8
            damaged = contents(twin.fs)
            expected = _look(twin)
            try:
                found = jobs_of(twin.open())
            except CorruptionError:
                assert expected == REFUSED
                assert contents(twin.fs) == damaged
                continue
            assert expected != REFUSED
            assert (found == intact.history.states[-1]) == (expected == EXACT)
            twin.close()


def test_a_lost_lock_file_and_its_content_are_made_anew() -> None:
    world = _closed()
    twin = world.fork(world.fs.clone())
    twin.fs.unlink(f"{DIRECTORY}/LOCK")
    twin.recover()
    assert contents(twin.fs)["LOCK"]
    twin.close()


def test_all_segments_gone_is_no_new_store() -> None:
    world = _closed()
    twin = world.fork(world.fs.clone())
    for name in contents(twin.fs):
        if name != "LOCK":
            twin.fs.unlink(f"{DIRECTORY}/{name}")
    with pytest.raises(CorruptionError, match="missing"):
        twin.open()
    with pytest.raises(CorruptionError, match="missing"):
        twin.read()


def test_the_proof_of_creation_survives_a_power_loss() -> None:
    for seed in range(20):
        world = World(1)
        world.recover(Durability.POWER)
        _start(world, range(2))
        world.close()
        after = world.after_power_loss(seed)
        for name in contents(after.fs):
            if parse_segment(name):
                after.fs.unlink(f"{DIRECTORY}/{name}")
        with pytest.raises(CorruptionError, match="missing"):
            after.open()


def test_a_segment_of_another_store_is_refused() -> None:
    world, other = _closed(), World(2)
    other.recover(Durability.PROCESS)
    _start(other, range(3))
    other.close()
    twin = world.fork(world.fs.clone())
    last = max(name for name in contents(twin.fs) if parse_segment(name))
    (foreign,) = (content for name, content in contents(other.fs).items() if parse_segment(name))
    _node(twin, last).data = bytearray(foreign)
    assert _look(twin) == REFUSED
