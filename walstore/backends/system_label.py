"""``SystemLabelPersistence``: the contract on the rows of uni-db's system label ``_BackgroundJob``.

It needs no more than something that runs a statement of Cypher. ``system_label_unidb`` has that for the package
``uni-db``.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from typing import Final

from walstore.backends.system_label_rows import LABEL, PROPERTIES, record_of_row, row_of_state
from walstore.errors import SchedulerPersistenceError, StorageError, StoreClosedError
from walstore.model.events import (
    CANCELLED,
    RESTORED,
    Cancelled,
    Event,
    EventForm,
    Finished,
    Restored,
    Scheduled,
    Started,
    forms_of,
)
from walstore.model.names import Instant, JobId, instant_ns
from walstore.model.records import JobState, SchedulerJobRecord, SchedulerJobStatus, state_of
from walstore.model.reducer import fold, settled
from walstore.model.schedule import Schedule
from walstore.persistence import SchedulerPersistence

__all__ = [
    "DELETE",
    "MERGE",
    "MERGE_AND_DELETE",
    "READ_ALL",
    "READ_SOME",
    "WRITES",
    "ExecuteInnerQuery",
    "SystemLabelPersistence",
]

ExecuteInnerQuery = Callable[[str, Mapping[str, object]], Iterable[Mapping[str, object]]]
"""Runs one statement of Cypher with its parameters, writing ones included, and returns the rows of its result.

