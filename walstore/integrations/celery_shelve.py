"""The schedule file of Celery's own beat scheduler: a shelve, imported on request, and never overwritten."""

from __future__ import annotations

import shelve
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from walstore.errors import SchedulerPersistenceError, StoreNotFoundError
from walstore.integrations.celery_blob import KIND, encode, key_of
from walstore.integrations.entries import EntryStore

__all__ = ["import_shelve", "refuse_shelve"]

_SUFFIXES: Final = ("", ".db", ".dat", ".dir", ".pag", "-wal")
"""What the kinds of dbm append to the name of a file."""


def import_shelve(source: str, target: str) -> int:
    """Copy the schedule file ``source`` of Celery's own scheduler into a new store ``target``; return how many entries.

    All entries are imported, or none. The source is not changed. It is a pickle, and reading one runs what it says:
    give only a file that beat itself wrote. Celery must be installed, and whatever classes the entries are of.

    Raises ``SchedulerPersistenceError`` when the source can't be read as a whole or the target has entries already, and
    what ``EntryStore`` raises.
    """
    entries = _read(source)
    with EntryStore(target, kind=KIND) as store:
        if store.found:
            raise SchedulerPersistenceError(
                f"{target} has {len(store.found)} entries already: import into a store that does not exist yet"
            )
        store.put_many(entries)
        store.sync()
    return len(entries)


def refuse_shelve(directory: Path) -> None:
    """Raise ``StoreNotFoundError`` where a new store would take the name of a schedule file of Celery's own scheduler.

    Starting with an empty store beside it would forget when everything last ran, and nobody would notice.
    """
    if directory.is_dir():
        return
    if files := _files(directory):
        raise StoreNotFoundError(
            f"{files[0]} looks like a schedule file of Celery's own scheduler, and {directory} is no store: import it "
            f"(`walstore import celery {directory} TARGET`) and name TARGET with --schedule, or move the file away to "
            "start without it"
        )


def _files(path: Path) -> list[Path]:
    files = (path.with_name(path.name + suffix) for suffix in _SUFFIXES)
    return [file for file in files if file.is_file()]


def _read(source: str) -> list[tuple[str, bytes, None]]:
    try:
        # A copy is read, since some kinds of dbm write to what they read.
        with TemporaryDirectory() as folder:
            for file in _files(Path(source)):
                shutil.copy(file, folder)
            copy = str(Path(folder, Path(source).name))
            with shelve.open(copy, flag="r") as shelf:  # noqa: S301  # The user asks for it; see the contract.
                entries, timezone, enable_utc = shelf["entries"], shelf["tz"], bool(shelf["utc_enabled"])
        timezone = None if timezone is None else str(timezone)
        return [(key_of(name), encode(entry, timezone, enable_utc), None) for name, entry in entries.items()]
    except Exception as error:
        # Unpickling raises whatever it likes, and gives whatever it likes.
        raise SchedulerPersistenceError(
            f"{source} can't be read as a schedule file of Celery beat ({type(error).__name__}: {error}); nothing was "
            "imported. Name the file as beat does, without a suffix, and stop the beat that uses it."
        ) from error
