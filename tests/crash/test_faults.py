"""Every call to the operating system fails once: the caller is told as the contract says, and nothing is lost."""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Callable

import pytest

from tests.crash.worlds import LEVELS, SCRIPT, Operation, World, crash_seeds, jobs_of
from walstore.errors import SchedulerPersistenceError, StorageError, StorageFullError, StorePoisonedError
from walstore.model.events import Started
from walstore.options import Durability
from walstore.testing import sim_fs

each_level = pytest.mark.parametrize("level", LEVELS, ids=lambda level: level.value)

CHANGING: list[sim_fs.Operation] = [
    "allocate",
    "append",
    "create",
    "lock_write",
    "rename",
    "truncate",
    "unlink",
    "write",
]
SYNCING: list[sim_fs.Operation] = ["sync", "sync_directory"]
LOOKING: list[sim_fs.Operation] = ["list_directory", "lock", "lock_read", "open", "read", "size"]


class Faulty:
    """A run of the scripted workload in a world with faults, which goes on after each error as a caller would."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.errors: list[SchedulerPersistenceError] = []
        self.poisoned = False

    def run(self, script: list[Operation]) -> None:
        for operation in script:
            for _ in range(3):
                if self._perform(operation):
                    break
            if self.poisoned:
                self.check_poisoned()
                return
        if self.world.store is not None:
            self._perform(Operation("close"))

    def _perform(self, operation: Operation) -> bool:
        """Perform one operation; returns False when it is to be tried again."""
        world = self.world
        if operation.name != "open" and world.store is None:
            # The close that failed has closed the store all the same.
            return True
        # Whatever else is raised fails the test: CorruptionError, an OSError as it came, a lock that is still held.
        try:
            world.perform(operation)
        except StorePoisonedError as error:
            self.errors.append(error)
            self.poisoned = True
        except StorageError as error:
            self.errors.append(error)
            if operation.unit:
                # What raises has recorded nothing, and can be tried again.
                world.history.withdraw()
                self._check_shown()
            return operation.name == "close" and world.store is None
        return True

    def _check_shown(self) -> None:
        """Check what the store shows; the fault may still be waiting for a read."""
        assert self.world.store is not None
        try:
            shown = jobs_of(self.world.store)
        except StorageError as error:
            self.errors.append(error)
            shown = jobs_of(self.world.store)
        assert shown == self.world.history.states[-1]

    def check_poisoned(self) -> None:
        """Check that a poisoned store shows what is durable, refuses all else, and lets go of its lock."""
        store, history = self.world.store, self.world.history
        if store is None:
            # It was the close that failed.
            return
        shown = jobs_of(store)
        assert shown in history.allowed(history.power_floor)
        assert list(store.iter_jobs()) == [shown[job] for job in sorted(shown)]
        history.attempt((Started("never.recorded", 1),))
        calls: list[Callable[[], object]] = [
            lambda: store.record_started("never.recorded", 1),
            lambda: store.record_many([Started("never.recorded", 1)]),
            lambda: store.restore(history.states[-1].values()),
            store.sync,
            store.flush_checkpoint,
            lambda: store.flush_checkpoint(compact=True),
            store.close,
        ]
        for refused in calls:
            with pytest.raises(StorePoisonedError):
                refused()
        history.withdraw()
        store.close()
        with pytest.raises(SchedulerPersistenceError):
            store.sync()
        self.world.store = None


def check_what_is_left(world: World, level: Durability, seeds: range) -> None:
    """Check that all that was acknowledged is there after a power loss, and when the directory is opened as it is."""
    world.fs.heal()
    assert world.store is None
    powerless = [world.fork(world.fs.clone()).after_power_loss(seed) for seed in seeds]
    # The world itself as well: there the lock has to be free.
    for after in [*powerless, world]:
        after.recover(level)
        after.run([Operation("event", (Started("after.fault", 1),)), Operation("sync"), Operation("load")])
        after.close()
        after.recover(level)
        after.drop()


def fail_each(level: Durability, operation: sim_fs.Operation, code: int, *, lost: bool = False) -> Counter[str]:
    """Let the n-th call of an operation fail, for every n until there is none; returns how often which error came."""
    raised: Counter[str] = Counter()
    for seed in crash_seeds(1):
        for nth in range(1, 10_000):
            world = World(seed)
            world.fs.fail(operation, code, nth=nth, lost=lost)
            faulty = Faulty(world)
            faulty.run(SCRIPT[level])
            raised.update(type(error).__name__ for error in faulty.errors)
            assert all(error.errno == code for error in faulty.errors if isinstance(error, StorageError))
            if world.fs.heal():
                assert not faulty.errors
                break
            raised["fired"] += 1
            check_what_is_left(world, level, crash_seeds(1))
    return raised


@pytest.mark.mutation
@each_level
@pytest.mark.parametrize("operation", [*CHANGING, *LOOKING])
def test_any_call_that_fails_is_told_and_loses_nothing(operation: sim_fs.Operation, level: Durability) -> None:
    raised = fail_each(level, operation, errno.EIO)
    assert raised["fired"]
    # Finished segments are cut by the sync behind the event that is recorded then.
    poison = {"StorePoisonedError"} if operation == "truncate" and level is Durability.POWER else set()
    assert set(raised) <= {"fired", "StorageError", *poison}


@each_level
@pytest.mark.parametrize("operation", ["allocate", "create", "lock_write", "rename", "write"])
def test_a_call_without_space_has_recorded_nothing(operation: sim_fs.Operation, level: Durability) -> None:
    raised = fail_each(level, operation, errno.ENOSPC)
    assert raised["fired"]
    assert set(raised) <= {"fired", "StorageFullError"}


@pytest.mark.mutation
@each_level
@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC], ids=errno.errorcode.get)
@pytest.mark.parametrize("operation", SYNCING)
def test_a_failed_sync_poisons(operation: sim_fs.Operation, code: int, level: Durability) -> None:
    raised = fail_each(level, operation, code, lost=operation == "sync")
    assert raised["StorePoisonedError"]
    # What has no name yet can be synced again under another one.
    assert set(raised) <= {"fired", "StorePoisonedError", "StorageError", "StorageFullError"}


@each_level
def test_a_full_disk(level: Durability) -> None:
    full: Counter[str] = Counter()
    for capacity_bytes in range(0, 9000, 150):
        world = World(1)
        world.fs.capacity_bytes = capacity_bytes
        faulty = Faulty(world)
        for operation in SCRIPT[level]:
            done = faulty._perform(operation)
            assert all(isinstance(error, StorageFullError) for error in faulty.errors)
            if not done:
                full[operation.name] += 1
                # Nothing but reading works better at the second try; with more space everything does.
                if operation.name in {"event", "close"}:
                    assert not faulty._perform(operation)
                world.fs.capacity_bytes = capacity_bytes + 20_000
                assert faulty._perform(operation)
                world.fs.capacity_bytes = capacity_bytes
        assert world.store is None
        world.fs.capacity_bytes = None
        check_what_is_left(world, level, crash_seeds(1))
    assert full["open"]
    assert full["event"]
    assert full["compact"]
    assert full["close"] or level is not Durability.BUFFERED
