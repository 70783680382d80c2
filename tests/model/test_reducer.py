"""What each event does to the state of a job, held against a naive model of the contract."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from walstore.model.cron import ENDLESS_BEFORE_NS
from walstore.model.events import Cancelled, Event, Finished, Restored, Scheduled, Started, form_of
from walstore.model.names import INSTANT_MAX_NS, QName
from walstore.model.records import FAILURES_MAX, JobState, SchedulerJobRecord, SchedulerJobStatus, record_of, state_of
from walstore.model.reducer import JobReducer, fold, settled
from walstore.model.schedule import Cron, Manual, Once, Periodic, Schedule, schedule_of
from walstore.testing.model import TABLE, Jobs, apply
from walstore.testing.strategies import events, records

pytestmark = pytest.mark.mutation

JOB = QName("ai.geo", "tile")
OTHER = SchedulerJobRecord(QName("a", "b"), SchedulerJobStatus.RUNNING, 1, 2, 3, 4, Periodic(every_ns=5))
T = 2_208_988_800 * 10**9  # 2040-01-01T00:00:00Z, up to where the search for a cron's next fire is put off.
END = 4_133_980_800 * 10**9  # 2101-01-01T00:00:00Z, where every cron has ended.

SCHEDULES: list[Schedule] = [
    Manual(),
    Once(at_ns=T),
    Once(at_ns=T + 1),
    Once(at_ns=0),
    Once(at_ns=INSTANT_MAX_NS),
    Periodic(every_ns=1),
    Periodic(every_ns=INSTANT_MAX_NS),
    Periodic(every_ns=INSTANT_MAX_NS - T),
    Cron("* * * * * *"),
    Cron("0 0 0 29 2 1"),
    Cron("0 0 0 30 2 ?"),
    Cron("0 0 0 1 1 * 2040"),
    Cron("* * * * * * 2041-2100"),
    Cron("0 0 0 1 1 * 1970"),
]
STATUSES = [status for status in SchedulerJobStatus if status is not SchedulerJobStatus.CANCELLED]
INSTANTS_NS = [0, T - 1, T, T + 1, END - 10**9, END, INSTANT_MAX_NS]
HISTORIES = [(None, None, None, 0), (T, T + 5, T - 5, 1), (None, 0, INSTANT_MAX_NS, FAILURES_MAX)]
EVENTS: list[Event] = [
    *[Scheduled(JOB, schedule, at_ns) for schedule, at_ns in product(SCHEDULES, INSTANTS_NS)],
    *[Started(JOB, at_ns) for at_ns in INSTANTS_NS],
    *[Finished(JOB, at_ns, success) for at_ns, success in product(INSTANTS_NS, (True, False))],
    Cancelled(JOB),
    *[Restored(SchedulerJobRecord(JOB, status, T, None, T, 9, Manual())) for status in STATUSES],
]
FOLLOWING = Started(QName("a", "c"), T)
"""Whatever became of the event before it, the next one counts."""
KNOWN = [
    SchedulerJobRecord(JOB, status, fire_ns, started_ns, finished_ns, failures, schedule)
    for status, schedule, (fire_ns, started_ns, finished_ns, failures) in product(STATUSES, SCHEDULES, HISTORIES)
]


def reduced(before: Jobs, happened: Sequence[Event]) -> Jobs:
    """What the reducer makes of some jobs, settled at the end."""
    states = {job: state_of(record) for job, record in before.items()}
    fold(states, [form_of(event, 0) for event in happened])
    return {job: record_of(job, settled(state)) for job, state in states.items()}


def modelled(before: Jobs, happened: Sequence[Event]) -> Jobs:
    jobs = dict(before)
    for event in happened:
        apply(jobs, event)
    return jobs


@pytest.mark.parametrize("row", TABLE)
def test_the_table_of_the_contract(row: str) -> None:
    happened, expected = TABLE[row]
    assert reduced({}, happened) == ({} if expected is None else {str(JOB): SchedulerJobRecord(JOB, *expected)})


@pytest.mark.parametrize("kind", [Scheduled, Started, Finished, Cancelled, Restored])
def test_every_event_on_an_unknown_job(kind: type[Event]) -> None:
    for event in EVENTS:
        if isinstance(event, kind):
            happened = [event, FOLLOWING]
            assert reduced({"a.b": OTHER}, happened) == modelled({"a.b": OTHER}, happened)


@pytest.mark.parametrize("kind", [Scheduled, Started, Finished, Cancelled, Restored])
@pytest.mark.parametrize("status", STATUSES, ids=lambda status: str(status.value))
def test_every_event_on_every_known_job(kind: type[Event], status: SchedulerJobStatus) -> None:
    chosen = [event for event in EVENTS if isinstance(event, kind)]
    known = [record for record in KNOWN if record.status is status]
    assert chosen
    assert known
    for record, event in product(known, chosen):
        before = {str(JOB): record, "a.b": OTHER}
        assert reduced(before, [event, FOLLOWING]) == modelled(before, [event, FOLLOWING]), (record, event)


@given(st.dictionaries(st.just(str(JOB)), st.just(OTHER)) | st.just({}), st.lists(events(), max_size=30))
def test_any_sequence_is_what_the_model_says(before: Jobs, happened: list[Event]) -> None:
    before = {str(record.id): record for record in before.values()}
    assert reduced(before, happened) == modelled(before, happened)


near_ns = st.builds(
    lambda edge_ns, off_ns: edge_ns + off_ns, st.sampled_from([T, END - 10**9, END]), st.integers(-3, 3)
)
cron_instants_ns = near_ns | st.integers(0, END + 10**18)
cron_schedules = st.sampled_from([schedule for schedule in SCHEDULES if isinstance(schedule, Cron | Manual)])
cron_events: st.SearchStrategy[Event] = st.one_of(
    st.builds(Scheduled, st.just(JOB), cron_schedules, cron_instants_ns),
    st.builds(Started, st.just(JOB), cron_instants_ns),
    st.builds(Finished, st.just(JOB), cron_instants_ns, st.booleans()),
)


@given(records(), st.lists(cron_events, max_size=12), st.data())
def test_settling_late_is_settling_at_once(
    record: SchedulerJobRecord, happened: list[Event], data: st.DataObject
) -> None:
    """A cron's next fire may be computed after each event, at the end, or wherever a snapshot lies between."""
    late: dict[str, JobState] = {str(record.id): state_of(record)}
    at_once, sometimes = dict(late), dict(late)
    for event in happened:
        form = form_of(event, 0)
        fold(late, [form])
        fold(at_once, [form])
        at_once = {job: settled(state) for job, state in at_once.items()}
        fold(sometimes, [form])
        if data.draw(st.booleans()):
            sometimes = {job: settled(state) for job, state in sometimes.items()}
    assert {job: settled(state) for job, state in late.items()} == at_once
    assert {job: settled(state) for job, state in sometimes.items()} == at_once
    assert {job: record_of(job, state) for job, state in at_once.items()} == modelled(
        {str(record.id): record}, happened
    )


