"""The small stores that are damaged, of each durability, and in each way in which the life of one may have ended."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from tests.crash.worlds import OPTIONS, World, jobs_of
from walstore.model.events import Event, Finished, Scheduled, Started
from walstore.model.schedule import Periodic
from walstore.options import Durability
from walstore.testing.model import NOW_NS

__all__ = ["STORES", "start", "sync"]

_SMALL: Final = replace(OPTIONS, segment_bytes_max=1024)


def start(world: World, numbers: range) -> None:
    """Record that a run of a job began, once for each number."""
    assert world.store is not None
    for number in numbers:
        world.history.attempt([Started(f"job.n{number % 3}", NOW_NS + number)])
        world.store.record_started(f"job.n{number % 3}", NOW_NS + number)
        if world.level is not Durability.BUFFERED:
            world.history.acknowledge(power=world.level is Durability.POWER)


def sync(world: World) -> None:
    """Make what was recorded durable."""
    assert world.store is not None
    world.store.sync()
    world.history.acknowledge(power=True)


def _with_everything(level: Durability, seed: int) -> World:
    """Return a world whose store has a snapshot, a segment of an earlier opening, and one being written."""
    world = World(seed)
    world.options = _SMALL
    store = world.recover(level)
    unit: list[Event] = [
        Scheduled("job.n1", Periodic(every_ns=5), NOW_NS),
        Started("job.n1", NOW_NS + 1),
        Finished("job.n1", NOW_NS + 2, False),
    ]
    world.history.attempt(unit)
    store.record_many(unit)
    start(world, range(3))
    store.flush_checkpoint(compact=True)
    world.history.acknowledge(power=True)
    start(world, range(3, 6))
    world.close()
    world.recover(level)
    return world


def _closed(level: Durability, seed: int) -> World:
    world = _with_everything(level, seed)
    start(world, range(6, 9))
    world.close()
    return world


def _unclosed(level: Durability, seed: int) -> World:
    """Return the world of a store whose process died after a sync and some more events, in two segments."""
    world = _with_everything(level, seed)
    start(world, range(6, 8))
    sync(world)
    start(world, range(8, 24))
    # As the keeper does right after a rotation.
    assert world.store is not None
    assert world.store._store is not None
    world.store._store.log.settle()
    if level is Durability.BUFFERED:
        # What is still in the buffer goes with the process.
        kept = jobs_of(world.fork(world.fs.clone()).read())
        del world.history.states[world.history.states.index(kept) + 1 :]
    return world.after_process_crash()


def _rebooted(world: World) -> World:
    """Return the same after a power loss that happened to lose nothing, as the kernel had written all back."""
    twin = world.fork(world.fs.clone())
    twin.fs._boot_id = bytes(16)
    twin.history.process_floor = twin.history.power_floor
    return twin


def _killed(level: Durability, seed: int) -> World:
    world = _unclosed(level, seed)
    # The kernel that holds the frames has not stopped: only the last one can have been cut short.
    units = _SMALL.buffer_events if level is Durability.BUFFERED else 1
    world.history.power_floor = max(world.history.power_floor, len(world.history.states) - 1 - units)
    return world


def _powerless(level: Durability, seed: int) -> World:
    return _rebooted(_unclosed(level, seed))


def _recovered(level: Durability, seed: int) -> World:
    """Return a world that lost its power right after a recovery, which had made all that it found durable."""
    world = _unclosed(level, seed)
    world.recover(level)
    return _rebooted(world.after_process_crash())


STORES: Final[dict[str, Callable[[Durability, int], World]]] = {
    "closed": _closed,
    "killed": _killed,
    "powerless": _powerless,
    "recovered": _recovered,
}
"""How the life of the store ended."""
