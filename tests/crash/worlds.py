"""What the crash tests share: a deterministic world, a workload, and the rule for what may come back after a crash.

A *unit* is what one call records, all or nothing. The history of a world is the list of its units; what a recovery
finds must be the fold of a prefix of them, made by a naive model, and not shorter than what was acknowledged.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from walstore.engine.environment import Environment
from walstore.engine.recovery import Situation
from walstore.model.events import Cancelled, Event, Finished, Restored, Scheduled, Started
from walstore.model.names import QName
from walstore.model.records import SchedulerJobRecord, SchedulerJobStatus
from walstore.model.schedule import Cron, Manual, Once, Periodic
from walstore.options import Durability, WalOptions
from walstore.testing.model import NOW_NS, Jobs, apply
from walstore.testing.sim_fs import SimCrash, SimFileSystem
from walstore.wal import WalPersistence

__all__ = [
    "DIRECTORY",
    "LEVELS",
    "OPTIONS",
    "SCRIPT",
    "History",
    "Operation",
    "World",
    "abandon",
    "contents",
    "crash_seeds",
    "events",
    "jobs_of",
    "random_script",
    "restored",
]

DIRECTORY: Final = "/data/store"
LEVELS: Final = list(Durability)
OPTIONS: Final = WalOptions(
    segment_bytes_min=1024,
    segment_bytes_max=2048,
    buffer_events=6,
    compaction_ratio=1.5,
    small_store_bytes=1500,
    merge_memory_bytes=1024,
)
"""Rotation, compaction and spilling happen within tens of events."""


def crash_seeds(default: int) -> range:
    """Return the seeds to try: ``CRASH_SEEDS`` times as many as usual where that is set in the environment."""
    return range(default * int(os.environ.get("CRASH_SEEDS", "1")))


def jobs_of(store: WalPersistence) -> Jobs:
    """Return what ``load_all`` says, by id."""
    return {str(record.id): record for record in store.load_all()}


def contents(fs: SimFileSystem) -> dict[str, bytes]:
    """Return the bytes of every file of the store. Nobody asks the file system, so no call fails, or counts as one."""
    entries = fs._directory(DIRECTORY).entries
    return {name: bytes(fs._file(f"{DIRECTORY}/{name}").data) for name in list(entries)}


def abandon(store: WalPersistence) -> None:
    """Drop a store whose process is gone, without the warning that it was never closed."""
    store._finalizer.detach()


@dataclass(slots=True)
class History:
    """What was recorded, and how much of it must survive which end."""

    states: list[Jobs] = field(default_factory=lambda: [{}])
    """The fold of the first n units, for each n."""
    process_floor: int = 0
    """Units that survive the death of the process."""
    power_floor: int = 0
    """Units that survive a power loss."""
    kept: dict[str, bytes] = field(default_factory=dict)
    """The files of torn tails that openings made: from then on they are there, whatever happens."""

    def attempt(self, unit: Sequence[Event]) -> None:
        """Note that a unit is about to be recorded."""
        jobs = dict(self.states[-1])
        for event in unit:
            apply(jobs, event)
        self.states.append(jobs)

    def withdraw(self) -> None:
        """Note that the last unit was refused and so was not recorded."""
        self.states.pop()

    def acknowledge(self, *, power: bool, units: int | None = None) -> None:
        """Note that so many units (all until now) survive the death of the process, or a power loss too."""
        units = len(self.states) - 1 if units is None else units
        self.process_floor = max(self.process_floor, units)
        if power:
            self.power_floor = max(self.power_floor, units)

    def allowed(self, floor: int) -> list[Jobs]:
        """Return the states that may be found where the first ``floor`` units must be there."""
        return self.states[floor:]

    def found(self, jobs: Jobs, floor: int) -> None:
        """Check what a recovery found, and go on from there: it is on the device now."""
        assert jobs in self.allowed(floor), self.describe(jobs, floor)
        del self.states[len(self.states) - self.states[::-1].index(jobs) :]
        self.process_floor = self.power_floor = len(self.states) - 1

    def describe(self, jobs: Jobs, floor: int) -> str:
        """Say what is wrong with a state that was found."""
        known = [number for number, state in enumerate(self.states) if state == jobs]
        where = f"the state after {known} units" if known else f"no prefix: {jobs}"
        return f"found {where}; at least {floor} of {len(self.states) - 1} units must be there"

    def copy(self) -> History:
        """Return a copy that goes its own way."""
        return History(list(self.states), self.process_floor, self.power_floor, dict(self.kept))


@dataclass(frozen=True, slots=True)
class Operation:
    """One step of a workload: what to do, and with what."""

    name: str
    unit: tuple[Event, ...] = ()
    level: Durability | None = None


class World:
    """A simulated machine with one store, over any number of openings and crashes."""

    def __init__(self, seed: int, fs: SimFileSystem | None = None) -> None:
        self._random = random.Random(f"world {seed}")
        self.fs = fs if fs is not None else SimFileSystem(seed)
        if fs is None:
            self.fs.make_directory("/data")
            self.fs.sync_directory("/")
        self.now_ns = NOW_NS
        self.scheduling_ns = NOW_NS
        """The store's clock: the instant of ``record_scheduled``."""
        self.options = OPTIONS
        self.history = History()
        self.store: WalPersistence | None = None
        self.level = Durability.PROCESS

    def environment(self) -> Environment:
        """Return the environment of an opening."""
        return Environment(
            fs=self.fs,
            random_bytes=self._random.randbytes,
            monotonic_ns=lambda: self.now_ns,
            wall_ns=lambda: self.now_ns,
            holder=lambda: {"host": "sim", "pid": 1},
            threads=False,
        )

    def fork(self, fs: SimFileSystem, seed: int | None = None) -> World:
        """Return a world with the same past on another file system: what comes after a crash."""
        twin = World(self._random.getrandbits(64) if seed is None else seed, fs)
        twin.now_ns = self.now_ns
        twin.options = self.options
        twin.history = self.history.copy()
        twin.level = self.level
        return twin

    def after_process_crash(self, seed: int = 0) -> World:
        """End this world and return the one in which the process is gone; ``seed`` is what chance is drawn from."""
        self.drop()
        return self.fork(self.fs.process_crash(random.Random(f"process {seed}")), seed)

    def after_power_loss(self, seed: int) -> World:
        """End this world and return the one after a power loss, of which ``seed`` decides what survived."""
        self.drop()
        twin = self.fork(self.fs.power_loss(random.Random(f"power {seed}")), seed)
        twin.history.process_floor = twin.history.power_floor
        return twin

    def open(self, level: Durability = Durability.PROCESS) -> WalPersistence:
        """Open the store for writing, without a look at what it holds."""
        self.level = level
        self.store = None
        self.store = WalPersistence(
            DIRECTORY,
            durability=level,
            options=self.options,
            clock=lambda: self.scheduling_ns,
            environment=self.environment(),
        )
        return self.store

    def read(self) -> WalPersistence:
        """Open the store for reading."""
        return WalPersistence(DIRECTORY, read_only=True, options=self.options, environment=self.environment())

    def recover(self, level: Durability = Durability.PROCESS) -> WalPersistence:
        """Open the store for writing, unless it is open already, and check what it holds."""
        store = self.store if self.store is not None else self.open(level)
        self.history.found(jobs_of(store), self.history.process_floor)
        assert not store.recovery.situation.is_corruption
        assert (store.recovery.kept_at is not None) == (store.recovery.torn_bytes > 0)
        assert store.recovery.torn_bytes == 0 or store.recovery.situation is Situation.TORN
        files = contents(self.fs)
        assert {name: files.get(name) for name in self.history.kept} == self.history.kept
        if store.recovery.kept_at is not None:
            name = store.recovery.kept_at.removeprefix(f"{DIRECTORY}/")
            assert len(files[name]) == store.recovery.torn_bytes
            self.history.kept[name] = files[name]
        return store

    def drop(self) -> None:
        """Forget the open store, as the end of its process does."""
        if self.store is not None:
            abandon(self.store)
            self.store = None

    def crashes(self, work: Callable[[], object]) -> bool:
        """Do ``work``; returns whether the world ended in it."""
        try:
            work()
        except SimCrash:
            self.drop()
            return True
        return False

    def close(self) -> None:
        """Close the open store. After an error it is still the open store where the error left it open."""
        assert self.store is not None
        try:
            self.store.close()
        finally:
            if self.store.closed:
                self.drop()
        self.history.acknowledge(power=True)

    def run(self, script: Sequence[Operation]) -> None:
        """Perform a workload."""
        for operation in script:
            self.perform(operation)

    def perform(self, operation: Operation) -> None:
        """Perform one operation and note what it acknowledged. Raises what it raises; the unit counts as attempted."""
        if operation.name == "open":
            assert operation.level is not None
            self.recover(operation.level)
            return
        store = self.store
        assert store is not None
        self.now_ns += 1_000_000
        if operation.unit:
            self.history.attempt(operation.unit)
        # What another thread records in the middle of the call may be too late for it.
        units = len(self.history.states) - 1
        match operation.name:
            case "event":
                self._record(store, operation.unit[0])
            case "many":
                store.record_many(operation.unit)
            case "restore":
                store.restore([event.record for event in operation.unit if isinstance(event, Restored)])
            case "sync":
                store.sync()
            case "flush":
                store.flush_checkpoint()
            case "compact":
                store.flush_checkpoint(compact=True)
            case "load":
                assert jobs_of(store) == self.history.states[-1]
            case "iterate":
                expected = [record for _, record in sorted(self.history.states[-1].items())]
                assert list(store.iter_jobs()) == expected
            case "tick":
                self.now_ns += OPTIONS.sync_interval_ns
                assert store._store is not None
                store._store.tick()
                if store.stats().last_background_error is None and store._store._commit.failure is None:
                    self.history.acknowledge(power=True, units=units)
            case "close":
                self.close()
            case _:
                raise ValueError(operation.name)
        if operation.unit:
            if self.level is not Durability.BUFFERED:
                self.history.acknowledge(power=self.level is Durability.POWER, units=units)
        elif operation.name in {"sync", "flush", "compact"}:
            self.history.acknowledge(power=True, units=units)

    def _record(self, store: WalPersistence, event: Event) -> None:
        match event:
            case Scheduled(job, schedule, at):
                assert isinstance(at, int)
                self.scheduling_ns = at
                store.record_scheduled(job, schedule)
            case Started(job, at):
                store.record_started(job, at)
            case Finished(job, at, success):
                store.record_finished(job, at, success)
            case Cancelled(job):
                store.cancel(job)
            case Restored(record):
                store.restore([record])


