"""Lifecycle events: the classes that callers hand to ``record_many``, and the plain form that is logged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from walstore.model.names import Instant, JobId, QName, id_of, instant_ns
from walstore.model.records import SchedulerJobRecord, record_of, state_of
from walstore.model.schedule import KINDS, Schedule, ScheduleForm, schedule_of

__all__ = [
    "CANCELLED",
    "FINISHED",
    "RESTORED",
    "SCHEDULED",
    "STARTED",
    "Cancelled",
    "Event",
    "EventForm",
    "Finished",
    "Restored",
    "Scheduled",
    "Started",
    "event_of",
    "form_of",
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


def form_of(event: Event, now_ns: int) -> EventForm:
    """Return the plain form of an event, checked. ``now_ns`` is the instant of a ``Scheduled`` that names none.

    Raises ``TypeError`` or ``ValueError`` for anything wrong with the event.
    """
    match event:
        case Scheduled(job, schedule, at):
            if not isinstance(schedule, KINDS):
                raise TypeError(f"a schedule is Once, Periodic, Cron or Manual, not {schedule!r}")
            return SCHEDULED, id_of(job), now_ns if at is None else instant_ns(at, "at"), schedule.form
        case Started(job, at):
            return STARTED, id_of(job), instant_ns(at, "started_at")
        case Finished(job, at, success):
            if not isinstance(success, bool):
                raise TypeError(f"success must be a bool, not {success!r}")
            return FINISHED, id_of(job), instant_ns(at, "finished_at"), success
        case Cancelled(job):
            return CANCELLED, id_of(job)
        case Restored(SchedulerJobRecord() as record):
            return RESTORED, str(record.id), *state_of(record)
    raise TypeError(f"an event is Scheduled, Started, Finished, Cancelled or Restored (of a record), not {event!r}")


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
