"""The state of one job, as ``load_all`` returns it, and the plain form that the engine folds and stores."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from datetime import datetime
from enum import Enum

from walstore.model.names import QName, datetime_of, instant_ns
from walstore.model.schedule import KINDS, Schedule, ScheduleForm, schedule_of

__all__ = [
    "FAILED_RETRYING",
    "FAILURES_MAX",
    "IDLE",
    "PENDING",
    "RUNNING",
    "CancellationToken",
    "JobState",
    "SchedulerJobRecord",
    "SchedulerJobStatus",
    "record_of",
    "state_of",
    "uncollected",
]

FAILURES_MAX = 2**32 - 1
"""The failure counter is a u32 that saturates."""


class SchedulerJobStatus(Enum):
    """What a job is doing. Later releases may add to it. ``CANCELLED`` never comes out of ``load_all``."""

    PENDING = "Pending"
    RUNNING = "Running"
    IDLE = "Idle"
    """The last run succeeded, and no further one is planned."""
    FAILED_RETRYING = "FailedRetrying"
    """The last run failed."""
    CANCELLED = "Cancelled"


class CancellationToken:
    """Tells the run of a job that it should stop. Lives in one process, is never stored. Any thread may use it."""

    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event = threading.Event()

    def cancel(self) -> None:
        """Ask the run to stop. Doing so twice is fine."""
        self._event.set()

    @property
    def is_cancelled(self) -> bool:
        """Whether ``cancel`` was called."""
        return self._event.is_set()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until the token is cancelled, at most ``timeout_s`` seconds; returns ``is_cancelled``."""
        return self._event.wait(timeout_s)

    def __repr__(self) -> str:
        return f"<CancellationToken {'cancelled' if self.is_cancelled else 'active'}>"


@dataclass(frozen=True, slots=True)
class SchedulerJobRecord:
    """The state of one job. Instants are nanoseconds since 1970 in UTC, or None.

    Immutable; equality, hash and copies (pickled ones as well) leave the cancellation token out. Raises ``TypeError``
    or ``ValueError`` when a field is not what it says.
    """

    id: QName
    status: SchedulerJobStatus
    next_fire_at_ns: int | None
    last_started_at_ns: int | None
    last_finished_at_ns: int | None
    consecutive_failures: int
    schedule: Schedule
    _token: CancellationToken | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.id, QName):
            raise TypeError(f"the id of a record is a QName, not {self.id!r}")
        if not isinstance(self.status, SchedulerJobStatus):
            raise TypeError(f"status must be a SchedulerJobStatus, not {self.status!r}")
        if not isinstance(self.schedule, KINDS):
            raise TypeError(f"schedule must be Once, Periodic, Cron or Manual, not {self.schedule!r}")
        for name in ("next_fire_at_ns", "last_started_at_ns", "last_finished_at_ns"):
            value = getattr(self, name)
            if value is None:
                continue
            if isinstance(value, datetime):
                raise TypeError(f"{name} must be an int (nanoseconds since 1970) or None, not {value!r}")
            instant_ns(value, name)
        if isinstance(self.consecutive_failures, bool) or not isinstance(self.consecutive_failures, int):
            raise TypeError(f"consecutive_failures must be an int, not {self.consecutive_failures!r}")
        if not 0 <= self.consecutive_failures <= FAILURES_MAX:
            raise ValueError(f"consecutive_failures must be between 0 and 2^32 - 1, not {self.consecutive_failures}")

    @property
    def next_fire_at(self) -> datetime | None:
        """The next fire as an aware UTC datetime, cut to whole microseconds."""
        return datetime_of(self.next_fire_at_ns)

    @property
    def last_started_at(self) -> datetime | None:
        """The start of the last run as an aware UTC datetime, cut to whole microseconds."""
        return datetime_of(self.last_started_at_ns)

    @property
    def last_finished_at(self) -> datetime | None:
        """The end of the last run as an aware UTC datetime, cut to whole microseconds."""
        return datetime_of(self.last_finished_at_ns)

    @property
    def cancel(self) -> CancellationToken:
        """The token of this record object, made when it is first asked for."""
        token = self._token
        if token is None:
            token = CancellationToken()
            object.__setattr__(self, "_token", token)
        return token

    def __reduce__(self) -> tuple[object, ...]:
        # All but the token, which belongs to this object: a copy, perhaps in another process, makes its own.
        values = tuple(getattr(self, part.name) for part in fields(self) if part.init)
        return type(self), values


PENDING, RUNNING, IDLE, FAILED_RETRYING = range(4)
"""Statuses as the log and the reducer hold them. A cancelled job has no state."""

JobState = tuple[int, int | None, int | None, int | None, int, ScheduleForm]
"""A job as the reducer and the codec hold it: status, next fire, last started, last finished, failures, schedule.

A plain tuple, since replay makes one per event: a named one costs four times as much.
"""

_STATUSES = (
    SchedulerJobStatus.PENDING,
    SchedulerJobStatus.RUNNING,
    SchedulerJobStatus.IDLE,
    SchedulerJobStatus.FAILED_RETRYING,
)
_STATUS_NUMBERS = {status: number for number, status in enumerate(_STATUSES)}

_SETTERS = (vars(SchedulerJobRecord)[name].__set__ for name in SchedulerJobRecord.__slots__)
_set_id, _set_status, _set_next_fire, _set_started, _set_finished, _set_failures, _set_schedule, _set_token = _SETTERS
_new = object.__new__
_set_dotted, _set_namespace_length = (vars(QName)[name].__set__ for name in QName.__slots__)


def record_of(job: str, state: JobState) -> SchedulerJobRecord:
    """Return the record of a settled, checked state. Raises ``ValueError`` for an unknown status."""
    status, next_fire_ns, started_ns, finished_ns, failures, schedule = state
    if not 0 <= status < len(_STATUSES):
        raise ValueError(f"not a status that this release knows: {status!r}")
    # What was checked when it was recorded and when it was decoded is not checked a third time, and the setters of the
    # slots are called directly: a third of the time of load_all.
    name = _new(QName)
    _set_dotted(name, job)
    _set_namespace_length(name, job.rindex("."))
    record = _new(SchedulerJobRecord)
    _set_id(record, name)
    _set_status(record, _STATUSES[status])
    _set_next_fire(record, next_fire_ns)
    _set_started(record, started_ns)
    _set_finished(record, finished_ns)
    _set_failures(record, failures)
    _set_schedule(record, schedule_of(schedule))
    _set_token(record, None)
    return record


@contextmanager
def uncollected() -> Iterator[None]:
    """Do without the collector of cycles while very many records are made, none of which is part of a cycle.

    It would go through all of them again and again: half of the time of ``load_all`` with a million jobs. Whoever has
    turned it off before finds it off afterwards.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def state_of(record: SchedulerJobRecord) -> JobState:
    """Return the plain form of a record. Raises ``ValueError`` for a cancelled one: cancelled jobs are not kept."""
    number = _STATUS_NUMBERS.get(record.status)
    if number is None:
        raise ValueError(f"a {record.status.value} job is not kept: leave {record.id} out, or cancel it")
    return (
        number,
        record.next_fire_at_ns,
        record.last_started_at_ns,
        record.last_finished_at_ns,
        record.consecutive_failures,
        record.schedule.form,
    )
