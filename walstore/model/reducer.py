"""What each event does to the state of a job. The rules are those of uni-db's scheduler contract."""

from __future__ import annotations

from collections.abc import Iterable

from walstore.model.cron import ENDLESS_BEFORE_NS
from walstore.model.events import CANCELLED, FINISHED, RESTORED, SCHEDULED, STARTED, EventForm
from walstore.model.names import INSTANT_MAX_NS
from walstore.model.records import FAILED_RETRYING, FAILURES_MAX, IDLE, PENDING, RUNNING, JobState
from walstore.model.schedule import Cron, Manual, Once, Periodic, ScheduleForm, schedule_of

__all__ = ["JobReducer", "fold", "settled"]

_MANUAL_FORM = (Manual.KIND,)
_PERIODIC = Periodic.KIND
_REPEATING = (Periodic.KIND, Cron.KIND)


def fold(states: dict[str, JobState], events: Iterable[EventForm]) -> None:
    """Apply ``events`` in order to ``states``, which maps ids to states; they come out unsettled (see ``settled``)."""
    find = states.get
    for event in events:
        job = event[1]
        state = find(job)
        # The two that there are most of stand here and not in functions of their own: a third of the time of a replay.
        if event[0] == STARTED:
            if state is None:
                states[job] = RUNNING, None, event[2], None, 0, _MANUAL_FORM
            else:
                _, next_fire_ns, _, finished_ns, failures, schedule = state
                states[job] = RUNNING, next_fire_ns, event[2], finished_ns, failures, schedule
        elif event[0] == FINISHED:
            # A run that ends after its job was cancelled must not bring the job back, so an unknown id stays unknown.
            if state is None:
                continue
            _, _, started_ns, _, failures, schedule = state
            at_ns = event[2]
            if event[3] and schedule[0] == _PERIODIC:
                again_ns: int = at_ns + schedule[1]  # type: ignore[operator,misc]  # Its value is a period.
                if again_ns <= INSTANT_MAX_NS:
                    states[job] = PENDING, again_ns, started_ns, at_ns, 0, schedule
                    continue
            states[job] = _finished(state, at_ns, success=event[3])
        elif event[0] == SCHEDULED:
            states[job] = _scheduled(state, event[2], event[3])
        elif event[0] == CANCELLED:
            states.pop(job, None)
        elif event[0] == RESTORED:
            states[job] = event[2:]
        else:
            raise ValueError(f"not an event that this release knows: {event!r}")


def settled(state: JobState) -> JobState:
    """Return the state with a next fire that was put off (see ``_next_fire``) computed.

    Replay calls it once for each job, so that a cron expression is searched once and not once for each event.
    """
    next_fire_ns = state[1]
    if next_fire_ns is None or next_fire_ns >= 0:
        return state
    return state[0], schedule_of(state[5]).next_after(~next_fire_ns), *state[2:]


class JobReducer:
    """The reducer of jobs, as the engine takes it."""

    id = "job/1"

    def key(self, event: EventForm) -> str:
        """Return the id that the event is about."""
        return event[1]

    def fold(self, states: dict[str, JobState], events: Iterable[EventForm]) -> None:
        """Apply ``events`` in order to ``states``."""
        fold(states, events)

    def settled(self, state: JobState) -> JobState:
        """Return the state as it is stored and shown."""
        return settled(state)


def _scheduled(state: JobState | None, at_ns: int, schedule: ScheduleForm) -> JobState:
    next_fire_ns = _next_fire(schedule, at_ns)
    if state is None:
        return PENDING, next_fire_ns, None, None, 0, schedule
    status, _, started_ns, finished_ns, failures, _ = state
    return RUNNING if status == RUNNING else PENDING, next_fire_ns, started_ns, finished_ns, failures, schedule


def _finished(state: JobState, at_ns: int, *, success: bool) -> JobState:
    _, next_fire_ns, started_ns, _, failures, schedule = state
    failures = 0 if success else failures + 1 if failures < FAILURES_MAX else FAILURES_MAX
    again_ns: int | None = None
    if schedule[0] in _REPEATING:
        again_ns = _next_fire(schedule, at_ns)
    elif schedule[0] == Once.KIND and schedule[1] > at_ns:  # type: ignore[operator,misc]  # Its value is an instant.
        # The job was scheduled again while it ran.
        again_ns = schedule[1]  # type: ignore[assignment,misc]
    if again_ns is not None:
        return PENDING, again_ns, started_ns, at_ns, failures, schedule
    if success:
        return IDLE, None, started_ns, at_ns, failures, schedule
    return FAILED_RETRYING, next_fire_ns, started_ns, at_ns, failures, schedule


def _next_fire(schedule: ScheduleForm, at_ns: int) -> int | None:
    """Return the next fire after ``at_ns``, or, as a negative number, the note that it is to be computed later.

    Searching a cron expression costs more than all the rest of an event, and all but the last search for a job are
    thrown away. So where it is certain that there is a next fire, the search is put off: ``~at_ns`` stands for "the
    first fire after ``at_ns``", which can't be mistaken for an instant. Whether there is a next fire decides the status
    of a finished job, so where it is not certain the search is done at once.
    """
    if schedule[0] == _PERIODIC:
        # As Periodic.next_after says it. Looking up the object takes longer than adding.
        again_ns: int = at_ns + schedule[1]  # type: ignore[operator,misc]  # Its value is a period.
        return again_ns if again_ns <= INSTANT_MAX_NS else None
    found = schedule_of(schedule)
    if isinstance(found, Cron) and found.compiled is not None and found.compiled.endless and at_ns < ENDLESS_BEFORE_NS:
        return ~at_ns
    return found.next_after(at_ns)
