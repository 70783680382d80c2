"""What walstore is to reach, as ratios of figures of one run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from bench.concurrency import ASYNC, TASKS, THREADS, of_threads
from bench.floors import BareAppend, MapFloor, PackbMapFloor, SyncFloor
from bench.growth import COST, RESTART, of_jobs
from bench.large import (
    DURING,
    ENGINE_REWRITE,
    FEW_CHANGED,
    MEMORY,
    PLAIN_REWRITE,
    QUIET,
    REWRITE,
    WHILE,
    WORKER,
)
from bench.latency import CLOSED, PACED
from bench.memory import STAGES
from bench.peers_kv import LmdbWritemap, PlyvelUnsynced, RocksUnsynced
from bench.peers_sql import SqliteFull, SqliteNormal, SqliteShared
from bench.peers_whole import JsonFile
from bench.replay import FRAMES, LOADING, OPENING, REPLAY, UNPACKB
from bench.results import Results
from bench.scale import Scale
from bench.stores import BATCH, WalBuffered, WalPower, WalProcess
from bench.throughput import BATCHES, RATE, SUSTAINED

__all__ = ["Goal", "goals_of"]


@dataclass(frozen=True, slots=True)
class Goal:
    """A goal and what was measured; ``value`` is None where it could not be."""

    text: str
    value: float | None
    limit: float
    unit: str = "x"
    at_least: bool = False

    @property
    def is_met(self) -> bool | None:
        """Whether it is met; None where that is not known."""
        if self.value is None:
            return None
        return self.value >= self.limit if self.at_least else self.value <= self.limit


class _Figures:
    """Looks figures up; what was not measured makes everything that depends on it None."""

    def __init__(self, results: Results, scale: Scale) -> None:
        self.find = results.find
        self.scale = scale

    def ratio(self, one: tuple[str, str, str], other: tuple[str, str, str]) -> float | None:
        return quotient(self.find(*one), self.find(*other))

    def p50_ratio(self, subject: str, other: str) -> float | None:
        return self.ratio((CLOSED, subject, "p50"), (CLOSED, other, "p50"))


def quotient(one: float | None, other: float | None) -> float | None:
    """Return one divided by the other, where both are known."""
    return one / other if one is not None and other else None


def goals_of(results: Results, scale: Scale) -> list[Goal]:
    """Return all goals, held against the figures of a run."""
    figures = _Figures(results, scale)
    return [*_per_call(figures), *_rates(figures), *_restarts(figures), *_growth(figures)]


def _per_call(figures: _Figures) -> Iterator[Goal]:
    buffered, process = WalBuffered.name, WalProcess.name
    for subject, other, limit in (
        (buffered, BareAppend, 2.0),
        (buffered, LmdbWritemap, 0.25),
        (buffered, SqliteNormal, 0.03),
        (process, PackbMapFloor, 1.0),
        (process, LmdbWritemap, 0.4),
        (process, PlyvelUnsynced, 0.3),
        (process, RocksUnsynced, 0.3),
        (process, SqliteNormal, 0.05),
    ):
        yield Goal(f"{subject}: p50 of record_started / {other.name}", figures.p50_ratio(subject, other.name), limit)
    yield Goal(f"{process}: p99.9 at 50,000 events/s", figures.find(PACED, process, "p99.9"), 20, "µs")
    jobs = of_jobs(figures.scale.jobs_max)
    during = figures.ratio((WHILE, DURING, "p99.9"), (WHILE, QUIET, "p99.9"))
    yield Goal(f"{process}: p99.9 at 50,000 events/s during a checkpoint of {jobs} / without", during, 3)
    power = WalPower.name
    yield Goal(f"{power}: p50, one thread / {SyncFloor.name}", figures.p50_ratio(power, SyncFloor.name), 1.15)
    yield Goal(f"{power}: p50, one thread / {SqliteFull.name}", figures.p50_ratio(power, SqliteFull.name), 1.0)


def _rates(figures: _Figures) -> Iterator[Goal]:
    process = WalProcess.name
    sustained = figures.find(SUSTAINED, process, RATE)
    yield Goal(f"{process}: sustained, with the final sync", sustained, 1_500_000, "events/s", at_least=True)
    batches = figures.ratio((BATCHES, process, RATE), (BATCHES, LmdbWritemap.name, RATE))
    yield Goal(f"{process}: record_many of {BATCH} / {LmdbWritemap.name}", batches, 3, at_least=True)
    # SQLite's best, at whatever number of threads that is.
    rates = [figures.find(THREADS, SqliteShared.name, of_threads(count)) for count in figures.scale.threads]
    best = max((rate for rate in rates if rate is not None), default=None)
    many = of_threads(figures.scale.threads[-1])
    threads = quotient(figures.find(THREADS, WalPower.name, many), best)
    yield Goal(f"{WalPower.name}: {many}, events/s / {SqliteShared.name}", threads, 8, at_least=True)
    tasks = quotient(figures.find(TASKS, ASYNC, "events/s"), best)
    yield Goal(f"{ASYNC}: {figures.scale.tasks:,} tasks, events/s / {SqliteShared.name}", tasks, 40, at_least=True)


def _restarts(figures: _Figures) -> Iterator[Goal]:
    find = figures.find
    for (_, metric), limit in zip(FRAMES.items(), (4, 7), strict=True):
        parts = (find(REPLAY, OPENING, metric), find(REPLAY, LOADING, metric))
        total = None if parts[0] is None or parts[1] is None else parts[0] + parts[1]
        ratio = quotient(total, find(REPLAY, UNPACKB, metric))
        events = f"{figures.scale.replay_events:,} events"
        yield Goal(f"Replay of {events}, {metric}: opening and load_all / unpackb", ratio, limit)
    jobs = of_jobs(figures.scale.jobs_max)
    ratio = figures.ratio(
        (RESTART, "walstore: load_all", jobs), (RESTART, "sqlite3: SELECT and the same records", jobs)
    )
    yield Goal(f"load_all of {jobs} / SQLite's SELECT and building the same records", ratio, 1.0)
    changed = f"checkpoint of {jobs}, {figures.scale.changed_jobs:,} changed"
    for rewrite in (PLAIN_REWRITE, ENGINE_REWRITE):
        for part in ("wall", "CPU"):
            ratio = figures.ratio((REWRITE, FEW_CHANGED, part), (REWRITE, rewrite, part))
            yield Goal(f"{changed}: {part} time / {rewrite}", ratio, 0.1)


def _growth(figures: _Figures) -> Iterator[Goal]:
    find, process, few, many = figures.find, WalProcess.name, figures.scale.jobs[0], figures.scale.jobs_max
    multiples = [
        figures.ratio((COST, process, of_jobs(jobs)), (COST, MapFloor.name, of_jobs(jobs))) for jobs in (few, many)
    ]
    ratio = quotient(multiples[1], multiples[0])
    yield Goal(f"Cost of an event as a multiple of the floor, {of_jobs(many)} / {of_jobs(few)}", ratio, 1.2)
    resident = [find(MEMORY, process, stage) for stage in STAGES]
    most = max((value for value in resident if value is not None), default=None)
    yield Goal(f"Resident memory over an empty process, {of_jobs(many)}, at its peak", most, 64, "MiB")
    worker = find(MEMORY, WORKER, "peak")
    yield Goal(f"Memory of the process that merges, {of_jobs(many)}, at its peak", worker, 128, "MiB")
    ratio = figures.ratio((COST, JsonFile.name, of_jobs(10_000)), (COST, process, of_jobs(10_000)))
    yield Goal(f"{JsonFile.name} for each event at 10,000 jobs / {process}", ratio, 10_000, at_least=True)