All of a statement takes effect, or, where it raises, nothing. On return its effect is as durable as the database makes
it, and the next statement sees it.
"""

_COLUMNS = ", ".join(f"j.{name} AS {name}" for name in ("qname", *PROPERTIES))
READ_ALL: Final = f"MATCH (j:{LABEL}) RETURN {_COLUMNS}"
"""Reads every row, in any order."""
READ_SOME: Final = f"MATCH (j:{LABEL}) WHERE j.qname IN $qnames RETURN {_COLUMNS}"
"""Reads the rows of the jobs ``$qnames``."""
MERGE: Final = (
    f"UNWIND $rows AS row MERGE (j:{LABEL} {{qname: row.qname}}) "
    f"SET {', '.join(f'j.{name} = row.{name}' for name in PROPERTIES)}"
)
"""Writes ``$rows``."""
DELETE: Final = f"UNWIND $gone AS qname MATCH (j:{LABEL} {{qname: qname}}) DETACH DELETE j"
"""Deletes the rows of the jobs ``$gone``."""
MERGE_AND_DELETE: Final = f"{MERGE} WITH count(*) AS merged {DELETE}"
"""Does both, so that a batch is one statement. Counting makes one row of however many there were."""
WRITES: Final = frozenset({MERGE, DELETE, MERGE_AND_DELETE})
"""The statements that write."""

_RESTORE_BATCH = 512


class SystemLabelPersistence(SchedulerPersistence):
    """The state of scheduled jobs as rows of the label ``_BackgroundJob``.

    Every call is written through: it has returned when its statement has. Methods may be called from any thread. Other
    writers of the same jobs are not kept out: an event that they record between the reading and the writing of a call
    is overwritten.

    All methods raise ``StoreClosedError`` after ``close``, ``StorageError`` where a statement fails, and
    ``SchedulerPersistenceError`` for a row that can't be read. A signal handler may not record while it interrupts a
    call: that raises as well.
    """

    def __init__(
        self,
        execute_inner_query: ExecuteInnerQuery,
        *,
        clock: Callable[[], int] = time.time_ns,
        sync: Callable[[], None] | None = None,
        close: Callable[[], None] | None = None,
    ) -> None:
        """Keep jobs by the statements that ``execute_inner_query`` runs.

        ``clock`` returns nanoseconds since 1970: the instant of ``record_scheduled``. ``sync`` brings to the device
        what statements have written; without it, ``sync`` and ``flush_checkpoint`` promise what the statements do.
        ``close`` is called once, when this is closed.
        """
        self._execute = execute_inner_query
        self._clock = clock
        self._sync = sync
        self._close = close
        self._lock = threading.RLock()
        self._busy = False
        self._closed = False

    # The contract.

    def record_scheduled(self, id: JobId, schedule: Schedule) -> None:
        """Record that a job was given a schedule, as of the clock."""
        self.record_many([Scheduled(id, schedule)])

    def record_started(self, id: JobId, started_at: Instant) -> None:
        """Record that a run of a job began. An unknown job is created with the schedule ``Manual``."""
        self.record_many([Started(id, started_at)])

    def record_finished(self, id: JobId, finished_at: Instant, success: bool) -> None:
        """Record how a run of a job ended. For an unknown job this is accepted and creates nothing."""
        self.record_many([Finished(id, finished_at, success)])

    def cancel(self, id: JobId) -> None:
        """Record that a job was cancelled: its row is deleted. An unknown job is no error."""
        self.record_many([Cancelled(id)])

    def load_all(self) -> list[SchedulerJobRecord]:
        """Return every job. A row that can't be read is an error, never a job less."""
        return list(self.iter_jobs())

    def flush_checkpoint(self) -> None:
        """Do what ``sync`` does: there is nothing to compact."""
        self.sync()

    def close(self) -> None:
        """Take no further calls, and close what was given to be closed. Closing twice is fine."""
        with self._lock:
            if self._closed:
                return
            self._require_rest()
            self._closed = True
            if self._close is not None:
                self._close()

    # Beyond the contract.

    def record_many(self, events: Iterable[Event]) -> None:
        """Record several events by one statement: after a crash all of them are there, or none."""
        now_ns = instant_ns(self._clock(), "the instant of the clock")
        forms = forms_of(events, now_ns)
        with self._at_work():
            if forms:
                self._apply(forms)

    def restore(self, records: Iterable[SchedulerJobRecord]) -> None:
        """Put jobs to the states that ``records`` say, whatever they were before. Other jobs stay as they are.

        Records go in by batches of 512, each of which is whole or absent after a crash. Raises ``ValueError`` for a
        cancelled record.
        """
        remaining = iter(records)
        while batch := list(islice(remaining, _RESTORE_BATCH)):
            self.record_many([Restored(record) for record in batch])
        self._require_open()

    def sync(self) -> None:
        """Return when every call that returned before it is on the device, as far as the database lets it be known.

        What that means for ``uni-db`` is in docs/backends.md.
        """
        self._require_open()
        if self._sync is not None:
            self._sync()

    def iter_jobs(self) -> Iterator[SchedulerJobRecord]:
        """Yield every job as of the first step, in the order of their ids. The rows are held until the end."""
        with self._at_work():
            rows = self._run(READ_ALL, {})
        yield from _records(rows)

    # How.

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        """Let one call at a time read and write rows."""
        with self._lock:
            self._require_open()
            self._require_rest()
            self._busy = True
            try:
                yield
            finally:
                self._busy = False

    def _apply(self, forms: list[EventForm]) -> None:
        first = {form[1]: form[0] for form in reversed(forms)}
        # What a job was before it is replaced or cancelled does not matter.
        states = self._states_of([job for job, kind in first.items() if kind not in {RESTORED, CANCELLED}])
        fold(states, forms)
        rows = [row_of_state(job, settled(states[job])) for job in first if job in states]
        gone = sorted({form[1] for form in forms if form[0] == CANCELLED} - states.keys())
        if rows and gone:
            self._run(MERGE_AND_DELETE, {"rows": rows, "gone": gone})
        elif rows:
            self._run(MERGE, {"rows": rows})
        elif gone:
            self._run(DELETE, {"gone": gone})

    def _states_of(self, jobs: list[str]) -> dict[str, JobState]:
        if not jobs:
            return {}
        return {str(record.id): state_of(record) for record in _records(self._run(READ_SOME, {"qnames": jobs}))}

    def _run(self, cypher: str, parameters: Mapping[str, object]) -> list[Mapping[str, object]]:
        try:
            return list(self._execute(cypher, parameters))
        except SchedulerPersistenceError:
            raise
        except Exception as error:
            # Whatever an executor raises, the caller must hear of it as an error of the contract.
            raise StorageError(
                f"the database did not run a statement on the label {LABEL} ({type(error).__name__}: {error}). Whether "
                "it took effect, load_all tells; see to the database, then call again."
            ) from error

    def _require_open(self) -> None:
        if self._closed:
            raise StoreClosedError(f"this persistence of the label {LABEL} was closed: make another one")

    def _require_rest(self) -> None:
        # The lock lets its own thread in. It is there twice only where a signal handler interrupts a call.
        if self._busy:
            raise SchedulerPersistenceError(
                "a signal handler called while its thread was in the middle of another call: let the handler set a "
                "flag, and call after that."
            )


def _records(rows: Iterable[Mapping[str, object]]) -> Iterator[SchedulerJobRecord]:
    """Yield the jobs of rows in the order of their ids. Nothing that is wrong with a row is passed over."""
    before = None
    for record in map(record_of_row, sorted(rows, key=lambda row: str(row.get("qname")))):
        if record.id == before:
            raise SchedulerPersistenceError(
                f"the label {LABEL} has two rows of the job {record.id}: delete the one that is wrong, then try again."
            )
        before = record.id
        if record.status is not SchedulerJobStatus.CANCELLED:
            yield record
