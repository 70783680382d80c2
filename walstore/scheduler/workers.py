"""Threads for the runs of synchronous jobs."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue

__all__ = ["Workers"]

_Work = tuple[Callable[[], object], asyncio.Future[BaseException | None]]


class Workers:
    """Runs functions on threads, each of which is kept for the next one. The caller bounds how many run at once.

    The threads are daemons, unlike those of an executor: nobody can end a thread, and a run that does not heed its
    token must not keep a process from ending. Belongs to the thread of its event loop.
    """

    def __init__(self) -> None:
        self._queue: SimpleQueue[_Work | None] = SimpleQueue()
        self._threads = 0
        self._busy = 0
        # The threads of a host that nobody has shut down.
        weakref.finalize(self, self._queue.put, None)

    async def run(self, function: Callable[[], object]) -> BaseException | None:
        """Call ``function`` on a thread. Returns what it raised, and None if it returned.

        Returned, not raised: an exit that a job asks for would else end the event loop.
        """
        loop = asyncio.get_running_loop()
        done: asyncio.Future[BaseException | None] = loop.create_future()
        self._busy += 1
        try:
            if self._busy > self._threads:
                self._threads += 1
                name = f"walstore-job-{self._threads}"
                threading.Thread(target=_work, args=(self._queue, loop), name=name, daemon=True).start()
            self._queue.put((function, done))
            return await done
        finally:
            self._busy -= 1

    def close(self) -> None:
        """Let each thread end once it is done with what it runs."""
        self._queue.put(None)


def _work(queue: SimpleQueue[_Work | None], loop: asyncio.AbstractEventLoop) -> None:
    while (work := queue.get()) is not None:
        function, done = work
        error: BaseException | None = None
        try:
            function()
        except BaseException as raised:  # noqa: BLE001  # It is handed over.
            error = raised
        # A loop that is closed has nobody left who waits.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(_settle, done, error)
        # An idle thread holds nothing of its last run.
        del work, function, done, error
    # For the next thread.
    queue.put(None)


def _settle(done: asyncio.Future[BaseException | None], error: BaseException | None) -> None:
    if not done.done():
        done.set_result(error)
