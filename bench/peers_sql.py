"""Peers on SQLite: the standard library's module, apsw, and three libraries that keep their state in it.

Where we choose, the settings are those that make it fastest without giving up what the row says: WAL, one exclusive
connection, statements that stay prepared, 64 MB of cache, a table that is its own index.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Final

import msgpack

from bench.target import POWER_LOSS, PROCESS_DEATH, Target
from bench.workloads import State
from walstore import SchedulerJobRecord
from walstore.model.records import record_of

__all__ = ["SQL_PEERS", "SqliteFull", "SqliteNormal", "SqliteShared"]

_TABLE: Final = (
    "CREATE TABLE jobs (id TEXT PRIMARY KEY, status INT, next_fire INT, started INT, finished INT, failures INT, "
    "kind INT, value) WITHOUT ROWID"
)
_UPSERT: Final = (
    "INSERT INTO jobs VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET status = excluded.status, "
    "next_fire = excluded.next_fire, started = excluded.started, finished = excluded.finished, "
    "failures = excluded.failures, kind = excluded.kind, value = excluded.value"
)
_DELETE: Final = "DELETE FROM jobs WHERE id = ?"
_SELECT: Final = "SELECT id, status, next_fire, started, finished, failures, kind, value FROM jobs"


def _pragmas(synchronous: str, locking: str = "EXCLUSIVE") -> tuple[str, ...]:
    return (
        f"PRAGMA locking_mode = {locking}",
        "PRAGMA journal_mode = WAL",
        f"PRAGMA synchronous = {synchronous}",
        "PRAGMA cache_size = -65536",
        "PRAGMA temp_store = MEMORY",
    )


class _Sqlite(Target):
    synchronous: ClassVar[str]

    def __init__(self, directory: Path) -> None:
        # The statement cache of the connection keeps the statements prepared; no isolation level means autocommit.
        self._connection = sqlite3.connect(directory / "jobs.db", isolation_level=None, check_same_thread=False)
        for pragma in _pragmas(self.synchronous):
            self._connection.execute(pragma)
        self._connection.execute(_TABLE)
        self._execute = self._connection.execute

    def record(self, job: str, state: State) -> None:
        self._execute(_UPSERT, (job, *state))

    def forget(self, job: str) -> None:
        self._execute(_DELETE, (job,))

    def record_many(self, rows: Sequence[tuple[str, State]]) -> None:
        self._execute("BEGIN")
        self._connection.executemany(_UPSERT, [(job, *state) for job, state in rows])
        self._execute("COMMIT")

    def sync(self) -> None:
        self._execute("PRAGMA wal_checkpoint(FULL)")

    def load_all(self) -> list[SchedulerJobRecord]:
        """Build the records that walstore's load_all gives."""
        return [
            record_of(
                job, (status, next_fire, started, finished, failures, (kind,) if value is None else (kind, value))
            )
            for job, status, next_fire, started, finished, failures, kind, value in self._execute(_SELECT)
        ]

    def close(self) -> None:
        self._connection.close()


class SqliteNormal(_Sqlite):
    """SQLite that syncs at checkpoints only."""

    name = "sqlite3 WAL NORMAL"
    survives = PROCESS_DEATH
    synchronous = "NORMAL"


class SqliteFull(_Sqlite):
    """SQLite that syncs each transaction."""

    name = "sqlite3 WAL FULL"
    survives = POWER_LOSS
    synchronous = "FULL"


