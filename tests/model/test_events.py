"""Events: what callers hand to ``record_many``, and the plain form that is logged."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from walstore.model.events import (
    Cancelled,
    CheckedEvents,
    Event,
    EventForm,
    Finished,
    Restored,
    Scheduled,
    Started,
    event_of,
    form_of,
    forms_of,
)
from walstore.model.names import QName
from walstore.model.records import SchedulerJobRecord, SchedulerJobStatus
from walstore.model.schedule import Cron, Manual, Once, Periodic, Schedule
from walstore.testing.model import WRONG
from walstore.testing.strategies import events

NOW_NS = 77
RECORD = SchedulerJobRecord(QName("a", "b.c"), SchedulerJobStatus.FAILED_RETRYING, 1, 2, None, 3, Cron("@hourly"))


@pytest.mark.parametrize(
    ("event", "form"),
    [
        (Scheduled("a.b", Manual()), (1, "a.b", NOW_NS, (0,))),
        (Scheduled("a.b", Manual(), 0), (1, "a.b", 0, (0,))),
        (Scheduled("a.b", Once(at_ns=5), 9), (1, "a.b", 9, (1, 5))),
        (Scheduled("a.b", Periodic(every_ns=5), 9), (1, "a.b", 9, (2, 5))),
        (Scheduled(QName("a", "b"), Cron("@hourly"), 9), (1, "a.b", 9, (3, "@hourly"))),
        (Started(QName("a", "b.c"), 9), (2, "a.b.c", 9)),
        (Started("a.b", datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)), (2, "a.b", 10**9)),
        (Finished("a.b", 9, True), (3, "a.b", 9, True)),
        (Finished("a.b", 9, False), (3, "a.b", 9, False)),
        (Cancelled("a.b"), (4, "a.b")),
        (Restored(RECORD), (5, "a.b.c", 3, 1, 2, None, 3, (3, "@hourly"))),
    ],
)
def test_forms_are_those_of_the_specification(event: Event, form: EventForm) -> None:
    assert form_of(event, NOW_NS) == form


@given(events())
def test_events_read_back(event: Event) -> None:
    form = form_of(event, NOW_NS)
    assert form_of(event_of(form), 0) == form


@given(st.lists(events()))
def test_checked_events_are_the_events_that_they_were_made_of(batch: list[Event]) -> None:
    # As whoever collects them does: only what is as of the store's clock is left as it is.
    checked = CheckedEvents(
        [event if isinstance(event, Scheduled) and event.at is None else form_of(event, 0) for event in batch]
    )
    forms = [form_of(event, NOW_NS) for event in batch]
    assert forms_of(checked, NOW_NS) == forms
    assert [form_of(event, NOW_NS) for event in checked] == forms


def test_an_event_that_is_read_back_has_a_name_and_its_instant() -> None:
    assert event_of((1, "a.b", 9, (0,))) == Scheduled(QName("a", "b"), Manual(), 9)
    assert event_of((3, "a.b", 9, False)) == Finished(QName("a", "b"), 9, success=False)
    assert event_of((4, "a.b")) == Cancelled(QName("a", "b"))


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: ascii(wrong)[:60])
def test_a_wrong_argument_is_refused(wrong: Event) -> None:
    with pytest.raises((TypeError, ValueError)):
        form_of(wrong, NOW_NS)


NO_INSTANTS: list[Any] = [-1, 2**63, 1.5, True, "0", datetime(2026, 1, 1)]  # noqa: DTZ001


@pytest.mark.parametrize("wrong", NO_INSTANTS, ids=repr)
def test_a_wrong_instant_of_a_schedule_is_refused(wrong: int) -> None:
    with pytest.raises((TypeError, ValueError), match="at must be"):
        form_of(Scheduled("a.b", Manual(), wrong), NOW_NS)


NO_EVENTS: list[Any] = [None, "a.b", (4, "a.b"), Started, RECORD, Restored(None)]  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", NO_EVENTS, ids=lambda wrong: repr(wrong)[:20])
def test_other_things_are_no_events(wrong: Event) -> None:
    with pytest.raises(TypeError, match="an event is Scheduled, Started, Finished, Cancelled or Restored"):
        form_of(wrong, NOW_NS)


def test_a_schedule_of_an_unknown_kind_is_refused() -> None:
    class Weekly(Schedule):
        """What a release to come might have: logged by this one, it could not be read back."""

        __slots__ = ()
        form = (9,)

        def next_after(self, at_ns: int) -> int | None:
            return at_ns

    with pytest.raises((TypeError, ValueError), match="schedule"):
        form_of(Scheduled("a.b", Weekly()), NOW_NS)
    with pytest.raises((TypeError, ValueError), match="schedule"):
        form_of(
            Restored(SchedulerJobRecord(QName("a", "b"), SchedulerJobStatus.IDLE, None, None, None, 0, Weekly())),
            NOW_NS,
        )


def test_a_cancelled_record_is_not_restored() -> None:
    record = SchedulerJobRecord(QName("a", "b"), SchedulerJobStatus.CANCELLED, None, None, None, 0, Manual())
    with pytest.raises(ValueError, match="Cancelled"):
        form_of(Restored(record), NOW_NS)


NO_FORMS: list[Any] = [(0, "a.b"), (6, "a.b"), (4, "a.b", 1), (2, "a.b"), (3, "a.b", 1), (5, "a.b", 0)]
NO_FORMS += [(4, "nodot"), (4, "a.b\0"), (1, "a.b", 9, (7,)), (5, "a.b", 9, None, None, None, 0, (0,))]


@pytest.mark.parametrize("form", NO_FORMS, ids=repr)
def test_other_forms_are_refused(form: EventForm) -> None:
    with pytest.raises((TypeError, ValueError)):
        event_of(form)


@given(st.lists(events(), max_size=20))
def test_many_events_have_the_forms_of_each(recorded: list[Event]) -> None:
    forms = [form_of(event, 7) for event in recorded]
    # The second time all their jobs are known.
    assert forms_of(recorded, 7) == forms_of(recorded, 7) == forms


@pytest.mark.parametrize(
    "wrong",
    [
        Started("ai.geo.tile", -1),
        Started("ai.geo.tile", 2**63),
        Started("ai.geo.tile", True),
        Started("ai.geo.tile", 1.0),  # type: ignore[arg-type]
        Finished("ai.geo.tile", 1, 1),  # type: ignore[arg-type]
        Finished("ai.geo.tile", -1, True),
        Started("ai", 1),
        "ai.geo.tile",
    ],
    ids=repr,
)
def test_one_wrong_event_among_many_of_a_known_job_is_refused(wrong: Event) -> None:
    right = Started("ai.geo.tile", 1)
    forms_of([right], 0)
    with pytest.raises((TypeError, ValueError)):
        forms_of([right, wrong, right], 0)
