"""``Scheduler`` against a naive model that scans all jobs, in any order of calls; and what a tick costs."""

from __future__ import annotations

import sys
from dataclasses import replace
from types import FrameType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from walstore import Cron, Manual, Once, Periodic, QName, Schedule, SchedulerJobRecord, SchedulerJobStatus
from walstore.model.events import Cancelled, Event, Finished, Restored, Scheduled, Started
from walstore.scheduler import Scheduler
from walstore.testing.model import NOW_NS, WRONG, Jobs, apply
from walstore.testing.strategies import records

PENDING, RUNNING, IDLE, FAILED, CANCELLED = SchedulerJobStatus
JOBS = ["ai.geo.tile", "ai.geo.Tile", "a.b", "builtin.x"]
NEVER = Cron("0 0 0 30 2 ?")

jobs = st.sampled_from(JOBS)
# Few instants, so that much happens at the same one.
instants = st.integers(NOW_NS, NOW_NS + 12)
schedules: st.SearchStrategy[Schedule] = st.one_of(
    st.just(Manual()),
    st.builds(lambda at_ns: Once(at_ns=at_ns), instants),
    st.builds(lambda every_ns: Periodic(every_ns=every_ns), st.integers(1, 9)),
    st.sampled_from([Cron("* * * * * *"), NEVER]),
)


def one(status: SchedulerJobStatus, next_fire_ns: int | None, schedule: Schedule) -> SchedulerJobRecord:
    return SchedulerJobRecord(QName.parse("a.b"), status, next_fire_ns, None, None, 0, schedule)


