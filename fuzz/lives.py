"""What the harnesses with real processes share: plans of lives, acknowledgements, and the rule for what is left.

A store goes through many *lives*: a process opens it, records, and is ended from outside. Each of its threads owns a
*lane* of jobs, so that what is left of every lane must be the fold of a prefix of what that one thread recorded,
however the threads were interleaved. The operations of a lane follow from the plan alone: all that a life has to tell
is how many of its units it has attempted and how many were acknowledged, which it counts on a board that outlives it.
"""

from __future__ import annotations

import mmap
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Final

from walstore.engine.environment import Environment
from walstore.errors import StoreNotFoundError
from walstore.model.events import Cancelled, Event, Finished, Restored, Scheduled, Started
from walstore.model.names import QName
from walstore.model.records import SchedulerJobRecord, SchedulerJobStatus
from walstore.model.schedule import Cron, Manual, Once, Periodic
from walstore.options import Durability, WalOptions
from walstore.testing.model import NOW_NS, Jobs, apply, jobs_of
from walstore.wal import WalPersistence

__all__ = ["LANES", "Board", "Lane", "Past", "Plan", "Unit", "operations", "plan_of", "read_store"]

LANES: Final = 8
_JOBS_PER_LANE: Final = 10
_OPENED: Final = 0
_ATTEMPTED: Final = 1
_ACKNOWLEDGED: Final = _ATTEMPTED + LANES
_SYNCED: Final = _ACKNOWLEDGED + LANES
_SLOTS: Final = _SYNCED + LANES * LANES
_SLOT_BYTES: Final = 8

Unit = tuple[Event, ...]
"""What one call records, all or nothing."""

_TINY: Final = WalOptions(
    segment_bytes_min=1024,
    segment_bytes_max=4096,
    buffer_events=16,
    compaction_ratio=1.5,
    small_store_bytes=6_000,
    merge_memory_bytes=1024,
    sync_interval_ns=3_000_000,
    drain_interval_ns=1_000_000,
)
"""Something other than an append happens every few events."""
_SMALL: Final = WalOptions(
    segment_bytes_min=4096,
    segment_bytes_max=65_536,
    buffer_events=200,
    small_store_bytes=30_000,
    merge_memory_bytes=8_192,
    sync_interval_ns=20_000_000,
)
_OPTIONS: Final = (_TINY, _TINY, _SMALL, WalOptions())


@dataclass(frozen=True, slots=True)
class Plan:
    """What one writer does in its life: everything that it records follows from this."""

    seed: str
    start_ns: int
    """The instant of its first event. No two lives share one, so that hardly any two states are equal."""
    level: Durability
    lanes: tuple[int, ...]
    """One thread records into each."""
    options: WalOptions
    operations: int
    """Of each lane; then the store is closed."""
    syncs: int
    """How often it syncs, flushes and compacts: a weight."""
    waits: bool = False
    """Whether it waits for the lock, which another writer holds."""
    stops_after: int | None = None
    """The operation of the first lane after which the process stops itself (SIGSTOP) to be cut off right there."""


def plan_of(seed: str, number: int, lanes: Sequence[int], *, waits: bool = False) -> Plan:
    """Return the plan of one writer in the life with this number. It records into some of ``lanes``."""
    choice = random.Random(f"plan {seed} {number} {lanes}")
    threads = choice.choices([1, 2, 4], [6, 2, 2])[0]
    return Plan(
        seed=f"{seed} {number}",
        start_ns=NOW_NS + number * 1_000_000_000,
        level=choice.choice(list(Durability)),
        lanes=tuple(choice.sample(list(lanes), threads)),
        options=choice.choice(_OPTIONS),
        operations=choice.choices([5, 60, 100_000], [1, 2, 12])[0],
        syncs=choice.choice([0, 2, 20]),
        waits=waits,
    )


# The workload.

_SCHEDULES: Final = (
    Manual(),
    Periodic(every_ns=60_000_000_000),
    Periodic(every_ns=7),
    Once(at_ns=NOW_NS + 10**12),
    Cron("@hourly"),
)
_STATUSES: Final = [status for status in SchedulerJobStatus if status is not SchedulerJobStatus.CANCELLED]