_NAMES: Final = [f"ai.geo.{name}" for name in ("tile", "index", "merge", "ünicode", "export", "a", "zz")]
_SCHEDULES: Final = [Manual(), Periodic(every_ns=60_000_000_000), Cron("0 */5 * * * *"), Once(at_ns=NOW_NS + 10**12)]


def events(choice: random.Random, at_ns: int = NOW_NS) -> Iterator[Event]:
    """Yield events for ever; every instant is another one, so that hardly any two prefixes have the same fold."""
    while True:
        at_ns += choice.randrange(1, 10**9)
        job = choice.choice(_NAMES)
        match choice.randrange(10):
            case 0 | 1 | 2:
                yield Scheduled(job, choice.choice(_SCHEDULES), at_ns)
            case 3 | 4 | 5:
                yield Started(job, at_ns)
            case 6 | 7 | 8:
                yield Finished(job, at_ns, choice.random() < 0.7)
            case _:
                yield Cancelled(job)


def restored(choice: random.Random, at_ns: int) -> tuple[Event, ...]:
    """Return the restoring of three jobs."""
    statuses = [status for status in SchedulerJobStatus if status is not SchedulerJobStatus.CANCELLED]
    return tuple(
        Restored(
            SchedulerJobRecord(
                QName.parse(name),
                choice.choice(statuses),
                at_ns,
                None,
                at_ns + number,
                number,
                choice.choice(_SCHEDULES),
            )
        )
        for number, name in enumerate(choice.sample(_NAMES, 3))
    )


