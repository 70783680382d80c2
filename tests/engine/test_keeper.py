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


def test_work_that_takes_long_is_done_once() -> None:
    """Whoever waits looks every second whether the thread still lives. As long as it does, the work is the thread's."""
    keeper = Keeper(lambda: None, HOUR_NS, lambda: 0, threads=True)
    keeper.start()
    done_by: list[threading.Thread] = []

    def work() -> int:
        done_by.append(threading.current_thread())
        threading.Event().wait(1.5)
        return len(done_by)

    assert keeper.call(work) == 1
    assert done_by == [keeper.call(threading.current_thread)]
    keeper.stop()


def test_work_that_the_thread_did_not_get_to_is_done_by_the_caller() -> None:
    keeper = Keeper(lambda: None, HOUR_NS, lambda: 0, threads=True)
    keeper.start()
    go_on, is_last = threading.Event(), threading.Event()
    done_by: list[threading.Thread] = []

    def last() -> None:
        # The end of the thread is handed over while it is at this, and then the work that comes too late for it.
        is_last.set()
        go_on.wait(30)

    def late() -> None:
        keeper.call(lambda: done_by.append(threading.current_thread()))

    keeper.post(last)
    assert is_last.wait(30)
    stopping = threading.Thread(target=keeper.stop)
    stopping.start()
    while keeper._requests.empty():
        """Until the end is handed over."""
    caller = threading.Thread(target=late)
    caller.start()
    while keeper._requests.qsize() < 2:
        """Until the work is."""
    go_on.set()
    caller.join(30)
    stopping.join(30)
    assert done_by == [caller]
