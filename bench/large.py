"""A store with very many jobs: checkpoints when few have changed, load in the meantime, and memory."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import threading
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter, thread_time
from typing import Final

import msgpack
from xxhash import xxh3_64_digest

from bench.latency import PACE_NS
from bench.memory import STAGES
from bench.stage import Pool, Stage
from bench.stores import BATCH
from bench.timing import paced, settle
from bench.workloads import Starts, starts
from walstore import Started, WalOptions, WalPersistence
from walstore.model.records import JobState, state_of

__all__ = [
    "DURING",
    "ENGINE_REWRITE",
    "FEW_CHANGED",
    "MEMORY",
    "PLAIN_REWRITE",
    "QUIET",
    "REWRITE",
    "WHILE",
    "WORKER",
    "measure_large",
]

REWRITE: Final = "rewrite"
PLAIN_REWRITE: Final = "floor: pack, write and sync all records"
ENGINE_REWRITE: Final = "walstore: checkpoint after all have changed"
FEW_CHANGED: Final = "walstore: checkpoint after few have changed"
WHILE: Final = "paced-checkpoint"
QUIET: Final = "walstore PROCESS, no checkpoint"
DURING: Final = "walstore PROCESS, during a checkpoint"
MEMORY: Final = "memory"
WORKER: Final = "walstore: the process that merges"
_CHECKOUT: Final = Path(__file__).parent.parent
_PACED_S: Final = 2.0
_RECORDS_PER_FRAME: Final = 512
_APART: Final = WalOptions(compaction_ratio=1e12)
"""Compacted only when it is told to, and then as large stores are: by a worker process."""


def measure_large(stage: Stage, path: Path, population: Sequence[str]) -> None:
    """Measure the store at ``path``, which is closed and has these jobs."""
    _measure_rewrites(stage, path, population)
    _measure_during_checkpoint(stage, path, population)
    _measure_memory(stage, path, len(population))


def _measure_rewrites(stage: Stage, path: Path, population: Sequence[str]) -> None:
    changed = starts(population, stage.scale.changed_jobs, seed=1)
    with WalPersistence(path, create=False, options=_APART) as store:
        stage.say("Writing all records anew, without the engine")
        _measure_plain_rewrite(stage, store)
        stage.say("Checkpoint after all jobs have changed")
        _record(store, starts(population, 1), population)
        settle()
        _add_spent(stage, ENGINE_REWRITE, [_spent(lambda: store.flush_checkpoint(compact=True))])
    _measure_in_a_row(stage, path, changed, len(population))


def _measure_in_a_row(stage: Stage, path: Path, changed: Starts, jobs: int) -> None:
    """Measure checkpoints one after another with the options as they come, until the merges that they start are done.

    The mean over all is what counts: a checkpoint leaves the merge to a later one, or to the background. All processor
    time counts but that of recording.
    """
    spent_s = recording_s = 0.0
    count = 0
    before = sorted(path.glob("*.snap"))
    store = WalPersistence(path, create=False)
    begin_s = _cpu_s()
    try:
        end = perf_counter() + stage.scale.checkpoints_s
        while count < stage.scale.checkpoints_max and perf_counter() < end:
            stage.say(f"Checkpoint {count + 1} after {stage.scale.changed_jobs:,} changes")
            before_s = thread_time()
            _record(store, changed, changed.jobs)
            recording_s += thread_time() - before_s
            spent_s += _spent(store.flush_checkpoint)[0]
            count += 1
    finally:
        # Waits for the merge that is under way.
        spent_s += _spent(store.close)[0]
    _add_spent(stage, FEW_CHANGED, [(spent_s / count, (_cpu_s() - begin_s - recording_s) / count)])
    stage.results.notes.append(
        f"Checkpoints in a row with {stage.scale.changed_jobs:,} of {jobs:,} jobs changed: {count}, with "
        f"{'no merge' if sorted(path.glob('*.snap')) == before else 'at least one merge'} among them."
    )


def _measure_plain_rewrite(stage: Stage, store: WalPersistence) -> None:
    rows = [(str(record.id), state_of(record)) for record in store.load_all()]
    settle()
    spent = [_spent(lambda: _rewrite(rows, store.path.parent)) for _ in range(stage.scale.rounds)]
    _add_spent(stage, PLAIN_REWRITE, spent)


def _record(store: WalPersistence, work: Starts, jobs: Sequence[str]) -> None:
    at_ns = work.ats[0]
    for begin in range(0, len(jobs), BATCH):
        store.record_many([Started(job, at_ns) for job in jobs[begin : begin + BATCH]])


def _rewrite(rows: Sequence[tuple[str, JobState]], directory: Path) -> None:
    pack = msgpack.Packer().pack
    path = directory / "rewrite"
    with path.open("wb", buffering=0) as file:
        for begin in range(0, len(rows), _RECORDS_PER_FRAME):
            payload = pack([(job, *state) for job, state in rows[begin : begin + _RECORDS_PER_FRAME]])
            os.write(file.fileno(), xxh3_64_digest(payload) + payload)
        os.fdatasync(file.fileno())
    path.unlink()


def _spent(work: Callable[[], object]) -> tuple[float, float]:
    """Return the seconds that work takes, by the clock and of the processors, children included."""
    before, start = _cpu_s(), perf_counter()
    work()
    wall = perf_counter() - start
    return wall, _cpu_s() - before


def _cpu_s() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def _add_spent(stage: Stage, subject: str, spent: Sequence[tuple[float, float]]) -> None:
    stage.results.add(REWRITE, subject, "wall", "s", [wall for wall, _ in spent])
    stage.results.add(REWRITE, subject, "CPU", "s", [cpu for _, cpu in spent])


def _measure_during_checkpoint(stage: Stage, path: Path, population: Sequence[str]) -> None:
    count = int(min(_PACED_S, 10 * stage.scale.latency_s) * 1e9 / PACE_NS)
    pool = Pool(stage, WHILE)
    ended_early = 0
    with WalPersistence(path, create=False, options=_APART) as store:
        for number in range(stage.scale.rounds):
            work = starts(population, count, seed=number)
            out = array("q", bytes(8 * count))
            stage.say(f"Paced load, round {number + 1} of {stage.scale.rounds}: {QUIET}")
            settle()
            paced(store.record_started, work.jobs, work.ats, out, PACE_NS)
            pool.add(QUIET, out)
            stage.say(f"Paced load, round {number + 1} of {stage.scale.rounds}: {DURING}")
            checkpoint = threading.Thread(target=store.flush_checkpoint, kwargs={"compact": True})
            checkpoint.start()
            paced(store.record_started, work.jobs, work.ats, out, PACE_NS)
            ended_early += not checkpoint.is_alive()
            checkpoint.join()
            pool.add(DURING, out)
    pool.finish()
    if ended_early:
        stage.results.notes.append(
            f"Of the {stage.scale.rounds} checkpoints under paced load, {ended_early} ended before the load did: "
            "their calls after the end count as during it."
        )


def _measure_memory(stage: Stage, path: Path, jobs: int) -> None:
    stage.say("Memory of a process with the store, and of one without")
    command = [sys.executable, "-m", "bench.memory"]
    lines, empty = (
        subprocess.run([*command, *arguments], check=True, capture_output=True, text=True, cwd=_CHECKOUT).stdout.split()
        for arguments in ([str(path), str(jobs)], [])
    )
    *stages, worker = map(int, lines)
    for name, kib in zip(STAGES, stages, strict=True):
        stage.results.add(MEMORY, "walstore PROCESS", name, "MiB over empty", [(kib - int(empty[0])) / 1024])
    stage.results.add(MEMORY, WORKER, "peak", "MiB", [worker / 1024])
