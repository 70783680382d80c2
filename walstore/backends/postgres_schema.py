"""The tables of a store in PostgreSQL, what is said to them, and jobs as rows. Opens no connection.

Connections look for tables in the schema of the store and nowhere else, so that no statement names it.

``store`` has one row: the version of the tables, the epoch of the writer and the number of its last batch. ``jobs`` has
the state of each job, in words and numbers that a person reads. ``history``, filled where it is asked for, has the
events.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from walstore.errors import StorageError
from walstore.model.events import CANCELLED, FINISHED, RESTORED, SCHEDULED, STARTED, EventForm
from walstore.model.names import QName
from walstore.model.records import JobState, SchedulerJobStatus
from walstore.model.schedule import Cron, Manual, Once, Periodic, ScheduleForm, schedule_of

__all__ = [
    "ADVANCE",
    "ALL_JOBS",
    "HOLDER",
    "MIGRATIONS",
    "ORDERED_JOBS",
    "POSITION",
    "PUT",
    "REMOVE",
    "SET_VERSION",
    "SOME_JOBS",
    "TAKE_OVER",
    "TELL",
    "VERSION",
    "HistoryRow",
    "JobRow",
    "check_form",
    "history_rows",
    "row_of",
    "schema_name",
    "state_of_row",
]

MIGRATIONS: Final = (
    b"""
    CREATE TABLE store (
        one boolean PRIMARY KEY DEFAULT true CHECK (one),
        version integer NOT NULL,
        epoch integer NOT NULL DEFAULT 0,
        sequence bigint NOT NULL DEFAULT 0,
        holder text NOT NULL DEFAULT 'nobody',
        session text NOT NULL DEFAULT '',
        since timestamptz NOT NULL DEFAULT now()
    );
    INSERT INTO store (version) VALUES (0);
    CREATE TABLE jobs (
        id text COLLATE "C" PRIMARY KEY,
        status text NOT NULL CHECK (status IN ('Pending', 'Running', 'Idle', 'FailedRetrying')),
        next_fire_at_ns bigint CHECK (next_fire_at_ns >= 0),
        last_started_at_ns bigint CHECK (last_started_at_ns >= 0),
        last_finished_at_ns bigint CHECK (last_finished_at_ns >= 0),
        consecutive_failures bigint NOT NULL CHECK (consecutive_failures BETWEEN 0 AND 4294967295),
        schedule text NOT NULL
    ) WITH (fillfactor = 75);
    """,
    b"""
    CREATE TABLE history (
        epoch integer,
        sequence bigint,
        position integer,
        event text NOT NULL,
        id text COLLATE "C" NOT NULL,
        at_ns bigint,
        success boolean,
        schedule text,
        PRIMARY KEY (epoch, sequence, position)
    );
    """,
)
"""What makes version n + 1 of the tables out of version n. Released ones are never changed."""

JobRow = tuple[str, str, int | None, int | None, int | None, int, str]
"""A row of ``jobs``."""
HistoryRow = tuple[int, str, str, int | None, bool | None, str | None]
"""A row of ``history`` without epoch and sequence."""

_SCHEMA: Final = re.compile(r"[a-z_][a-z0-9_]{0,62}")
_STATUSES: Final = tuple(status.value for status in SchedulerJobStatus)
_STATUS_NUMBERS: Final = {status: number for number, status in enumerate(_STATUSES)}
_KIND_NAMES: Final = {Manual.KIND: "manual", Once.KIND: "once", Periodic.KIND: "periodic", Cron.KIND: "cron"}
_KINDS: Final = {name: kind for kind, name in _KIND_NAMES.items()}
_EVENTS: Final = {
    SCHEDULED: "scheduled",
    STARTED: "started",
    FINISHED: "finished",
    CANCELLED: "cancelled",
    RESTORED: "restored",
}


_COLUMNS: Final = (
    b"id, status, next_fire_at_ns, last_started_at_ns, last_finished_at_ns, consecutive_failures, schedule"
)

SET_VERSION: Final = b"UPDATE store SET version = %s"
VERSION: Final = b"SELECT version FROM store"
HOLDER: Final = b"SELECT epoch, holder, session, since::text FROM store"
POSITION: Final = b"SELECT epoch, sequence FROM store"
TAKE_OVER: Final = b"""
    UPDATE store SET epoch = epoch + 1, sequence = 0, holder = %s, session = %s, since = now() RETURNING epoch
