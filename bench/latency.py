"""Latency of one call: closed loop, and paced load."""

from __future__ import annotations

from array import array
from typing import Final

from bench.floors import FLOORS, MapFloor
from bench.peers_kv import KV_PEERS, LmdbWritemap, PlyvelUnsynced
from bench.peers_sql import SQL_PEERS, SqliteNormal
from bench.peers_whole import WHOLE_PEERS
from bench.stage import Pool, Stage, calls_in
from bench.stores import WAL_LEVELS, WalBuffered, WalProcess
from bench.timing import closed, paced, settle
from bench.workloads import job_ids, starts, waiting

__all__ = ["CLOSED", "PACED", "PACE_NS", "measure_closed", "measure_paced"]

CLOSED: Final = "latency"
PACED: Final = "paced"
PACE_NS: Final = 20_000
"""50,000 events a second."""
_JOBS: Final = 1_000


def measure_closed(stage: Stage) -> None:
    """Time every call of ``record_started``, each beginning when the one before has ended."""
    population = job_ids(_JOBS)
    work = starts(population, stage.scale.latency_calls_max)
    pool = Pool(stage, CLOSED)
    kinds = stage.present((*WAL_LEVELS, *FLOORS, *KV_PEERS, *SQL_PEERS, *WHOLE_PEERS))
    for kind, target in stage.alternated("Latency", kinds):
        target.record_many(waiting(population))
        call, args = target.started(work)
        count = calls_in(target, population, stage.scale.latency_s, len(work.jobs))
        out = array("q", bytes(8 * count))
        settle()
        closed(call, work.jobs[:count], args[:count], out)
        pool.add(kind.name, out)
    pool.finish()


def measure_paced(stage: Stage) -> None:
    """Time every call of ``record_started`` from the time when it was due, at a fixed rate."""
    population = job_ids(_JOBS)
    count = int(3 * stage.scale.latency_s * 1e9 / PACE_NS)
    work = starts(population, count)
    pool = Pool(stage, PACED)
    kinds = stage.present((WalBuffered, WalProcess, MapFloor, LmdbWritemap, PlyvelUnsynced, SqliteNormal))
    for kind, target in stage.alternated("Paced load", kinds):
        target.record_many(waiting(population))
        call, args = target.started(work)
        calls_in(target, population, 0, count)
        out = array("q", bytes(8 * count))
        settle()
        paced(call, work.jobs, args, out, PACE_NS)
        pool.add(kind.name, out)
    pool.finish()