_WEIGHTS: Final = {
    "event": 60,
    "many": 12,
    "restore": 3,
    "sync": 6,
    "flush": 4,
    "compact": 3,
    "load": 2,
    "iterate": 3,
    "tick": 6,
}


def random_script(choice: random.Random, length: int) -> list[Operation]:
    """Return a workload for an open store."""
    stream = events(choice)
    script: list[Operation] = []
    for name in choice.choices(list(_WEIGHTS), list(_WEIGHTS.values()), k=length):
        match name:
            case "event":
                script.append(Operation(name, (next(stream),)))
            case "many":
                script.append(Operation(name, tuple(next(stream) for _ in range(choice.randrange(2, 9)))))
            case "restore":
                script.append(Operation(name, restored(choice, NOW_NS + choice.randrange(10**9))))
            case _:
                script.append(Operation(name))
    return script


def _scripted(level: Durability) -> list[Operation]:
    """Return the workload of the exhaustive tests: everything that a store does, in some sixty operations."""
    choice = random.Random("script")
    stream = events(choice)

    def some(count: int) -> list[Operation]:
        return [Operation("event", (next(stream),)) for _ in range(count)]

    def many(count: int) -> list[Operation]:
        return [Operation("many", tuple(next(stream) for _ in range(count)))]

    again = Operation("open", level=level)
    return [
        again,
        *some(4),
        Operation("sync"),
        *many(5),
        *some(3),
        Operation("restore", restored(choice, NOW_NS + 1)),
        *some(8),
        *many(3),
        Operation("iterate"),
        Operation("flush"),
        *some(3),
        Operation("close"),
        again,
        *some(9),
        Operation("tick"),
        *many(4),
        *some(4),
        Operation("compact"),
        *some(2),
        Operation("tick"),
        Operation("sync"),
        *many(12),
        *some(5),
        Operation("iterate"),
        Operation("load"),
        *some(2),
        Operation("close"),
    ]


SCRIPT: Final = {level: _scripted(level) for level in LEVELS}
