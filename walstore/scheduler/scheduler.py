"""``Scheduler``: which jobs are due, without I/O, without a clock and without a runtime."""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from itertools import count

from walstore.model.events import EventForm, Finished, Scheduled, Started, form_of
from walstore.model.names import Instant, JobId, id_of, instant_ns
from walstore.model.records import (
    FAILED_RETRYING,
    PENDING,
    RUNNING,
    CancellationToken,
    JobState,
    SchedulerJobRecord,
    record_of,
    state_of,
)
from walstore.model.reducer import fold, settled
from walstore.model.schedule import Cron, Manual, Schedule

__all__ = ["Scheduler"]

Records = list[SchedulerJobRecord]

_STALE_MIN = 64
"""A heap with fewer stale entries than this is not worth cleaning."""


class Scheduler:
    """The jobs, and when each is due. It starts paused, so that nothing is due before all jobs are restored.

    Transitions have the same meaning as in a store: both fold the same events with the same reducer. What tells that a
    job is due lies in a heap, so ``tick_at`` costs by the number of jobs that are due. All instants are given by the
    caller, as nanoseconds since 1970 or aware datetimes. Not safe for use by several threads at once.
    """

    def __init__(self) -> None:
        self._states: dict[str, JobState] = {}
        self._heap: list[tuple[int, int, str]] = []
        """Instant, number and job. Only the entry whose number is the job's ticket counts; others are stale."""
        self._tickets: dict[str, int] = {}
        self._numbers = count()
        self._tokens: dict[str, CancellationToken] = {}
        self._retried: set[str] = set()
        """Failed jobs that were due for a retry, and have not started yet."""
        self._running = 0
        self._pending = 0
        self._paused = True

    # Registration.

    def add_job(self, id: JobId, at: Instant) -> None:
        """Add a job that is due at once and has no schedule: ``add_scheduled_job`` with ``Manual``."""
        self.add_scheduled_job(id, Manual(), at)

    def add_scheduled_job(self, id: JobId, schedule: Schedule, at: Instant) -> None:
        """Give a job a schedule, as ``record_scheduled`` does: a known one keeps its history, and runs on if it runs.

        Raises ``TypeError`` or ``ValueError`` for a wrong argument.
        """
        self._fold(form_of(Scheduled(id, schedule, instant_ns(at, "at")), 0))

    def restore(self, record: SchedulerJobRecord) -> None:
        """Put a job to the state that ``record`` says, whatever it was before.

        Raises ``ValueError`` for a cancelled one.
        """
        job = str(record.id)
        state = state_of(record)
        self._tokens.pop(job, None)
        self._put(job, state)

    def cancel(self, id: JobId) -> bool:
        """Forget a job and cancel its token. Returns whether there was such a job."""
        job = id_of(id)
        state = self._states.pop(job, None)
        if state is None:
            return False
        self._count(state, -1)
        self._retried.discard(job)
        self._tickets.pop(job, None)
        token = self._tokens.pop(job, None)
        if token is not None:
            token.cancel()
        return True

    # Runs.

    def tick_at(self, now: Instant, limit: int | None = None) -> Records:
        """Return the jobs that are due, at most ``limit`` of them, and mark them running; none while paused.

        Due is a pending job whose next fire is at ``now`` or earlier, or that has none and is no ``Cron``; and a
        failed one whose retry (``retry_at``) has come. The earliest comes first.
        """
        now_ns = instant_ns(now, "now")
        due: Records = []
        if self._paused:
            return due
        heap, tickets = self._heap, self._tickets
        while heap and heap[0][0] <= now_ns and (limit is None or len(due) < limit):
            _, number, job = heappop(heap)
            if tickets.get(job) == number:
                state = (RUNNING, *self._states[job][1:])
                is_retry = self._states[job][0] == FAILED_RETRYING
                self._put(job, state)
                if is_retry:
                    self._retried.add(job)
                due.append(record_of(job, state))
        return due

    def mark_started(self, id: JobId, at: Instant) -> bool:
        """Note that a run began. Returns whether the job is known; an unknown one is not created."""
        event = form_of(Started(id, at), 0)
        if event[1] not in self._states:
            return False
        self._fold(event)
        return True

    def mark_finished(self, id: JobId, at: Instant, success: bool) -> bool:
        """Note that a run ended. Returns whether the job is known; the next run has a token of its own."""
        event = form_of(Finished(id, at, success), 0)
        if event[1] not in self._states:
            return False
        self._fold(event)
        self._tokens.pop(event[1], None)
        return True

    def retry_at(self, id: JobId, at: Instant) -> bool:
        """Let a job whose last run failed be due at ``at``. Returns whether it is such a job."""
        job = id_of(id)
        state = self._states.get(job)
        if state is None or state[0] != FAILED_RETRYING:
            return False
        self._plan(job, instant_ns(at, "at"))
        return True

    def defer(self, id: JobId, until: Instant | None) -> bool:
        """Put a job that was due, and has not started, back to what it was, to be due again at ``until``.

        None: not to be due until it is deferred again or scheduled. Returns whether the job is known.
        """
        job = id_of(id)
        state = self._states.get(job)
        if state is None:
            return False
        if state[0] == RUNNING:
            self._put(job, (FAILED_RETRYING if job in self._retried else PENDING, *state[1:]))
        self._plan(job, None if until is None else instant_ns(until, "until"))
        return True

    def requeue_orphaned_runs(self) -> int:
        """Put all running jobs back to pending, and return how many there were: for the start, when none can run."""
        orphaned = [job for job, state in self._states.items() if state[0] == RUNNING]
        for job in orphaned:
            self._put(job, (PENDING, *self._states[job][1:]))
        return len(orphaned)

    def cancel_token_for(self, id: JobId) -> CancellationToken | None:
        """Return the token of the run that is under way, or else of the next one; None for an unknown job."""
        job = id_of(id)
        if job not in self._states:
            return None
        token = self._tokens.get(job)
        if token is None:
            token = self._tokens[job] = CancellationToken()
        return token

    # Looking.

    def get(self, id: JobId) -> SchedulerJobRecord | None:
        """Return the record of a job, or None where it is unknown."""
        job = id_of(id)
        state = self._states.get(job)
        return None if state is None else record_of(job, state)

    def list(self) -> Records:
        """Return the records of all jobs, in no particular order."""
        return [record_of(job, state) for job, state in self._states.items()]

    def __len__(self) -> int:
        return len(self._states)

    def __contains__(self, id: JobId) -> bool:
        return id_of(id) in self._states

    @property
    def running_count(self) -> int:
        """How many jobs are running."""
        return self._running

    @property
    def pending_count(self) -> int:
        """How many jobs are pending."""
        return self._pending

    # Pausing.

    def pause(self) -> None:
        """Let no job be due until ``resume``."""
        self._paused = True

    def resume(self) -> None:
        """Let jobs be due (again)."""
        self._paused = False

    @property
    def paused(self) -> bool:
        """Whether no job is due because of ``pause``."""
        return self._paused

    def _fold(self, event: EventForm) -> None:
        job = event[1]
        state = self._states.get(job)
        states = {} if state is None else {job: state}
        fold(states, (event,))
        self._put(job, settled(states[job]))

    def _put(self, job: str, state: JobState) -> None:
        before = self._states.get(job)
        if before is not None:
            self._count(before, -1)
        self._count(state, 1)
        self._states[job] = state
        self._retried.discard(job)
        self._plan(job, _due_ns(state))

    def _count(self, state: JobState, by: int) -> None:
        if state[0] == RUNNING:
            self._running += by
        elif state[0] == PENDING:
            self._pending += by

    def _plan(self, job: str, due_ns: int | None) -> None:
        """Let a job be due at an instant, or not at all."""
        if due_ns is None:
            self._tickets.pop(job, None)
            return
        number = next(self._numbers)
        self._tickets[job] = number
        heappush(self._heap, (due_ns, number, job))
        # Jobs that are planned anew again and again must not fill the memory: at least half of the heap counts.
        if len(self._heap) > 2 * len(self._tickets) + _STALE_MIN:
            self._heap = [entry for entry in self._heap if self._tickets.get(entry[2]) == entry[1]]
            heapify(self._heap)


def _due_ns(state: JobState) -> int | None:
    status, next_fire_ns, *_, schedule = state
    if status != PENDING:
        return None
    if next_fire_ns is None and schedule[0] != Cron.KIND:
        return 0
    return next_fire_ns
