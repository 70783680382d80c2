"""The small worlds: a tiny store, an alphabet of operations, and all that a crash in the last one may leave."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from fuzz.disk_states import Disk, DiskStates, disk_of, power_losses, tree_of
from tests.crash.worlds import Operation, World
from walstore.model.events import Cancelled, Scheduled, Started
from walstore.model.records import SchedulerJobRecord
from walstore.model.schedule import Periodic
from walstore.options import Durability, WalOptions
from walstore.testing.model import NOW_NS, Jobs
from walstore.testing.sim_disk import DirectoryNode
from walstore.testing.sim_fs import SimFileSystem
from walstore.testing.sim_world import Step

__all__ = ["ALPHABET", "Found", "Moment", "disk_under", "frozen", "moments", "small_world"]

ALPHABET: Final = ["event", "many", "sync", "flush", "compact", "tick", "drain", "reopen", "kill", "blackout"]
"""``tick`` comes when a sync is due and ``drain`` when none is. ``kill`` ends the process, and ``blackout`` the power,
with the last write torn wherever there is one; both recover."""
_OPTIONS: Final = WalOptions(
    segment_bytes_min=1024,
    segment_bytes_max=1024,
    buffer_events=2,
    compaction_ratio=1.5,
    small_store_bytes=512,
)
"""Each ``many`` but the first needs a segment of its own, and two are enough for a tick to compact."""
_JOB: Final = "a.b"
_LONG: Final = "ai.geo." + "tile" * 61
_WORLD: Final = 1
"""The seed of the store id and of the checksums' seeds."""

Found = frozenset[tuple[str, SchedulerJobRecord]]
"""The jobs of a store, to be compared quickly."""


@dataclass(slots=True)
class Moment:
    """What may be left where the world ends before a call, or after the last one, and what must be found there."""

    where: str
    boot: int
    """Which kernel is running; each power loss starts the next one."""
    live: tuple[bytes, Disk]
    lost: DiskStates
    process: frozenset[Found]
    """What may be found where only the process dies."""
    power: frozenset[Found]
    """What may be found where the power fails."""
    copy: DirectoryNode | None


def disk_under(root: DirectoryNode, boot: int) -> SimFileSystem:
    """Return a disk under a kernel that has just found it, with the process before gone."""
    fs = SimFileSystem()
    fs._root = root
    fs._boot_id = bytes([boot]) * 16
    return fs


def small_world(fs: SimFileSystem, seed: int) -> World:
    """Return the world of a tiny store on a disk."""
    world = World(seed, fs)
    world.options = _OPTIONS
    return world


def frozen(jobs: Jobs) -> Found:
    """Return jobs as something to compare quickly."""
    return frozenset(jobs.items())


def moments(level: Durability, sequence: Sequence[str], *, copies: bool = False) -> list[Moment]:
    """Perform a sequence and return the crashes of its last operation, on request with a copy of the disk at each."""
    world = small_world(disk_under(DirectoryNode({"data": DirectoryNode()}), 1), _WORLD)
    taken: list[Moment] = []

    def look(step: Step | None) -> None:
        history, root = world.history, world.fs._root
        where = "at the end" if step is None else f"before call {len(taken) + 1}, {step[0]} {step[1]}"
        states = [frozen(jobs) for jobs in history.states]
        process, power = (frozenset(states[floor:]) for floor in (history.process_floor, history.power_floor))
        copied = root.copy({}) if copies else None
        taken.append(Moment(where, _boot(world), disk_of(root), power_losses(root), process, power, copied))

    for number, name in enumerate(operations := ("create", *sequence)):
        _perform(world, level, name, number, look if number == len(operations) - 1 else None)
    look(None)
    world.drop()
    return taken


def _boot(world: World) -> int:
    return world.fs.boot_id()[0]


def _perform(world: World, level: Durability, name: str, number: int, look: Callable[[Step], None] | None) -> None:
    at_ns = NOW_NS + number
    if name == "kill":
        world.drop()
        world.fs = disk_under(world.fs._root, _boot(world))
    elif name == "blackout":
        world.drop()
        *_, (_, torn) = power_losses(world.fs._root)
        world.fs = disk_under(tree_of(torn), _boot(world) + 1)
        world.history.process_floor = world.history.power_floor
    world.fs.before_call = look
    match name:
        case "create" | "kill" | "blackout":
            world.recover(level)
        case "reopen":
            world.close()
            world.recover(level)
        case "event":
            world.perform(Operation(name, (Started(_JOB, at_ns),)))
        case "many":
            schedule = Scheduled(_LONG, Periodic(every_ns=5), at_ns)
            world.perform(Operation(name, (schedule, Started(_LONG, at_ns), Cancelled(_JOB))))
        case "drain":
            assert world.store is not None
            assert world.store._store is not None
            world.store._store.tick()
            assert world.store.stats().last_background_error is None
            world.history.acknowledge(power=False)
        case _:
            world.perform(Operation(name))
