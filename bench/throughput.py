"""Events per second with the final sync: one at a time, in batches, a real trace; and what the device takes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from time import perf_counter
from typing import Final

from bench.floors import BareAppend, MapFloor
from bench.peers_kv import KV_PEERS, LmdbWritemap, PlyvelUnsynced, RocksUnsynced
from bench.peers_sql import SQL_PEERS, SqliteNormal
from bench.peers_whole import WHOLE_PEERS
from bench.stage import Stage
from bench.stores import BATCH, WAL_LEVELS, WalBuffered, WalProcess
from bench.timing import looped, settle
from bench.workloads import Starts, job_ids, mix, rows_of, starts, trace, waiting
from walstore import Started

__all__ = ["BATCHES", "MIX", "RATE", "SUSTAINED", "TRACE", "WRITES", "measure_sustained", "measure_trace"]

SUSTAINED: Final = "sustained"
BATCHES: Final = "batches"
TRACE: Final = "trace"
MIX: Final = "mix"
WRITES: Final = "bandwidth"
RATE: Final = "events/s"
_JOBS: Final = 1_000
_WRITE_BYTES: Final = 1 << 20


def measure_sustained(stage: Stage) -> None:
    """Record many events one at a time and in batches, sync once, and divide."""
    population = job_ids(_JOBS)
    work = starts(population, stage.scale.sustained_events)
    _sustained(stage, population, work)
    _batches(stage, population, work)
    _bandwidth(stage)


def _sustained(stage: Stage, population: Sequence[str], work: Starts) -> None:
    rates: dict[str, list[float]] = {}
    for kind, target in stage.alternated("Sustained", stage.present((WalBuffered, WalProcess, BareAppend, MapFloor))):
        target.record_many(waiting(population))
        call, args = target.started(work)
        settle()
        start = perf_counter()
        looped(call, work.jobs, args)
        target.sync()
        rates.setdefault(kind.name, []).append(len(work.jobs) / (perf_counter() - start))
    for subject, values in rates.items():
        stage.results.add(SUSTAINED, subject, RATE, RATE, values)


def _batches(stage: Stage, population: Sequence[str], work: Starts) -> None:
    """Record the same in batches of 512. What goes into a batch is made before: event objects, or records."""
    begins = range(0, len(work.jobs), BATCH)
    rows = list(zip(work.jobs, work.states, strict=True))
    events = [Started(job, at) for job, at in zip(work.jobs, work.ats, strict=True)]
    event_batches = [events[begin : begin + BATCH] for begin in begins]
    row_batches = [rows[begin : begin + BATCH] for begin in begins]
    rates: dict[str, list[float]] = {}
    kinds = stage.present((WalBuffered, WalProcess, LmdbWritemap, PlyvelUnsynced, RocksUnsynced, SqliteNormal))
    for kind, target in stage.alternated("Batches", kinds):
        target.record_many(waiting(population))
        settle()
        start = perf_counter()
        if isinstance(target, (WalBuffered, WalProcess)):
            for group in event_batches:
                target.store.record_many(group)
        else:
            for batch in row_batches:
                target.record_many(batch)
        target.sync()
        rates.setdefault(kind.name, []).append(len(work.jobs) / (perf_counter() - start))
    for subject, values in rates.items():
        stage.results.add(BATCHES, subject, RATE, RATE, values)


def _bandwidth(stage: Stage) -> None:
    """Write with ``os.write``, a MiB at a time, as many bytes as a million events take, and sync once."""
    chunk = os.urandom(_WRITE_BYTES)
    count = max(1, stage.scale.sustained_events * 64 // _WRITE_BYTES)
    before, after = [], []
    for _ in range(stage.scale.rounds):
        path = stage.root / "bandwidth"
        with path.open("wb", buffering=0) as file:
            start = perf_counter()
            for _ in range(count):
                os.write(file.fileno(), chunk)
            before.append(count / (perf_counter() - start))
            os.fdatasync(file.fileno())
            after.append(count / (perf_counter() - start))
        path.unlink()
    stage.results.add(WRITES, "floor: os.write", "before the sync", "MiB/s", before)
    stage.results.add(WRITES, "floor: os.write", "with fdatasync", "MiB/s", after)


def measure_trace(stage: Stage) -> None:
    """Record the events of the trace, and of the synthetic mix, one at a time."""
    kinds = stage.present((*WAL_LEVELS, *KV_PEERS, *SQL_PEERS, *WHOLE_PEERS))
    events = trace()
    for table, loads in ((TRACE, events), (MIX, mix(job_ids(_JOBS), len(events)))):
        rows = rows_of(loads)
        rates: dict[str, list[float]] = {}
        for kind, target in stage.alternated(f"Events of the {table}", kinds):
            settle()
            done, seconds = target.replay(loads, rows, stage.scale.trace_s)
            rates.setdefault(kind.name, []).append(done / seconds)
        for subject, values in rates.items():
            stage.results.add(table, subject, RATE, RATE, values)
