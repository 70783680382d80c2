"""Peers that store Python objects, most of them all jobs at once: ZODB, Celery beat's shelve, a JSON file."""

from __future__ import annotations

import json
import shelve
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Final

from bench.target import POWER_LOSS, PROCESS_DEATH, Target
from bench.workloads import State

__all__ = ["WHOLE_PEERS", "BeatShelve", "JsonFile"]

_STATUSES: Final = ("Pending", "Running", "Idle", "FailedRetrying")
_NS_PER_S: Final = 1_000_000_000


class Zodb(Target):
    """ZODB on a FileStorage, which syncs each commit, with the jobs in a BTree."""

    name = "ZODB FileStorage"
    survives = POWER_LOSS

    def __init__(self, directory: Path) -> None:
        storage = import_module("ZODB.FileStorage").FileStorage(str(directory / "jobs.fs"))
        self._db = import_module("ZODB").DB(storage)
        # A manager of its own: the one of the thread would outlive this database.
        self._transactions = import_module("transaction").TransactionManager()
        self._connection = self._db.open(self._transactions)
        self._jobs = self._connection.root()["jobs"] = import_module("BTrees.OOBTree").OOBTree()
        self._transactions.commit()

    def record(self, job: str, state: State) -> None:
        self._jobs[job] = state
        self._transactions.commit()

    def forget(self, job: str) -> None:
        del self._jobs[job]
        self._transactions.commit()

    def record_many(self, rows: Sequence[tuple[str, State]]) -> None:
        self._jobs.update(rows)
        self._transactions.commit()

    def close(self) -> None:
        self._connection.close()
        self._db.close()


class BeatShelve(Target):
    """What Celery beat's scheduler does: one dictionary of all entries in a shelve, synced, here after each event."""

    name = "Celery beat's shelve"
    survives = PROCESS_DEATH

    def __init__(self, directory: Path) -> None:
        self._shelf: shelve.Shelf[dict[str, State]] = shelve.open(str(directory / "schedule"), writeback=True)  # noqa: SIM115
        self._shelf["entries"] = {}
        self._entries = self._shelf["entries"]

    def record(self, job: str, state: State) -> None:
        self._entries[job] = state
        self._shelf.sync()
        # What is synced leaves the cache, and only what is in the cache is written the next time.
        self._entries = self._shelf["entries"]

    def forget(self, job: str) -> None:
        del self._entries[job]
        self._shelf.sync()
        self._entries = self._shelf["entries"]

    def record_many(self, rows: Sequence[tuple[str, State]]) -> None:
        self._entries.update(rows)
        self._shelf.sync()
        self._entries = self._shelf["entries"]

    def close(self) -> None:
        self._shelf.close()


class JsonFile(Target):
    """What the system did that walstore replaces: a JSON file of all jobs, written anew for each event, not synced."""

    name = "JSON file rewritten"
    survives = PROCESS_DEATH

    def __init__(self, directory: Path) -> None:
        self._path = directory / "background_jobs.json"
        self._new_path = directory / "background_jobs.json.new"
        self._jobs: dict[str, dict[str, object]] = {}

    def record(self, job: str, state: State) -> None:
        self._jobs[job] = _json_row(job, state)
        self._write()

    def forget(self, job: str) -> None:
        del self._jobs[job]
        self._write()

    def record_many(self, rows: Sequence[tuple[str, State]]) -> None:
        self._jobs.update({job: _json_row(job, state) for job, state in rows})
        self._write()

    def close(self) -> None:
        self._jobs.clear()

    def _write(self) -> None:
        self._new_path.write_text(json.dumps(list(self._jobs.values())), "utf-8")
        self._new_path.replace(self._path)


def _json_row(job: str, state: State) -> dict[str, object]:
    status, next_fire, started, finished, failures, kind, value = state
    return {
        "qname": job,
        "status": _STATUSES[status],
        "consecutive_failures": failures,
        "schedule": _json_schedule(kind, value),
        "next_fire_at": _json_instant(next_fire),
        "last_started_at": _json_instant(started),
        "last_finished_at": _json_instant(finished),
    }


def _json_schedule(kind: int, value: int | str | None) -> object:
    if isinstance(value, int):
        return {("Manual", "Once", "Periodic")[kind]: _json_span(value, "secs", "nanos")}
    return {"Cron": value} if value is not None else "Manual"


def _json_instant(at_ns: int | None) -> object:
    return None if at_ns is None else _json_span(at_ns, "secs_since_epoch", "nanos_since_epoch")


def _json_span(ns: int, seconds: str, rest: str) -> dict[str, int]:
    return {seconds: ns // _NS_PER_S, rest: ns % _NS_PER_S}


WHOLE_PEERS: Final[tuple[type[Target], ...]] = (Zodb, BeatShelve, JsonFile)
"""All of them."""
