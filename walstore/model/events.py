"""Lifecycle events: the classes that callers hand to ``record_many``, and the plain form that is logged."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from walstore.model.names import INSTANT_MAX_NS, Instant, JobId, QName, id_of, instant_ns, is_plain, known_ids
from walstore.model.records import SchedulerJobRecord, record_of, state_of
from walstore.model.schedule import KINDS, Schedule, ScheduleForm, schedule_of

__all__ = [
    "CANCELLED",
    "FINISHED",
    "RESTORED",
    "SCHEDULED",
    "STARTED",
    "Cancelled",
    "CheckedEvents",
    "Event",
    "EventForm",
    "Finished",
    "Restored",
    "Scheduled",
    "Started",
    "event_of",
    "form_of",
    "forms_of",
    "scheduled_form",
]

SCHEDULED: Literal[1] = 1
STARTED: Literal[2] = 2
FINISHED: Literal[3] = 3
CANCELLED: Literal[4] = 4
RESTORED: Literal[5] = 5

EventForm = (
    tuple[Literal[1], str, int, ScheduleForm]
    | tuple[Literal[2], str, int]
    | tuple[Literal[3], str, int, bool]
    | tuple[Literal[4], str]
    | tuple[Literal[5], str, int, int | None, int | None, int | None, int, ScheduleForm]
)
"""An event as the log and the reducer hold it: a tuple of its kind, the id and the rest, checked."""


@dataclass(frozen=True, slots=True)
class Scheduled:
    """A job was given a schedule. ``at`` is when; None means the store's clock at the time of recording."""

    id: JobId
    schedule: Schedule
    at: Instant | None = None


@dataclass(frozen=True, slots=True)
class Started:
    """A run of a job began."""

    id: JobId
    at: Instant


@dataclass(frozen=True, slots=True)
class Finished:
    """A run of a job ended."""

    id: JobId
    at: Instant
    success: bool


@dataclass(frozen=True, slots=True)
class Cancelled:
    """A job was cancelled: it is gone."""

    id: JobId


@dataclass(frozen=True, slots=True)
class Restored:
    """A job was put to a state as a whole, whatever it was before: for import, copy and migration."""

    record: SchedulerJobRecord


Event = Scheduled | Started | Finished | Cancelled | Restored


class CheckedEvents:
    """Events that were checked when each of them came, so that ``record_many`` need not make and check them again.

    To whoever iterates they are events like others; ``forms_of`` takes them as they are.
    """

    __slots__ = ("_items",)

    def __init__(self, items: Sequence[EventForm | Scheduled]) -> None:
        self._items = items

    def __iter__(self) -> Iterator[Event]:
        return (item if isinstance(item, Scheduled) else event_of(item) for item in self._items)

    def forms(self, now_ns: int) -> list[EventForm]:
        """Return the plain forms. ``now_ns`` is the instant of those that were scheduled."""
        return [item if type(item) is tuple else form_of(item, now_ns) for item in self._items]  # type: ignore[arg-type]


def form_of(event: Event, now_ns: int) -> EventForm:
    """Return the plain form of an event, checked. ``now_ns`` is the instant of a ``Scheduled`` that names none.

    Raises ``TypeError`` or ``ValueError`` for anything wrong with the event.
    """
    # The likeliest first, and no patterns: taking the classes apart by patterns takes twice as long.
    if isinstance(event, Started):
        return STARTED, id_of(event.id), instant_ns(event.at, "started_at")
    if isinstance(event, Finished):
        if not isinstance(event.success, bool):
            raise TypeError(f"success must be a bool, not {event.success!r}")
        return FINISHED, id_of(event.id), instant_ns(event.at, "finished_at"), event.success
    if isinstance(event, Scheduled):
        return scheduled_form(event.id, event.schedule, now_ns if event.at is None else instant_ns(event.at, "at"))
    if isinstance(event, Cancelled):
        return CANCELLED, id_of(event.id)
    if isinstance(event, Restored) and isinstance(event.record, SchedulerJobRecord):
        return RESTORED, str(event.record.id), *state_of(event.record)
    raise TypeError(f"an event is Scheduled, Started, Finished, Cancelled or Restored (of a record), not {event!r}")


def forms_of(events: Iterable[Event], now_ns: int) -> list[EventForm]:
    """Return the plain forms of many events, as ``form_of`` does it one by one."""
    if type(events) is CheckedEvents:
        return events.forms(now_ns)
    forms: list[EventForm] = []
    add, known = forms.append, known_ids
    for event in events:
        # Most events are these two: without a further call for jobs that were recorded before, a third of the time.
        kind = type(event)
        if kind is Started or kind is Finished:
            job, at_ns = event.id, event.at  # type: ignore[union-attr]  # As their types say.
            if (
                type(job) is str
                and (job in known or is_plain(job))
                and type(at_ns) is int
                and 0 <= at_ns <= INSTANT_MAX_NS
            ):
                if kind is Started:
                    add((STARTED, job, at_ns))
                    continue
                success = event.success  # type: ignore[union-attr]  # As above.
                if success is True or success is False:
                    add((FINISHED, job, at_ns, success))
                    continue
        add(form_of(event, now_ns))
    return forms


def scheduled_form(job: JobId, schedule: Schedule, at_ns: int) -> EventForm:
    """Return the event that a job was given a schedule, checked but for its instant."""
    if not isinstance(schedule, KINDS):
        raise TypeError(f"a schedule is Once, Periodic, Cron or Manual, not {schedule!r}")
    return SCHEDULED, id_of(job), at_ns, schedule.form


def event_of(form: EventForm) -> Event:
    """Return the event of a plain form that was read back. Raises ``ValueError`` or ``TypeError`` when it is none."""
    job = QName.parse(form[1])
    match form:
        case (1, _, at_ns, schedule):
            return Scheduled(job, schedule_of(schedule), at_ns)
        case (2, _, at_ns):
            return Started(job, at_ns)
        case (3, _, at_ns, success):
            return Finished(job, at_ns, success)
        case (4, _):
            return Cancelled(job)
        case (5, dotted, status, next_fire_ns, started_ns, finished_ns, failures, schedule):
            return Restored(record_of(dotted, (status, next_fire_ns, started_ns, finished_ns, failures, schedule)))
    raise ValueError(f"not an event that this release knows: {form!r}")