def operations(plan: Plan, lane: int) -> Iterator[tuple[str, Unit]]:
    """Yield what the thread of a lane does: a name, and the unit that it records, if any."""
    choice = random.Random(f"{plan.seed} {lane}")
    events = _events(choice, lane, plan.start_ns)
    weights: dict[str, float] = {"event": 100, "many": 20, "restore": 3, "sync": plan.syncs, "flush": plan.syncs}
    weights |= {"compact": plan.syncs / 4, "load": 0.5, "iterate": 0.5}
    names, shares = list(weights), list(weights.values())
    for number in range(plan.operations):
        match choice.choices(names, shares)[0]:
            case "event":
                yield "event", (next(events),)
            case "many":
                yield "many", tuple(islice(events, choice.choice([2, 3, 5, 40])))
            case "restore":
                yield "restore", _restored(choice, lane, plan.start_ns + number)
            case name:
                yield name, ()


def _events(choice: random.Random, lane: int, at_ns: int) -> Iterator[Event]:
    while True:
        at_ns += choice.randrange(1, 1_000)
        job = f"lane{lane}.job{choice.randrange(_JOBS_PER_LANE)}"
        kind = choice.randrange(10)
        if kind < 3:
            yield Scheduled(job, choice.choice(_SCHEDULES), at_ns)
        elif kind < 6:
            yield Started(job, at_ns)
        elif kind < 9:
            yield Finished(job, at_ns, choice.random() < 0.7)
        else:
            yield Cancelled(job)


def _restored(choice: random.Random, lane: int, at_ns: int) -> Unit:
    return tuple(
        Restored(
            SchedulerJobRecord(
                QName.parse(f"lane{lane}.job{number}"),
                choice.choice(_STATUSES),
                at_ns,
                None,
                at_ns + number,
                number,
                choice.choice(_SCHEDULES),
            )
        )
        for number in choice.sample(range(_JOBS_PER_LANE), 4)
    )


class Board:
    """The counts that outlive a writer: a mapped file. Each slot has one writer, so nothing is ever counted back."""

    def __init__(self, path: Path) -> None:
        """Open the board at ``path``, creating it with all counts at zero."""
        with path.open("a+b") as file:
            file.truncate(_SLOTS * _SLOT_BYTES)
            self._map = mmap.mmap(file.fileno(), _SLOTS * _SLOT_BYTES)
        self._slots = memoryview(self._map).cast("q")

    def reset(self) -> None:
        """Set all counts to zero, for the next life."""
        self._map[:] = bytes(len(self._map))

    @property
    def opened(self) -> bool:
        """Whether a writer has opened the store, which puts on the device all that was found."""
        return bool(self._slots[_OPENED])

    def open(self) -> None:
        """Note that a writer has opened the store."""
        self._slots[_OPENED] = 1

    def attempt(self, lane: int, units: int) -> None:
        """Note that the last of so many units is about to be recorded."""
        self._slots[_ATTEMPTED + lane] = units

    def acknowledge(self, lane: int, units: int) -> None:
        """Note that the calls of so many units have returned."""
        self._slots[_ACKNOWLEDGED + lane] = units

    def sync(self, lane: int, units: Sequence[int]) -> None:
        """Note that a sync by the thread of ``lane`` has returned before which ``units`` of each lane had."""
        for number, count in enumerate(units):
            self._slots[_SYNCED + lane * LANES + number] = count

    def attempted(self, lane: int) -> int:
        """Return how many units were begun."""
        return self._slots[_ATTEMPTED + lane]

    def acknowledged(self) -> list[int]:
        """Return how many units of each lane were acknowledged."""
        return self._slots[_ACKNOWLEDGED : _ACKNOWLEDGED + LANES].tolist()

    def synced(self, lane: int) -> int:
        """Return how many units of a lane an acknowledged sync of any thread covers."""
        return max(self._slots[_SYNCED + other * LANES + lane] for other in range(LANES))


# The rule for what is left.


