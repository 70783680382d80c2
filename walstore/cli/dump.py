"""``walstore dump``: the events or the records of a store as JSON lines, as they are read."""

from __future__ import annotations

import argparse

from walstore.cli.outcome import Exit
from walstore.cli.output import Output
from walstore.cli.reading import reading
from walstore.model.events import Cancelled, EventForm, Finished, Restored, Scheduled, Started, event_of
from walstore.model.records import SchedulerJobRecord
from walstore.model.schedule import Cron, Manual, Once, Periodic, Schedule

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``walstore dump``."""
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--events", action="store_true", help="the events in the log, oldest first, with their LSN (the default)"
    )
    what.add_argument("--records", action="store_true", help="the jobs that the store holds, by id")


def run(args: argparse.Namespace, out: Output) -> int:
    """Dump a store. Raises what opening it read-only raises."""
    with reading(args.path, out) as store:
        if args.records:
            for record in store.jobs():
                out.json_line(_record_document(record))
        else:
            for lsn, event in store.events():
                out.json_line({"lsn": lsn, **_event_document(event)})
    return Exit.OK


def _event_document(form: EventForm) -> dict[str, object]:
    match event_of(form):
        case Scheduled(job, schedule, at_ns):
            return {"event": "scheduled", "id": str(job), "at_ns": at_ns, "schedule": _schedule_document(schedule)}
        case Started(job, at_ns):
            return {"event": "started", "id": str(job), "at_ns": at_ns}
        case Finished(job, at_ns, success):
            return {"event": "finished", "id": str(job), "at_ns": at_ns, "success": success}
        case Cancelled(job):
            return {"event": "cancelled", "id": str(job)}
        case Restored(record):
            return {"event": "restored", **_record_document(record)}


def _record_document(record: SchedulerJobRecord) -> dict[str, object]:
    return {
        "id": str(record.id),
        "status": record.status.value,
        "next_fire_at_ns": record.next_fire_at_ns,
        "last_started_at_ns": record.last_started_at_ns,
        "last_finished_at_ns": record.last_finished_at_ns,
        "consecutive_failures": record.consecutive_failures,
        "schedule": _schedule_document(record.schedule),
    }


def _schedule_document(schedule: Schedule) -> dict[str, object]:
    match schedule:
        case Once():
            return {"kind": "once", "at_ns": schedule.at_ns}
        case Periodic():
            return {"kind": "periodic", "every_ns": schedule.every_ns}
        case Cron():
            return {"kind": "cron", "expression": schedule.expression}
        case Manual():
            return {"kind": "manual"}
    raise AssertionError(f"a schedule that can't be dumped: {schedule!r}")
