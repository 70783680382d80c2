"""Random lives of a store: openings at any level, work, faults, crashes of the process and of the machine."""

from __future__ import annotations

import errno
import random
from collections import Counter
from contextlib import suppress

import pytest

from tests.crash.worlds import LEVELS, World, abandon, crash_seeds, jobs_of, random_script
from walstore.engine.recovery import Situation
from walstore.errors import StorageError, StorePoisonedError
from walstore.testing import sim_fs

_LIVES_PER_TEST = 25
_FAULTS: list[tuple[sim_fs.Operation, int, bool]] = [
    ("sync", errno.EIO, True),
    ("sync", errno.EIO, False),
    ("sync_directory", errno.EIO, False),
    ("write", errno.EIO, False),
    ("allocate", errno.ENOSPC, False),
    ("create", errno.ENOSPC, False),
    ("unlink", errno.EIO, False),
    ("truncate", errno.EIO, False),
    ("rename", errno.EIO, False),
]


def _live(world: World, choice: random.Random) -> None:
    """Open the store, work, and perhaps close it. Ends early when the world does, and at a fault that ends all work."""
    world.recover(choice.choice(LEVELS))
    for operation in random_script(choice, choice.randrange(1, 90)):
        try:
            world.perform(operation)
            if operation.name == "tick" and world.store is not None:
                # What goes wrong in the background is told at the next call.
                world.store.sync()
                world.history.acknowledge(power=True)
        except StorePoisonedError:
            _check_poisoned(world)
            return
        except StorageError:
            if operation.unit:
                world.history.withdraw()
    if choice.random() < 0.5:
        world.close()


def _check_poisoned(world: World) -> None:
    assert world.store is not None
    assert jobs_of(world.store) in world.history.allowed(world.history.power_floor)
    with pytest.raises(StorePoisonedError):
        world.close()


def _end(world: World, choice: random.Random) -> World:
    """End a world by one of the two kinds of crash, or go on in it where the store is closed."""
    if world.store is None and choice.random() < 0.3:
        twin = world.fork(world.fs.clone())
    elif choice.random() < 0.4:
        twin = world.after_process_crash()
    else:
        twin = world.after_power_loss(choice.getrandbits(64))
    world.drop()
    return twin


def simulate(seed: int, situations: Counter[Situation]) -> None:
    """Live through several generations of one store, drawn from ``seed``, and check each opening."""
    choice = random.Random(f"simulation {seed}")
    world = World(seed)
    for _ in range(choice.randrange(2, 8)):
        if choice.random() < 0.7:
            world.fs.crash_after(choice.randrange(1, choice.choice([12, 300])))
        for _ in range(choice.choice([0, 0, 0, 1, 1, 3])):
            operation, code, lost = choice.choice(_FAULTS)
            world.fs.fail(operation, code, nth=choice.randrange(1, 40), times=choice.choice([1, 1, 4]), lost=lost)
        if choice.random() < 0.1:
            world.fs.capacity_bytes = choice.randrange(2_000, 9_000)
        # Whatever else an opening or a closing raises fails the test, CorruptionError above all.
        with suppress(StorageError, StorePoisonedError):
            world.crashes(lambda: _live(world, choice))  # noqa: B023  # Called at once.
        world = _end(world, choice)
        world.fs.capacity_bytes = None
    store = world.recover()
    situations[store.recovery.situation] += 1
    world.close()
    store = world.recover()
    assert store.recovery.situation is Situation.CLEAN
    abandon(store)


@pytest.mark.parametrize("part", crash_seeds(12))
def test_random_lives(part: int) -> None:
    situations: Counter[Situation] = Counter()
    for seed in range(part * _LIVES_PER_TEST, (part + 1) * _LIVES_PER_TEST):
        simulate(seed, situations)
    assert situations[Situation.UNCLEAN], situations