class AgainstAScan(RuleBasedStateMachine):
    """The model keeps records by the naive rules of the contract, and looks at all of them to find what is due."""

    def __init__(self) -> None:
        super().__init__()
        self.scheduler = Scheduler()
        self.jobs: Jobs = {}
        self.due: dict[str, int | None] = {}
        """When a job is due that is not due by its record."""
        self.retried: set[str] = set()
        self.is_paused = True

    def happens(self, event: Event, job: str) -> None:
        apply(self.jobs, event)
        self.due.pop(job, None)
        self.retried.discard(job)

    def is_due(self, job: str, now_ns: int) -> bool:
        record = self.jobs[job]
        if job in self.due:
            due_ns = self.due[job]
            return due_ns is not None and due_ns <= now_ns
        if record.status is not PENDING:
            return False
        if record.next_fire_at_ns is None:
            return not isinstance(record.schedule, Cron)
        return record.next_fire_at_ns <= now_ns

    @rule(job=jobs, at_ns=instants)
    def add_job(self, job: str, at_ns: int) -> None:
        self.scheduler.add_job(job, at_ns)
        self.happens(Scheduled(job, Manual(), at_ns), job)

    @rule(job=jobs, schedule=schedules, at_ns=instants)
    def add_scheduled_job(self, job: str, schedule: Schedule, at_ns: int) -> None:
        self.scheduler.add_scheduled_job(QName.parse(job), schedule, at_ns)
        self.happens(Scheduled(job, schedule, at_ns), job)

    @rule(job=jobs, record=records(), next_fire_ns=st.none() | instants)
    def restore(self, job: str, record: SchedulerJobRecord, next_fire_ns: int | None) -> None:
        record = replace(record, id=QName.parse(job), next_fire_at_ns=next_fire_ns)
        token = self.scheduler.cancel_token_for(job)
        self.scheduler.restore(record)
        self.happens(Restored(record), job)
        assert token is None or not token.is_cancelled
        assert self.scheduler.cancel_token_for(job) is not token

    @rule(job=jobs)
    def cancel(self, job: str) -> None:
        token = self.scheduler.cancel_token_for(job)
        assert self.scheduler.cancel(job) == (job in self.jobs)
        assert token is None or token.is_cancelled
        self.happens(Cancelled(job), job)

    @rule(now_ns=instants, limit=st.none() | st.integers(0, 3))
    def tick(self, now_ns: int, limit: int | None) -> None:
        expected = [] if self.is_paused else [job for job in self.jobs if self.is_due(job, now_ns)]
        records_found = self.scheduler.tick_at(now_ns, limit)
        found = [str(record.id) for record in records_found]
        dues = [self.due.get(job, self.jobs[job].next_fire_at_ns) or 0 for job in found]
        assert dues == sorted(dues)
        if limit is None or limit >= len(expected):
            assert sorted(found) == sorted(expected)
        else:
            assert len(found) == limit
            later = [self.due.get(job, self.jobs[job].next_fire_at_ns) or 0 for job in set(expected) - set(found)]
            assert max(dues, default=0) <= min(later), "the earliest come first"
        for job in found:
            if self.jobs[job].status is FAILED:
                self.retried.add(job)
            self.jobs[job] = replace(self.jobs[job], status=RUNNING)
            self.due.pop(job, None)
        assert all(record == self.jobs[str(record.id)] for record in records_found)

    @rule(job=jobs, at_ns=instants)
    def mark_started(self, job: str, at_ns: int) -> None:
        assert self.scheduler.mark_started(job, at_ns) == (job in self.jobs)
        if job in self.jobs:
            self.happens(Started(job, at_ns), job)

    @rule(job=jobs, at_ns=instants, success=st.booleans())
    def mark_finished(self, job: str, at_ns: int, success: bool) -> None:
        token = self.scheduler.cancel_token_for(job)
        assert self.scheduler.mark_finished(job, at_ns, success) == (job in self.jobs)
        self.happens(Finished(job, at_ns, success), job)
        assert token is None or self.scheduler.cancel_token_for(job) is not token

    @rule(job=jobs, at_ns=instants)
    def retry_at(self, job: str, at_ns: int) -> None:
        can_retry = job in self.jobs and self.jobs[job].status is FAILED
        assert self.scheduler.retry_at(job, at_ns) == can_retry
        if can_retry:
            self.due[job] = at_ns

    @rule(job=jobs, until_ns=st.none() | instants)
    def defer(self, job: str, until_ns: int | None) -> None:
        assert self.scheduler.defer(job, until_ns) == (job in self.jobs)
        if job in self.jobs:
            if self.jobs[job].status is RUNNING:
                status = FAILED if job in self.retried else PENDING
                self.jobs[job] = replace(self.jobs[job], status=status)
            self.retried.discard(job)
            self.due[job] = until_ns

    @rule()
    def requeue(self) -> None:
        orphaned = [job for job, record in self.jobs.items() if record.status is RUNNING]
        assert self.scheduler.requeue_orphaned_runs() == len(orphaned)
        for job in orphaned:
            self.jobs[job] = replace(self.jobs[job], status=PENDING)
            self.due.pop(job, None)
            self.retried.discard(job)

    @precondition(lambda machine: machine.is_paused)
    @rule()
    def resume(self) -> None:
        self.scheduler.resume()
        self.is_paused = False

    @precondition(lambda machine: not machine.is_paused)
    @rule()
    def pause(self) -> None:
        self.scheduler.pause()
        self.is_paused = True

    @invariant()
    def shows_what_the_model_holds(self) -> None:
        found = self.scheduler.list()
        assert {str(record.id): record for record in found} == self.jobs
        assert len(found) == len(self.jobs) == len(self.scheduler)
        statuses = [record.status for record in found]
        assert self.scheduler.running_count == statuses.count(RUNNING)
        assert self.scheduler.pending_count == statuses.count(PENDING)
        assert self.scheduler.paused == self.is_paused
        for job in JOBS:
            assert self.scheduler.get(job) == self.jobs.get(job)
            assert (job in self.scheduler) == (job in self.jobs)
            assert (self.scheduler.cancel_token_for(job) is None) == (job not in self.jobs)


AgainstAScan.TestCase.settings = settings(max_examples=40, stateful_step_count=30)
TestAgainstAScan = AgainstAScan.TestCase


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), max_size=20))
def test_the_earliest_is_first(due: list[tuple[int, int]]) -> None:
    scheduler = Scheduler()
    scheduler.resume()
    for number, (at_ns, _) in enumerate(due):
        scheduler.add_scheduled_job(f"a.{number}", Once(at_ns=NOW_NS + at_ns), NOW_NS)
    found = [record.next_fire_at_ns for record in scheduler.tick_at(NOW_NS + 10)]
    assert found == sorted(NOW_NS + at_ns for at_ns, _ in due if at_ns <= 10)


