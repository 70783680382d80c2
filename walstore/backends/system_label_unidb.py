"""``SystemLabelPersistence`` on the package ``uni-db``: opening a database, and running statements on an open one."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Protocol, TypeVar, cast

from walstore.backends.system_label import WRITES, ExecuteInnerQuery, SystemLabelPersistence
from walstore.engine.opening import describe_holder, sign_lock
from walstore.errors import (
    ForkedProcessError,
    SchedulerPersistenceError,
    StorageError,
    StoreClosedError,
    StoreLockedError,
    StoreNotFoundError,
    storage_errors,
)
from walstore.format.filenames import LOCK_NAME
from walstore.fs.api import FileSystem, Lock
from walstore.options import Durability
from walstore.wal import os_environment

__all__ = ["Database", "inner_query", "open_unidb", "sync_file_system"]

T = TypeVar("T")

_LOCK_DIRECTORY = "_walstore"
"""Where in a database the lock lies, beside uni-db's own ``_system``."""
_STORAGE = "storage"
"""What uni-db makes first in the directory of a database."""


class _Row(Protocol):
    def to_dict(self) -> dict[str, object]: ...


class _Transaction(Protocol):
    def query(self, cypher: str, parameters: dict[str, object]) -> Iterable[_Row]: ...


class _Session(Protocol):
    def query(self, cypher: str, parameters: dict[str, object]) -> Iterable[_Row]: ...


class Database(Protocol):
    """An open database of uni-db: what is used of its class ``Uni``."""

    def session(self) -> _Session:
        """Return a new session."""
        ...

    def shutdown(self) -> None:
        """Close the database."""
        ...


class _Builder(Protocol):
    def read_only(self) -> _Builder: ...

    def build(self) -> Database: ...


class _Openers(Protocol):
    def open(self, path: str) -> Database: ...

    def open_existing(self, path: str) -> Database: ...


class _Builders(Protocol):
    def open_existing(self, path: str) -> _Builder: ...


class _UniDb(Protocol):
    Uni: _Openers
    UniBuilder: _Builders
    UniError: type[Exception]
    UniDatabaseLockedError: type[Exception]
    UniNotFoundError: type[Exception]

    def transact_with_retry(
        self, session: _Session, function: Callable[[_Transaction], list[dict[str, object]]]
    ) -> list[dict[str, object]]: ...


def open_unidb(
    place: str,
    *,
    durability: Durability = Durability.PROCESS,
    create: bool = True,
    read_only: bool = False,
    clock: Callable[[], int] = time.time_ns,
) -> SystemLabelPersistence:
    """Open the uni-db database in the directory ``place`` and keep jobs in its label ``_BackgroundJob``.

    uni-db syncs each commit, so every ``durability`` is the same here; see docs/backends.md for what that is worth.
    ``create=False`` requires that the database exists. ``read_only=True`` takes no lock and writes nothing; otherwise
    uni-db runs those of the database's own jobs that are due as soon as it is open.

    Raises ``StoreNotFoundError``, ``StoreLockedError`` where another persistence of walstore has the database open,
    ``SchedulerPersistenceError`` where ``uni-db`` can't be imported, and ``StorageError``.
    """
    if not isinstance(durability, Durability):
        raise TypeError(f"durability must be a Durability, not {durability!r}")
    if "://" in place:
        raise SchedulerPersistenceError(
            f"{place} is no directory of this machine, and a lock would not hold there: open the database with uni-db, "
            "and give SystemLabelPersistence the inner_query of it (walstore.backends.system_label_unidb)."
        )
    package = _package()
    with storage_errors(f"finding the directory that {place} is relative to"):
        directory = str(Path(place).absolute())
    _find_directory(os_environment().fs, directory, create=create and not read_only)
    if read_only:
        database = _asked(package, directory, lambda: package.UniBuilder.open_existing(directory).read_only().build())
        execute = _reading_only(inner_query(database), directory)
        return SystemLabelPersistence(execute, clock=clock, close=lambda: _asked(package, directory, database.shutdown))
    lock = _locked(directory)
    try:
        database = _asked(package, directory, lambda: package.Uni.open(directory))
    except BaseException:
        lock.release()
        raise

    def close() -> None:
        try:
            _asked(package, directory, database.shutdown)
            # It has moved rows out of its log.
            sync_file_system(directory)
        finally:
            lock.release()

    return SystemLabelPersistence(
        inner_query(database), clock=clock, sync=lambda: sync_file_system(directory), close=close
    )


