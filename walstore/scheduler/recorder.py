"""Reports transitions to a persistence: in order, from one thread, and together where many come at once."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar, cast

from walstore.model.events import Cancelled, Event, Finished, Restored, Scheduled, Started
from walstore.persistence import BatchPersistence, SchedulerPersistence

__all__ = ["Recorder"]

T = TypeVar("T")

_BATCH_EVENTS: Final = 4_096
"""Far below what a ``record_many`` takes, whatever the length of the names."""


@dataclass(slots=True)
class _Request:
    """What one caller waits for: its events are recorded, or its function is called."""

    done: asyncio.Future[object]
    events: Sequence[Event] = ()
    function: Callable[[], object] | None = None


class Recorder:
    """Calls a persistence from a thread of its own, so that a sync of the device never holds up the event loop.

    Requests are worked off in the order in which they were made. All events that have come up while the thread was
    busy go into one ``record_many``, where the persistence has that: at ``Durability.POWER`` one sync is for all of
    them. A plain ``SchedulerPersistence`` gets its calls one by one. Belongs to the thread of its event loop.
    """

    def __init__(self, persistence: SchedulerPersistence) -> None:
        self._persistence = persistence
        self._batches = persistence if isinstance(persistence, BatchPersistence) else None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="walstore-recorder")
        self._requests: deque[_Request] = deque()
        self._working: asyncio.Task[None] | None = None

    async def record(self, *events: Event) -> None:
        """Return when the events are recorded. With a ``BatchPersistence`` a crash leaves all of them or none.

        ``Restored`` is left out where the persistence can't do it. Raises what the persistence raises.
        """
        await self._ask(_Request(asyncio.get_running_loop().create_future(), events))

    async def call(self, function: Callable[[], T]) -> T:
        """Call a function in the thread, after all that was asked for before; returns what it returns, or raises."""
        request = _Request(asyncio.get_running_loop().create_future(), function=function)
        return cast("T", await self._ask(request))

    @property
    def can_restore(self) -> bool:
        """Whether the persistence takes whole records."""
        return self._batches is not None

    async def close(self) -> None:
        """Let the thread end when it is done with all that was asked for."""
        if self._working is not None:
            await self._working
        self._thread.shutdown(wait=False)

    async def _ask(self, request: _Request) -> object:
        self._requests.append(request)
        if self._working is None:
            self._working = asyncio.create_task(self._work())
        return await request.done

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        requests: list[_Request] = []
        try:
            while self._requests:
                requests = self._take()
                results = await loop.run_in_executor(self._thread, self._perform, requests)
                for request, result in zip(requests, results, strict=True):
                    # Whoever was interrupted in its waiting is no longer there to be told.
                    if request.done.done():
                        continue
                    if isinstance(result, _Raised):
                        request.done.set_exception(result.error)
                    else:
                        request.done.set_result(result)
        finally:
            self._working = None
            # Only where the loop is being torn down: nobody may wait for ever.
            for request in (*requests, *self._requests):
                request.done.cancel()

    def _take(self) -> list[_Request]:
        """Take the requests that are performed together: a function, or as many events as may go together."""
        requests = [self._requests.popleft()]
        events = len(requests[0].events)
        while self._requests and requests[0].function is None and self._requests[0].function is None:
            events += len(self._requests[0].events)
            if events > _BATCH_EVENTS:
                break
            requests.append(self._requests.popleft())
        return requests

    # In the thread.

    def _perform(self, requests: Sequence[_Request]) -> list[object]:
        function = requests[0].function
        if function is not None:
            return [_outcome(function)]
        batches = self._batches
        if batches is None:
            return [_outcome(partial(self._one_by_one, request.events)) for request in requests]
        events = [event for request in requests for event in request.events]
        return [_outcome(partial(batches.record_many, events))] * len(requests)

    def _one_by_one(self, events: Sequence[Event]) -> None:
        persistence = self._persistence
        for event in events:
            match event:
                case Scheduled(job, schedule):
                    persistence.record_scheduled(job, schedule)
                case Started(job, at):
                    persistence.record_started(job, at)
                case Finished(job, at, success):
                    persistence.record_finished(job, at, success)
                case Cancelled(job):
                    persistence.cancel(job)
                case Restored():
                    # A plain persistence has no call for it; what depends on it says so.
                    pass


@dataclass(frozen=True, slots=True)
class _Raised:
    error: BaseException


def _outcome(function: Callable[[], object]) -> object:
    """Return what a function returns, or what it raises, for the event loop's side to tell: nothing ends here."""
    try:
        return function()
    except BaseException as error:  # noqa: BLE001  # It is raised where it was asked for.
        return _Raised(error)