@pytest.mark.parametrize("at_ns", [0, ENDLESS_BEFORE_NS - 1, ENDLESS_BEFORE_NS, END - 1, END, INSTANT_MAX_NS])
@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_the_settled_next_fire_is_that_of_the_schedule(schedule: Schedule, at_ns: int) -> None:
    jobs = reduced({}, [Scheduled(JOB, schedule, at_ns)])
    assert jobs[str(JOB)].next_fire_at_ns == schedule.next_after(at_ns)


@given(records())
def test_settling_a_settled_state_changes_nothing(record: SchedulerJobRecord) -> None:
    state = state_of(record)
    assert settled(state) == state


def test_a_cron_that_no_longer_parses_never_fires() -> None:
    states: dict[str, JobState] = {}
    fold(states, [(1, "a.b", 5, (3, "every full moon")), (2, "a.b", 6), (3, "a.b", 7, True)])
    assert {job: settled(state) for job, state in states.items()} == {"a.b": (2, None, 6, 7, 0, (3, "every full moon"))}
    assert schedule_of((3, "every full moon")).next_after(0) is None


def test_an_unknown_event_is_refused() -> None:
    with pytest.raises(ValueError, match="not an event"):
        fold({}, [(9, "a.b")])  # type: ignore[list-item]


def test_what_the_engine_is_given() -> None:
    reducer, states = JobReducer(), {"a.b": state_of(OTHER)}
    reducer.fold(states, [(4, "a.b"), (1, "a.c", 5, (3, "@hourly"))])
    assert {job: reducer.settled(state) for job, state in states.items()} == {
        "a.c": (0, 3_600 * 10**9, None, None, 0, (3, "@hourly"))
    }
    assert [reducer.key(form_of(event, 0)) for event in EVENTS] == [str(JOB)] * len(EVENTS)
    assert reducer.id == "job/1"
