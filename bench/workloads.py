"""The events that all subjects get: those of a real trace, and synthetic ones over any number of jobs."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import walstore.cli
from walstore import Manual, Periodic
from walstore.cli.trace import Call, read_trace
from walstore.model.events import CANCELLED, FINISHED, SCHEDULED, STARTED, EventForm
from walstore.model.records import JobState
from walstore.model.reducer import fold, settled
from walstore.model.schedule import Schedule

__all__ = [
    "HOURLY",
    "Row",
    "Starts",
    "State",
    "job_id",
    "job_ids",
    "mix",
    "rows_of",
    "starts",
    "state_of",
    "trace",
    "waiting",
]

State = tuple[int, int | None, int | None, int | None, int, int, int | str | None]
"""A job's record as peers store it: status, next fire, last started and finished, failures, schedule's kind and value.

The same information that walstore brings back. Peers are given it ready-made, where a scheduler would compute it."""

Row = tuple[str, State | None]
"""A job and its record after an event; None where it was cancelled."""

HOURLY: Final = Periodic(every_ns=3_600_000_000_000)
_BEGIN_NS: Final = 1_700_000_000_000_000_000
_STEP_NS: Final = 20_000
_SEED_NS: Final = 1_000_000_000_000
_TRACE: Final = Path(walstore.cli.__file__).parent / "data" / "KTH-SP2-1996-2.1-cln.swf.gz"


def job_id(number: int) -> str:
    """Return the id of a job, in three levels of names as applications have them."""
    return f"tenant{number % 97}.group{number % 1009}.job{number:07}"


def job_ids(count: int) -> list[str]:
    """Return the ids of a population of jobs."""
    return [job_id(number) for number in range(count)]


def state_of(state: JobState) -> State:
    """Return a settled state as peers store it."""
    schedule = state[5]
    return *state[:5], schedule[0], schedule[1] if len(schedule) > 1 else None


@dataclass(frozen=True, slots=True)
class Starts:
    """Runs of jobs that begin: the same events as walstore takes them, and as records for the peers."""

    jobs: list[str]
    ats: list[int]
    states: list[State]


def starts(population: Sequence[str], count: int, seed: int = 0) -> Starts:
    """Return ``count`` runs that begin, of jobs drawn from the population, at instants that no other seed has.

    Some peers notice when they are given what they hold already, and then write nothing.
    """
    jobs = random.Random(seed).choices(population, k=count)
    begin_ns = _BEGIN_NS + seed * _SEED_NS
    ats = [begin_ns + number * _STEP_NS for number in range(count)]
    kind, every_ns = HOURLY.KIND, HOURLY.every_ns
    return Starts(jobs, ats, [(1, at + every_ns, at, at - every_ns, 0, kind, every_ns) for at in ats])


def waiting(population: Sequence[str]) -> list[tuple[str, State]]:
    """Return the records of a population that is scheduled and has not run yet."""
    every_ns = HOURLY.every_ns
    return [(job, (0, _BEGIN_NS + every_ns, None, None, 0, HOURLY.KIND, every_ns)) for job in population]


@cache
def trace() -> list[EventForm]:
    """Return the events of the trace that the package ships, in their plain form."""
    return [_form_of(call, job, at_ns, schedule, success) for at_ns, call, job, schedule, success in _trace_events()]


def _trace_events() -> Iterator[tuple[int, Call, str, Schedule, bool]]:
    for event in read_trace(_TRACE).events():
        schedule = HOURLY if event.schedule is not None and event.schedule[0] == "periodic" else Manual()
        yield event.at_ns, event.call, event.id, schedule, bool(event.success)


def _form_of(call: Call, job: str, at_ns: int, schedule: Schedule, success: bool) -> EventForm:
    match call:
        case Call.SCHEDULED:
            return SCHEDULED, job, at_ns, schedule.form
        case Call.STARTED:
            return STARTED, job, at_ns
        case Call.FINISHED:
            return FINISHED, job, at_ns, success
        case Call.CANCELLED:
            return CANCELLED, job


def mix(population: Sequence[str], count: int, seed: int = 0) -> list[EventForm]:
    """Return ``count`` events as schedulers make them: runs that begin and end, some fail, few jobs come and go.

    Every job is scheduled first. Of the rest, 1 in 50 schedules a job again and 1 in 200 cancels one.
    """
    chance = random.Random(seed)
    running: set[str] = set()
    events: list[EventForm] = [(SCHEDULED, job, _BEGIN_NS, HOURLY.form) for job in population[:count]]
    while len(events) < count:
        job, draw = chance.choice(population), chance.random()
        at_ns = _BEGIN_NS + len(events) * _STEP_NS
        if draw < 0.02:
            events.append((SCHEDULED, job, at_ns, HOURLY.form))
        elif draw < 0.025:
            events.append((CANCELLED, job))
            running.discard(job)
        elif job in running:
            events.append((FINISHED, job, at_ns, draw < 0.9))
            running.remove(job)
        else:
            events.append((STARTED, job, at_ns))
            running.add(job)
    return events


def rows_of(events: Sequence[EventForm]) -> list[Row]:
    """Return for each event the record of its job after it."""
    states: dict[str, JobState] = {}
    rows: list[Row] = []
    for event in events:
        fold(states, (event,))
        state = states.get(event[1])
        rows.append((event[1], None if state is None else state_of(settled(state))))
    return rows
