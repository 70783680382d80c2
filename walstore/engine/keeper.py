"""The keeper: the one thread of a store that does everything about the log which is not an append, one after another.

Callers hand it work and wait. That needs no lock around the log's structure, and it is what makes signals harmless: a
handler that records while its own thread waits for the keeper hands over work of its own and waits as well, where a
lock would make it wait for the frame that it interrupted. A ``KeyboardInterrupt`` ends the waiting, never the work.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Final, Generic, TypeVar

__all__ = ["Keeper"]

T = TypeVar("T")
_NS_PER_S: Final = 1_000_000_000
_WAIT_MAX_S: Final = 3600
"""What waits longer wakes up in between: the clock of the operating system takes no wait of centuries."""


class _Request(Generic[T]):
    """Work, and what came of it. The bare lock stands for "done": unlike an Event it is one C call and no more."""

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self._result: T
        self._error: BaseException | None = None
        self.done = threading.Lock()
        self.done.acquire()

    def run(self) -> None:
        try:
            self._result = self._work()
        except BaseException as error:  # noqa: BLE001  # Raised again in the caller's thread by result().
            self._error = error
        finally:
            self.done.release()

    def result(self) -> T:
        if self._error is not None:
            try:
                raise self._error
            finally:
                self._error = None  # Breaks the cycle of the error, its traceback and this frame.
        return self._result


class Keeper:
    """Runs ``tick`` every ``interval_ns``, and the work that callers hand over, in one thread.

    Work must never wait for a lock that a caller of ``call`` may hold. Without ``threads`` it runs in the caller, and
    ``tick`` only when it is called.
    """

    def __init__(
        self, tick: Callable[[], None], interval_ns: int, monotonic_ns: Callable[[], int], threads: bool
    ) -> None:
        self._tick = tick
        self._interval_ns = interval_ns
        self._monotonic_ns = monotonic_ns
        self._requests: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        if threads:
            self._thread = threading.Thread(target=self._run, name="walstore-keeper", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        if self._thread is not None:
            self._thread.start()

    def call(self, work: Callable[[], T]) -> T:
        """Run ``work`` in the keeper's thread, and return or raise what it does. Any thread may call this."""
        thread = self._thread
        if thread is None or thread is threading.current_thread():
            return work()
        request = _Request(work)
        self._requests.put(request.run)
        while not request.done.acquire(timeout=1):
            if not thread.is_alive():
                # The thread ended. Either it did this as its last work, or nobody else will do it.
                return request.result() if request.done.acquire(blocking=False) else work()
        return request.result()

    def post(self, work: Callable[[], None]) -> None:
        """Run ``work``, which must not raise, after what was handed over before, and wait for nothing.

        Without a thread it is not run: ``tick`` must do the same.
        """
        if self._thread is not None:
            self._requests.put(work)

    def is_running_here(self) -> bool:
        """Whether the calling thread is the keeper's own."""
        return self._thread is threading.current_thread()

    def stop(self) -> None:
        """End the thread, after the work that was handed over before. Doing so twice is fine."""
        thread = self._thread
        if thread is None:
            return
        self._requests.put(None)
        if thread is not threading.current_thread() and thread.ident is not None:
            thread.join()
        self._thread = None

    def _run(self) -> None:
        next_tick_ns = self._monotonic_ns() + self._interval_ns
        while True:
            wait_ns = next_tick_ns - self._monotonic_ns()
            if wait_ns <= 0:
                self._tick()
                next_tick_ns = self._monotonic_ns() + self._interval_ns
            try:
                # Asked even when the next tick is due already, or ticks longer than the interval would starve callers.
                work = self._requests.get(timeout=min(max(wait_ns, 0) / _NS_PER_S, _WAIT_MAX_S))
            except queue.Empty:
                continue
            if work is None:
                return
            work()
            del work  # Else its result would live on until the next work comes.
