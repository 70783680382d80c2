"""Clocks and loops: what is inside a timed loop, and nothing else."""

from __future__ import annotations

import gc
import statistics
from array import array
from collections.abc import Callable, Sequence
from time import perf_counter_ns
from typing import Final, TypeVar

__all__ = ["PERCENTILES", "Call", "clock_cost_ns", "closed", "curve", "looped", "paced", "percentile", "settle"]

A = TypeVar("A")
Call = Callable[[str, A], object]

PERCENTILES: Final = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999, "p99.99": 0.9999}
_ABOVE_MIN: Final = 5
"""A percentile needs at least so many calls above it, or it is one unlucky call."""


def clock_cost_ns() -> float:
    """Return what a pair of readings of the clock measures when there is nothing in between."""
    out = array("q", bytes(8 * 100_000))
    for index in range(len(out)):
        start = perf_counter_ns()
        out[index] = perf_counter_ns() - start
    return statistics.median(out)


def settle() -> None:
    """Collect the garbage, and hide what the benchmark itself holds from the collector, which stays on."""
    gc.collect()
    gc.freeze()


def closed(call: Call[A], jobs: Sequence[str], args: Sequence[A], out: array[int]) -> None:
    """Call for each job, the next one when the last one is done, and put the nanoseconds of each call into ``out``."""
    clock = perf_counter_ns
    index = 0
    for job, arg in zip(jobs, args, strict=True):
        start = clock()
        call(job, arg)
        out[index] = clock() - start
        index += 1  # noqa: SIM113  # Cheaper than the tuples of enumerate, and outside the timed part.


def paced(call: Call[A], jobs: Sequence[str], args: Sequence[A], out: array[int], interval_ns: int) -> None:
    """Call for each job at its appointed time, and put the nanoseconds from that time to the end of the call into out.

    A call that comes late because the ones before it took too long counts from the time when it should have begun:
    otherwise one long stall would count once, however many calls it held up. Waiting spins, as a busy host does.
    """
    clock = perf_counter_ns
    index = 0
    due = clock() + interval_ns
    for job, arg in zip(jobs, args, strict=True):
        while clock() < due:
            pass
        call(job, arg)
        out[index] = clock() - due
        due += interval_ns
        index += 1  # noqa: SIM113  # As above.


def looped(call: Call[A], jobs: Sequence[str], args: Sequence[A]) -> int:
    """Call for each job without a look at the clock in between, and return the nanoseconds of all."""
    start = perf_counter_ns()
    for job, arg in zip(jobs, args, strict=True):
        call(job, arg)
    return perf_counter_ns() - start


def percentile(ordered: Sequence[int], share: float) -> float | None:
    """Return the value that ``share`` of the sorted values do not exceed, or None where there are too few of them."""
    above = round(len(ordered) * (1 - share))
    return ordered[len(ordered) - above - 1] if above >= _ABOVE_MIN else None


def curve(ordered: Sequence[int], clock_ns: float) -> list[tuple[float, float]]:
    """Return shares of the calls, ever closer to 1, and the microseconds that they take at most."""
    points = []
    for step in range(1, 41):
        share = 1 - 10 ** (-step / 10)
        value = percentile(ordered, share)
        if value is not None:
            points.append((share, max(value - clock_ns, 1) / 1_000))
    return points