class SqliteShared(SqliteFull):
    """The same for many threads: they take turns on one connection, which spares them the waiting for SQLite's lock."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._turn = threading.Lock()

    def record(self, job: str, state: State) -> None:
        with self._turn:
            self._execute(_UPSERT, (job, *state))


class _Apsw(Target):
    synchronous: ClassVar[str]

    def __init__(self, directory: Path) -> None:
        self._connection = import_module("apsw").Connection(str(directory / "jobs.db"))
        cursor = self._connection.cursor()
        for statement in (*_pragmas(self.synchronous), _TABLE):
            cursor.execute(statement)
        self._execute = cursor.execute
        self._executemany = cursor.executemany

    def record(self, job: str, state: State) -> None:
        self._execute(_UPSERT, (job, *state))

    def forget(self, job: str) -> None:
        self._execute(_DELETE, (job,))

    def record_many(self, rows: Sequence[tuple[str, State]]) -> None:
        self._execute("BEGIN")
        self._executemany(_UPSERT, [(job, *state) for job, state in rows])
        self._execute("COMMIT")

    def sync(self) -> None:
        self._execute("PRAGMA wal_checkpoint(FULL)")

    def close(self) -> None:
        self._connection.close()


class ApswNormal(_Apsw):
    """apsw that syncs at checkpoints only."""

    name = "apsw WAL NORMAL"
    survives = PROCESS_DEATH
    synchronous = "NORMAL"


class ApswFull(_Apsw):
    """apsw that syncs each transaction."""

    name = "apsw WAL FULL"
    survives = POWER_LOSS
    synchronous = "FULL"


class PersistQueue(Target):
    """The dictionary of persist-queue, which commits each assignment; it offers no setting."""

    name = "persist-queue PDict"
    survives = POWER_LOSS

    def __init__(self, directory: Path) -> None:
        self._jobs = import_module("persistqueue").PDict(str(directory), "jobs")

    def record(self, job: str, state: State) -> None:
        self._jobs[job] = state

    def forget(self, job: str) -> None:
        del self._jobs[job]

    def close(self) -> None:
        self._jobs.close()


class DiskCache(Target):
    """diskcache without eviction, given bytes, which it stores as they are."""

    name = "diskcache"
    survives = PROCESS_DEATH

    def __init__(self, directory: Path) -> None:
        self._cache = import_module("diskcache").Cache(str(directory), eviction_policy="none")
        self._pack = msgpack.Packer().pack

    def record(self, job: str, state: State) -> None:
        self._cache.set(job, self._pack(state))

    def forget(self, job: str) -> None:
        self._cache.delete(job)

    def record_many(self, rows: Sequence[tuple[str, State]]) -> None:
        with self._cache.transact():
            super().record_many(rows)

    def close(self) -> None:
        self._cache.close()


def no_work() -> None:
    """What the jobs of APScheduler run."""


class ApScheduler(Target):
    """APScheduler's job store on SQLite, told to use a WAL; the record is the job's argument."""

    name = "APScheduler SQLite, WAL NORMAL"
    survives = PROCESS_DEATH

    def __init__(self, directory: Path) -> None:
        sqlalchemy = import_module("sqlalchemy")
        engine = sqlalchemy.create_engine(f"sqlite:///{directory / 'jobs.db'}")

        def tune(connection: sqlite3.Connection, _: object) -> None:
            # Its engine opens more than one connection, so that none can have the file for itself.
            for pragma in _pragmas("NORMAL", locking="NORMAL"):
                connection.execute(pragma).close()

        sqlalchemy.event.listen(engine, "connect", tune)
        self._store = import_module("apscheduler.jobstores.sqlalchemy").SQLAlchemyJobStore(engine=engine)
        self._store.start(None, "default")
        self._new_job = import_module("apscheduler.job").Job
        self._trigger = import_module("apscheduler.triggers.interval").IntervalTrigger(hours=1, timezone=UTC)
        self._jobs: dict[str, Any] = {}

    def record(self, job: str, state: State) -> None:
        kept = self._jobs.get(job)
        is_new = kept is None
        if kept is None:
            options = {"misfire_grace_time": 1, "coalesce": True, "max_instances": 1, "executor": "default"}
            options |= {"func": no_work, "args": (), "kwargs": {}, "trigger": self._trigger}
            kept = self._jobs[job] = self._new_job(None, id=job, **options)
        next_fire_ns = state[1]
        kept.next_run_time = None if next_fire_ns is None else datetime.fromtimestamp(next_fire_ns / 1e9, UTC)
        kept.kwargs = {"record": state}
        if is_new:
            self._store.add_job(kept)
        else:
            self._store.update_job(kept)

    def forget(self, job: str) -> None:
        del self._jobs[job]
        self._store.remove_job(job)

    def close(self) -> None:
        self._store.shutdown()


SQL_PEERS: Final[tuple[type[Target], ...]] = (
    SqliteNormal,
    SqliteFull,
    ApswNormal,
    ApswFull,
    DiskCache,
    PersistQueue,
    ApScheduler,
)
"""All of them, but for the variant for threads."""
