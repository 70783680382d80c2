"""Awaitable twins of a persistence's methods, for asyncio: thousands of tasks share one flush.

A thin driver, not a second implementation. Events that tasks record are collected in the loop's thread; one thread
takes all that have come while it was busy, records them as one batch, and wakes the tasks together.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Final, Protocol, Self, TypeVar

from walstore.errors import StoreClosedError
from walstore.model.events import (
    CANCELLED,
    FINISHED,
    STARTED,
    CheckedEvents,
    Event,
    EventForm,
    Scheduled,
    scheduled_form,
)
from walstore.model.names import Instant, JobId, id_of, instant_ns
from walstore.model.records import SchedulerJobRecord
from walstore.model.schedule import Schedule
from walstore.persistence import BatchPersistence

__all__ = ["AsyncPersistence", "BatchingPersistence"]

T = TypeVar("T")
_EVENTS_PER_BATCH: Final = 4096
"""So many events of the longest names still fit into one frame."""


class BatchingPersistence(BatchPersistence, Protocol):
    """What is driven: batches, and what the contract has beside the recording of events."""

    def load_all(self) -> list[SchedulerJobRecord]:
        """Return every known job."""
        ...

    def flush_checkpoint(self) -> None:
        """Return once every call that returned before it is on durable storage."""
        ...

    def close(self) -> None:
        """Give back what the persistence holds."""
        ...


class AsyncPersistence:
    """Awaitable twins of the methods of a persistence, of which it is the only user while it is open.

    All methods belong to one event loop, the one in which the first of them is awaited. When an awaited call returns,
    its event survives what the durability of the persistence says. Arguments are checked before anything is recorded;
    an error of the persistence is raised in all tasks whose events went into the same batch. ``async with`` closes it,
    and the persistence with it.
    """

    def __init__(self, store: BatchingPersistence) -> None:
        """Drive ``store``, which must take batches. Close this, not the store. Raises ``TypeError``."""
        if not isinstance(store, BatchPersistence):
            raise TypeError(f"{type(store).__name__} takes no batches (see BatchPersistence): await it in a thread")
        self._store = store
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="walstore-aio")
        self._waiting: list[EventForm | Scheduled] = []
        self._flush: asyncio.Future[None] | None = None
        """What the tasks whose events are in ``_waiting`` wait for; None where there are none."""
        self._busy = False
        self._closed = False

    async def record_scheduled(self, id: JobId, schedule: Schedule) -> None:
        """Record that a job was given a schedule, as of the store's clock."""
        scheduled_form(id, schedule, 0)  # Checks both.
        await self._record(Scheduled(id, schedule))

    async def record_started(self, id: JobId, started_at: Instant) -> None:
        """Record that a run of a job began."""
        await self._record((STARTED, id_of(id), instant_ns(started_at, "started_at")))

    async def record_finished(self, id: JobId, finished_at: Instant, success: bool) -> None:
        """Record how a run of a job ended."""
        if success is not True and success is not False:
            raise TypeError(f"success must be a bool, not {success!r}")
        await self._record((FINISHED, id_of(id), instant_ns(finished_at, "finished_at"), success))

    async def cancel(self, id: JobId) -> None:
        """Record that a job was cancelled."""
        await self._record((CANCELLED, id_of(id)))

    async def record_many(self, events: Iterable[Event]) -> None:
        """Record several events as one: after a crash all of them are there, or none."""
        batch = list(events)
        await self._run(lambda: self._store.record_many(batch))

    async def restore(self, records: Iterable[SchedulerJobRecord]) -> None:
        """Put jobs to the states that ``records`` say."""
        batch = list(records)
        await self._run(lambda: self._store.restore(batch))

    async def load_all(self) -> list[SchedulerJobRecord]:
        """Return every known job, with all that was recorded before the call."""
        return await self._run(self._store.load_all)

    async def sync(self) -> None:
        """Return once every call that returned before it is on the device."""
        await self._run(self._store.sync)

    async def flush_checkpoint(self) -> None:
        """Return once every call that returned before it is on durable storage."""
        await self._run(self._store.flush_checkpoint)

    async def close(self) -> None:
        """Wait for what is being recorded, and close the persistence. Closing twice is fine."""
        if self._closed:
            return
        try:
            await self._run(self._store.close)
        finally:
            self._closed = True
            self._thread.shutdown(wait=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def _record(self, event: EventForm | Scheduled) -> asyncio.Future[None]:
        """Put a checked event into the batch that is filling, and return what to wait for."""
        flush = self._flush or self._new_flush()
        self._waiting.append(event)
        return flush

    def _new_flush(self) -> asyncio.Future[None]:
        """Begin the batch that the next events go into."""
        self._raise_if_closed()
        loop = asyncio.get_running_loop()
        # All tasks of the batch wait for this one future, so none of them may cancel it for the others. One that is
        # cancelled gets its CancelledError when the batch is through: what it recorded is recorded. Not a subclass:
        # a task takes a microsecond longer to wait for what is not exactly a Future.
        flush = self._flush = asyncio.Future(loop=loop)
        flush.cancel = _stay  # type: ignore[method-assign]
        if not self._busy:
            # At the end of this turn of the loop: all tasks that are ready now get into the batch.
            loop.call_soon(self._start)
        return flush

    async def _run(self, work: Callable[[], T]) -> T:
        """Run ``work`` in the thread, after all that was recorded before."""
        self._raise_if_closed()
        if self._flush is not None:
            self._start()
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _start(self) -> None:
        """Hand the batch that is filling to the thread."""
        flush, events = self._flush, self._waiting
        if flush is None:
            return
        self._flush, self._waiting, self._busy = None, [], True
        loop = flush.get_loop()

        def record() -> None:
            failure: BaseException | None = None
            try:
                for begin in range(0, len(events), _EVENTS_PER_BATCH):
                    self._store.record_many(CheckedEvents(events[begin : begin + _EVENTS_PER_BATCH]))
            except BaseException as error:  # noqa: BLE001  # It is raised in every task that waits for this batch.
                failure = error
            loop.call_soon_threadsafe(self._finish, flush, failure)

        self._thread.submit(record)

    def _finish(self, flush: asyncio.Future[None], failure: BaseException | None) -> None:
        if failure is None:
            flush.set_result(None)
        else:
            flush.set_exception(failure)
        self._busy = False
        if self._flush is not None:
            # Behind the tasks that were just woken: those that record again at once get into the batch as well.
            flush.get_loop().call_soon(self._start)

    def _raise_if_closed(self) -> None:
        if self._closed:
            raise StoreClosedError("the persistence was closed: open it again")


def _stay(msg: object | None = None) -> bool:
    del msg
    return False
