"""Durable events per second from many threads and from many tasks."""

from __future__ import annotations

import asyncio
import importlib.util
import threading
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from time import perf_counter
from typing import Any, Final

from bench.peers_sql import SqliteShared
from bench.stage import Stage
from bench.stores import WalPower
from bench.target import Target
from bench.timing import settle
from bench.workloads import Starts, job_ids, starts, waiting

__all__ = ["ASYNC", "POOL", "TASKS", "THREADS", "measure_concurrency", "of_threads"]

THREADS: Final = "threads"
TASKS: Final = "tasks"
ASYNC: Final = "walstore POWER, AsyncPersistence"
POOL: Final = "walstore POWER, a pool of 64 threads"
_POOL_THREADS: Final = 64
_JOBS: Final = 1_000
_CALLS: Final = 10_000

Submit = Callable[[str, Any], Awaitable[object]]


def of_threads(count: int) -> str:
    """Return the name of the figure of so many threads."""
    return "1 thread" if count == 1 else f"{count} threads"


def measure_concurrency(stage: Stage) -> None:
    """Let 1 to 64 threads, and then 1,000 tasks, record as fast as they can."""
    population = job_ids(_JOBS)
    work = starts(population, _CALLS)
    rates: dict[tuple[str, int], list[float]] = {}
    for kind, target in stage.alternated("Threads", stage.present((WalPower, SqliteShared))):
        target.record_many(waiting(population))
        for count in stage.scale.threads:
            settle()
            rates.setdefault((kind.name, count), []).append(
                _rate_of_threads(target, work, count, stage.scale.threads_s)
            )
    for (subject, count), values in rates.items():
        stage.results.add(THREADS, subject, of_threads(count), "events/s", values)
    _measure_tasks(stage, work)


def _rate_of_threads(target: Target, work: Starts, count: int, seconds: float) -> float:
    call, args = target.started(work)
    done = [0] * count
    barrier = threading.Barrier(count + 1)

    def run(number: int) -> None:
        barrier.wait()
        end = perf_counter() + seconds
        index = number
        while perf_counter() < end:
            call(work.jobs[index % _CALLS], args[index % _CALLS])
            done[number] += 1
            index += count

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    barrier.wait()
    start = perf_counter()
    for thread in threads:
        thread.join()
    return sum(done) / (perf_counter() - start)


def _measure_tasks(stage: Stage, work: Starts) -> None:
    has_async = importlib.util.find_spec("walstore.aio") is not None
    if not has_async:
        stage.results.left_out.append(f"{ASYNC}: there is no walstore.aio yet")
    subjects: list[tuple[str, type[Target], int | None]] = [
        (POOL, WalPower, _POOL_THREADS),
        (f"{SqliteShared.name}, a thread of its own", SqliteShared, 1),
    ]
    if has_async:
        subjects.insert(0, (ASYNC, WalPower, None))
    rates: dict[str, list[float]] = {}
    for _ in range(stage.scale.rounds):
        for name, kind, threads in subjects:
            stage.say(f"Tasks: {name}")
            with stage.opened(kind) as target:
                rates.setdefault(name, []).append(asyncio.run(_rate_of_tasks(stage, target, work, threads)))
    for subject, values in rates.items():
        stage.results.add(TASKS, subject, "events/s", "events/s", values)


async def _rate_of_tasks(stage: Stage, target: Target, work: Starts, threads: int | None) -> float:
    """Return the rate of many tasks, each of which waits for its event: through threads, or walstore's own way."""
    call, args = target.started(work)
    submit: Submit
    if threads is None:
        assert isinstance(target, WalPower)
        submit = import_module("walstore.aio").AsyncPersistence(target.store).record_started
        return await _run_tasks(stage, work, args, submit)
    with ThreadPoolExecutor(threads) as pool:
        loop = asyncio.get_running_loop()

        def submit_to_pool(job: str, arg: object) -> Awaitable[object]:
            return loop.run_in_executor(pool, call, job, arg)

        return await _run_tasks(stage, work, args, submit_to_pool)


async def _run_tasks(stage: Stage, work: Starts, args: Sequence[object], submit: Submit) -> float:
    done = 0
    start = perf_counter()
    end = start + stage.scale.threads_s

    async def run(number: int) -> None:
        nonlocal done
        index = number
        while perf_counter() < end:
            await submit(work.jobs[index % _CALLS], args[index % _CALLS])
            done += 1
            index += stage.scale.tasks

    await asyncio.gather(*(run(number) for number in range(stage.scale.tasks)))
    return done / (perf_counter() - start)
