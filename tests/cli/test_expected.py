from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from walstore import Cron, Manual, Once, Periodic, QName, Schedule, SchedulerJobRecord, SchedulerJobStatus
from walstore.cli.expected import ExpectedJob, apply, closest_prefixes, differences, expected_of, fold
from walstore.cli.trace import Call, PlainSchedule, TraceEvent
from walstore.model import reducer
from walstore.model.events import EventForm
from walstore.model.records import JobState, record_of

JOB = "ai.job"
LAST_NS = 2**63 - 1
FAILURES_MAX = 2**32 - 1
MANUAL: PlainSchedule = ("manual",)
DAILY: PlainSchedule = ("cron", "0 0 0 * * *")
DAY_NS = 86_400 * 10**9


def scheduled(at_ns: int, schedule: PlainSchedule, job: str = JOB) -> TraceEvent:
    return TraceEvent(at_ns, Call.SCHEDULED, job, schedule)


def started(at_ns: int, job: str = JOB) -> TraceEvent:
    return TraceEvent(at_ns, Call.STARTED, job)


def finished(at_ns: int, *, success: bool, job: str = JOB) -> TraceEvent:
    return TraceEvent(at_ns, Call.FINISHED, job, success=success)


def cancelled(at_ns: int, job: str = JOB) -> TraceEvent:
    return TraceEvent(at_ns, Call.CANCELLED, job)


OK = finished(30, success=True)
FAILED = finished(30, success=False)


# One row for each row of the contract's table, and for each case that a row tells apart.
@pytest.mark.parametrize(
    ("events", "job"),
    [
        ([scheduled(10, MANUAL)], ("Pending", 10, None, None, 0, MANUAL)),
        ([scheduled(10, ("periodic", 5))], ("Pending", 15, None, None, 0, ("periodic", 5))),
        ([scheduled(10, ("periodic", LAST_NS))], ("Pending", None, None, None, 0, ("periodic", LAST_NS))),
        ([scheduled(10, ("once", 10))], ("Pending", 10, None, None, 0, ("once", 10))),
        ([scheduled(10, ("once", 9))], ("Pending", None, None, None, 0, ("once", 9))),
        ([scheduled(10, DAILY)], ("Pending", DAY_NS, None, None, 0, DAILY)),
        ([started(20)], ("Running", None, 20, None, 0, MANUAL)),
        ([OK], None),
        ([cancelled(10)], None),
        # Known, scheduled again: history is kept, and so is Running.
        ([started(20), scheduled(25, ("once", 50))], ("Running", 50, 20, None, 0, ("once", 50))),
        ([started(20), FAILED, scheduled(40, DAILY)], ("Pending", DAY_NS, 20, 30, 1, DAILY)),
        ([scheduled(10, MANUAL), started(20)], ("Running", 10, 20, None, 0, MANUAL)),
        # Finished, by schedule and success.
        ([scheduled(10, MANUAL), started(20), OK], ("Idle", None, 20, 30, 0, MANUAL)),
        ([scheduled(10, MANUAL), started(20), FAILED], ("FailedRetrying", 10, 20, 30, 1, MANUAL)),
        ([scheduled(10, ("periodic", 5)), OK], ("Pending", 35, None, 30, 0, ("periodic", 5))),
        ([scheduled(10, ("periodic", 5)), FAILED], ("Pending", 35, None, 30, 1, ("periodic", 5))),
        ([scheduled(0, ("periodic", LAST_NS)), OK], ("Idle", None, None, 30, 0, ("periodic", LAST_NS))),
        (
            [scheduled(0, ("periodic", LAST_NS)), FAILED],
            ("FailedRetrying", LAST_NS, None, 30, 1, ("periodic", LAST_NS)),
        ),
        ([scheduled(10, DAILY), FAILED], ("Pending", DAY_NS, None, 30, 1, DAILY)),
        ([scheduled(10, ("once", 20)), OK], ("Idle", None, None, 30, 0, ("once", 20))),
        ([scheduled(10, ("once", 30)), FAILED], ("FailedRetrying", 30, None, 30, 1, ("once", 30))),
        ([scheduled(10, ("once", 31)), OK], ("Pending", 31, None, 30, 0, ("once", 31))),
        ([scheduled(10, ("once", 31)), FAILED], ("Pending", 31, None, 30, 1, ("once", 31))),
        # Failures in a row are counted, and a success forgets them.
        ([started(20), FAILED, FAILED], ("FailedRetrying", None, 20, 30, 2, MANUAL)),
        ([started(20), FAILED, OK], ("Idle", None, 20, 30, 0, MANUAL)),
        # Cancelled: gone, not brought back by the end of its run, new when scheduled again.
        ([started(20), cancelled(25)], None),
        ([started(20), cancelled(25), OK], None),
        ([started(20), FAILED, cancelled(35), scheduled(40, MANUAL)], ("Pending", 40, None, None, 0, MANUAL)),
    ],
)
def test_each_row_of_the_contract(events: list[TraceEvent], job: tuple[object, ...] | None) -> None:
    assert fold(events) == ({} if job is None else {JOB: job})


