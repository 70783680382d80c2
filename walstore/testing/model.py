"""The contract as data: what each call does to the record of a job, row by row and as a naive model; what is refused.

All is written straight from the contract and share nothing with the reducer of the engine, so that tests and fuzzers
can hold one against the other. The model is slow, and it is no persistence.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from walstore.model.events import Cancelled, Event, Finished, Restored, Scheduled, Started
from walstore.model.names import INSTANT_MAX_NS, QName, id_of, instant_ns
from walstore.model.records import FAILURES_MAX, SchedulerJobRecord, SchedulerJobStatus
from walstore.model.schedule import Cron, Manual, Once, Periodic, Schedule
from walstore.persistence import BatchPersistence, SchedulerPersistence

__all__ = ["NOW_NS", "TABLE", "WRONG", "Jobs", "ManualClock", "Row", "apply", "jobs_of", "perform"]

PENDING, RUNNING, IDLE, FAILED_RETRYING, _CANCELLED = SchedulerJobStatus
HOUR_NS = 3_600_000_000_000
NOW_NS = 1_767_225_600_000_000_000
"""2026-01-01T00:00:00Z, where the clock of every test begins."""
T = NOW_NS + 123_456_789
JOB = "ai.geo.tile"
IN_2026, HOURLY = Cron("0 0 0 1 1 ? 2026"), Cron("@hourly")
LATE = Periodic(every_ns=INSTANT_MAX_NS - NOW_NS)

Jobs = dict[str, SchedulerJobRecord]
"""Every known job by its dotted id."""


def apply(jobs: Jobs, event: Event) -> None:
    """Do to ``jobs`` what ``event`` does. A ``Scheduled`` must say its instant, since there is no clock here.

    Raises ``TypeError`` or ``ValueError``, as the contract does, when something is wrong with an id or an instant.
    """
    match event:
        case Scheduled(job, schedule, at):
            if at is None:
                raise ValueError("the model has no clock: give the instant of Scheduled")
            next_fire_ns = schedule.next_after(instant_ns(at))
            known = jobs.get(id_of(job)) or _new(job)
            running = known.status is SchedulerJobStatus.RUNNING
            status = SchedulerJobStatus.RUNNING if running else SchedulerJobStatus.PENDING
            jobs[id_of(job)] = replace(known, status=status, schedule=schedule, next_fire_at_ns=next_fire_ns)
        case Started(job, at):
            known = jobs.get(id_of(job)) or _new(job)
            jobs[id_of(job)] = replace(known, status=SchedulerJobStatus.RUNNING, last_started_at_ns=instant_ns(at))
        case Finished(job, at, success):
            if id_of(job) in jobs:
                jobs[id_of(job)] = _finished(jobs[id_of(job)], instant_ns(at), success=success)
        case Cancelled(job):
            jobs.pop(id_of(job), None)
        case Restored(record):
            jobs[str(record.id)] = record


class ManualClock:
    """A clock that stands still: ``now_ns`` is the time, and whoever wants another one sets it."""

    def __init__(self) -> None:
        self.now_ns = NOW_NS

    def __call__(self) -> int:
        """Return the time in nanoseconds since 1970."""
        return self.now_ns


def jobs_of(store: SchedulerPersistence) -> Jobs:
    """Return what ``load_all`` returns, by id; no job may come twice."""
    loaded = store.load_all()
    jobs = {str(record.id): record for record in loaded}
    assert len(jobs) == len(loaded), f"a job came twice: {loaded}"
    return jobs


def perform(store: SchedulerPersistence, clock: ManualClock, event: Event) -> None:
    """Make the call that records ``event``. The clock is set to the instant of a ``Scheduled``."""
    match event:
        case Scheduled(job, schedule, at):
            clock.now_ns = at if isinstance(at, int) else clock.now_ns
            store.record_scheduled(job, schedule)
        case Started(job, at):
            store.record_started(job, at)
        case Finished(job, at, success):
            store.record_finished(job, at, success)
        case Cancelled(job):
            store.cancel(job)
        case Restored(record):
            if not isinstance(store, BatchPersistence):
                raise TypeError(f"{store!r} is no BatchPersistence: it can't restore")
            store.restore([record])


def _new(job: str | QName) -> SchedulerJobRecord:
    return SchedulerJobRecord(QName.parse(id_of(job)), SchedulerJobStatus.PENDING, None, None, None, 0, Manual())


def _finished(job: SchedulerJobRecord, at_ns: int, *, success: bool) -> SchedulerJobRecord:
    failures = 0 if success else min(job.consecutive_failures + 1, FAILURES_MAX)
    job = replace(job, last_finished_at_ns=at_ns, consecutive_failures=failures)
    match job.schedule:
        case Periodic() | Cron():
            again_ns = job.schedule.next_after(at_ns)
        case Once(at_ns=once_ns) if once_ns > at_ns:
            again_ns = once_ns
        case _:
            again_ns = None
    if again_ns is not None:
        return replace(job, status=SchedulerJobStatus.PENDING, next_fire_at_ns=again_ns)
    if success:
        return replace(job, status=SchedulerJobStatus.IDLE, next_fire_at_ns=None)
    return replace(job, status=SchedulerJobStatus.FAILED_RETRYING)


Row = tuple[SchedulerJobStatus, int | None, int | None, int | None, int, Schedule]
"""A record without its id: its fields in their order."""
_FAILED: list[Event] = [Scheduled(JOB, Manual(), T), Started(JOB, T + 1), Finished(JOB, T + 2, False)]
TABLE: dict[str, tuple[list[Event], Row | None]] = {
    "scheduled manual": ([Scheduled(JOB, Manual(), T)], (PENDING, T, None, None, 0, Manual())),
    "scheduled once": ([Scheduled(JOB, Once(at_ns=T + 1), T)], (PENDING, T + 1, None, None, 0, Once(at_ns=T + 1))),
    "scheduled once, now": ([Scheduled(JOB, Once(at_ns=T), T)], (PENDING, T, None, None, 0, Once(at_ns=T))),
    "scheduled once, past": ([Scheduled(JOB, Once(at_ns=T - 1), T)], (PENDING, None, None, None, 0, Once(at_ns=T - 1))),
    "scheduled periodic": (
        [Scheduled(JOB, Periodic(every_ns=7), T)],
        (PENDING, T + 7, None, None, 0, Periodic(every_ns=7)),
    ),
    "scheduled, last instant": ([Scheduled(JOB, LATE, NOW_NS)], (PENDING, INSTANT_MAX_NS, None, None, 0, LATE)),
    "scheduled beyond it": ([Scheduled(JOB, LATE, NOW_NS + 1)], (PENDING, None, None, None, 0, LATE)),
    "scheduled cron": ([Scheduled(JOB, HOURLY, T)], (PENDING, NOW_NS + HOUR_NS, None, None, 0, HOURLY)),
    "scheduled cron, strictly after": (
        [Scheduled(JOB, HOURLY, NOW_NS)],
        (PENDING, NOW_NS + HOUR_NS, None, None, 0, HOURLY),
    ),
    "scheduled cron, year to come": ([Scheduled(JOB, IN_2026, 0)], (PENDING, NOW_NS, None, None, 0, IN_2026)),
    "scheduled cron, year over": ([Scheduled(JOB, IN_2026, T)], (PENDING, None, None, None, 0, IN_2026)),
    "scheduled again": (
        [*_FAILED, Scheduled(JOB, Periodic(every_ns=7), T + 3)],
        (PENDING, T + 10, T + 1, T + 2, 1, Periodic(every_ns=7)),
    ),
    "scheduled again without a next fire": (
        [*_FAILED, Scheduled(JOB, Once(at_ns=T), T + 3)],
        (PENDING, None, T + 1, T + 2, 1, Once(at_ns=T)),
    ),
    "scheduled while it runs": (
        [*_FAILED, Started(JOB, T + 3), Scheduled(JOB, Once(at_ns=T + 9), T + 4)],
        (RUNNING, T + 9, T + 3, T + 2, 1, Once(at_ns=T + 9)),
    ),
    "started": (
        [Scheduled(JOB, Periodic(every_ns=7), T), Started(JOB, T + 8)],
        (RUNNING, T + 7, T + 8, None, 0, Periodic(every_ns=7)),
    ),
    "started, unknown": ([Started(JOB, T)], (RUNNING, None, T, None, 0, Manual())),
    "started again keeps failures": ([*_FAILED, Started(JOB, T + 3)], (RUNNING, T, T + 3, T + 2, 1, Manual())),
    "started at the last instant": ([Started(JOB, INSTANT_MAX_NS)], (RUNNING, None, INSTANT_MAX_NS, None, 0, Manual())),
    "started at the first instant": ([Started(JOB, 0)], (RUNNING, None, 0, None, 0, Manual())),
    "failed manual keeps its next fire": (_FAILED, (FAILED_RETRYING, T, T + 1, T + 2, 1, Manual())),
    "failed twice": ([*_FAILED, Finished(JOB, T + 3, False)], (FAILED_RETRYING, T, T + 1, T + 3, 2, Manual())),
    "succeeded manual": ([*_FAILED, Finished(JOB, T + 3, True)], (IDLE, None, T + 1, T + 3, 0, Manual())),
    "succeeded, never started": (
        [Scheduled(JOB, Manual(), T), Finished(JOB, T + 1, True)],
        (IDLE, None, None, T + 1, 0, Manual()),
    ),
    "succeeded periodic": (
        [Scheduled(JOB, Periodic(every_ns=7), T), Started(JOB, T + 7), Finished(JOB, T + 9, True)],
        (PENDING, T + 16, T + 7, T + 9, 0, Periodic(every_ns=7)),
    ),
    "failed periodic": (
        [Scheduled(JOB, Periodic(every_ns=7), T), Finished(JOB, T + 9, False)],
        (PENDING, T + 16, None, T + 9, 1, Periodic(every_ns=7)),
    ),
    "succeeded periodic, beyond the last instant": (
        [Scheduled(JOB, LATE, NOW_NS), Finished(JOB, T, True)],
        (IDLE, None, None, T, 0, LATE),
    ),
    "failed periodic, beyond the last instant": (
        [Scheduled(JOB, LATE, NOW_NS), Finished(JOB, T, False)],
        (FAILED_RETRYING, INSTANT_MAX_NS, None, T, 1, LATE),
    ),
    "succeeded cron": (
        [Scheduled(JOB, HOURLY, T), Finished(JOB, NOW_NS + HOUR_NS, True)],
        (PENDING, NOW_NS + 2 * HOUR_NS, None, NOW_NS + HOUR_NS, 0, HOURLY),
    ),
    "failed cron": (
        [Scheduled(JOB, HOURLY, T), Finished(JOB, T, False)],
        (PENDING, NOW_NS + HOUR_NS, None, T, 1, HOURLY),
    ),
    "succeeded cron, year over": (
        [Scheduled(JOB, IN_2026, 0), Finished(JOB, NOW_NS, True)],
        (IDLE, None, None, NOW_NS, 0, IN_2026),
    ),
    "failed cron, year over": (
        [Scheduled(JOB, IN_2026, 0), Finished(JOB, T, False)],
        (FAILED_RETRYING, NOW_NS, None, T, 1, IN_2026),
    ),
    "succeeded once": (
        [Scheduled(JOB, Once(at_ns=T), T), Finished(JOB, T, True)],
        (IDLE, None, None, T, 0, Once(at_ns=T)),
    ),
    "failed once keeps its next fire": (
        [Scheduled(JOB, Once(at_ns=T), T), Finished(JOB, T, False)],
        (FAILED_RETRYING, T, None, T, 1, Once(at_ns=T)),
    ),
    "once, scheduled later while it ran": (
        [
            Scheduled(JOB, Once(at_ns=T), T),
            Started(JOB, T),
            Scheduled(JOB, Once(at_ns=T + 9), T),
            Finished(JOB, T, True),
        ],
        (PENDING, T + 9, T, T, 0, Once(at_ns=T + 9)),
    ),
    "finished, unknown": ([Finished(JOB, T, True)], None),
    "finished after a cancel": ([Started(JOB, T), Cancelled(JOB), Finished(JOB, T + 1, False)], None),
    "cancelled": ([*_FAILED, Cancelled(JOB)], None),
    "cancelled, unknown": ([Cancelled(JOB)], None),
    "started after a cancel": ([*_FAILED, Cancelled(JOB), Started(JOB, T)], (RUNNING, None, T, None, 0, Manual())),
    "scheduled after a cancel": (
        [*_FAILED, Cancelled(JOB), Scheduled(JOB, Manual(), T)],
        (PENDING, T, None, None, 0, Manual()),
    ),
}
"""What happens to the job ``ai.geo.tile``, and its record then; None where there must be none."""

# fmt: off
_IDS: list[Any] = [
    "", "nodot", ".x", "x.", "a.b.", "a.\0", "a.b\n", "a.\x7f", "a.\ud800", "a." + "é" * 511 + "x", 7, None, b"a.b",
]
_INSTANTS: list[Any] = [
    -1, INSTANT_MAX_NS + 1, 1.5, True, None, "0", datetime(2026, 1, 1), timedelta(1),  # noqa: DTZ001  # Naive.
]
# fmt: on
_OUTCOMES: list[Any] = [1, 0, None, "yes"]
_SCHEDULES: list[Any] = [3600, 1.5, None, timedelta(hours=1), "@hourly", Manual, Schedule()]
WRONG: list[Event] = [
    *(Scheduled(wrong, Manual(), T) for wrong in _IDS),
    *(Started(wrong, T) for wrong in _IDS),
    *(Finished(wrong, T, True) for wrong in _IDS),
    *(Cancelled(wrong) for wrong in _IDS),
    *(Started(JOB, wrong) for wrong in _INSTANTS),
    *(Finished(JOB, wrong, True) for wrong in _INSTANTS),
    *(Finished(JOB, T, wrong) for wrong in _OUTCOMES),
    *(Scheduled(JOB, wrong, T) for wrong in _SCHEDULES),
]
"""Events of which one argument is wrong: none may be recorded."""
