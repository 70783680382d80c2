"""A job as uni-db writes it: the properties of a ``_BackgroundJob`` row, and the words for statuses and schedules.

uni-db writes schedules as its library writes enums to JSON: ``"Manual"``, ``{"Periodic": {"secs": 60, "nanos": 0}}``,
``{"Cron": "0 0 * * * *"}`` and ``{"Once": {"secs_since_epoch": 1795448885, "nanos_since_epoch": 496560086}}``. A row
holds the same as text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from reprlib import repr as short

from walstore.errors import SchedulerPersistenceError
from walstore.model.names import QName
from walstore.model.records import JobState, SchedulerJobRecord, SchedulerJobStatus, record_of
from walstore.model.schedule import Cron, Manual, Once, Periodic, Schedule, schedule_of

__all__ = ["LABEL", "PROPERTIES", "instant_of_unidb", "record_of_row", "row_of_state", "schedule_of_unidb"]

LABEL = "_BackgroundJob"
"""The label under which uni-db lists its background jobs."""
PROPERTIES = (
    "status",
    "next_fire_at_ns",
    "last_started_at_ns",
    "last_finished_at_ns",
    "consecutive_failures",
    "schedule",
)
"""What a row holds besides its ``qname``, in the order of a record's fields. uni-db itself writes only ``status``."""

_SECOND_NS = 1_000_000_000


def row_of_state(job: str, state: JobState) -> dict[str, object]:
    """Return the properties of the row of a job. None stands for a property that the row does not have."""
    record = record_of(job, state)
    return {
        "qname": job,
        "status": record.status.value,
        "next_fire_at_ns": record.next_fire_at_ns,
        "last_started_at_ns": record.last_started_at_ns,
        "last_finished_at_ns": record.last_finished_at_ns,
        "consecutive_failures": record.consecutive_failures,
        "schedule": _schedule_text(record.schedule),
    }


def record_of_row(row: Mapping[str, object]) -> SchedulerJobRecord:
    """Return the job that a row describes.

    A row that uni-db wrote has a name and a status, and nothing else: its schedule is ``Manual`` without a next fire,
    as that of any job of which only a run is known. Raises ``SchedulerPersistenceError`` for a row that is no job.
    """
    try:
        text = row.get("schedule")
        failures = row.get("consecutive_failures")
        return SchedulerJobRecord(
            QName.parse(_text(row.get("qname"))),
            SchedulerJobStatus(row.get("status")),
            _instant(row.get("next_fire_at_ns")),
            _instant(row.get("last_started_at_ns")),
            _instant(row.get("last_finished_at_ns")),
            0 if failures is None else _integer(failures),
            Manual() if text is None else schedule_of_unidb(json.loads(_text(text))),
        )
    except (TypeError, ValueError, RecursionError) as error:
        raise SchedulerPersistenceError(
            f"the row {short(row.get('qname'))} of the label {LABEL} can't be read ({error}). Nothing was changed: "
            "correct the row or delete it, then try again."
        ) from error


def schedule_of_unidb(value: object) -> Schedule:
    """Return the schedule that uni-db's JSON names. Raises ``ValueError`` or ``TypeError`` when it names none.

    A cron expression that does not parse is kept, and never fires.
    """
    match value:
        case "Manual":
            return Manual()
        case {"Periodic": {"secs": secs, "nanos": nanos}}:
            return Periodic(every_ns=_nanoseconds(secs, nanos))
        case {"Once": {} as instant}:
            return Once(at_ns=instant_of_unidb(instant))
        case {"Cron": str(expression)}:
            return schedule_of((Cron.KIND, expression))
    raise ValueError(f"not a schedule of uni-db: {short(value)}")


def instant_of_unidb(value: object) -> int | None:
    """Return the instant that uni-db's JSON names, in nanoseconds since 1970; raises as ``schedule_of_unidb``."""
    match value:
        case None:
            return None
        case {"secs_since_epoch": secs, "nanos_since_epoch": nanos}:
            return _nanoseconds(secs, nanos)
    raise ValueError(f"not an instant of uni-db: {short(value)}")


def _schedule_text(schedule: Schedule) -> str:
    match schedule:
        case Manual():
            value: object = "Manual"
        case Periodic():
            value = {"Periodic": {"secs": schedule.every_ns // _SECOND_NS, "nanos": schedule.every_ns % _SECOND_NS}}
        case Once():
            secs, nanos = divmod(schedule.at_ns, _SECOND_NS)
            value = {"Once": {"secs_since_epoch": secs, "nanos_since_epoch": nanos}}
        case Cron():
            value = {"Cron": schedule.expression}
        case _:
            raise AssertionError(f"a schedule that has no row: {schedule!r}")
    return json.dumps(value)


def _nanoseconds(secs: object, nanos: object) -> int:
    if not 0 <= _integer(nanos) < _SECOND_NS:
        raise ValueError(f"not the nanoseconds of a second: {nanos}")
    return _integer(secs) * _SECOND_NS + _integer(nanos)


def _instant(value: object) -> int | None:
    return None if value is None else _integer(value)


def _integer(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"not an integer: {short(value)}")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"not a text: {short(value)}")
    return value