def inner_query(database: Database) -> ExecuteInnerQuery:
    """Return what runs statements on an open database of uni-db, in a session of its own.

    A statement that writes is a transaction, and is repeated when another one got in its way. The process that opened
    the database is the one that may use it: in a forked child, ``ForkedProcessError`` is raised.
    """
    package = _package()
    session = database.session()
    process = os.getpid()

    def execute(cypher: str, parameters: Mapping[str, object]) -> Iterable[Mapping[str, object]]:
        if os.getpid() != process:
            raise ForkedProcessError("the database was opened before a fork, and this is the child: open it here")
        given = dict(parameters)
        if cypher not in WRITES:
            return (row.to_dict() for row in session.query(cypher, given))
        return package.transact_with_retry(session, lambda tx: [row.to_dict() for row in tx.query(cypher, given)])

    return execute


def _package() -> _UniDb:
    try:
        return cast("_UniDb", import_module("uni_db"))
    except ImportError as missing:
        raise SchedulerPersistenceError(
            f"unidb: can't be opened here ({missing}): pip install 'walstore[unidb]'"
        ) from missing


def _find_directory(fs: FileSystem, directory: str, *, create: bool) -> None:
    """Require the directory of a database; create it where asked to. uni-db takes any directory for a database."""
    with storage_errors(f"finding the database {directory}"):
        try:
            names = set(fs.list_directory(directory)) - {_LOCK_DIRECTORY}
        except FileNotFoundError:
            if not create:
                raise StoreNotFoundError(
                    f"there is no uni-db database at {directory}: check the path, or create one"
                ) from None
            fs.make_directory(directory)
            return
        except NotADirectoryError:
            raise StoreNotFoundError(f"{directory} is no directory: a uni-db database is one") from None
    if _STORAGE not in names and (names or not create):
        what = "holds other things" if names else "is empty"
        raise StoreNotFoundError(
            f"{directory} {what} and is no uni-db database; give the path of one, or of a directory that does not exist"
        )


def _asked(package: _UniDb, directory: str, ask: Callable[[], T]) -> T:
    """Return what uni-db answers; its errors become those of the contract."""
    try:
        return ask()
    except package.UniNotFoundError as error:
        raise StoreNotFoundError(
            f"there is no uni-db database at {directory}: check the path, or create one"
        ) from error
    except package.UniDatabaseLockedError as error:
        raise StoreLockedError(f"{directory} is open elsewhere ({error}): close it there") from error
    except package.UniError as error:
        raise StorageError(
            f"uni-db can't do this with {directory} ({error}): see to the database, then try again"
        ) from error


def _reading_only(execute: ExecuteInnerQuery, directory: str) -> ExecuteInnerQuery:
    def refuse_to_write(cypher: str, parameters: Mapping[str, object]) -> Iterable[Mapping[str, object]]:
        if cypher in WRITES:
            raise StoreClosedError(f"{directory} was opened read-only: open it without read_only to do this")
        return execute(cypher, parameters)

    return refuse_to_write


def _locked(directory: str) -> Lock:
    """Keep other persistences of walstore out: uni-db opens a database twice, and loses what one of the two writes."""
    environment = os_environment()
    home = f"{directory}/{_LOCK_DIRECTORY}"
    with storage_errors(f"locking the database {directory}"):
        if _LOCK_DIRECTORY not in environment.fs.list_directory(directory):
            environment.fs.make_directory(home)
        lock = environment.fs.lock(f"{home}/{LOCK_NAME}")
        if lock is None:
            raise StoreLockedError(
                f"{directory} is open for writing in {describe_holder(environment.fs, home)}. Close it there, or open "
                "it here with read_only=True."
            )
        try:
            sign_lock(environment, lock)
        except BaseException:
            lock.release()
            raise
    return lock


def sync_file_system(directory: str) -> None:
    """Return when all files of the file system of ``directory`` are on the device: also those that uni-db never syncs.

    Raises ``StorageError``.
    """
    with storage_errors(f"syncing the file system of {directory}"):
        descriptor = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
        try:
            syncfs = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
            if syncfs is None:
                # Not Linux. This syncs all file systems, and tells of no error.
                os.sync()
            elif syncfs(descriptor):
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number), directory)
        finally:
            os.close(descriptor)
