"""Readers beside a writer: between any two of its steps, and with its steps between any two of theirs."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from tests.crash.worlds import LEVELS, SCRIPT, Operation, World, crash_seeds, jobs_of, random_script
from walstore.errors import StoreNotFoundError
from walstore.options import Durability
from walstore.testing.sim_fs import SimFileSystem
from walstore.testing.sim_world import Step

each_level = pytest.mark.parametrize("level", LEVELS, ids=lambda level: level.value)


class _SharedFileSystem(SimFileSystem):
    """Calls ``others`` before each call that changes something, or before each that does not."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.before_changes: Callable[[], object] = lambda: None
        self.before_looks: Callable[[], object] = lambda: None
        self._within = False
        self.make_directory("/data")
        self.sync_directory("/")

    def _begin(self, step: Step, before_error: Callable[[bool], None] | None = None) -> None:
        self._let(self.before_changes)
        super()._begin(step, before_error)

    def _look(self, step: Step) -> None:
        self._let(self.before_looks)
        super()._look(step)

    def _let(self, other: Callable[[], object]) -> None:
        if not self._within:
            self._within = True
            try:
                other()
            finally:
                self._within = False


def _read(world: World) -> bool:
    """Check that a reader sees a prefix and changes nothing; returns whether there was a store to see."""
    calls, floor = world.fs.calls, world.history.process_floor
    try:
        reader = world.read()
    except StoreNotFoundError:
        # Nothing that was ever open for writing is not found.
        assert floor == 0
        assert world.store is None
        return False
    seen = jobs_of(reader)
    assert seen in world.history.allowed(floor), world.history.describe(seen, floor)
    assert list(reader.iter_jobs()) == [seen[job] for job in sorted(seen)]
    reader.close()
    assert world.fs.calls == calls
    return True


@pytest.mark.mutation
@pytest.mark.mutation
@each_level
def test_a_reader_between_any_two_calls_of_a_writer(level: Durability) -> None:
    fs = _SharedFileSystem(1)
    world = World(1, fs)
    reads = [0]

    def read() -> None:
        reads[0] += _read(world)

    fs.before_changes = read
    world.run(SCRIPT[level])
    assert reads[0] > 100


@pytest.mark.mutation
@pytest.mark.mutation
@each_level
def test_a_reader_between_any_two_calls_of_a_recovery(level: Durability) -> None:
    for seed in crash_seeds(20):
        choice = random.Random(f"reader {seed}")
        world = World(seed)
        world.recover(level)
        world.run(random_script(choice, 30))
        floor = world.history.power_floor
        world.drop()
        fs = _SharedFileSystem(seed)
        crashed = world.fs.power_loss(choice) if choice.random() < 0.5 else world.fs.process_crash()
        fs._root, fs._boot_id = crashed._root, crashed._boot_id
        after = world.fork(fs)
        after.history.process_floor = floor
        seen = jobs_of(after.read())

        def read(after: World = after, seen: object = seen) -> None:
            reader = after.read()
            assert jobs_of(reader) == seen
            reader.close()

        fs.before_changes = read
        after.recover(level)
        after.drop()


def _beside_a_writer(choice: random.Random, level: Durability) -> int:
    """Let a reader and a writer work at once: at some calls of the reader the writer makes some of its own."""
    fs = _SharedFileSystem(choice.getrandbits(32))
    world = World(choice.getrandbits(32), fs)
    world.recover(level)
    pace = choice.choice([0.02, 0.1, 0.3])
    script = random_script(choice, 60)
    for place in sorted(choice.sample(range(60), 3), reverse=True):
        script[place:place] = [Operation("close"), Operation("open", level=level)]
    script.reverse()

    def write() -> None:
        while script and choice.random() < pace:
            world.perform(script.pop())

    fs.before_looks = write
    reads = 0
    while script:
        floor = world.history.process_floor
        reader = world.read()
        for _ in range(2):
            seen = jobs_of(reader)
            assert seen in world.history.allowed(floor), world.history.describe(seen, floor)
            floor = world.history.process_floor
        streamed = {str(record.id): record for record in reader.iter_jobs()}
        assert streamed in world.history.allowed(floor), world.history.describe(streamed, floor)
        reader.close()
        reads += 1
    world.drop()
    return reads


@each_level
def test_a_writer_between_any_two_calls_of_a_reader(level: Durability) -> None:
    reads = sum(_beside_a_writer(random.Random(f"beside {seed}"), level) for seed in crash_seeds(60))
    assert reads > 60
