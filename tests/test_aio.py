"""The awaitable twins: what thousands of tasks record at once is what one after the other would have recorded."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Awaitable, Callable, Iterable, Iterator
from itertools import count
from pathlib import Path

import pytest

from walstore import (
    Cancelled,
    Durability,
    Finished,
    Manual,
    MemoryPersistence,
    Periodic,
    QName,
    Scheduled,
    SchedulerJobRecord,
    Started,
    WalPersistence,
)
from walstore.aio import AsyncPersistence
from walstore.engine.environment import Environment
from walstore.errors import StorageError, StoreClosedError, StorePoisonedError
from walstore.model.events import Event
from walstore.testing.sim_fs import SimFileSystem

JOB = "ai.geo.tile"


def run(path: Path, work: Callable[[AsyncPersistence], Awaitable[None]], level: Durability) -> None:
    async def main() -> None:
        async with AsyncPersistence(WalPersistence(path, durability=level)) as store:
            await work(store)

    asyncio.run(main())


@pytest.mark.parametrize("level", list(Durability))
def test_all_calls_do_what_their_twins_do(tmp_path: Path, level: Durability) -> None:
    async def work(store: AsyncPersistence) -> None:
        await store.record_scheduled(JOB, Periodic(every_ns=60))
        await store.record_started(JOB, 100)
        await store.record_finished(JOB, 200, False)
        await store.record_started("a.b", 1)
        await store.cancel("a.b")
        await store.record_many([Started("b.c", 1), Finished("b.c", 2, True)])
        await store.sync()
        jobs = await store.load_all()
        await store.restore(jobs)
        await store.flush_checkpoint()
        assert sorted(str(job.id) for job in jobs) == [JOB, "b.c"]

    run(tmp_path / "store", work, level)
    with WalPersistence(tmp_path / "store") as again:
        job = {str(record.id): record for record in again.load_all()}[JOB]
        assert (job.consecutive_failures, job.next_fire_at_ns, job.last_started_at_ns) == (1, 260, 100)


def test_a_thousand_tasks_share_flushes(tmp_path: Path) -> None:
    syncs = 0

    async def work(store: AsyncPersistence) -> None:
        nonlocal syncs

        async def job(number: int) -> None:
            for turn in range(5):
                await store.record_started(f"task.job{number}", turn)
                await store.record_finished(f"task.job{number}", turn, turn % 2 == 0)

        await asyncio.gather(*(job(number) for number in range(1_000)))
        assert isinstance(store._store, WalPersistence)
        syncs = store._store.stats().syncs

    run(tmp_path / "store", work, Durability.POWER)
    with WalPersistence(tmp_path / "store") as again:
        jobs = again.load_all()
    assert len(jobs) == 1_000
    assert {(job.last_started_at_ns, job.last_finished_at_ns) for job in jobs} == {(4, 4)}
    # One by one they would have been 10,000.
    assert syncs < 200


def test_what_was_awaited_is_in_the_log(tmp_path: Path) -> None:
    async def work(store: AsyncPersistence) -> None:
        await store.record_started(JOB, 7)
        with WalPersistence(tmp_path / "store", read_only=True) as reader:
            assert [job.last_started_at_ns for job in reader.load_all()] == [7]

    run(tmp_path / "store", work, Durability.PROCESS)


def test_wrong_arguments_reach_their_own_caller_only(tmp_path: Path) -> None:
    async def work(store: AsyncPersistence) -> None:
        outcomes = await asyncio.gather(
            store.record_started(JOB, 1),
            store.record_started("no dots", 1),
            store.record_finished(JOB, 2.5, True),  # type: ignore[arg-type]
            store.record_scheduled("a.b", Manual()),
            return_exceptions=True,
        )
        assert [type(outcome) for outcome in outcomes] == [type(None), ValueError, TypeError, type(None)]
        assert sorted(str(job.id) for job in await store.load_all()) == ["a.b", JOB]

    run(tmp_path / "store", work, Durability.PROCESS)


def test_a_cancelled_task_takes_no_other_with_it(tmp_path: Path) -> None:
    async def work(store: AsyncPersistence) -> None:
        first = asyncio.create_task(store.record_started("a.first", 1))
        second = asyncio.create_task(store.record_started("a.second", 1))
        await asyncio.sleep(0)
        first.cancel()
        await second
        with pytest.raises(asyncio.CancelledError):
            await first
        # Both were on their way: the cancelled task knows no more than that it may have been recorded.
        assert sorted(str(job.id) for job in await store.load_all()) == ["a.first", "a.second"]

    run(tmp_path / "store", work, Durability.POWER)


def test_a_failed_sync_reaches_every_task_and_all_later_calls() -> None:
    fs = SimFileSystem()
    ticks = count()
    environment = Environment(
        fs=fs,
        random_bytes=bytes,
        monotonic_ns=lambda: next(ticks),
        wall_ns=lambda: 0,
        holder=lambda: {"host": "simulated", "pid": 1},
        threads=False,
    )

    async def main() -> None:
        store = AsyncPersistence(WalPersistence("/jobs", durability=Durability.POWER, environment=environment))
        await store.record_started(JOB, 1)
        fs.fail("sync", errno.EIO)
        outcomes = await asyncio.gather(
            *(store.record_started(f"a.job{number}", 1) for number in range(10)), return_exceptions=True
        )
        assert {type(outcome) for outcome in outcomes} == {StorePoisonedError}
        with pytest.raises(StorePoisonedError):
            await store.record_started(JOB, 2)
        with pytest.raises((StorePoisonedError, StorageError)):
            await store.close()

    asyncio.run(main())


def test_after_closing_every_call_raises(tmp_path: Path) -> None:
    async def main() -> None:
        store = AsyncPersistence(WalPersistence(tmp_path / "store"))
        pending = asyncio.create_task(store.record_started(JOB, 1))
        await asyncio.sleep(0)
        await store.close()
        await store.close()
        await pending
        for call in (store.record_started(JOB, 2), store.cancel(JOB)):
            with pytest.raises(StoreClosedError):
                await call
        for other in (store.load_all(), store.sync(), store.flush_checkpoint()):
            with pytest.raises(StoreClosedError):
                await other

    asyncio.run(main())
    with WalPersistence(tmp_path / "store") as again:
        assert [job.last_started_at_ns for job in again.load_all()] == [1]


class OfOthers(MemoryPersistence):
    """A persistence that somebody else wrote: it takes batches, and knows of events what is documented."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def record_many(self, events: Iterable[Event]) -> None:
        self.events.extend(events)

    def restore(self, records: Iterable[SchedulerJobRecord]) -> None:
        raise NotImplementedError

    def sync(self) -> None:
        raise NotImplementedError

    def iter_jobs(self) -> Iterator[SchedulerJobRecord]:
        raise NotImplementedError


def test_a_persistence_of_others_is_given_events() -> None:
    other = OfOthers()

    async def main() -> None:
        async with AsyncPersistence(other) as store:
            await store.record_scheduled(JOB, Manual())
            await store.record_started(JOB, 1)
            await store.record_finished(JOB, 2, False)
            await store.cancel(JOB)

    asyncio.run(main())
    job = QName.parse(JOB)
    assert other.events == [Scheduled(JOB, Manual()), Started(job, 1), Finished(job, 2, False), Cancelled(job)]


def test_only_what_takes_batches_can_be_driven() -> None:
    with pytest.raises(TypeError, match="MemoryPersistence"):
        AsyncPersistence(MemoryPersistence())  # type: ignore[arg-type]