"""
ADVANCE: Final = b"UPDATE store SET sequence = %s WHERE epoch = %s AND sequence = %s RETURNING epoch"
"""The fence of every batch: it locks the row, so that of two transactions that begin alike one does nothing."""
ALL_JOBS: Final = b"SELECT " + _COLUMNS + b" FROM jobs"
ORDERED_JOBS: Final = ALL_JOBS + b" ORDER BY id"
SOME_JOBS: Final = ALL_JOBS + b" WHERE id = ANY(%s)"
PUT: Final = (
    b"INSERT INTO jobs (" + _COLUMNS + b")"
    b"""
    SELECT * FROM unnest(
        %s::text[], %s::text[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[], %s::text[]
    )
    ON CONFLICT (id) DO UPDATE SET
        status = EXCLUDED.status,
        next_fire_at_ns = EXCLUDED.next_fire_at_ns,
        last_started_at_ns = EXCLUDED.last_started_at_ns,
        last_finished_at_ns = EXCLUDED.last_finished_at_ns,
        consecutive_failures = EXCLUDED.consecutive_failures,
        schedule = EXCLUDED.schedule
    """
)
REMOVE: Final = b"DELETE FROM jobs WHERE id = ANY(%s)"
TELL: Final = b"""
    INSERT INTO history (epoch, sequence, position, event, id, at_ns, success, schedule)
    SELECT %s, %s, *
    FROM unnest(%s::integer[], %s::text[], %s::text[], %s::bigint[], %s::boolean[], %s::text[])
"""


def schema_name(schema: str) -> str:
    """Return the name of a schema. Raises ``ValueError`` for one that would have to be quoted."""
    if not isinstance(schema, str) or not _SCHEMA.fullmatch(schema):
        raise ValueError(
            f"schema must be a plain name, of up to 63 lower-case letters, digits and underscores, not {schema!r}"
        )
    return schema


def row_of(job: str, state: JobState) -> JobRow:
    """Return the row of a settled state."""
    return job, _STATUSES[state[0]], *state[1:5], _schedule_text(state[5])


def state_of_row(row: JobRow) -> tuple[str, JobState]:
    """Return the id and the state of a row. Raises ``StorageError`` for one that this release would not write."""
    job, status, next_fire_ns, started_ns, finished_ns, failures, schedule = row
    try:
        QName.parse(job)
        state = _STATUS_NUMBERS[status], next_fire_ns, started_ns, finished_ns, failures, _schedule_form(schedule)
    except (KeyError, ValueError) as error:
        raise StorageError(
            f"the row of job {job!r} is not one that this release writes ({error}): nothing was changed. Look who else "
            "writes to the table of jobs, and correct or delete the row."
        ) from error
    return job, state


def history_rows(forms: Sequence[EventForm]) -> list[HistoryRow]:
    """Return the rows of the history for the events of one batch."""
    rows: list[HistoryRow] = []
    for position, form in enumerate(forms):
        at_ns = form[2] if form[0] in (SCHEDULED, STARTED, FINISHED) else None
        success = form[3] if form[0] == FINISHED else None
        schedule = _schedule_text(form[-1]) if form[0] in (SCHEDULED, RESTORED) else None
        rows.append((position, _EVENTS[form[0]], form[1], at_ns, success, schedule))
    return rows


def check_form(form: EventForm) -> EventForm:
    """Return the event. Raises ``ValueError`` where its schedule is a text that PostgreSQL can't hold.

    Only a cron expression that was read back elsewhere, and that does not parse here, can be such a text.
    """
    if form[0] in (SCHEDULED, RESTORED):
        value = form[-1][-1]
        if isinstance(value, str) and ("\0" in value or not _is_unicode(value)):
            raise ValueError(f"the cron expression {value!r} of {form[1]} holds what PostgreSQL can't store")
    return form


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _schedule_text(form: ScheduleForm) -> str:
    name = _KIND_NAMES[form[0]]
    return f"{name} {form[1]}" if len(form) > 1 else name


# Jobs share few schedules.
@lru_cache(maxsize=4096)
def _schedule_form(text: str) -> ScheduleForm:
    name, space, value = text.partition(" ")
    kind = _KINDS[name]
    form: ScheduleForm = (kind,)
    if space:
        form = (kind, value) if kind == Cron.KIND else (kind, int(value))
    schedule_of(form)
    return form
