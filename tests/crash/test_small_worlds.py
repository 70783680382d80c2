"""Every sequence of at most two operations with every state that a crash may leave; and that the walk can fail."""

from __future__ import annotations

import random
from itertools import product

import pytest

from fuzz.defects.planting import uproot
from fuzz.defects.rotating import segment_begun_behind_a_name_that_is_not_synced
from fuzz.disk_states import Disk, disk_of, power_losses
from fuzz.sequences import ALPHABET, disk_under, moments
from fuzz.small_worlds import Explorer, FoundError, replay
from tests.crash.worlds import LEVELS
from walstore.engine.recovery import Situation
from walstore.options import Durability
from walstore.testing import sim_disk
from walstore.testing.sim_disk import SECTOR_BYTES, DirectoryNode, FileNode
from walstore.testing.sim_fs import SimFileSystem

each_level = pytest.mark.parametrize("level", LEVELS, ids=lambda level: level.value)


def sequences(length_max: int) -> list[tuple[str, ...]]:
    return [sequence for length in range(length_max + 1) for sequence in product(ALPHABET, repeat=length)]


@each_level
def test_every_short_sequence_survives_every_crash(level: Durability) -> None:
    explorer = Explorer()
    for sequence in sequences(2):
        explorer.check(level, sequence)
    # Beyond two operations: segments that were rotated and not synced, before and after a snapshot.
    # The last one begins two behind one another, of which only the first was made ready.
    for sequence in (
        ("many", "many", "event"),
        ("many", "compact", "many", "many"),
        ("many", "kill", "many", "many"),
        ("tick", "many", "many", "many"),
    ):
        explorer.check(level, sequence)
    assert explorer.counts.bounded == 0
    for situation in (Situation.CREATED, Situation.CLEAN, Situation.UNCLEAN, Situation.TORN):
        assert explorer.counts.situations[situation], explorer.counts


@each_level
def test_each_batch_but_the_first_needs_a_segment_of_its_own(level: Durability) -> None:
    for count in range(1, 4):
        _, disk = moments(level, ("many",) * count)[-1].live
        assert sum(path.endswith(".wal") for path in disk) == count


def test_a_segment_begun_behind_a_name_that_is_not_synced_is_noticed() -> None:
    segment_begun_behind_a_name_that_is_not_synced.plant()
    try:
        with pytest.raises(FoundError, match="a part of the log is missing"):
            Explorer().check(Durability.PROCESS, ("tick", "many", "many", "many"))
    finally:
        uproot()


@each_level
def test_every_recovery_from_every_crash_of_one_operation_survives_every_crash(level: Durability) -> None:
    explorer = Explorer()
    for sequence in sequences(1):
        explorer.check_recoveries(level, sequence)
    assert explorer.counts.moments_again > explorer.counts.sequences


@pytest.mark.parametrize("node", [FileNode, DirectoryNode])
def test_a_device_that_lies_about_flushes_is_noticed(
    node: type[FileNode | DirectoryNode], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node, "sync", lambda _: None)
    explorer = Explorer()
    with pytest.raises(FoundError) as found:
        for sequence in sequences(1):
            explorer.check(Durability.POWER, sequence)
    assert replay(str(found.value)).failures


def outcomes(fs: SimFileSystem) -> set[tuple[tuple[str, bytes | None], ...]]:
    states = power_losses(fs._root)
    found = {tuple((path, content.data) for path, content in state.items()) for _, state in states}
    assert not states.bounded
    return found


def test_each_sector_length_and_name_survives_on_its_own() -> None:
    fs = SimFileSystem()
    file = fs.create("/a.b")
    file.write(0, b"1" * SECTOR_BYTES)
    file.sync()
    fs.sync_directory("/")
    assert outcomes(fs) == {(("/a.b", b"1" * SECTOR_BYTES),)}
    file.write(0, b"2" * SECTOR_BYTES)
    file.write(0, b"3" * 2 * SECTOR_BYTES)
    first, second = (b"1", b"2", b"3"), (b"\0", b"3")
    contents = {(one * SECTOR_BYTES + other * SECTOR_BYTES) for one in first for other in second}
    contents |= {one * SECTOR_BYTES for one in first}
    assert outcomes(fs) == {(("/a.b", content),) for content in contents}
    file.sync()
    kept = b"3" * 2 * SECTOR_BYTES
    fs.rename("/a.b", "/c.d")
    fs.create("/e.f")
    old, new, other = ("/a.b", kept), ("/c.d", kept), ("/e.f", b"")
    assert outcomes(fs) == {(old,), (new,), (old, other), (new, other)}
    fs.unlink("/c.d")
    assert outcomes(fs) == {(old,), (new,), (old, other), (new, other), (), (other,)}


def lasting(disk: Disk) -> frozenset[tuple[str, bytes | None]]:
    return frozenset((path, content.data) for path, content in disk.items() if not path.endswith(".tmp"))


def test_whatever_a_power_loss_without_torn_sectors_may_leave_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sim_disk, "_TORN_SHARE", 0.0)
    for moment in moments(Durability.PROCESS, ("many", "event", "many", "compact"), copies=True):
        listed = {lasting(disk) for _, disk in moment.lost}
        assert moment.copy is not None
        for seed in range(30):
            after = disk_under(moment.copy.copy({}), 1).power_loss(random.Random(seed))
            assert lasting(disk_of(after._root)[1]) in listed