def test_an_event_without_what_its_call_needs_is_refused() -> None:
    with pytest.raises(ValueError, match="lacks"):
        fold([TraceEvent(1, Call.SCHEDULED, JOB)])


@pytest.mark.parametrize(
    ("schedule", "plain"),
    [
        (Manual(), MANUAL),
        (Once(at_ns=5), ("once", 5)),
        (Periodic(every_ns=6), ("periodic", 6)),
        (Cron("@daily"), ("cron", "@daily")),
    ],
)
def test_a_record_in_the_form_of_the_model(schedule: Schedule, plain: PlainSchedule) -> None:
    record = SchedulerJobRecord(QName.parse(JOB), SchedulerJobStatus.FAILED_RETRYING, 1, 2, 3, 4, schedule)
    assert expected_of(record) == ExpectedJob("FailedRetrying", 1, 2, 3, 4, plain)


# Few ids and instants, so that events meet.
instants = st.integers(0, 40) | st.integers(LAST_NS - 20, LAST_NS)
schedules: st.SearchStrategy[PlainSchedule] = st.one_of(
    st.just(MANUAL),
    st.tuples(st.just("once"), instants),
    st.tuples(st.just("periodic"), st.integers(1, 20) | st.just(LAST_NS)),
    st.tuples(st.just("cron"), st.sampled_from(["@daily", "0 0 0 30 2 *", "* * * * * * 1970"])),
)
job_ids = st.sampled_from(["a.a", "a.b", "b.a"])
events = st.one_of(
    st.builds(scheduled, instants, schedules, job_ids),
    st.builds(started, instants, job_ids),
    st.builds(finished, instants, success=st.booleans(), job=job_ids),
    st.builds(cancelled, instants, job_ids),
)


def form_of(event: TraceEvent) -> EventForm:
    """The event as the package's own reducer takes it."""
    if event.call == Call.STARTED:
        return 2, event.id, event.at_ns
    if event.call == Call.FINISHED:
        return 3, event.id, event.at_ns, event.success is True
    if event.call == Call.CANCELLED:
        return 4, event.id
    match event.schedule:
        case ("once", int(value)):
            return 1, event.id, event.at_ns, Once(at_ns=value).form
        case ("periodic", int(value)):
            return 1, event.id, event.at_ns, Periodic(every_ns=value).form
        case ("cron", str(expression)):
            return 1, event.id, event.at_ns, Cron(expression).form
    return 1, event.id, event.at_ns, Manual().form


@given(st.lists(events, max_size=25))
def test_the_model_and_the_reducer_agree(history: list[TraceEvent]) -> None:
    states: dict[str, JobState] = {}
    reducer.fold(states, map(form_of, history))
    reduced = {job: expected_of(record_of(job, reducer.settled(state))) for job, state in states.items()}
    assert differences(fold(history), reduced) == []


@given(st.lists(events, max_size=25), st.data())
def test_closest_prefixes_are_those_with_the_fewest_differences(history: list[TraceEvent], data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(history)))
    found = fold(history[: data.draw(st.integers(0, len(history)))])
    base = fold([*history[:start], *data.draw(st.lists(events, max_size=1))])
    before = dict(base)
    states = {count: dict(base) for count in range(start, len(history) + 1)}
    for count, jobs in states.items():
        for event in history[start:count]:
            apply(jobs, event)
    wrong = {count: len(differences(jobs, found, at_most=100)) for count, jobs in states.items()}
    fewest = min(wrong.values())
    expected = fewest, [count for count, number in wrong.items() if number == fewest]
    assert closest_prefixes(base, history, range(start, len(history) + 1), found) == expected
    assert base == before, "the state that was passed in was changed"


def test_differences_name_the_job_and_the_field() -> None:
    expected = fold([started(20, "a.a"), started(20, "a.b"), started(20, "a.d")])
    found = fold([started(21, "a.a"), started(20, "a.c"), started(20, "a.d")])
    missing = "a.b: is missing, should be ExpectedJob(status='Running'"
    wrong = ("a.a: last_started_ns should be 20, is 21", missing, "a.c: should not be there, is ExpectedJob(")
    lines = differences(expected, found)
    assert [line.startswith(start) for line, start in zip(lines, wrong, strict=True)] == [True] * 3
    assert differences(expected, found, at_most=1) == ["a.a: last_started_ns should be 20, is 21"]
    assert differences(expected, expected) == []
