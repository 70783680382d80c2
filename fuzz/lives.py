"""What the harnesses with real processes share: plans of lives, and the board on which a life counts what it did.

A store goes through many *lives*: a process opens it, records, and is ended from outside. Each of its threads owns a
*lane* of jobs, so that what is left of every lane must be the fold of a prefix of what that one thread recorded,
however the threads were interleaved. The operations of a lane follow from the plan alone: all that a life has to tell
is how many of its units it has attempted and how many were acknowledged, which it counts on a board that outlives it.
"""

from __future__ import annotations

import mmap
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

from walstore.model.events import Cancelled, Event, Finished, Restored, Scheduled, Started
from walstore.model.names import QName
from walstore.model.records import SchedulerJobRecord, SchedulerJobStatus
from walstore.model.schedule import Cron, Manual, Once, Periodic
from walstore.options import Durability, WalOptions
from walstore.testing.model import NOW_NS

__all__ = ["LANES", "Board", "Plan", "Unit", "operations", "plan_of"]

LANES: Final = 8
_JOBS_PER_LANE: Final = 10
_OPENED: Final = 0
_ATTEMPTED: Final = 1
_ACKNOWLEDGED: Final = _ATTEMPTED + LANES
_SYNCED: Final = _ACKNOWLEDGED + LANES
_SEGMENT_LSN: Final = _SYNCED + LANES * LANES
_SNAPSHOT_LSN: Final = _SEGMENT_LSN + 1
_SLOTS: Final = _SNAPSHOT_LSN + 1
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
_WORKERS_SHARE: Final = 0.1
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
    batches: int
    """How often it records several events together: a weight, where that of single ones is 100."""
    syncs: int
    """How often it syncs, flushes and compacts: a weight as well."""
    waits: bool = False
    """Whether it waits for the lock, which another writer holds."""
    stops_after: int | None = None
    """The operation of the first lane after which the process stops itself (SIGSTOP) to be cut off right there."""
    workers: bool = False
    """Whether large merges run in processes of their own; in the others' lives, mostly shorter than such a start, in
    threads."""


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
        batches=choice.choice([20, 500]),
        syncs=choice.choice([0, 2, 20]),
        waits=waits,
        workers=choice.random() < _WORKERS_SHARE,
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
    weights: dict[str, float] = {
        "event": 100,
        "many": plan.batches,
        "restore": 3,
        "sync": plan.syncs,
        "flush": plan.syncs,
    }
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

    def name(self, segment_lsn: int, snapshot_lsn: int) -> None:
        """Note that files with these LSNs in their names are in use, so that their names must be on the device."""
        self._slots[_SEGMENT_LSN] = segment_lsn
        self._slots[_SNAPSHOT_LSN] = snapshot_lsn

    def named(self) -> tuple[int, int]:
        """Return the LSNs that the last segment and the last snapshot must at least have."""
        return self._slots[_SEGMENT_LSN], self._slots[_SNAPSHOT_LSN]

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
