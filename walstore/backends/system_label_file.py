"""``background_jobs.json``, in which uni-db itself keeps its background jobs: read as a whole, or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from reprlib import repr as short
from typing import Final

from walstore.backends.system_label_rows import instant_of_unidb, schedule_of_unidb
from walstore.engine.founding import found_store
from walstore.errors import SchedulerPersistenceError, StoreNotFoundError, storage_errors
from walstore.model.names import QName
from walstore.model.records import SchedulerJobRecord, SchedulerJobStatus, state_of
from walstore.options import WalOptions
from walstore.wal import JOBS, WalPersistence, os_environment

__all__ = ["import_file", "read_file"]

_IN_DATABASE: Final = Path("_system", "background_jobs.json")
_KEYS: Final = {
    "qname",
    "status",
    "consecutive_failures",
    "schedule",
    "next_fire_at",
    "last_started_at",
    "last_finished_at",
}


def import_file(source: str, target: str) -> int:
    """Make a new store at ``target`` of the jobs that uni-db keeps in ``source``; return how many.

    ``source`` is a ``background_jobs.json``, or the directory of a database with one; it is only read. ``target`` does
    not exist, or is an empty directory. On return the store is on the device and was read back; a crash before that
    leaves no store.

    Raises ``SchedulerPersistenceError`` when something in the file is no job, and ``StorageError`` when ``target``
    holds something or can't be written.
    """
    records = sorted(read_file(source), key=lambda record: str(record.id))
    with storage_errors(f"finding the directory that {target} is relative to"):
        directory = str(Path(target).absolute())
    states = ((str(record.id), state_of(record)) for record in records)
    found_store(os_environment(), directory, JOBS, states, WalOptions().segment_bytes_min)
    with WalPersistence(directory, read_only=True) as store:
        if list(store.iter_jobs()) != records:
            raise SchedulerPersistenceError(f"{target} does not read back as what {source} holds: remove it")
    return len(records)


def read_file(source: str) -> list[SchedulerJobRecord]:
    """Return the jobs in a ``background_jobs.json``, or in the one of a database. Cancelled ones are left out.

    Raises ``StoreNotFoundError`` where there is no file, ``StorageError``, and ``SchedulerPersistenceError`` when
    something in it is no job: nothing is passed over.
    """
    path = Path(source)
    with storage_errors(f"reading {source}"):
        path = path / _IN_DATABASE if path.is_dir() else path
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            raise StoreNotFoundError(f"there is no file {path}: uni-db keeps its jobs in {_IN_DATABASE}") from None
    try:
        jobs = json.loads(content)
        if not isinstance(jobs, list):
            raise TypeError(f"a list of jobs is expected, not {short(jobs)}")
        found = [_record(job) for job in jobs]
    except (TypeError, ValueError, RecursionError) as error:
        raise SchedulerPersistenceError(
            f"{path} can't be read as uni-db's background jobs ({error}). Nothing was imported: correct it in a copy, "
            "and import that."
        ) from error
    names = {record.id for record in found}
    if len(names) != len(found):
        raise SchedulerPersistenceError(f"{path} has two jobs of one name: correct it in a copy, and import that.")
    return [record for record in found if record.status is not SchedulerJobStatus.CANCELLED]


def _record(job: object) -> SchedulerJobRecord:
    if not isinstance(job, dict) or not isinstance(job.get("qname"), str):
        raise TypeError(f"not a job: {short(job)}")
    try:
        # What is not known here would be lost.
        if unknown := sorted(job.keys() - _KEYS):
            raise ValueError(f"not a part of a job: {short(unknown)}")
        return SchedulerJobRecord(
            QName.parse(job["qname"]),
            SchedulerJobStatus(job.get("status")),
            instant_of_unidb(job.get("next_fire_at")),
            instant_of_unidb(job.get("last_started_at")),
            instant_of_unidb(job.get("last_finished_at")),
            job.get("consecutive_failures", 0),
            schedule_of_unidb(job.get("schedule")),
        )
    except (TypeError, ValueError) as error:
        raise ValueError(f"job {short(job['qname'])}: {error}") from error