@dataclass(slots=True)
class Lane:
    """What one lane may hold."""

    states: list[Jobs] = field(default_factory=lambda: [{}])
    """The fold of the first n units since what is known to be on the device, for each n."""
    process_floor: int = 0
    """Units that survive the death of the process."""
    power_floor: int = 0
    """Units that survive a power loss."""

    def settle(self) -> None:
        """Note that all of it is on the device."""
        self.states = self.states[-1:]
        self.process_floor = self.power_floor = 0


class Past:
    """What was recorded into a store in all of its lives, and how much of it must be there."""

    def __init__(self) -> None:
        self.lanes = [Lane() for _ in range(LANES)]
        self._existed = False

    def jobs(self) -> Jobs:
        """Return what the store holds: known only after ``check``."""
        return {job: record for lane in self.lanes for job, record in lane.states[-1].items()}

    def add(self, plans: Sequence[Plan], board: Board) -> None:
        """Take in what the writers of one life did."""
        if board.opened:
            self._existed = True
            for lane in self.lanes:
                lane.settle()
        acknowledged = board.acknowledged()
        for plan in plans:
            for number in plan.lanes:
                self._add_lane(plan, number, board.attempted(number), acknowledged[number], board.synced(number))

    def _add_lane(self, plan: Plan, number: int, attempted: int, acknowledged: int, synced: int) -> None:
        lane = self.lanes[number]
        before = len(lane.states) - 1
        jobs = dict(lane.states[-1])
        units = (unit for _, unit in operations(plan, number) if unit)
        for unit in islice(units, attempted):
            for event in unit:
                apply(jobs, event)
            lane.states.append(dict(jobs))
        in_kernel = synced if plan.level is Durability.BUFFERED else max(acknowledged, synced)
        on_device = max(acknowledged, synced) if plan.level is Durability.POWER else synced
        lane.process_floor = max(lane.process_floor, before + in_kernel)
        lane.power_floor = max(lane.power_floor, before + on_device)

    def check(self, found: Jobs | None, *, power: bool) -> str:
        """Return what is wrong with what was found after the death of a process, or after a power loss; "" if nothing.

        ``found`` is None where there was no store. What is found is what the next life starts from.
        """
        if found is None and self._existed:
            return "the store is gone"
        left = dict(found or {})
        for number, lane in enumerate(self.lanes):
            prefix = f"lane{number}."
            jobs = {job: left.pop(job) for job in list(left) if job.startswith(prefix)}
            floor = lane.power_floor if power else lane.process_floor
            units = next((n for n in range(len(lane.states) - 1, -1, -1) if lane.states[n] == jobs), None)
            if units is None:
                return f"lane {number} holds no prefix, of which {floor} units must be there: {_nearest(lane, jobs)}"
            if units < floor:
                return f"lane {number} holds {units} of {len(lane.states) - 1} units, and {floor} must be there"
            del lane.states[units + 1 :]
            lane.process_floor = units
            if power:
                lane.settle()
        return f"jobs that nobody recorded: {left}" if left else ""


def _nearest(lane: Lane, jobs: Jobs) -> str:
    """Say how jobs that are no state of a lane differ from the state that they come closest to."""

    def differing(state: Jobs) -> list[str]:
        return sorted(job for job in state.keys() | jobs.keys() if state.get(job) != jobs.get(job))

    units = min(range(len(lane.states)), key=lambda number: len(differing(lane.states[number])))
    state = lane.states[units]
    lines = [f"\n  {job}: {jobs.get(job)}, not {state.get(job)}" for job in differing(state)]
    return f"it differs from the state after {units} of {len(lane.states) - 1} units in{''.join(lines)}"


def read_store(directory: Path, environment: Environment | None = None) -> Jobs | None:
    """Return what a store holds, without changing it; None where none was ever finished."""
    try:
        with WalPersistence(directory, read_only=True, environment=environment) as store:
            jobs = jobs_of(store)
            assert {str(record.id): record for record in store.iter_jobs()} == jobs, "iter_jobs and load_all differ"
            return jobs
    except StoreNotFoundError:
        return None