@pytest.mark.parametrize("status", SchedulerJobStatus)
@pytest.mark.parametrize("schedule", [Manual(), Once(at_ns=NOW_NS), Periodic(every_ns=7), Cron("@hourly"), NEVER])
@pytest.mark.parametrize("next_fire_ns", [None, 0, NOW_NS - 1, NOW_NS, NOW_NS + 1])
def test_who_is_due(status: SchedulerJobStatus, schedule: Schedule, next_fire_ns: int | None) -> None:
    scheduler = Scheduler()
    scheduler.resume()
    record = one(status, next_fire_ns, schedule)
    if status is CANCELLED:
        with pytest.raises(ValueError, match="cancel"):
            scheduler.restore(record)
        return
    scheduler.restore(record)
    is_due = status is PENDING and (
        not isinstance(schedule, Cron) if next_fire_ns is None else next_fire_ns in {0, NOW_NS - 1, NOW_NS}
    )
    assert scheduler.tick_at(NOW_NS) == ([replace(record, status=RUNNING)] if is_due else [])
    assert scheduler.tick_at(NOW_NS) == [], "once returned, a job is no longer due"


def test_nothing_is_due_before_it_is_resumed() -> None:
    scheduler = Scheduler()
    scheduler.add_job("a.b", NOW_NS)
    assert scheduler.paused
    assert scheduler.tick_at(NOW_NS) == []
    scheduler.resume()
    assert [str(record.id) for record in scheduler.tick_at(NOW_NS)] == ["a.b"]


def test_what_is_wrong_changes_nothing() -> None:
    for wrong in WRONG:
        scheduler = Scheduler()
        scheduler.add_job("ai.geo.tile", NOW_NS)
        before = scheduler.list()
        with pytest.raises((TypeError, ValueError)):
            match wrong:
                case Scheduled(job, schedule, at):
                    scheduler.add_scheduled_job(job, schedule, at)  # type: ignore[arg-type]  # It is wrong.
                case Started(job, at):
                    scheduler.mark_started(job, at)
                case Finished(job, at, success):
                    scheduler.mark_finished(job, at, success)
                case Cancelled(job):
                    scheduler.cancel(job)
        assert scheduler.list() == before


def calls_in_tick(scheduler: Scheduler, now_ns: int) -> int:
    """Count the calls of Python and C functions that a tick makes: a measure of its work that is the same each time."""
    calls = 0

    def count(_frame: FrameType, event: str, _arg: object) -> None:
        nonlocal calls
        calls += event in {"call", "c_call"}

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        scheduler.tick_at(now_ns)
    finally:
        sys.setprofile(before)
    return calls


def filled(number: int, due: int) -> Scheduler:
    scheduler = Scheduler()
    scheduler.resume()
    for job in range(number):
        at_ns = NOW_NS if job % (number // due) == 0 else NOW_NS + 10**9 + job
        scheduler.add_scheduled_job(f"a.{job}", Once(at_ns=at_ns), NOW_NS)
    return scheduler


def test_a_tick_costs_by_what_is_due_and_not_by_what_there_is() -> None:
    few, many = filled(100, 10), filled(20_000, 10)
    assert calls_in_tick(few, NOW_NS) == calls_in_tick(many, NOW_NS)
    assert calls_in_tick(few, NOW_NS) == calls_in_tick(many, NOW_NS) < 10, "nothing is due any more"


def test_planning_again_and_again_does_not_fill_the_memory() -> None:
    scheduler = Scheduler()
    for number in range(10_000):
        scheduler.add_scheduled_job(f"a.{number % 10}", Periodic(every_ns=1 + number), NOW_NS)
    assert len(scheduler._heap) < 200
    scheduler.resume()
    assert len(scheduler.tick_at(NOW_NS + 10_000)) == 10
