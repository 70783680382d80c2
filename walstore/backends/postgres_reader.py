"""Reading the jobs of a store in PostgreSQL, each time at one point of time, on connections of its own."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import suppress
from typing import Final

from walstore.backends.postgres_connection import Connection, ServerUnreachableError, server_errors
from walstore.backends.postgres_schema import ALL_JOBS, ORDERED_JOBS, POSITION, state_of_row
from walstore.backends.postgres_session import Claim, check_version
from walstore.errors import SchedulerPersistenceError, StoreNotFoundError
from walstore.model.records import SchedulerJobRecord, record_of, uncollected

__all__ = ["Position", "Reader", "Snapshot"]

_ROWS_AT_ONCE: Final = 2_000
_NAME: Final = "walstore reader"

Position = tuple[int, int]
"""The epoch of a writer, and the number of its last batch."""


class Snapshot:
    """The jobs as they were at ``position``. For one thread, and to be closed."""

    def __init__(self, claim: Claim, connection: Connection, idle: list[Connection]) -> None:
        self._claim = claim
        self._connection = connection
        self._idle = idle
        with connection.pipeline():
            connection.execute(b"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            found = connection.execute(POSITION)
        # Without a row there is less than any writer has seen.
        epoch, sequence = found.fetchone() or (0, 0)
        self.position: Position = (epoch, sequence)

    def load(self) -> list[SchedulerJobRecord]:
        """Return every job, in any order."""
        with server_errors(f"reading {self._claim.place}"):
            rows = self._connection.execute(ALL_JOBS).fetchall()
        with uncollected():
            return [record_of(*state_of_row(row)) for row in rows]

    def stream(self) -> Generator[SchedulerJobRecord]:
        """Yield every job in the order of the ids, a few at a time in memory."""
        cursor = self._connection.cursor("jobs")
        try:
            with server_errors(f"reading {self._claim.place}"):
                cursor.execute(ORDERED_JOBS)
                while rows := cursor.fetchmany(_ROWS_AT_ONCE):
                    yield from (record_of(*state_of_row(row)) for row in rows)
        finally:
            # It ends with the transaction in any case, and must not hide what has ended the reading.
            with suppress(SchedulerPersistenceError), server_errors("closing a cursor"):
                cursor.close()

    def close(self) -> None:
        """Let the connection be used again, if it can be."""
        try:
            with server_errors(f"reading {self._claim.place}"):
                self._connection.execute(b"ROLLBACK")
        except ServerUnreachableError:
            self._connection.close()
        else:
            self._idle.append(self._connection)


class Reader:
    """Opens snapshots, from any thread. Connections that were used are kept for the next one."""

    def __init__(self, claim: Claim) -> None:
        self._claim = claim
        # Taking one from a list and putting it back are one step each.
        self._idle: list[Connection] = []

    def check(self) -> None:
        """Raise ``StoreNotFoundError`` where there is no store, and ``NewerFormatError`` where it can't be read."""
        connection, _ = self._claim.target.connect(_NAME)
        with server_errors(f"opening {self._claim.place}"):
            try:
                if check_version(self._claim, connection) is None:
                    raise StoreNotFoundError(f"there is no store in {self._claim.place}")
            finally:
                connection.close()

    def snapshot(self) -> Snapshot:
        """Return a snapshot of the jobs as they are now."""
        while self._idle:
            try:
                return self._open(self._idle.pop())
            except ServerUnreachableError:
                # It was lost while nobody used it.
                continue
        return self._open(self._claim.target.connect(_NAME)[0])

    def close(self) -> None:
        """Close the connections that are kept."""
        while self._idle:
            self._idle.pop().close()

    def _open(self, connection: Connection) -> Snapshot:
        with server_errors(f"reading {self._claim.place}"):
            try:
                return Snapshot(self._claim, connection, self._idle)
            except BaseException:
                connection.close()
                raise
