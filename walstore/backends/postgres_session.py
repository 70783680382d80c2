"""The session of a writer: its epoch, and batches of events as transactions each of which is applied once.

An epoch belongs to one opening. Whoever opens for writing takes the next one, under an advisory lock for which all wait
who come in. The session of a writer holds another advisory lock for as long as it lives, that of its epoch, by which
the next one sees that the place is taken. Safety does not rest on that: each transaction begins by moving the number of
the last batch on, where epoch and number are still what the writer knows, and does nothing where they are not.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from walstore.backends.postgres_connection import Connection, Target, create_schema, rollback, server_errors
from walstore.backends.postgres_schema import (
    ADVANCE,
    HOLDER,
    MIGRATIONS,
    POSITION,
    PUT,
    REMOVE,
    SET_VERSION,
    SOME_JOBS,
    TAKE_OVER,
    TELL,
    VERSION,
    history_rows,
    row_of,
    state_of_row,
)
from walstore.errors import (
    FencedError,
    NewerFormatError,
    SchedulerPersistenceError,
    StorageError,
    StoreLockedError,
    StoreNotFoundError,
    StorePoisonedError,
)
from walstore.model.events import CANCELLED, RESTORED, EventForm
from walstore.model.reducer import fold, settled

__all__ = ["Claim", "Session", "check_version", "claim_store", "reclaim"]

_logger = logging.getLogger("walstore")

_DOOR: Final = 0
"""The advisory lock for which all wait who come in. The others are numbered by epochs, which begin at 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What one opening brings along."""

    target: Target
    session: str
    """The name of the writer's connections: no other opening has it."""
    holder: str
    """Host and process, for people."""
    history: bool

    @property
    def place(self) -> str:
        """Where the store is, for messages."""
        return f"the {self.target.name}"

    @property
    def lock_class(self) -> int:
        """The first key of the advisory locks of this schema."""
        return zlib.crc32(f"walstore {self.target.schema}".encode()) & 0x7FFF_FFFF


class Session:
    """A connection that holds an epoch. For one thread.

    ``sequence`` is the number of the last batch that the server is known to have. After any error the session is of no
    more use, and is to be closed.
    """

    def __init__(self, claim: Claim, connection: Connection, level: str, epoch: int, sequence: int) -> None:
        self.epoch = epoch
        self.sequence = sequence
        self.flushed = -1
        """The number of the last batch for whose way to the device this session has waited."""
        self._claim = claim
        self._connection = connection
        # All other levels of a server flush to its own device before they answer.
        self._durably = f"SET LOCAL synchronous_commit TO {'on' if level == 'off' else level}".encode()

    def apply(self, number: int, forms: Sequence[EventForm], *, durable: bool) -> None:
        """Apply a batch in one transaction; ``durable`` waits until it and all before it are on the server's device.

        Then ``sequence`` is ``number``. Where the server has another last batch than was known here, nothing is done
        but that ``sequence`` tells which: the caller looks, and calls again.

        Raises ``FencedError`` when another writer has taken over, ``StorePoisonedError`` when the server has gone back
        behind this epoch, ``ServerUnreachableError`` when it may or may not have been applied, and ``StorageError``
        when it was not.
        """
        with server_errors(f"writing to {self._claim.place}"):
            try:
                self._apply(number, forms, durable=durable)
            except BaseException:
                rollback(self._connection)
                raise

    def _apply(self, number: int, forms: Sequence[EventForm], *, durable: bool) -> None:
        connection = self._connection
        touched: dict[str, bool] = {}
        for form in forms:
            # What a restore or a cancellation finds does not matter.
            touched.setdefault(form[1], form[0] not in (RESTORED, CANCELLED))
        wanted = [job for job, matters in touched.items() if matters]
        with connection.pipeline():
            connection.execute(b"BEGIN")
            if durable:
                connection.execute(self._durably)
            moved = connection.execute(ADVANCE, (number, self.epoch, self.sequence))
            found = connection.execute(SOME_JOBS, (wanted,)) if wanted else None
        if moved.fetchone() is None:
            rollback(connection)
            self._look()
            return
        before = dict(map(state_of_row, found.fetchall())) if found is not None else {}
        after = before.copy()
        fold(after, forms)
        put = [row_of(job, settled(state)) for job, state in after.items() if before.get(job) != state]
        gone = [job for job, matters in touched.items() if job not in after and (job in before or not matters)]
        with connection.pipeline():
            if put:
                connection.execute(PUT, [list(column) for column in zip(*put, strict=True)])
            if gone:
                connection.execute(REMOVE, (gone,))
            if forms and self._claim.history:
                columns = [list(column) for column in zip(*history_rows(forms), strict=True)]
                connection.execute(TELL, (self.epoch, number, *columns))
            connection.execute(b"COMMIT")
        self.sequence = number
        if durable:
            self.flushed = number

    def _look(self) -> None:
        """Find out why the place of the last batch was not where it was thought to be."""
        known = self.sequence
        self.sequence = _sequence_of(self._claim, self._connection, self.epoch)
        if self.sequence == known:
            raise StorageError(
                f"{self._claim.place} refused a batch for no reason that can be seen: look who else writes"
            )

    def leave(self) -> None:
        """Give the place back, so that the next one who comes finds it free, and close."""
        # The server ends the session some time after it was told, and the lock would go only then.
        with suppress(SchedulerPersistenceError), server_errors(f"leaving {self._claim.place}"):
            self._connection.execute(b"SELECT pg_advisory_unlock(%s, %s)", (self._claim.lock_class, self.epoch))
        self.close()

    def close(self) -> None:
        """Close the connection, of which nothing more is expected."""
        self._connection.close()


