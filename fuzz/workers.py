"""Threads that record on one store and know what they recorded: the crew of ``fuzz.threads``."""

from __future__ import annotations

import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from walstore.errors import StorageError, StoreClosedError, StorePoisonedError
from walstore.model.events import Finished
from walstore.model.records import SchedulerJobRecord
from walstore.model.schedule import Manual
from walstore.options import Durability, WalOptions
from walstore.testing.model import NOW_NS
from walstore.wal import WalPersistence

__all__ = ["KEEPING", "OPTIONS", "Crew", "StuckError", "Worker", "guarded"]

OPTIONS: Final = WalOptions(
    segment_bytes_min=1024,
    segment_bytes_max=2048,
    buffer_events=24,
    compaction_ratio=1.5,
    small_store_bytes=6_000,
    merge_memory_bytes=32 * 1024,
    sync_interval_ns=3_000_000,
    drain_interval_ns=500_000,
)
"""A rotation every few dozen events, a compaction every few hundred."""
KEEPING: Final = replace(OPTIONS, small_store_bytes=10**6, compaction_ratio=50.0)
"""Hardly any compaction: what went wrong in the log stays there."""

_STUCK_S: Final = 10.0
"""Where nobody comes back from a call for so long, those who are in one hang."""
_RECORDING: Final = ("one",) * 100 + ("many",) * 30 + ("wrong",) * 2
_ALL: Final = (*_RECORDING, *("sync",) * 10, *("load",) * 3, *("flush",) * 3, "compact")


class StuckError(Exception):
    """A call that should have returned long ago has not."""


def guarded(work: Callable[[], object]) -> None:
    """Do ``work`` in a thread of its own, and raise what it raises, or ``StuckError`` when it hangs."""
    errors: list[BaseException] = []

    def try_it() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001  # Raised again below.
            errors.append(error)

    thread = threading.Thread(target=try_it, daemon=True)
    thread.start()
    thread.join(_STUCK_S)
    if thread.is_alive():
        raise StuckError(_place_of(thread))
    if errors:
        raise errors[0]


class Worker:
    """One thread's calls. Its *units* are what it recorded, numbered from 1: one event, or a batch of two."""

    def __init__(
        self, name: str, store: WalPersistence, level: Durability, choice: random.Random, steps: Sequence[str]
    ) -> None:
        self._store = store
        self._steps = steps
        self._level = level
        self._choice = choice
        self._one, self._left, self._right = (f"{name}.{side}" for side in ("one", "left", "right"))
        self.kinds: list[bool] = []
        """For each unit that was begun, whether it is a batch."""
        self.kept = 0
        """Units that survive the end of the process."""
        self.durable = 0
        """Units that survive a power loss."""
        self.calls = 0
        """Calls that came back."""
        self.ended = False
        """Whether the store takes no more."""
        for job in (self._one, self._left, self._right):
            store.record_scheduled(job, Manual())

    def step(self) -> None:
        """Make one call."""
        try:
            self._step(self._choice.choice(self._steps))
        except (StorePoisonedError, StoreClosedError):
            self.ended = True
        self.calls += 1

    def check(self, where: str, jobs: dict[str, SchedulerJobRecord], floor: int, ceiling: int) -> None:
        """Check that ``jobs`` holds the first n units, each once and whole, with n between the bounds."""
        one, left, right = (jobs[job] for job in (self._one, self._left, self._right))
        found = f"{where}, {self._one}: {one.consecutive_failures} single events, {left.consecutive_failures} batches"
        assert left.consecutive_failures == right.consecutive_failures, f"half a batch: {found}"
        units = one.consecutive_failures + left.consecutive_failures
        assert floor <= units <= ceiling, f"{found}, which should be {floor} to {ceiling} units"
        for job, is_batch in ((one, False), (left, True), (right, True)):
            numbers = [number for number, kind in enumerate(self.kinds[:units], 1) if kind is is_batch]
            assert len(numbers) == job.consecutive_failures, (
                f"a hole in the units: {found}, in {[int(kind) for kind in self.kinds[:units]]}"
            )
            last = _instant_ns(numbers[-1]) if numbers else None
            assert job.last_finished_at_ns == last, (
                f"{found}; {job.id} ended at {job.last_finished_at_ns} and not at {last}"
            )

    def _step(self, name: str) -> None:
        if name in {"one", "many"}:
            self._record(is_batch=name == "many")
        elif name == "wrong":
            self._record_wrongly()
        elif name == "load":
            jobs = {str(job.id): job for job in self._store.load_all()}
            # Once the store is poisoned, it shows what is durable only.
            poisoned = self._store._store is not None and self._store._store._commit.failure is not None
            where = "load_all once poisoned" if poisoned else "load_all"
            self.check(where, jobs, self.durable if poisoned else len(self.kinds), len(self.kinds))
        else:
            units = len(self.kinds)
            try:
                if name == "sync":
                    self._store.sync()
                else:
                    self._store.flush_checkpoint(compact=name == "compact")
            except StorePoisonedError:
                raise
            except StorageError:
                return
            self.kept = self.durable = units

    def _record_wrongly(self) -> None:
        """Make calls with arguments that are refused. Were they recorded all the same, a later check would show it."""
        wrong: list[Callable[[], object]] = [
            lambda: self._store.record_finished(self._one, 1, 1),  # type: ignore[arg-type]  # Wrong on purpose.
            lambda: self._store.cancel(f"{self._one}\ud800"),
        ]
        for call in wrong:
            try:
                call()
            except (TypeError, ValueError):
                continue
            raise AssertionError("a call with a wrong argument was not refused")

    def _record(self, *, is_batch: bool) -> None:
        number = len(self.kinds) + 1
        at_ns = _instant_ns(number)
        self.kinds.append(is_batch)
        try:
            if is_batch:
                self._store.record_many([Finished(self._left, at_ns, False), Finished(self._right, at_ns, False)])
            else:
                self._store.record_finished(self._one, at_ns, False)
        except StorePoisonedError:
            raise
        except StorageError:
            # What raises has recorded nothing.
            self.kinds.pop()
            return
        if self._level is not Durability.BUFFERED:
            self.kept = number
        if self._level is Durability.POWER:
            self.durable = number


