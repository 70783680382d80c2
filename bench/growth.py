"""What the number of jobs does: cost per event, checkpoint, and restart."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from time import perf_counter
from typing import Final

from bench.floors import MapFloor
from bench.large import measure_large
from bench.peers_kv import LmdbWritemap, PlyvelUnsynced, RocksUnsynced
from bench.peers_sql import SqliteNormal
from bench.peers_whole import BeatShelve, JsonFile
from bench.stage import Stage, calls_in
from bench.stores import WalBuffered, WalProcess
from bench.target import Target
from bench.timing import looped, settle
from bench.workloads import job_ids, starts, waiting
from walstore import Started, WalOptions, WalPersistence

__all__ = ["CHECKPOINT", "COST", "RESTART", "WHOLE_JOBS_MAX", "measure_growth", "of_jobs", "restart"]

COST: Final = "cost"
RESTART: Final = "restart"
CHECKPOINT: Final = "checkpoint"
WHOLE_JOBS_MAX: Final = 10_000
"""Beyond it, those that write all jobs for each event would take the time of everybody else."""
_WHOLE_S: Final = 0.5
_CHANGES: Final = 1_000
_KINDS: Final[tuple[type[Target], ...]] = (
    WalBuffered,
    WalProcess,
    MapFloor,
    SqliteNormal,
    LmdbWritemap,
    PlyvelUnsynced,
    RocksUnsynced,
)
_WHOLE_KINDS: Final[tuple[type[Target], ...]] = (BeatShelve, JsonFile)


def of_jobs(jobs: int) -> str:
    """Return the name of a figure at so many jobs."""
    return f"{jobs:,} jobs"


def measure_growth(stage: Stage) -> None:
    """Measure everything that could depend on the number of jobs, at several of them."""
    for jobs in stage.scale.jobs:
        population = job_ids(jobs)
        with ExitStack() as stack:
            targets: list[Target] = []
            for kind in stage.present((*_KINDS, *_WHOLE_KINDS) if jobs <= WHOLE_JOBS_MAX else _KINDS):
                stage.say(f"{of_jobs(jobs)}: filling {kind.name}")
                target = stack.enter_context(stage.opened(kind))
                target.record_many(waiting(population))
                if isinstance(target, (WalBuffered, WalProcess)):
                    target.store.flush_checkpoint(compact=True)
                else:
                    target.sync()
                targets.append(target)
            _measure_cost(stage, population, targets)
            store = next(target.store for target in targets if isinstance(target, WalProcess))
            sqlite = next(target for target in targets if isinstance(target, SqliteNormal))
            _measure_restart(stage, population, store, sqlite)
            if jobs == stage.scale.jobs_max:
                measure_large(stage, store.path, population)


def _measure_cost(stage: Stage, population: Sequence[str], targets: Sequence[Target]) -> None:
    """Time loops of calls for jobs drawn at random, compactions included that come due in the meantime."""
    costs: dict[str, list[float]] = {}
    for number in range(stage.scale.rounds):
        work = starts(population, stage.scale.growth_events, seed=number)
        for target in targets:
            stage.say(f"{of_jobs(len(population))}, cost of an event: {target.name}")
            call, args = target.started(work)
            count = len(work.jobs)
            if isinstance(target, _WHOLE_KINDS):
                count = calls_in(target, population, _WHOLE_S, count)
            settle()
            costs.setdefault(target.name, []).append(looped(call, work.jobs[:count], args[:count]) / count / 1_000)
    for subject, values in costs.items():
        stage.results.add(COST, subject, of_jobs(len(population)), "µs", values)


def _measure_restart(stage: Stage, population: Sequence[str], store: WalPersistence, sqlite: SqliteNormal) -> None:
    jobs = len(population)
    metric = of_jobs(jobs)
    stage.say(f"{metric}: checkpoint")
    store.flush_checkpoint(compact=True)
    work = starts(population, _CHANGES, seed=stage.scale.rounds)
    store.record_many([Started(job, at) for job, at in zip(work.jobs, work.ats, strict=True)])
    settle()
    start = perf_counter()
    store.flush_checkpoint(compact=True)
    stage.results.add(CHECKPOINT, "walstore: checkpoint", metric, "s", [perf_counter() - start])
    store.close()
    opened, loaded, selected = [], [], []
    for number in range(stage.scale.rounds):
        stage.say(f"{metric}: restart, round {number + 1} of {stage.scale.rounds}")
        open_s, load_s = restart(store.path)
        opened.append(open_s)
        loaded.append(load_s)
        settle()
        start = perf_counter()
        records = sqlite.load_all()
        selected.append(perf_counter() - start)
        if len(records) != jobs:
            raise RuntimeError(f"SQLite has {len(records)} jobs, not {jobs}")
    stage.results.add(RESTART, "walstore: opening", metric, "s", opened)
    stage.results.add(RESTART, "walstore: load_all", metric, "s", loaded)
    stage.results.add(RESTART, "sqlite3: SELECT and the same records", metric, "s", selected)


def restart(path: Path, options: WalOptions | None = None) -> tuple[float, float]:
    """Return the seconds that opening a store takes, and load_all."""
    settle()
    start = perf_counter()
    store = WalPersistence(path, create=False, options=options)
    opened = perf_counter()
    records = store.load_all()
    loaded = perf_counter()
    del records
    store.close()
    return opened - start, loaded - opened
