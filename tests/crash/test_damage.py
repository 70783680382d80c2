"""Every bit flipped, every file cut at every length, every file deleted: the state that was there, or a refusal."""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from typing import Final

import pytest

from fuzz.damage import DAMAGES, EXACT, PREFIX, REFUSED, UNNOTICED, Outcomes, look, node_of, tally_of
from fuzz.stores import STORES, start
from tests.crash.worlds import DIRECTORY, LEVELS, World, contents, jobs_of
from walstore.errors import CorruptionError
from walstore.format.filenames import parse_segment
from walstore.format.frame import frame_bytes
from walstore.format.layout import Watermark
from walstore.options import Durability

_MARK_BYTES: Final = frame_bytes(len(Watermark(0).encode()))
_THOROUGH: Final = ("bit flipped", "file cut", "file deleted")


@cache
def store(name: str) -> World:
    """Return the world of a store at the default durability. Tests leave it as it is."""
    return STORES[name](Durability.PROCESS, 1)


def superseded_bytes(world: World) -> int:
    """Return how many bytes of the segments lie behind the place where the next one begins."""
    segments = sorted(
        (parsed, len(data)) for name, data in contents(world.fs).items() if (parsed := parse_segment(name))
    )
    return sum(parsed.base_lsn + length - successor.base_lsn for (parsed, length), (successor, _) in pairwise(segments))


def outcomes_for(outcomes: Outcomes, kind: str) -> set[str]:
    return {outcome for damaged, outcome in outcomes if damaged == kind}


@pytest.mark.parametrize("damage", _THOROUGH)
def test_damage_to_a_closed_store(damage: str) -> None:
    outcomes = tally_of(store("closed"), DAMAGES[damage])
    assert {kind for kind, _ in outcomes} == {"LOCK", "segment", "snapshot"}
    assert outcomes_for(outcomes, "LOCK") == {EXACT}
    assert outcomes_for(outcomes, "snapshot") == {REFUSED}
    # What may go: the mark of the clean close, since all that it stands behind is there then, and what lies behind the
    # place where another segment took over.
    harmless_bytes = superseded_bytes(store("closed"))
    expected = {"bit flipped": 8 * (harmless_bytes + _MARK_BYTES), "file cut": harmless_bytes, "file deleted": 0}
    assert outcomes["segment", EXACT] == expected[damage]
    assert outcomes["segment", REFUSED] > outcomes["segment", EXACT]
    assert not outcomes["segment", PREFIX]


@pytest.mark.parametrize("damage", _THOROUGH)
@pytest.mark.parametrize("name", ["killed", "powerless", "recovered"])
def test_damage_to_a_store_that_was_not_closed(name: str, damage: str) -> None:
    outcomes = tally_of(store(name), DAMAGES[damage])
    assert outcomes_for(outcomes, "LOCK") == {EXACT}
    assert outcomes_for(outcomes, "snapshot") == {REFUSED}
    assert outcomes["segment", REFUSED]
    # A lost or shortened file is never taken for a shorter log; a flipped bit is, where no watermark covers it.
    may_be_torn = damage == "bit flipped" and name != "recovered"
    assert bool(outcomes["segment", PREFIX]) == may_be_torn
    if damage == "bit flipped":
        assert outcomes["segment", EXACT]


@pytest.mark.parametrize("level", LEVELS, ids=lambda level: level.value)
@pytest.mark.parametrize("name", STORES)
def test_files_zeroed_exchanged_lengthened_and_there_twice(name: str, level: Durability) -> None:
    world = STORES[name](level, 1)
    for damage in DAMAGES.keys() - set(_THOROUGH):
        outcomes = tally_of(world, DAMAGES[damage])
        found = {outcome for _, outcome in outcomes}
        assert REFUSED in found
        if name == "closed":
            assert PREFIX not in found
        if damage != "sector zeroed":
            assert UNNOTICED not in found


@pytest.mark.parametrize("name", STORES)
def test_a_writer_judges_as_a_reader_does_and_changes_nothing_that_it_refuses(name: str) -> None:
    intact = store(name)
    for file, content in contents(intact.fs).items():
        for position in range(0, len(content), 5):
            twin = intact.fork(intact.fs.clone())
            node_of(twin, file).data[position] ^= 1 << position % 8
            damaged = contents(twin.fs)
            expected = look(twin)
            try:
                found = jobs_of(twin.open())
            except CorruptionError:
                assert expected == REFUSED
                assert contents(twin.fs) == damaged
                continue
            assert expected != REFUSED
            assert (found == intact.history.states[-1]) == (expected == EXACT)
            twin.close()


@pytest.mark.mutation
def test_a_lost_lock_file_and_its_content_are_made_anew() -> None:
    world = store("closed")
    twin = world.fork(world.fs.clone())
    twin.fs.unlink(f"{DIRECTORY}/LOCK")
    twin.recover()
    assert contents(twin.fs)["LOCK"]
    twin.close()


@pytest.mark.mutation
def test_all_segments_gone_is_no_new_store() -> None:
    world = store("closed")
    twin = world.fork(world.fs.clone())
    for name in contents(twin.fs):
        if name != "LOCK":
            twin.fs.unlink(f"{DIRECTORY}/{name}")
    with pytest.raises(CorruptionError, match="missing"):
        twin.open()
    with pytest.raises(CorruptionError, match="missing"):
        twin.read()


@pytest.mark.mutation
def test_the_proof_of_creation_survives_a_power_loss() -> None:
    for seed in range(20):
        world = World(1)
        world.recover(Durability.POWER)
        start(world, range(2))
        world.close()
        after = world.after_power_loss(seed)
        for name in contents(after.fs):
            if parse_segment(name):
                after.fs.unlink(f"{DIRECTORY}/{name}")
        with pytest.raises(CorruptionError, match="missing"):
            after.open()


@pytest.mark.mutation
def test_a_segment_of_another_store_is_refused() -> None:
    world, other = store("closed"), World(2)
    other.recover(Durability.PROCESS)
    start(other, range(3))
    other.close()
    twin = world.fork(world.fs.clone())
    last = max(name for name in contents(twin.fs) if parse_segment(name))
    (foreign,) = (content for name, content in contents(other.fs).items() if parse_segment(name))
    node_of(twin, last).data = bytearray(foreign)
    assert look(twin) == REFUSED
