"""Connections to PostgreSQL: how they are made, what their errors mean, and what becomes of them in a forked child."""

from __future__ import annotations

import logging
import os
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final, TypeVar

from walstore.backends.postgres_schema import schema_name
from walstore.errors import StorageError, StorageFullError, UnsupportedPlatformError
from walstore.fs.os_process import call_in_forked_child

try:
    import psycopg
    from psycopg import sql
    from psycopg.conninfo import conninfo_to_dict, make_conninfo
except ImportError as missing:
    raise ImportError(f"{missing}: walstore.backends.postgres needs it, pip install 'walstore[postgres]'") from missing

__all__ = ["Connection", "ServerUnreachableError", "Target", "create_schema", "retrying", "rollback", "server_errors"]

_logger = logging.getLogger("walstore")
T = TypeVar("T")
Connection = psycopg.Connection[tuple[Any, ...]]

# The bounds within which a dead network is noticed, where the DSN and the environment say nothing else.
_NETWORK: Final = {
    "connect_timeout": "10",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "30000",
}
_SETTINGS: Final = b"""
    SET client_encoding TO 'UTF8';
    SET synchronous_commit TO off;
    SET default_transaction_isolation TO 'read committed';
    SET default_transaction_read_only TO off;
    SET statement_timeout TO 0;
    SET lock_timeout TO '10s';
    SET idle_in_transaction_session_timeout TO '30s'
"""
"""A writer that stalls within a transaction must not keep others from taking over for longer than that."""
_FULL: Final = "53100"
# Connection failures, insufficient resources, what an operator or a restart does, and conflicts of transactions; and
# what a server says that has become a standby. Trying again, on another connection, may help.
_PASSING_CLASSES: Final = frozenset({"08", "40", "53", "57"})
_PASSING: Final = frozenset({"25006", "25P03", "55P03", "55006"})

# The driver tells its own logger of each connection that is lost. Here that is an error or a warning anyway, and an
# application that has set up no logging is to hear nothing.
logging.getLogger("psycopg").addHandler(logging.NullHandler())

_NS_PER_S: Final = 1_000_000_000
_FIRST_PAUSE_NS: Final = 10_000_000
_LONGEST_PAUSE_NS: Final = 1_000_000_000

_connections: weakref.WeakSet[Connection] = weakref.WeakSet()


class ServerUnreachableError(StorageError):
    """The connection is lost, or the server can't serve at the moment: trying again may help."""


class Target:
    """A schema of a database to connect to."""

    def __init__(self, dsn: str, schema: str) -> None:
        """Raise ``TypeError`` or ``ValueError`` for a ``dsn`` that libpq can't parse, or a ``schema`` with quotes."""
        self.schema = schema_name(schema)
        if not isinstance(dsn, str):
            raise TypeError(f"dsn must be a str, not {type(dsn).__name__}")
        try:
            given = conninfo_to_dict(dsn)
        except psycopg.ProgrammingError as error:
            # Its text may quote the password.
            raise ValueError("dsn is no connection string that libpq can parse: postgresql://HOST/DATABASE") from error
        self._conninfo = make_conninfo(dsn, **{key: value for key, value in _NETWORK.items() if key not in given})
        database = f"database {given.get('dbname', 'of the user')} at {given.get('host', 'the local server')}"
        self.name = f"schema {schema} of the {database}"
        """For messages."""

    def connect(self, application: str) -> tuple[Connection, str]:
        """Return a new connection, in autocommit, and the server's own setting of ``synchronous_commit``."""
        with server_errors(f"connecting to the {self.name}"):
            connection = psycopg.connect(self._conninfo, autocommit=True, application_name=application)
            _connections.add(connection)
            try:
                encoding = connection.info.parameter_status("server_encoding")
                if encoding != "UTF8":
                    raise UnsupportedPlatformError(
                        f"the {self.name}: the encoding {encoding} can't hold every name. Make a database with the "
                        "encoding UTF8."
                    )
                level = connection.execute(b"SHOW synchronous_commit").fetchone()
                connection.execute(_SETTINGS)
                connection.execute(b"SELECT set_config('search_path', %s, false)", (self.schema,))
            except BaseException:
                connection.close()
                raise
        assert level is not None
        return connection, str(level[0])


def create_schema(connection: Connection, schema: str) -> None:
    """Create the schema where there is none."""
    connection.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(schema)))


def rollback(connection: Connection) -> None:
    """End what is left of a transaction. A connection on which that fails is closed."""
    try:
        if connection.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
            connection.execute(b"ROLLBACK")
    except psycopg.Error:
        connection.close()


@contextmanager
def server_errors(doing: str) -> Iterator[None]:
    """Turn an error of the driver that comes out of the block into one of the tree."""
    try:
        yield
    except psycopg.Error as error:
        raise _storage_error(error, doing) from error


def retrying(action: Callable[[], T], retry_ns: int) -> T:
    """Return what ``action`` returns. While the server can't be reached, try again for about ``retry_ns``, then raise.

    The pauses in between grow from 10 ms to 1 s.
    """
    deadline_ns = time.monotonic_ns() + retry_ns
    pause_ns = _FIRST_PAUSE_NS
    while True:
        try:
            return action()
        except ServerUnreachableError as error:
            if time.monotonic_ns() + pause_ns > deadline_ns:
                raise
            _logger.warning("%s It is tried again.", error)
        time.sleep(pause_ns / _NS_PER_S)
        pause_ns = min(2 * pause_ns, _LONGEST_PAUSE_NS)


def _storage_error(error: psycopg.Error, doing: str) -> StorageError:
    reason = " ".join(str(error).split()) or type(error).__name__
    state = error.sqlstate or ""
    if state == _FULL:
        return StorageFullError(
            f"no space left on the server while {doing} ({reason}). This call recorded nothing: free some space there "
            "and call again."
        )
    is_lost = not state and isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError))
    if is_lost or state[:2] in _PASSING_CLASSES or state in _PASSING:
        return ServerUnreachableError(f"{reason} while {doing}. Check the server and the network, then try again.")
    return StorageError(f"{reason} while {doing}. Check the rights of the role and the log of the server.")


def _abandon_after_fork() -> None:
    """End the connections of the parent here, in a forked child, without a word to the server.

    Left open, they would keep the session of a dead writer alive for as long as the child lives.
    """
    nowhere = os.open(os.devnull, os.O_RDWR)
    for connection in list(_connections):
        with suppress(OSError, psycopg.Error):
            # What the driver says in parting goes there instead of to the server.
            os.dup2(nowhere, connection.fileno())
            connection.pgconn.finish()
    _connections.clear()
    os.close(nowhere)


call_in_forked_child(_abandon_after_fork)
