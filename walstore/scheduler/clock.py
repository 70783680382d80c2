"""The time that a host lives in: the real one, or one that a test moves."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import Protocol

from walstore.model.names import instant_ns

__all__ = ["Clock", "SimulatedClock", "SystemClock"]


class Clock(Protocol):
    """What a host knows of time."""

    def now_ns(self) -> int:
        """Return the instant, in nanoseconds since 1970: what is recorded, and what fires are held against."""
        ...

    def monotonic_ns(self) -> int:
        """Return nanoseconds that are never set back: what durations are measured with."""
        ...

    async def wait(self, event: asyncio.Event, timeout_ns: int) -> bool:
        """Wait until ``event`` is set, at most ``timeout_ns``; returns whether it is set."""
        ...


class SystemClock:
    """The real time."""

    def now_ns(self) -> int:
        """Return the instant, in nanoseconds since 1970."""
        return time.time_ns()

    def monotonic_ns(self) -> int:
        """Return nanoseconds that are never set back."""
        return time.monotonic_ns()

    async def wait(self, event: asyncio.Event, timeout_ns: int) -> bool:
        """Wait until ``event`` is set, at most ``timeout_ns``; returns whether it is set."""
        with suppress(TimeoutError):
            await asyncio.wait_for(event.wait(), timeout_ns / 1e9)
        return event.is_set()


class SimulatedClock:
    """A time that stands still until it is moved: for tests and simulations of jobs, which so wait for nothing.

    Belongs to the thread of its event loop, but for reading it.
    """

    def __init__(self, now_ns: int = 1_767_225_600_000_000_000) -> None:
        """Begin at ``now_ns`` nanoseconds since 1970, by default at the start of 2026."""
        self._now_ns = instant_ns(now_ns, "now_ns")
        self._monotonic_ns = 0
        self._waiting: dict[asyncio.Future[bool], int] = {}

    def now_ns(self) -> int:
        """Return the instant, in nanoseconds since 1970."""
        return self._now_ns

    def monotonic_ns(self) -> int:
        """Return the nanoseconds that have passed."""
        return self._monotonic_ns

    def advance(self, duration_ns: int) -> None:
        """Let time pass, all at once. Who waits goes on when the event loop comes round to it."""
        if duration_ns < 0:
            raise ValueError(f"time passes forward only, not by {duration_ns}: set_back is for clocks that are wrong")
        self._now_ns = instant_ns(self._now_ns + duration_ns, "the new instant")
        self._monotonic_ns += duration_ns
        for timer, until_ns in list(self._waiting.items()):
            if until_ns <= self._monotonic_ns and not timer.done():
                timer.set_result(True)

    def set_back(self, duration_ns: int) -> None:
        """Put the instant back, as when the clock of a machine is corrected; no time passes."""
        self._now_ns = instant_ns(self._now_ns - duration_ns, "the new instant")

    async def wait(self, event: asyncio.Event, timeout_ns: int) -> bool:
        """Wait until ``event`` is set, at most ``timeout_ns``; returns whether it is set."""
        if timeout_ns <= 0:
            return event.is_set()
        timer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting[timer] = self._monotonic_ns + timeout_ns
        waiter: asyncio.Future[bool] = asyncio.ensure_future(event.wait())
        try:
            await asyncio.wait({timer, waiter}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            del self._waiting[timer]
            waiter.cancel()
        return event.is_set()
