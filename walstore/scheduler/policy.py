"""How a job is run: what happens to missed fires, to failed runs and to those that a crash cut off. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from walstore.model.events import FINISHED
from walstore.model.names import INSTANT_MAX_NS
from walstore.model.records import SchedulerJobRecord, SchedulerJobStatus, record_of, state_of
from walstore.model.reducer import fold, settled
from walstore.model.schedule import Cron, Manual, Once, Periodic

__all__ = ["JobPolicy", "Misfire", "after_downtime", "making_up", "was_cut_off"]

_REPEATED = (Periodic, Cron)
_WHOLE_NUMBERS = ("misfire_runs_max", "attempts", "retry_delay_ns", "retry_factor", "retry_delay_max_ns")


class Misfire(Enum):
    """What happens to fires that were missed while nobody was there to run them.

    A ``Manual`` job that was armed, and a run that was cut off, are owed and not missed: they are run at any policy.
    """

    RUN_ONCE = "run once"
    """One run now, however many were missed; then the first fire after that run."""

    SKIP = "skip"
    """No run: a ``Periodic`` goes on in its old rhythm, a ``Cron`` with its next fire, and a ``Once`` is over."""

    EACH = "each"
    """A run for each fire that was missed, the oldest first, up to ``JobPolicy.misfire_runs_max``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class JobPolicy:
    """How a job is run. Durations are in nanoseconds. Raises ``TypeError`` or ``ValueError`` for a wrong value."""

    misfire: Misfire = Misfire.RUN_ONCE
    misfire_runs_max: int = 100
    """At ``Misfire.EACH``: how many missed fires are made up for after one start; the rest is skipped."""

    attempts: int = 1
    """Runs that a ``Manual`` or ``Once`` gets until one succeeds. A ``Periodic`` or ``Cron`` has its next fire for it.
    Arming an exhausted job again gives it as many again."""
    retry_delay_ns: int = 60_000_000_000
    """From the end of a failed run to the first retry."""
    retry_factor: int = 1
    """Each further delay is this many times as long as the one before ..."""
    retry_delay_max_ns: int = 3_600_000_000_000
    """... up to this."""

    rerun_orphans: bool = True
    """Whether a run that a crash cut off is run again. If not, it is recorded as failed when it is found."""
    timeout_ns: int | None = None
    """A run that takes longer is told to stop, and counts as failed when it has."""
    concurrency: int | None = None
    """How many runs of one registration may be under way at once. A single job never runs twice at the same time."""

    def __post_init__(self) -> None:
        if not isinstance(self.misfire, Misfire):
            raise TypeError(f"misfire must be a Misfire, not {self.misfire!r}")
        if not isinstance(self.rerun_orphans, bool):
            raise TypeError(f"rerun_orphans must be a bool, not {self.rerun_orphans!r}")
        for name in (*_WHOLE_NUMBERS, "timeout_ns", "concurrency"):
            value = getattr(self, name)
            if value is None and name not in _WHOLE_NUMBERS:
                continue
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"{name} must be an integer, not {value!r}")
            if value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")

    def retry_at_ns(self, record: SchedulerJobRecord) -> int | None:
        """Return when a job whose last run failed is due again; None where it is not, or has no attempts left.

        It follows from the record alone, so it is the same after a restart.
        """
        if record.status is not SchedulerJobStatus.FAILED_RETRYING or record.last_finished_at_ns is None:
            return None
        failed = record.consecutive_failures % self.attempts
        if failed == 0:
            return None
        delay_ns = self.retry_delay_ns
        for _ in range(failed - 1):
            if delay_ns >= self.retry_delay_max_ns or self.retry_factor == 1:
                break
            delay_ns *= self.retry_factor
        return min(record.last_finished_at_ns + min(delay_ns, self.retry_delay_max_ns), INSTANT_MAX_NS)


def after_downtime(record: SchedulerJobRecord, now_ns: int, policy: JobPolicy) -> SchedulerJobRecord:
    """Return the record with the fires that were missed skipped, where that is the policy; else the record itself."""
    next_fire_ns = record.next_fire_at_ns
    if (
        policy.misfire is not Misfire.SKIP
        or record.status is not SchedulerJobStatus.PENDING
        or isinstance(record.schedule, Manual)
        or next_fire_ns is None
        or next_fire_ns > now_ns
        or was_cut_off(record)
    ):
        return record
    match record.schedule:
        case Periodic(every_ns=every_ns):
            # In the old rhythm: one that is restarted more often than it fires would else never fire.
            last_missed_ns = next_fire_ns + (now_ns - next_fire_ns) // every_ns * every_ns
            again_ns = record.schedule.next_after(last_missed_ns)
        case Once():
            again_ns = None
        case _:
            again_ns = record.schedule.next_after(now_ns)
    status = SchedulerJobStatus.PENDING if again_ns is not None else SchedulerJobStatus.IDLE
    return replace(record, status=status, next_fire_at_ns=again_ns)


def making_up(
    record: SchedulerJobRecord, fire_ns: int | None, at_ns: int, up_since_ns: int, policy: JobPolicy, *, success: bool
) -> SchedulerJobRecord | None:
    """Return the record after a run, ended at ``at_ns``, where the next fire that was missed is to be made up for.

    None where none is left, or by the policy. ``record`` is that of the job while it runs, ``fire_ns`` the fire that
    the run was for, and ``up_since_ns`` the instant from which on no fire was missed.
    """
    is_same_schedule = fire_ns is not None and record.next_fire_at_ns == fire_ns
    if policy.misfire is not Misfire.EACH or not is_same_schedule or not isinstance(record.schedule, _REPEATED):
        return None
    assert fire_ns is not None
    again_ns = record.schedule.next_after(fire_ns)
    if again_ns is None or again_ns > up_since_ns:
        return None
    job = str(record.id)
    states = {job: state_of(record)}
    fold(states, [(FINISHED, job, at_ns, success)])
    after = record_of(job, settled(states[job]))
    return replace(after, status=SchedulerJobStatus.PENDING, next_fire_at_ns=again_ns)


def was_cut_off(record: SchedulerJobRecord) -> bool:
    """Return whether the last run of a job that does not run was cut off: it began, and did not end since."""
    started_ns, finished_ns = record.last_started_at_ns, record.last_finished_at_ns
    return started_ns is not None and (finished_ns is None or started_ns > finished_ns)
