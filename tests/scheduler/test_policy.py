"""The decisions about missed fires, retries and registrations: every combination of what they depend on."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from walstore import Cron, Manual, Once, Periodic, QName, Schedule, SchedulerJobRecord, SchedulerJobStatus
from walstore.model.names import INSTANT_MAX_NS
from walstore.scheduler import JobPolicy, Misfire
from walstore.scheduler.control import changes
from walstore.scheduler.policy import after_downtime, making_up
from walstore.testing.model import NOW_NS
from walstore.testing.strategies import records

PENDING, RUNNING, IDLE, FAILED, CANCELLED = SchedulerJobStatus
KEPT = [PENDING, RUNNING, IDLE, FAILED]
SECOND_NS = 10**9
EVERY = Periodic(every_ns=10 * SECOND_NS)
SECONDLY = Cron("* * * * * *")
LAST_CRON = Cron("0 0 0 1 1 ? 2026")
SCHEDULES: list[Schedule] = [Manual(), Once(at_ns=NOW_NS - 25 * SECOND_NS), EVERY, SECONDLY, LAST_CRON]
JOB = QName.parse("a.b")


def record(
    status: SchedulerJobStatus,
    schedule: Schedule,
    next_fire_ns: int | None = None,
    started_ns: int | None = None,
    finished_ns: int | None = None,
    failures: int = 0,
) -> SchedulerJobRecord:
    return SchedulerJobRecord(JOB, status, next_fire_ns, started_ns, finished_ns, failures, schedule)


# Missed fires.

FIRES = [None, NOW_NS - 25 * SECOND_NS, NOW_NS - 1, NOW_NS, NOW_NS + 1]
RAN = {"never": (None, None), "ended": (5, 6), "at once": (5, 5), "cut off": (5, None), "cut off again": (5, 4)}


@pytest.mark.parametrize("misfire", Misfire)
@pytest.mark.parametrize("ran", RAN)
def test_what_happens_to_missed_fires(misfire: Misfire, ran: str) -> None:
    policy = JobPolicy(misfire=misfire)
    for status, schedule, next_fire_ns in product(KEPT, SCHEDULES, FIRES):
        before = record(status, schedule, next_fire_ns, *RAN[ran])
        after = after_downtime(before, NOW_NS, policy)
        is_missed = status is PENDING and next_fire_ns is not None and next_fire_ns <= NOW_NS
        is_owed = isinstance(schedule, Manual) or ran.startswith("cut off")
        if misfire is not Misfire.SKIP or not is_missed or is_owed:
            assert after is before
            continue
        assert next_fire_ns is not None
        if schedule == EVERY:
            phase_ns = (next_fire_ns - NOW_NS) % (10 * SECOND_NS) or 10 * SECOND_NS
            expected: tuple[SchedulerJobStatus, int | None] = (PENDING, NOW_NS + phase_ns)
        elif schedule == SECONDLY:
            expected = (PENDING, NOW_NS + SECOND_NS)
        else:
            expected = (IDLE, None)
        assert (after.status, after.next_fire_at_ns) == expected, before
        assert after == replace(before, status=expected[0], next_fire_at_ns=expected[1]), "the history is kept"


def test_skipping_is_quick_however_long_it_was() -> None:
    ages = record(PENDING, Periodic(every_ns=1), 0)
    assert after_downtime(ages, NOW_NS, JobPolicy(misfire=Misfire.SKIP)).next_fire_at_ns == NOW_NS + 1


@pytest.mark.parametrize("success", [True, False])
def test_which_fires_are_made_up_for(success: bool) -> None:
    each = JobPolicy(misfire=Misfire.EACH)
    fire_ns = NOW_NS - 25 * SECOND_NS
    running = record(RUNNING, EVERY, fire_ns, NOW_NS, NOW_NS - 99 * SECOND_NS, 2)
    ended_ns = NOW_NS + 5

    def made_up(job: SchedulerJobRecord, policy: JobPolicy = each, fire: int | None = fire_ns) -> int | None:
        after = making_up(job, fire, ended_ns, NOW_NS, policy, success=success)
        if after is None:
            return None
        again_ns = after.next_fire_at_ns
        failures = 0 if success else 3
        finished = replace(job, last_finished_at_ns=ended_ns, consecutive_failures=failures)
        assert after == replace(finished, status=PENDING, next_fire_at_ns=again_ns), "like any other end of a run"
        return again_ns

    assert made_up(running) == NOW_NS - 15 * SECOND_NS
    assert made_up(replace(running, next_fire_at_ns=NOW_NS - 10 * SECOND_NS), fire=NOW_NS - 10 * SECOND_NS) == NOW_NS
    assert made_up(replace(running, next_fire_at_ns=NOW_NS - 9), fire=NOW_NS - 9) is None, "the next one was not missed"
    assert made_up(replace(running, schedule=SECONDLY)) == NOW_NS - 24 * SECOND_NS
    assert made_up(replace(running, next_fire_at_ns=NOW_NS)) is None, "it was scheduled again while it ran"
    assert made_up(replace(running, next_fire_at_ns=None), fire=None) is None
    for schedule in (Manual(), Once(at_ns=fire_ns), Cron("0 0 0 1 1 ? 2025")):
        assert made_up(replace(running, schedule=schedule)) is None
    for misfire in (Misfire.SKIP, Misfire.RUN_ONCE):
        assert made_up(running, JobPolicy(misfire=misfire)) is None


# Retries.


@pytest.mark.parametrize("status", KEPT)
@pytest.mark.parametrize("attempts", [1, 2, 3])
@pytest.mark.parametrize("failures", range(8))
def test_who_is_tried_again(status: SchedulerJobStatus, attempts: int, failures: int) -> None:
    policy = JobPolicy(attempts=attempts, retry_delay_ns=7)
    failed = record(status, Manual(), NOW_NS, NOW_NS, NOW_NS + 1, failures)
    has_attempts_left = failures % attempts != 0
    assert policy.retry_at_ns(failed) == (NOW_NS + 8 if status is FAILED and has_attempts_left else None)


def test_delays_grow_up_to_the_longest() -> None:
    policy = JobPolicy(attempts=6, retry_delay_ns=10, retry_factor=3, retry_delay_max_ns=100)
    delays = [policy.retry_at_ns(record(FAILED, Manual(), None, 0, NOW_NS, n)) for n in range(1, 6)]
    assert delays == [NOW_NS + delay for delay in (10, 30, 90, 100, 100)]
    many = JobPolicy(attempts=2**32, retry_factor=10**9)
    assert many.retry_at_ns(record(FAILED, Manual(), None, 0, NOW_NS, 2**32 - 1)) == NOW_NS + 3_600 * SECOND_NS
    late = record(FAILED, Manual(), None, 0, INSTANT_MAX_NS - 3, 1)
    assert many.retry_at_ns(late) == INSTANT_MAX_NS


@given(records(), st.sampled_from(Misfire))
def test_any_record_can_be_restored(job: SchedulerJobRecord, misfire: Misfire) -> None:
    policy = JobPolicy(misfire=misfire, attempts=3)
    after = after_downtime(job, NOW_NS, policy)
    assert after.next_fire_at_ns is None or after is job or after.next_fire_at_ns > NOW_NS
    assert after_downtime(after, NOW_NS, policy) == after, "once is enough"
    policy.retry_at_ns(job)
    making_up(job, job.next_fire_at_ns, NOW_NS, NOW_NS, policy, success=True)


# Registering again.


@pytest.mark.parametrize("has_begun", [True, False])
@pytest.mark.parametrize("is_replaced", [True, False])
def test_adding_a_job_again(has_begun: bool, is_replaced: bool) -> None:
    for schedule in SCHEDULES:
        assert changes(None, schedule, has_begun=has_begun, replace=is_replaced), "an unknown job"
    for status, known, schedule in product(KEPT, SCHEDULES, SCHEDULES):
        found = changes(record(status, known), schedule, has_begun=has_begun, replace=is_replaced)
        if is_replaced or known != schedule:
            assert found
        elif schedule == Manual():
            is_waiting = status is RUNNING and not has_begun
            assert found == (not is_waiting), "Manual arms again, unless it is armed and about to run"
        else:
            assert not found


# What a policy may be.

WHOLE = ["misfire_runs_max", "attempts", "retry_delay_ns", "retry_factor", "retry_delay_max_ns"]


@pytest.mark.parametrize("name", [*WHOLE, "timeout_ns", "concurrency"])
@pytest.mark.parametrize("wrong", [0, -1, 1.5, True, "1"])
def test_wrong_figures_are_refused(name: str, wrong: object) -> None:
    with pytest.raises((TypeError, ValueError), match=name):
        JobPolicy(**{name: wrong})  # type: ignore[arg-type]  # It is wrong.


@pytest.mark.parametrize(
    "wrong", [{"misfire": "skip"}, {"rerun_orphans": 1}, {"rerun_orphans": None}, *({name: None} for name in WHOLE)]
)
def test_wrong_kinds_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(TypeError, match=next(iter(wrong))):
        JobPolicy(**wrong)  # type: ignore[arg-type]  # It is wrong.
