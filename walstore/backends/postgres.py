"""``PostgresPersistence``: the contract in a PostgreSQL database, for more than one machine.

Durability and replication are the database's. One process writes, others may stand by or read: whoever takes over gets
the next epoch, and the one before can't change anything any more.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from itertools import islice
from types import TracebackType
from typing import Final

from walstore.backends.postgres_connection import Target
from walstore.backends.postgres_options import PostgresOptions
from walstore.backends.postgres_schema import check_form
from walstore.backends.postgres_session import Claim
from walstore.backends.postgres_store import PostgresStore
from walstore.engine.watch import unwatch, watch
from walstore.errors import FencedError, SchedulerPersistenceError, StorePoisonedError
from walstore.fs.os_process import describe_process, random_bytes
from walstore.model.events import CANCELLED, FINISHED, STARTED, Event, EventForm, Restored, Scheduled, form_of, forms_of
from walstore.model.names import Instant, JobId, id_of, instant_ns
from walstore.model.records import SchedulerJobRecord
from walstore.model.schedule import Schedule
from walstore.options import Durability
from walstore.persistence import SchedulerPersistence

__all__ = ["PostgresOptions", "PostgresPersistence"]

_RESTORE_BATCH: Final = 512
_BATCH_EVENTS_MAX: Final = 100_000
"""The most events in one ``record_many``: their names alone may take 100 MiB of a statement, which may have 1 GiB."""


class PostgresPersistence(SchedulerPersistence):
    """The state of scheduled jobs in a schema of a PostgreSQL database.

    What an event survives once its call has returned: at ``BUFFERED`` it is in this process, and is sent within 5 ms;
    at ``PROCESS`` the server has it, and flushes it within a second; at ``POWER`` the server has flushed it. As long as
    this process lives, what it was told and a server lost in a crash is sent again, at every level. ``sync`` and
    ``flush_checkpoint`` return when all that was recorded before is flushed.

    Methods may be called from any thread, and ``record_*`` by a signal handler; calls of one thread are recorded in
    their order. A lost connection is made anew, for ``PostgresOptions.retry_ns``; no event is applied twice or out of
    order by that. All methods raise ``StoreClosedError`` after ``close``, ``FencedError`` when another process has
    taken over, ``StorePoisonedError`` when the server has lost what it had flushed, ``ForkedProcessError`` in a child
    that was forked, and ``StorageError`` when the server refuses, having recorded nothing. Where the server could not
    be reached for so long, the message says that it is not known whether the call was recorded.
    """

    def __init__(
        self,
        dsn: str,
        *,
        durability: Durability = Durability.PROCESS,
        schema: str = "walstore",
        create: bool = True,
        read_only: bool = False,
        takeover: bool = False,
        history: bool = False,
        options: PostgresOptions | None = None,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        """Open the store in ``schema`` of the database that ``dsn`` names, a connection string or URL of libpq.

        ``create=False`` requires that it exists. ``read_only=True`` takes no epoch and writes nothing.
        ``takeover=True`` ends the session of a writer that seems to live. ``history=True`` also keeps every event, in a
        table that nothing here reads or cleans up. ``clock`` returns nanoseconds since 1970: the instant of
        ``record_scheduled``.

        Raises ``StoreNotFoundError`` (no store there, or a schema with other things in it), ``StoreLockedError``,
        ``NewerFormatError``, ``UnsupportedPlatformError`` (a database that is not UTF8), ``StorageError``, and
        ``TypeError`` or ``ValueError`` for wrong arguments.
        """
        if not isinstance(durability, Durability):
            raise TypeError(f"durability must be a Durability, not {durability!r}")
        options = options if options is not None else PostgresOptions()
        if not isinstance(options, PostgresOptions):
            raise TypeError(f"options must be PostgresOptions, not {options!r}")
        process = describe_process()
        claim = Claim(
            target=Target(dsn, schema),
            session=f"walstore {random_bytes(16).hex()}",
            holder=f"host {process['host']}, process {process['pid']}",
            history=history,
        )
        self._clock = clock
        self._buffered = durability is Durability.BUFFERED
        self._durable = durability is Durability.POWER
        self._store = PostgresStore(claim, options, buffered=self._buffered)
        if read_only:
            self._store.open_for_reading()
        else:
            self._store.open_for_writing(create=create, takeover=takeover)
        self._finalizer = watch(self, self._store)

    # The contract.

    def record_scheduled(self, id: JobId, schedule: Schedule) -> None:
        """Record that a job was given a schedule, as of the store's clock."""
        now_ns = instant_ns(self._clock(), "the instant of the clock")
        self._record([check_form(form_of(Scheduled(id, schedule), now_ns))])

    def record_started(self, id: JobId, started_at: Instant) -> None:
        """Record that a run of a job began. An unknown job is created with the schedule ``Manual``."""
        self._record([(STARTED, id_of(id), instant_ns(started_at, "started_at"))])

    def record_finished(self, id: JobId, finished_at: Instant, success: bool) -> None:
        """Record how a run of a job ended. For an unknown job this is accepted and creates nothing."""
        if success is not True and success is not False:
            raise TypeError(f"success must be a bool, not {success!r}")
        self._record([(FINISHED, id_of(id), instant_ns(finished_at, "finished_at"), success)])

    def cancel(self, id: JobId) -> None:
        """Record that a job was cancelled: it is gone, for ever. An unknown job is no error."""
        self._record([(CANCELLED, id_of(id))])

    def load_all(self) -> list[SchedulerJobRecord]:
        """Return every job as of the call: all calls that returned before it are seen, whatever the durability."""
        return self._store.load()

    def flush_checkpoint(self) -> None:
        """Return when every call that returned before it is on the server's device. There is no log to compact."""
        self.sync()

    # Beyond the contract.

    def record_many(self, events: Iterable[Event]) -> None:
        """Record several events in one transaction: after a crash all of them are there, or none.

        Raises ``TypeError`` or ``ValueError`` when one of them is wrong, or when they are more than 100,000.
        """
        now_ns = instant_ns(self._clock(), "the instant of the clock")
        forms = [check_form(form) for form in forms_of(events, now_ns)]
        if len(forms) > _BATCH_EVENTS_MAX:
            raise ValueError(f"{len(forms)} events are too many for one batch: record {_BATCH_EVENTS_MAX} at a time")
        self._record(forms)

    def restore(self, records: Iterable[SchedulerJobRecord]) -> None:
        """Put jobs to the states that ``records`` say, whatever they were before. Other jobs stay as they are.

        Records go in by transactions of 512; an iterable that raises leaves those before it in place. Raises
        ``ValueError`` for a cancelled record.
        """
        remaining = iter(records)
        while batch := list(islice(remaining, _RESTORE_BATCH)):
            self._record([check_form(form_of(Restored(record), 0)) for record in batch])

    def sync(self) -> None:
        """Return when every call that returned before it is on the server's device."""
        self._store.writing().write((), durable=True)

    def iter_jobs(self) -> Iterator[SchedulerJobRecord]:
        """Yield every job as of the first step, in the order of their ids, some thousand at a time in memory.

        One thread may use the iterator; it holds a connection and a transaction open until it ends or is closed.
        """
        snapshot = self._store.snapshot()
        try:
            with closing(snapshot.stream()) as records:
                for record in records:
                    yield record
                    self._store.check_process()
        finally:
            snapshot.close()

    @property
    def epoch(self) -> int:
        """The epoch of this writer: greater than those of all writers before, so that runs can be fenced by it."""
        return self._store.writing().epoch

    @property
    def closed(self) -> bool:
        """Whether the store was closed."""
        return self._store.closed

    def close(self) -> None:
        """Write everything, wait until it is on the server's device, and end the session. Closing twice is fine.

        Raises ``StorageError`` when the server does not take what was acknowledged: the store stays open, so that
        closing can be tried again. Raises ``FencedError`` or ``StorePoisonedError`` when something acknowledged may be
        lost; the store is closed all the same.
        """
        try:
            self._store.close()
        finally:
            if self._store.closed:
                unwatch(self._store, self._finalizer)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close. An error that is on its way already is not replaced by the one it comes from."""
        try:
            self.close()
        except (FencedError, StorePoisonedError):
            if not isinstance(error, SchedulerPersistenceError):
                raise

    def __repr__(self) -> str:
        state = "closed" if self.closed else "read-only" if self._store.writer is None else "open"
        return f"<PostgresPersistence {self._store.claim.place} {state}>"

    def _record(self, forms: Sequence[EventForm]) -> None:
        writer = self._store.writing()
        if not forms:
            return
        if self._buffered:
            writer.buffer(forms)
        else:
            writer.write(forms, durable=self._durable)