def _instant_ns(unit: int) -> int:
    """Return the instant of a unit: one of today's, which the hot path takes."""
    return NOW_NS + unit


class Crew:
    """A store and the threads that work on it. The main thread works too, interrupted by signals that record."""

    def __init__(self, store: WalPersistence, level: Durability, choice: random.Random, threads: int) -> None:
        self.store = store
        self._choice = choice
        self._stopping = False
        self._errors: list[BaseException] = []
        names = [*(f"thread.n{number}" for number in range(threads)), "main", "signal"]
        steps = choice.choice([_ALL, _RECORDING])
        self.workers = [Worker(name, store, level, random.Random(choice.getrandbits(64)), steps) for name in names]
        store.sync()
        self._threads = [
            threading.Thread(target=self._work, args=(worker,), daemon=True) for worker in self.workers[:threads]
        ]
        for thread in self._threads:
            thread.start()

    def proceed(self, calls: int) -> None:
        """Return when the crew has made so many calls more, or has ended. Raises what it does, or ``StuckError``."""
        enough = self._calls() + calls
        self._wait(lambda: self._calls() >= enough)

    def interrupt(self, steps: int) -> None:
        """Make calls in the main thread, each interrupted by a signal whose handler makes one too."""
        *_, caller, handler = self.workers
        handled = False
        calls = 0

        def handle(_number: int, _frame: object) -> None:
            nonlocal handled, calls
            signal.setitimer(signal.ITIMER_REAL, _STUCK_S)
            if not handled:
                handled = True
                handler.step()
            elif calls == self._calls():
                raise StuckError(_place_of(threading.main_thread()))
            calls = self._calls()

        before = signal.signal(signal.SIGALRM, handle)
        try:
            for _ in range(steps):
                handled = False
                signal.setitimer(signal.ITIMER_REAL, self._choice.choice([5e-5, 2e-4, 1e-3]))
                caller.step()
                signal.setitimer(signal.ITIMER_REAL, 0)
                if caller.ended or handler.ended:
                    return
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)

    def stop(self) -> None:
        """End the threads after their calls. Raises what they do, and ``StuckError`` when one hangs."""
        self._stopping = True
        self.join()

    def join(self) -> None:
        """Wait until the threads have ended."""
        self._wait(lambda: False)

    def close(self) -> None:
        """Close the store, and check that nothing of it works on. Raises what closing raises."""
        try:
            guarded(self.store.close)
        finally:
            left = [thread.name for thread in threading.enumerate() if thread.name.startswith("walstore-")]
            if left:
                raise AssertionError(f"the store was closed, and its threads work on: {left}")

    def _work(self, worker: Worker) -> None:
        try:
            while not self._stopping and not worker.ended:
                worker.step()
        except BaseException as error:  # noqa: BLE001  # The main thread is to see it, whatever it is.
            self._errors.append(error)

    def _calls(self) -> int:
        return sum(worker.calls for worker in self.workers)

    def _wait(self, done: Callable[[], bool]) -> None:
        """Wait until ``done()``, or until all threads have ended."""
        calls, until = -1, 0.0
        while waiting := [thread for thread in self._threads if thread.is_alive()]:
            if self._errors or done():
                break
            if calls != self._calls():
                calls, until = self._calls(), time.monotonic() + _STUCK_S
            elif time.monotonic() > until:
                raise StuckError(f"{len(waiting)} threads hang, {_place_of(waiting[0])}")
            waiting[0].join(0.005)
        if self._errors:
            raise self._errors[0]


def _place_of(thread: threading.Thread) -> str:
    frame = sys._current_frames().get(thread.ident or 0)
    calls = []
    while frame is not None:
        calls.append(frame.f_code.co_name)
        frame = frame.f_back
    return f"{thread.name} in {' < '.join(calls[:5])}"
