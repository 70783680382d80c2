"""What a store must hold after some events: a naive model, written apart from the reducer so that the two can differ.

It follows the contract's table of what each call does to a job's record, row by row, over plain dicts and tuples, and
computes every next fire at once. Only the search of a cron expression is shared with the package.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

from walstore import Cron, Manual, Once, Periodic, Schedule, SchedulerJobRecord
from walstore.cli.trace import Call, PlainSchedule, TraceEvent

__all__ = ["ExpectedJob", "apply", "closest_prefixes", "differences", "expected_of", "fold"]

_INSTANT_MAX_NS = 2**63 - 1
_FAILURES_MAX = 2**32 - 1


class ExpectedJob(NamedTuple):
    """The state of one job. ``status`` is the contract's word for it."""

    status: str
    next_fire_ns: int | None
    last_started_ns: int | None
    last_finished_ns: int | None
    failures: int
    schedule: PlainSchedule


def fold(events: Iterable[TraceEvent]) -> dict[str, ExpectedJob]:
    """Return the jobs after ``events``, by id."""
    jobs: dict[str, ExpectedJob] = {}
    for event in events:
        apply(jobs, event)
    return jobs


def apply(jobs: dict[str, ExpectedJob], event: TraceEvent) -> None:
    """Do to ``jobs`` what one call does. Raises ``ValueError`` for an event that lacks its schedule or success."""
    job = jobs.get(event.id)
    if event.call == Call.CANCELLED:
        jobs.pop(event.id, None)
    elif event.call == Call.STARTED:
        # An unknown id is created with schedule Manual and no next fire.
        job = job or ExpectedJob("Pending", None, None, None, 0, ("manual",))
        jobs[event.id] = job._replace(status="Running", last_started_ns=event.at_ns)
    elif event.call == Call.SCHEDULED and event.schedule is not None:
        job = job or ExpectedJob("Pending", None, None, None, 0, event.schedule)
        jobs[event.id] = job._replace(
            status="Running" if job.status == "Running" else "Pending",
            next_fire_ns=_next_fire_ns(event.schedule, event.at_ns),
            schedule=event.schedule,
        )
    elif event.call == Call.FINISHED and event.success is not None:
        # An unknown id is accepted and creates nothing.
        if job is not None:
            jobs[event.id] = _finished(job, event.at_ns, success=event.success)
    else:
        raise ValueError(f"the event lacks what its call needs: {event!r}")


def _finished(job: ExpectedJob, at_ns: int, *, success: bool) -> ExpectedJob:
    failures = 0 if success else min(job.failures + 1, _FAILURES_MAX)
    job = job._replace(last_finished_ns=at_ns, failures=failures)
    match job.schedule:
        case ("periodic" | "cron", _):
            again_ns = _next_fire_ns(job.schedule, at_ns)
        case ("once", int(once_ns)) if once_ns > at_ns:
            again_ns = once_ns
        case _:
            again_ns = None
    if again_ns is not None:
        return job._replace(status="Pending", next_fire_ns=again_ns)
    if success:
        return job._replace(status="Idle", next_fire_ns=None)
    return job._replace(status="FailedRetrying")


def _next_fire_ns(schedule: PlainSchedule, at_ns: int) -> int | None:
    match schedule:
        case ("manual",):
            return at_ns
        case ("once", int(once_ns)):
            return once_ns if once_ns >= at_ns else None
        case ("periodic", int(every_ns)):
            fire_ns = at_ns + every_ns
            return fire_ns if fire_ns <= _INSTANT_MAX_NS else None
        case ("cron", str(expression)):
            return Cron(expression).next_after(at_ns)
    raise ValueError(f"not a schedule of a trace: {schedule!r}")


def expected_of(record: SchedulerJobRecord) -> ExpectedJob:
    """Return what a store says of a job in the form that the model uses."""
    return ExpectedJob(
        record.status.value,
        record.next_fire_at_ns,
        record.last_started_at_ns,
        record.last_finished_at_ns,
        record.consecutive_failures,
        _plain(record.schedule),
    )


def _plain(schedule: Schedule) -> PlainSchedule:
    match schedule:
        case Manual():
            return ("manual",)
        case Once():
            return ("once", schedule.at_ns)
        case Periodic():
            return ("periodic", schedule.every_ns)
        case Cron():
            return ("cron", schedule.expression)
    raise ValueError(f"not a schedule of a trace: {schedule!r}")


def differences(expected: dict[str, ExpectedJob], found: dict[str, ExpectedJob], *, at_most: int = 5) -> list[str]:
    """Return a line for each of the first jobs, by id, that differ."""
    return list(islice(_differences(expected, found), at_most))


def _differences(expected: dict[str, ExpectedJob], found: dict[str, ExpectedJob]) -> Iterator[str]:
    for job in sorted(expected.keys() | found.keys()):
        wanted, got = expected.get(job), found.get(job)
        if wanted is None:
            yield f"{job}: should not be there, is {got}"
        elif got is None:
            yield f"{job}: is missing, should be {wanted}"
        elif wanted != got:
            pairs = zip(wanted._fields, wanted, got, strict=True)
            fields = (f"{name} should be {a!r}, is {b!r}" for name, a, b in pairs if a != b)
            yield f"{job}: {', '.join(fields)}"


def closest_prefixes(
    jobs: dict[str, ExpectedJob],
    events: Sequence[TraceEvent],
    span: range,
    found: dict[str, ExpectedJob],
) -> tuple[int, list[int]]:
    """Return how few jobs of ``found`` differ from the state after a prefix, and all lengths of such prefixes.

    The first is 0 when ``found`` is exactly the state after a prefix. ``span`` are the lengths to look at, and ``jobs``
    is the state after the first of them. One pass: each event touches one job, so that it is enough to keep count of
    the jobs that differ.
    """
    jobs = dict(jobs)
    differing = sum(jobs.get(job) != found.get(job) for job in jobs.keys() | found.keys())
    fewest, closest = differing, [span.start]
    for count in span[1:]:
        event = events[count - 1]
        wanted = found.get(event.id)
        differing -= jobs.get(event.id) != wanted
        apply(jobs, event)
        differing += jobs.get(event.id) != wanted
        if differing < fewest:
            fewest, closest = differing, []
        if differing == fewest:
            closest.append(count)
    return fewest, closest
