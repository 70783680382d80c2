"""The scheduler's driver: jobs that fall due over a minute of simulated time, and ticks when none is due."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Iterable, Iterator
from time import perf_counter, perf_counter_ns
from typing import Final

from bench.growth import of_jobs
from bench.stage import Stage
from bench.stores import WalBuffered, WalPower, WalProcess
from bench.target import NOTHING
from bench.timing import settle
from walstore import MemoryPersistence, Once, SchedulerJobRecord, SchedulerPersistence, WalPersistence
from walstore.model.events import Cancelled, Event, Finished, Started
from walstore.model.names import Instant, JobId, QName
from walstore.model.records import SchedulerJobStatus
from walstore.scheduler import JobRun, Scheduler, SchedulerHost, SimulatedClock

__all__ = ["DRIVER", "SHARE", "TICK", "measure_driver"]

DRIVER: Final = "driver"
TICK: Final = "tick"
SHARE: Final = "time in persistence"
_MEMORY: Final = "MemoryPersistence"
_Wal = WalBuffered | WalProcess | WalPower
_LEVELS: Final[tuple[type[_Wal], ...]] = (WalBuffered, WalProcess, WalPower)
_TICK_NS: Final = 100_000_000
_TICKS: Final = 600
_ROUNDS_MAX: Final = 3
"""A round of all levels takes many seconds."""
_EMPTY_TICKS: Final = 1_000


def measure_driver(stage: Stage) -> None:
    """Let a host run jobs that are due over a minute, at each level; and let a scheduler tick in vain."""
    rates: dict[str, list[float]] = {}
    shares: dict[str, list[float]] = {}
    stage.results.survives[_MEMORY] = NOTHING
    for number in range(min(stage.scale.rounds, _ROUNDS_MAX)):
        for kind in (None, *_LEVELS):
            name = _MEMORY if kind is None else kind.name
            stage.say(f"Driver, round {number + 1}: {name}")
            settle()
            seconds, in_persistence_s = _drive(stage, kind)
            rates.setdefault(name, []).append(2 * stage.scale.driver_jobs / seconds)
            shares.setdefault(name, []).append(100 * in_persistence_s / seconds)
    for name, values in rates.items():
        if name != _MEMORY:
            stage.results.survives[name] = next(kind.survives for kind in _LEVELS if kind.name == name)
        stage.results.add(DRIVER, name, "events/s", "events/s", values)
        stage.results.add(DRIVER, name, SHARE, "%", shares[name])
    _measure_ticks(stage)


def _jobs(stage: Stage, now_ns: int) -> Iterator[SchedulerJobRecord]:
    """Yield jobs that fall due one after another, evenly over the minute."""
    count = stage.scale.driver_jobs
    for number in range(count):
        fire_ns = now_ns + 1 + number * _TICKS * _TICK_NS // count
        id_ = QName("bench.driver", f"job{number:07}")
        yield SchedulerJobRecord(id_, SchedulerJobStatus.PENDING, fire_ns, None, None, 0, Once(at_ns=fire_ns))


def _drive(stage: Stage, kind: type[_Wal] | None) -> tuple[float, float]:
    """Return the seconds that all jobs took, and how many of them were spent in the persistence."""
    clock = SimulatedClock()
    jobs = _jobs(stage, clock.now_ns())
    if kind is None:
        return asyncio.run(_run(_Memory(list(jobs)), clock)), 0.0
    with stage.opened(kind) as target:
        target.store.restore(jobs)
        target.store.flush_checkpoint()
        timed = _Timed(target.store)
        return asyncio.run(_run(timed, clock)), timed.spent_ns / 1e9


class _Memory(MemoryPersistence):
    """Keeps nothing, but gives the jobs to begin with. What its calls cost is not told apart from the driver."""

    def __init__(self, records: list[SchedulerJobRecord]) -> None:
        self._records = records

    def load_all(self) -> list[SchedulerJobRecord]:
        return self._records


class _Timed(SchedulerPersistence):
    """Passes everything on to a store, and counts the time that recording takes, from the call to its return."""

    def __init__(self, store: WalPersistence) -> None:
        self.spent_ns = 0
        self._store = store
        self.restore = store.restore
        self.sync = store.sync
        self.iter_jobs = store.iter_jobs

    def record_many(self, events: Iterable[Event]) -> None:
        start = perf_counter_ns()
        self._store.record_many(events)
        self.spent_ns += perf_counter_ns() - start

    def record_started(self, id: JobId, started_at: Instant) -> None:
        self.record_many([Started(id, started_at)])

    def record_finished(self, id: JobId, finished_at: Instant, success: bool) -> None:
        self.record_many([Finished(id, finished_at, success)])

    def cancel(self, id: JobId) -> None:
        self.record_many([Cancelled(id)])

    def load_all(self) -> list[SchedulerJobRecord]:
        return self._store.load_all()


async def _run(persistence: SchedulerPersistence, clock: SimulatedClock) -> float:
    """Run all jobs; returns the seconds from the first tick to the end of the last run."""

    async def provider(_: JobRun) -> None:
        pass

    host = SchedulerHost(persistence, clock=clock)
    host.register_namespace("bench.driver", provider)
    await host.start()
    start = perf_counter()
    ran = 0
    for _ in range(_TICKS):
        clock.advance(_TICK_NS)
        ran += host.tick()
        await host.idle()
    seconds = perf_counter() - start
    assert ran == len(host.control.list()), f"{ran} jobs ran"
    await host.shut_down()
    return seconds


def _measure_ticks(stage: Stage) -> None:
    """Time ticks of a scheduler with many jobs of which none is due."""
    clock = SimulatedClock()
    for count in stage.scale.jobs:
        stage.say(f"Ticks with {count:,} jobs")
        scheduler = Scheduler()
        scheduler.resume()
        for number in range(count):
            fire_ns = clock.now_ns() + _TICKS * _TICK_NS + number
            scheduler.add_scheduled_job(f"bench.tick.job{number:07}", Once(at_ns=fire_ns), clock.now_ns())
        settle()
        spent_ns = []
        for number in range(_EMPTY_TICKS):
            start = perf_counter_ns()
            due = scheduler.tick_at(clock.now_ns() + number)
            spent_ns.append(perf_counter_ns() - start - stage.clock_ns)
            assert not due, f"{due} are due"
        stage.results.add(TICK, "Scheduler.tick_at", of_jobs(count), "µs", [statistics.median(spent_ns) / 1_000])
