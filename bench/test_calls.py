"""Cost of single calls, for looking at one of them while working on it: ``make bench-calls``."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.workloads import HOURLY, job_ids
from walstore import Durability, Scheduled, Started, WalPersistence

JOBS = job_ids(1_000)
BEGIN_NS = 1_700_000_000_000_000_000

each_level = pytest.mark.parametrize("level", list(Durability), ids=lambda level: level.name)


def filled(path: Path, level: Durability = Durability.PROCESS, jobs: int = 1_000) -> WalPersistence:
    store = WalPersistence(path, durability=level)
    store.record_many([Scheduled(job, HOURLY) for job in job_ids(jobs)])
    return store


@each_level
def test_record_scheduled(benchmark: BenchmarkFixture, tmp_path: Path, level: Durability) -> None:
    with filled(tmp_path / "store", level) as store:
        benchmark(store.record_scheduled, JOBS[7], HOURLY)


@each_level
def test_record_started(benchmark: BenchmarkFixture, tmp_path: Path, level: Durability) -> None:
    with filled(tmp_path / "store", level) as store:
        benchmark(store.record_started, JOBS[7], BEGIN_NS)


@each_level
def test_record_finished(benchmark: BenchmarkFixture, tmp_path: Path, level: Durability) -> None:
    with filled(tmp_path / "store", level) as store:
        benchmark(store.record_finished, JOBS[7], BEGIN_NS, True)


@each_level
def test_cancel(benchmark: BenchmarkFixture, tmp_path: Path, level: Durability) -> None:
    with filled(tmp_path / "store", level) as store:
        benchmark(store.cancel, JOBS[7])


@each_level
def test_record_many_of_512(benchmark: BenchmarkFixture, tmp_path: Path, level: Durability) -> None:
    events = [Started(job, BEGIN_NS) for job in JOBS[:512]]
    with filled(tmp_path / "store", level) as store:
        benchmark(store.record_many, events)


def test_recovery_of_100_000_events(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    with filled(tmp_path / "store") as store:
        for number in range(200):
            store.record_many([Started(job, BEGIN_NS + number) for job in JOBS[:500]])
    benchmark(lambda: WalPersistence(tmp_path / "store", read_only=True).close())


def test_load_all_of_10_000_jobs(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    with filled(tmp_path / "store", jobs=10_000) as store:
        store.flush_checkpoint(compact=True)
        assert len(benchmark(store.load_all)) == 10_000


def test_checkpoint_of_10_000_jobs(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    instants = count(BEGIN_NS)
    with filled(tmp_path / "store", jobs=10_000) as store:

        def change_and_compact() -> None:
            store.record_started(JOBS[7], next(instants))
            store.flush_checkpoint(compact=True)

        benchmark(change_and_compact)
