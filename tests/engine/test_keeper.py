"""The keeper's thread: its tick comes when it is due by the clock that it was given, between the work of callers."""

from __future__ import annotations

import threading

import pytest

from walstore.engine.keeper import Keeper

pytestmark = pytest.mark.mutation

HOUR_NS = 3600 * 10**9


def test_a_tick_comes_when_it_is_due_and_not_before() -> None:
    now_ns, ticks = 0, 0

    def tick() -> None:
        nonlocal ticks
        ticks += 1

    keeper = Keeper(tick, HOUR_NS, lambda: now_ns, threads=True)
    keeper.start()
    # The second one is late, and the third comes an hour after that.
    for now_ns, expected in (  # noqa: B007  # The keeper's clock.
        (0, 0),
        (HOUR_NS - 1, 0),
        (HOUR_NS, 1),
        (2 * HOUR_NS - 1, 1),
        (5 * HOUR_NS, 2),
        (6 * HOUR_NS - 1, 2),
        (6 * HOUR_NS, 3),
    ):
        # Behind the first call it looks at the clock, and the second one is told what came of it.
        keeper.call(lambda: None)
        assert keeper.call(lambda: ticks) == expected
    keeper.stop()
    assert keeper.call(lambda: ticks) == expected


def test_an_error_of_the_work_is_the_callers_and_the_keeper_goes_on() -> None:
    keeper = Keeper(lambda: None, HOUR_NS, lambda: 0, threads=True)
    keeper.start()
    with pytest.raises(ZeroDivisionError):
        keeper.call(lambda: 1 // 0)
    assert keeper.call(lambda: 1) == 1
    keeper.stop()
    keeper.stop()


def test_stopping_ends_the_thread_also_from_within_and_before_it_began() -> None:
    keeper = Keeper(lambda: None, HOUR_NS, lambda: 0, threads=True)
    keeper.stop()
    assert keeper.call(lambda: 1) == 1
    keeper = Keeper(lambda: None, HOUR_NS, lambda: 0, threads=True)
    keeper.start()
    thread = keeper.call(threading.current_thread)
    keeper.stop()
    assert not thread.is_alive()
    keeper = Keeper(lambda: None, HOUR_NS, lambda: 0, threads=True)
    keeper.start()
    thread = keeper.call(threading.current_thread)
    keeper.call(keeper.stop)
    thread.join(timeout=30)
    assert not thread.is_alive()
