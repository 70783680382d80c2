"""Events per second in PostgreSQL: ``python -m bench.postgres``, against one ``INSERT ... ON CONFLICT`` per event.

A server is started for it, with its settings as they come, in the directory for temporary files;
``WALSTORE_TEST_DSN`` names another one. All subjects record starts of jobs drawn from the same 10,000, which are there
already.
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Final

import psycopg

from fuzz.postgres_server import running_server
from walstore import Durability, Manual, Scheduled, Started
from walstore.backends.postgres import PostgresPersistence

__all__ = ["main"]

_JOBS: Final = [f"bench.job{number}" for number in range(10_000)]
_SECONDS: Final = 4.0
_ROUNDS: Final = 3
_BATCH: Final = 512
_THREADS: Final = 16
_GOAL: Final = 20
_UPSERT: Final = (
    b"INSERT INTO jobs (id, status, last_started_at_ns, consecutive_failures, schedule) "
    b"VALUES (%s, 'Running', %s, 0, 'manual') "
    b"ON CONFLICT (id) DO UPDATE SET status = EXCLUDED.status, last_started_at_ns = EXCLUDED.last_started_at_ns"
)


@dataclass(frozen=True, slots=True)
class _Subject:
    name: str
    survives: str
    measure: Callable[[str], float]
    """Takes a DSN, returns events per second."""


def _until(seconds: float, act: Callable[[int], int]) -> tuple[int, float]:
    """Call ``act`` with the number of events so far until the seconds are over."""
    start, events = perf_counter(), 0
    while perf_counter() - start < seconds:
        events += act(events)
    return events, start


def _inserts(dsn: str, *, level: str) -> float:
    """One statement, which is one transaction, for each event."""
    choice = random.Random(1)
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(f"SET search_path TO bench; SET synchronous_commit TO {level}".encode())

        def act(at_ns: int) -> int:
            connection.execute(_UPSERT, (choice.choice(_JOBS), at_ns))
            return 1

        events, start = _until(_SECONDS, act)
        return events / (perf_counter() - start)


@contextmanager
def _store(dsn: str, level: Durability) -> Iterator[PostgresPersistence]:
    with PostgresPersistence(dsn, schema="bench", durability=level) as store:
        yield store


def _singly(dsn: str, *, level: Durability) -> float:
    choice = random.Random(1)
    with _store(dsn, level) as store:

        def act(at_ns: int) -> int:
            store.record_started(choice.choice(_JOBS), at_ns)
            return 1

        events, start = _until(_SECONDS, act)
        store.sync()
        return events / (perf_counter() - start)


def _in_threads(dsn: str, *, level: Durability) -> float:
    with _store(dsn, level) as store, ThreadPoolExecutor(_THREADS) as pool:

        def work(thread: int) -> int:
            choice = random.Random(thread)

            def act(at_ns: int) -> int:
                store.record_started(choice.choice(_JOBS), at_ns)
                return 1

            return _until(_SECONDS, act)[0]

        start = perf_counter()
        events = sum(pool.map(work, range(_THREADS)))
        store.sync()
        return events / (perf_counter() - start)


def _in_batches(dsn: str, *, level: Durability) -> float:
    choice = random.Random(1)
    with _store(dsn, level) as store:

        def act(at_ns: int) -> int:
            store.record_many([Started(choice.choice(_JOBS), at_ns) for _ in range(_BATCH)])
            return _BATCH

        events, start = _until(_SECONDS, act)
        store.sync()
        return events / (perf_counter() - start)


_INSERT_OFF: Final = _Subject("INSERT, synchronous_commit off", "death of the process", partial(_inserts, level="off"))
_INSERT_ON: Final = _Subject("INSERT, synchronous_commit on", "power loss", partial(_inserts, level="on"))
_SURVIVES: Final = {
    Durability.BUFFERED: "an exception",
    Durability.PROCESS: "death of the process",
    Durability.POWER: "power loss",
}
_SUBJECTS: Final = (
    _INSERT_OFF,
    _INSERT_ON,
    *(
        _Subject(f"{level.name}, {how}", _SURVIVES[level], partial(measure, level=level))
        for level in Durability
        for how, measure in (
            ("one thread", _singly),
            (f"{_THREADS} threads", _in_threads),
            (f"record_many of {_BATCH}", _in_batches),
        )
    ),
)


def _run(dsn: str, version: str) -> bool:
    """Measure, print a table, and return whether the goal is met."""
    with _store(dsn, Durability.POWER) as store:
        for begin in range(0, len(_JOBS), 1_000):
            store.record_many([Scheduled(job, Manual()) for job in _JOBS[begin : begin + 1_000]])
    rates: dict[str, list[float]] = {subject.name: [] for subject in _SUBJECTS}
    for _ in range(_ROUNDS):
        # Interleaved, so that whatever else the machine does falls on all of them.
        for subject in _SUBJECTS:
            rates[subject.name].append(subject.measure(dsn))
    medians = {name: sorted(found)[len(found) // 2] for name, found in rates.items()}
    base = medians[_INSERT_ON.name]
    print(f"{version}, {os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}, median of {_ROUNDS}")
    print("\n| subject | survives | events/s | against the second row |\n|---|---|---:|---:|")
    for subject in _SUBJECTS:
        rate = medians[subject.name]
        print(f"| {subject.name} | {subject.survives} | {rate:,.0f} | {rate / base:.1f} x |")
    ratio = medians[f"{Durability.POWER.name}, record_many of {_BATCH}"] / base
    print(f"\nGoal: batches at POWER at least {_GOAL} x one INSERT per event. Measured: {ratio:.1f} x.")
    return ratio >= _GOAL


def main() -> None:
    """Do so, and exit with 1 where the goal is not met."""
    dsn = os.environ.get("WALSTORE_TEST_DSN")
    if dsn:
        with psycopg.connect(dsn) as connection:
            version = f"PostgreSQL {connection.info.server_version}"
        met = _run(dsn, version)
    else:
        with running_server(settings=()) as server:
            met = _run(server.dsn, server.version)
    sys.exit(0 if met else 1)


if __name__ == "__main__":
    main()
