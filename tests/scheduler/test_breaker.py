"""``CircuitBreaker``: when a job may run, as a table and against what is known of its last runs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from walstore import Manual, QName, SchedulerJobRecord, SchedulerJobStatus
from walstore.scheduler import CircuitBreaker, CircuitState
from walstore.testing.model import NOW_NS

JOB = "ai.geo.tile"
SECOND_NS = 10**9
CLOSED, OPEN, HALF_OPEN = CircuitState


def failed(times: int, breaker: CircuitBreaker) -> CircuitBreaker:
    for number in range(times):
        breaker.failed(JOB, NOW_NS - (times - 1 - number))
    return breaker


@pytest.mark.parametrize(
    ("failures", "later_ns", "state"),
    [
        (0, 0, CLOSED),
        (9, 0, CLOSED),
        (9, 31 * SECOND_NS, CLOSED),
        (10, 0, OPEN),
        (10, 30 * SECOND_NS - 1, OPEN),
        (10, 30 * SECOND_NS, HALF_OPEN),
        (25, 30 * SECOND_NS - 1, OPEN),
        (25, 10**6 * SECOND_NS, HALF_OPEN),
    ],
)
def test_it_opens_after_ten_failures_and_half_opens_after_thirty_seconds(
    failures: int, later_ns: int, state: CircuitState
) -> None:
    breaker = failed(failures, CircuitBreaker())
    assert breaker.state(JOB, NOW_NS + later_ns) is state
    assert breaker.half_opens_at_ns(JOB) == (None if failures < 10 else NOW_NS + 30 * SECOND_NS)
    assert breaker.allows(JOB, NOW_NS + later_ns) == (state is not OPEN)
    assert breaker.allows(JOB, NOW_NS + later_ns) == (state is CLOSED), "half-open lets one run through"
    assert breaker.state("another.job", NOW_NS) is CLOSED


def test_what_the_one_run_shows_counts() -> None:
    half_open_ns = NOW_NS + 30 * SECOND_NS
    breaker = failed(10, CircuitBreaker())
    assert breaker.allows(JOB, half_open_ns)
    breaker.failed(QName.parse(JOB), half_open_ns)
    assert not breaker.allows(JOB, half_open_ns + 30 * SECOND_NS - 1)
    assert breaker.allows(JOB, half_open_ns + 30 * SECOND_NS)
    breaker.succeeded(JOB)
    assert breaker.state(JOB, half_open_ns) is CLOSED
    assert breaker.state(JOB, failed(9, breaker).half_opens_at_ns(JOB) or 0) is CLOSED, "it counts from the start"


def test_a_run_that_never_was_lets_the_next_one_through() -> None:
    breaker = failed(10, CircuitBreaker())
    assert breaker.allows(JOB, NOW_NS + 30 * SECOND_NS)
    breaker.forget(JOB)
    assert breaker.allows(JOB, NOW_NS + 30 * SECOND_NS)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 40)), max_size=30), st.integers(0, 80), st.integers(1, 4))
def test_a_restart_changes_nothing(runs: list[tuple[bool, int]], later: int, failures_max: int) -> None:
    before, at_ns = CircuitBreaker(failures_max=failures_max), NOW_NS
    failures, finished_ns = 0, None
    for success, pause in runs:
        at_ns += pause * SECOND_NS
        if before.allows(JOB, at_ns):
            failures, finished_ns = 0 if success else failures + 1, at_ns
            if success:
                before.succeeded(JOB)
            else:
                before.failed(JOB, at_ns)
    after = CircuitBreaker(failures_max=failures_max)
    after.failed(JOB, 0)
    status = SchedulerJobStatus.PENDING
    after.restore(SchedulerJobRecord(QName.parse(JOB), status, None, None, finished_ns, failures, Manual()))
    for now_ns in (at_ns, at_ns + later * SECOND_NS):
        assert after.state(JOB, now_ns) is before.state(JOB, now_ns)
        assert after.half_opens_at_ns(JOB) == before.half_opens_at_ns(JOB)
    # Its memory follows the jobs that fail.
    assert len(after._circuits) == len(before._circuits) == (failures > 0)


@pytest.mark.parametrize("name", ["failures_max", "cooldown_ns"])
@pytest.mark.parametrize("wrong", [0, -1, 1.5, True, None, "10"])
def test_wrong_figures_are_refused(name: str, wrong: object) -> None:
    with pytest.raises((TypeError, ValueError), match=name):
        CircuitBreaker(**{name: wrong})  # type: ignore[arg-type]  # It is wrong.
