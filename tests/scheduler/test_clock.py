"""The clocks: a simulated one moves only when it is moved, and both end a wait for either reason."""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.scheduler.machine import until
from walstore.scheduler import Clock, SimulatedClock, SystemClock
from walstore.testing.model import NOW_NS


def test_time_stands_still_until_it_is_moved() -> None:
    clock = SimulatedClock()
    assert clock.now_ns() == clock.now_ns() == NOW_NS
    clock.advance(5)
    assert (clock.now_ns(), clock.monotonic_ns()) == (NOW_NS + 5, 5)
    clock.set_back(100)
    assert (clock.now_ns(), clock.monotonic_ns()) == (NOW_NS - 95, 5), "what has passed has passed"
    with pytest.raises(ValueError, match="forward"):
        clock.advance(-1)
    with pytest.raises(ValueError, match="instant"):
        clock.set_back(NOW_NS)
    with pytest.raises(ValueError, match="now_ns"):
        SimulatedClock(-1)


def test_a_simulated_wait_ends_at_its_instant() -> None:
    async def main() -> None:
        clock, event = SimulatedClock(), asyncio.Event()
        waits = [asyncio.create_task(clock.wait(event, timeout_ns)) for timeout_ns in (10, 20)]
        assert not await clock.wait(event, 0)
        for _ in range(5):
            await asyncio.sleep(0)
        clock.advance(9)
        for _ in range(5):
            await asyncio.sleep(0)
        assert [wait.done() for wait in waits] == [False, False]
        clock.advance(1)
        await until(waits[0].done)
        assert not waits[0].result()
        assert not waits[1].done()
        event.set()
        assert await waits[1]

    asyncio.run(main())


@pytest.mark.parametrize("clock", [SystemClock(), SimulatedClock()])
def test_an_event_ends_a_wait(clock: Clock) -> None:
    async def main() -> None:
        event = asyncio.Event()
        waiting = asyncio.create_task(clock.wait(event, 3_600_000_000_000))
        await asyncio.sleep(0)
        event.set()
        assert await waiting

    asyncio.run(main())


def test_the_system_clock_is_the_machines() -> None:
    clock = SystemClock()
    before_ns = time.monotonic_ns()
    assert before_ns <= clock.monotonic_ns() <= time.monotonic_ns()
    assert clock.now_ns() > NOW_NS

    async def main() -> None:
        assert not await clock.wait(asyncio.Event(), 1)

    asyncio.run(main())
