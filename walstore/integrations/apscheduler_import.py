"""Jobs from the table of APScheduler's own SQLAlchemy store, in an SQLite file, to a store of ``WalJobStore``.

Needs neither APScheduler nor SQLAlchemy, and runs no code of the jobs: their states are copied as they are.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from walstore.errors import StorageError
from walstore.integrations.entry_import import found_entry_store

__all__ = ["import_sqlite"]

_KIND = "aps/1"
_US_PER_S = 1_000_000
_TIME_MAX_S = 253_402_300_800
"""The end of the year 9999."""


def import_sqlite(source: str, target: str, *, table: str = "apscheduler_jobs") -> int:
    """Copy all jobs of an SQLite file into a new store, whole or not at all; return how many there are.

    ``target`` is the path of a directory that is empty or does not exist yet. The scheduler that uses ``source`` must
    be stopped, or it goes on with jobs of its own. Raises ``StorageError`` when a file can't be read or written or
    ``target`` holds something, and ``ValueError`` when ``source`` has no such table, or a job that can't be stored.
    """
    with closing(_open(source)) as database:
        try:
            return found_entry_store(target, kind=_KIND, entries=_rows(database, source, table))
        except sqlite3.Error as error:
            raise _unreadable(source, error) from error


def _open(source: str) -> sqlite3.Connection:
    path = Path(source).absolute()
    try:
        with path.open("rb"):
            """SQLite itself only says that it was unable to."""
        return sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)
    except OSError as error:
        raise StorageError(f"{source} can't be opened ({error.strerror}): check the path", error.errno) from error
    except sqlite3.Error as error:
        raise _unreadable(source, error) from error


def _unreadable(source: str, error: sqlite3.Error) -> StorageError:
    return StorageError(
        f"{source} can't be read ({error}): check that it is an SQLite file. One whose last writer was killed has to "
        "be opened once by APScheduler or the `sqlite3` command, which roll back what was half done"
    )


def _rows(database: sqlite3.Connection, source: str, table: str) -> Iterator[tuple[str, bytes, int | None]]:
    """Yield id, state and next run of every job, in one transaction."""
    quoted = '"' + table.replace('"', '""') + '"'
    columns = {column for _, column, *_ in database.execute(f"PRAGMA table_info({quoted})")}
    if not {"id", "next_run_time", "job_state"} <= columns:
        raise ValueError(
            f"{source} has no table {table} of APScheduler's (with id, next_run_time and job_state): give the file, "
            "and the table, of its SQLAlchemyJobStore"
        )
    query = f"SELECT id, next_run_time, job_state FROM {quoted}"  # noqa: S608  # It is quoted.
    for job_id, next_run_s, state in database.execute(query):
        is_known = isinstance(job_id, str) and isinstance(state, bytes)
        if not is_known or not (next_run_s is None or (type(next_run_s) is float and abs(next_run_s) < _TIME_MAX_S)):
            raise ValueError(
                f"the job {job_id!r} of {source} is none that APScheduler writes (next_run_time: {next_run_s!r}, "
                f"job_state: {type(state).__name__}): nothing was imported"
            )
        yield job_id, state, None if next_run_s is None else round(next_run_s * _US_PER_S)
