"""``EntryStore``: the entries of a foreign scheduler in a directory, as a log and snapshots.

What a scheduler of others is put on: it keeps its own idea of a job in a blob, and this keeps the blobs, finds the runs
that were cut off when the process died, and never throws away what it can't read.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from walstore.engine.environment import Environment, Plug
from walstore.engine.recovery import RecoveryReport
from walstore.engine.stats import StoreStats
from walstore.engine.store import Store
from walstore.engine.watch import unwatch, watch
from walstore.errors import SchedulerPersistenceError, StorePoisonedError, storage_errors
from walstore.integrations.entry_model import (
    DROPPED,
    FINISHED,
    REMOVED,
    STARTED,
    Entry,
    EntryCodec,
    EntryEvent,
    EntryReducer,
    EntryState,
    Run,
    check_key,
    check_number,
    entry_of,
    put_event,
)
from walstore.options import Durability, WalOptions
from walstore.wal import os_environment

__all__ = ["EntryStore", "OrphanedRun", "Quarantined", "now_us"]

T = TypeVar("T")
_BATCH = 10_000
"""As many events without a blob fit into a frame, whatever their keys."""
_logger = logging.getLogger("walstore")


@dataclass(frozen=True, slots=True)
class OrphanedRun:
    """A run that had begun and not ended when the process that made it was gone."""

    entry: Entry
    """The entry as it was found. Not ``is_present`` where it was removed meanwhile; its blob is there all the same."""
    run: Run


@dataclass(frozen=True, slots=True)
class Quarantined:
    """An entry that its scheduler can't read. It stays in the store until the scheduler's user removes it."""

    key: str
    blob: bytes
    reason: str


def now_us() -> int:
    """Return the current instant in microseconds since 1970."""
    return time.time_ns() // 1000


class EntryStore:
    """The entries of one scheduler, open for writing.

    Methods may be called from any thread; calls of one thread are recorded in their order. What an event survives once
    its call has returned is the ``durability``. All methods raise ``StoreClosedError`` after ``close``,
    ``StorePoisonedError`` after a sync has failed, ``ForkedProcessError`` in a child that was forked,
    ``StorageFullError`` and ``StorageError`` when the operating system refuses, having recorded nothing.

    Wrong arguments are ``TypeError`` and ``ValueError``, before anything is recorded.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        kind: str,
        durability: Durability = Durability.PROCESS,
        create: bool = True,
        options: WalOptions | None = None,
        environment: Environment | None = None,
        logger: logging.Logger = _logger,
    ) -> None:
        """Open the store in the directory ``path``, creating or recovering it.

        ``kind`` names the scheduler, in at most 8 ASCII characters (``"aps/1"``); a store of another kind is refused.
        ``logger`` is told what is quarantined.

        Raises ``StoreNotFoundError``, ``StoreLockedError``, ``CorruptionError``, ``NewerFormatError``,
        ``UnsupportedPlatformError``, ``StorageError``, and ``TypeError`` for wrong arguments.
        """
        if not isinstance(durability, Durability):
            raise TypeError(f"durability must be a Durability, not {durability!r}")
        options = options if options is not None else WalOptions()
        if not isinstance(options, WalOptions):
            raise TypeError(f"options must be WalOptions, not {options!r}")
        with storage_errors(f"finding the directory that {path} is relative to"):
            self._directory = str(Path(path).absolute())
        plug: Plug[EntryEvent, EntryState] = Plug(EntryCodec(kind), EntryReducer())
        environment = environment if environment is not None else os_environment()
        self._store = Store(environment, self._directory, plug, durability, options, create=create)
        self._finalizer = watch(self, self._store)
        self._logger = logger
        self._quarantined: dict[str, Quarantined] = {}
        try:
            self.found: dict[str, Entry] = self.load()
            """The entries as this opening found them, by key. Whoever has taken them over may clear it."""
        except BaseException:
            self.close()
            raise
        self.orphaned_runs: tuple[OrphanedRun, ...] = tuple(
            OrphanedRun(entry, run) for entry in self.found.values() for run in entry.runs
        )
        """The runs that an earlier opening began and did not end, as this one found them."""

    # Recording.

    def put(self, key: str, blob: bytes, next_run_us: int | None) -> None:
        """Create an entry, or replace its blob and when it is due (None: never). Its runs are not touched."""
        self._store.record(put_event(key, blob, next_run_us))
        self._quarantined.pop(key, None)

    def put_many(self, entries: Iterable[tuple[str, bytes, int | None]]) -> None:
        """Put several entries as one: after a crash all of them are there, or none.

        Raises ``ValueError`` when they take more than 16 MiB.
        """
        events = [put_event(*entry) for entry in entries]
        self._store.record_batch(events)
        for _, key, *_ in events:
            self._quarantined.pop(key, None)

    def started(self, key: str, number: int, at_us: int | None = None) -> None:
        """Record that a run began, or is about to. ``number`` tells the runs of an entry apart that go on together.

        An unknown key is accepted: the run is known, and the entry is not present.
        """
        self._store.record((STARTED, check_key(key), check_number(number), _instant(at_us)))

    def finished(self, key: str, number: int, success: bool, at_us: int | None = None) -> None:
        """Record how a run ended. One that was not recorded as started counts as well, and creates no entry."""
        self._store.record(_finished_event(key, number, success, at_us))

    def finished_as(
        self, key: str, number: int, success: bool, blob: bytes, next_run_us: int | None, at_us: int | None = None
    ) -> None:
        """Record how a run ended and what its entry is now, as one: after a crash both are known, or neither."""
        put, ended = put_event(key, blob, next_run_us), _finished_event(key, number, success, at_us)
        self._store.record_batch([put, ended])
        self._quarantined.pop(key, None)

    def dropped(self, key: str, number: int) -> None:
        """Record that a run that was recorded as started was not made after all: it neither succeeded nor failed."""
        self._store.record((DROPPED, check_key(key), check_number(number)))

    def remove(self, key: str) -> None:
        """Remove an entry, a quarantined one as well. Its runs that go on are known until they end."""
        self._store.record((REMOVED, check_key(key)))
        self._quarantined.pop(key, None)

    def clear(self) -> None:
        """Remove all entries. A crash while more than 10,000 are removed may leave a part of them."""
        keys = [key for key, entry in self.load().items() if entry.is_present]
        for batch in _batches(keys):
            self._store.record_batch([(REMOVED, key) for key in batch])
        self._quarantined.clear()

    def settle_orphaned_runs(self, at_us: int | None = None) -> None:
        """Record ``orphaned_runs`` as failed, now or at ``at_us``, so that no later opening finds them again."""
        instant_us = _instant(at_us)
        for batch in _batches(self.orphaned_runs):
            self._store.record_batch(
                [(FINISHED, orphan.entry.key, orphan.run.number, instant_us, False) for orphan in batch]
            )

    # What can't be read.

    def quarantine(self, key: str, blob: bytes, error: BaseException) -> None:
        """Note, and log, that the scheduler can't read an entry. The store keeps it as it is."""
        reason = f"{type(error).__name__}: {error}"
        self._quarantined[key] = Quarantined(key, blob, reason)
        self._logger.error("%s: %r can't be restored and is kept as it is (%s)", self._directory, key, reason)

    @property
    def quarantined(self) -> dict[str, Quarantined]:
        """The entries that were noted as unreadable since the store was opened, by key."""
        return dict(self._quarantined)

    # The store as a whole.

    def load(self) -> dict[str, Entry]:
        """Return every entry as of the call, by key, also those that are gone but for a run that has not ended."""
        view = self._store.view()
        with storage_errors(f"reading {self._directory}"):
            try:
                states = view.fold()
            finally:
                view.close()
        return {key: entry_of(key, state) for key, state in states.items()}

    def sync(self) -> None:
        """Return when every call that returned before it is on the device."""
        self._store.sync()

    def checkpoint(self) -> None:
        """As ``sync``; and compact the log into a snapshot when due."""
        self._store.checkpoint(compact=False)

    def stats(self) -> StoreStats:
        """Return the figures that an operator graphs."""
        return self._store.stats()

    @property
    def recovery(self) -> RecoveryReport:
        """What this opening found and did."""
        return self._store.recovery

    @property
    def path(self) -> Path:
        """The directory of the store."""
        return Path(self._directory)

    @property
    def closed(self) -> bool:
        """Whether the store was closed."""
        return self._store.closed

    def close(self) -> None:
        """Sync everything, end the log with the mark of a clean close and release the lock. Closing twice is fine.

        Raises as ``WalPersistence.close`` does: the lock is released all the same, but for ``StorageFullError`` while
        events are in the buffer.
        """
        try:
            self._store.close()
        finally:
            if self._store.closed:
                unwatch(self._store, self._finalizer)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close. An error that is on its way already is not replaced by the one it comes from."""
        try:
            self.close()
        except StorePoisonedError:
            if not isinstance(error, SchedulerPersistenceError):
                raise

    def __repr__(self) -> str:
        return f"<EntryStore {self._directory} {'closed' if self.closed else 'open'}>"


def _finished_event(key: str, number: int, success: bool, at_us: int | None) -> EntryEvent:
    if success is not True and success is not False:
        raise TypeError(f"success must be a bool, not {success!r}")
    return FINISHED, check_key(key), check_number(number), _instant(at_us), success


def _instant(at_us: int | None) -> int:
    return now_us() if at_us is None else check_number(at_us)


def _batches(items: Iterable[T]) -> Iterator[list[T]]:
    remaining = iter(items)
    while batch := list(islice(remaining, _BATCH)):
        yield batch