def claim_store(claim: Claim, *, create: bool, takeover: bool) -> Session:
    """Found or migrate the store, take the next epoch, and return its session.

    Raises ``StoreLockedError`` while the session of another writer lives, unless ``takeover`` ends it.
    """
    connection, level = claim.target.connect(claim.session)
    try:
        with server_errors(f"opening {claim.place}"):
            connection.execute(b"BEGIN")
            connection.execute(f"SET LOCAL synchronous_commit TO {'on' if level == 'off' else level}".encode())
            connection.execute(b"SELECT pg_advisory_xact_lock(%s, %s)", (claim.lock_class, _DOOR))
            _migrate(claim, connection, create=create)
            row = connection.execute(HOLDER).fetchone()
            assert row is not None
            epoch, holder, session, since = row
            key = (claim.lock_class, epoch)
            is_free = connection.execute(b"SELECT pg_try_advisory_xact_lock(%s, %s)", key).fetchone() == (True,)
            if takeover:
                _end_sessions(connection, session)
            elif not is_free:
                raise StoreLockedError(
                    f"{claim.place} is open for writing by {holder} since {since}: close it there, or, where that is "
                    "dead but the server has not noticed, open with takeover=True"
                )
            row = connection.execute(TAKE_OVER, (claim.holder, claim.session)).fetchone()
            assert row is not None
            connection.execute(b"SELECT pg_advisory_lock(%s, %s)", (claim.lock_class, row[0]))
            fsync = connection.execute(b"SHOW fsync").fetchone()
            connection.execute(b"COMMIT")
    except BaseException:
        connection.close()
        raise
    if fsync != ("on",):
        _logger.warning("%s has fsync = off: nothing that it says to be durable is", claim.target.name)
    return Session(claim, connection, level, row[0], 0)


def reclaim(claim: Claim, epoch: int) -> Session:
    """Return a new session of the epoch, once what is left of the one before has ended.

    Raises ``FencedError``, ``StorePoisonedError``, ``ServerUnreachableError`` and ``StorageError`` as ``apply``.
    """
    connection, level = claim.target.connect(claim.session)
    try:
        with server_errors(f"coming back to {claim.place}"):
            connection.execute(b"BEGIN")
            connection.execute(b"SELECT pg_advisory_xact_lock(%s, %s)", (claim.lock_class, _DOOR))
            _sequence_of(claim, connection, epoch)
            _end_sessions(connection, claim.session)
            # A lost session holds it until its end, so from here on no transaction of it is under way.
            connection.execute(b"SELECT pg_advisory_lock(%s, %s)", (claim.lock_class, epoch))
            sequence = _sequence_of(claim, connection, epoch)
            connection.execute(b"COMMIT")
    except BaseException:
        connection.close()
        raise
    return Session(claim, connection, level, epoch, sequence)


def check_version(claim: Claim, connection: Connection) -> int | None:
    """Return the version of the tables, or None where there are none.

    Raises ``NewerFormatError``, and ``StoreNotFoundError`` for a schema with other things in it.
    """
    schema = claim.target.schema
    row = connection.execute(b"SELECT to_regclass(%s) IS NOT NULL", (f"{schema}.store",)).fetchone()
    if row == (True,):
        version = connection.execute(VERSION).fetchone()
        newest = len(MIGRATIONS)
        if version is None or version[0] > newest:
            raise NewerFormatError(
                f"{claim.place} has tables of version {version and version[0]}, and this release knows up to {newest}: "
                "open it with the release that made them"
            )
        return int(version[0])
    others = connection.execute(
        b"SELECT relname FROM pg_class WHERE relnamespace = to_regnamespace(%s) LIMIT 1", (schema,)
    ).fetchone()
    if others is not None:
        raise StoreNotFoundError(f"{claim.place} holds other things ({others[0]}) and no store: name another schema")
    return None


def _migrate(claim: Claim, connection: Connection, *, create: bool) -> None:
    version = check_version(claim, connection)
    if version is None and not create:
        raise StoreNotFoundError(f"there is no store in {claim.place}: open it with create=True to make one")
    if version is None:
        create_schema(connection, claim.target.schema)
    for migration in MIGRATIONS[version or 0 :]:
        connection.execute(migration)
    if version != len(MIGRATIONS):
        connection.execute(SET_VERSION, (len(MIGRATIONS),))


def _end_sessions(connection: Connection, session: str) -> None:
    connection.execute(
        b"SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        b"WHERE application_name = %s AND pid <> pg_backend_pid()",
        (session,),
    )


def _sequence_of(claim: Claim, connection: Connection, epoch: int) -> int:
    """Return the number of the last batch. Raises where the epoch is another one."""
    row = connection.execute(HOLDER).fetchone()
    position = connection.execute(POSITION).fetchone()
    if row is None or position is None or position[0] < epoch:
        raise StorePoisonedError(
            f"{claim.place} has gone back behind this opening, as after a failover to a replica that was behind: what "
            "was acknowledged may be gone. Open it again, and compare."
        )
    if position[0] > epoch:
        raise FencedError(f"{row[1]} has taken over {claim.place} since {row[3]}: this one may not write any more")
    return int(position[1])
