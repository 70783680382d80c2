"""walstore at its three levels, as a subject of the benchmarks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Final

from bench.target import NOTHING, POWER_LOSS, PROCESS_DEATH, Target
from bench.timing import Call
from bench.workloads import HOURLY, Row, Starts, State
from walstore import Durability, Manual, Scheduled, WalOptions, WalPersistence
from walstore.model.events import CANCELLED, FINISHED, SCHEDULED, STARTED, EventForm

__all__ = ["BATCH", "EXPLICIT", "WAL_LEVELS", "WalBuffered", "WalPower", "WalProcess"]

BATCH: Final = 512
"""Events in a batch, wherever a row says batch."""

EXPLICIT: Final = WalOptions(compaction_ratio=1e12, small_store_bytes=1 << 60)
"""Options of a store that is compacted only when it is told to: for what would be disturbed by it otherwise."""

_MANUAL: Final = Manual()


class _Wal(Target):
    durability: ClassVar[Durability]

    def __init__(self, directory: Path) -> None:
        self.store = WalPersistence(directory / "store", durability=self.durability)

    def record(self, job: str, state: State) -> None:
        raise NotImplementedError("walstore takes events, not records")

    def forget(self, job: str) -> None:
        self.store.cancel(job)

    def record_many(self, rows: Sequence[tuple[str, State]]) -> None:
        """Schedule the jobs, in batches."""
        for begin in range(0, len(rows), BATCH):
            self.store.record_many([Scheduled(job, HOURLY) for job, _ in rows[begin : begin + BATCH]])

    def sync(self) -> None:
        self.store.sync()

    def close(self) -> None:
        self.store.close()

    def started(self, work: Starts) -> tuple[Call[Any], Sequence[Any]]:
        return self.store.record_started, work.ats

    def replay_chunk(self, events: Sequence[EventForm], rows: Sequence[Row]) -> None:
        assert len(events) == len(rows)
        store = self.store
        for event in events:
            if event[0] == STARTED:
                store.record_started(event[1], event[2])
            elif event[0] == FINISHED:
                store.record_finished(event[1], event[2], event[3])
            elif event[0] == CANCELLED:
                store.cancel(event[1])
            elif event[0] == SCHEDULED:
                store.record_scheduled(event[1], HOURLY if len(event[3]) > 1 else _MANUAL)


class WalBuffered(_Wal):
    """walstore that hands events to the kernel every 5 ms."""

    name = "walstore BUFFERED"
    survives = NOTHING
    durability = Durability.BUFFERED


class WalProcess(_Wal):
    """walstore as it comes: events are in the kernel's hands."""

    name = "walstore PROCESS"
    survives = PROCESS_DEATH
    durability = Durability.PROCESS


class WalPower(_Wal):
    """walstore that syncs events, those of all threads together."""

    name = "walstore POWER"
    survives = POWER_LOSS
    durability = Durability.POWER


WAL_LEVELS: Final[tuple[type[_Wal], ...]] = (WalBuffered, WalProcess, WalPower)
"""All of them."""
