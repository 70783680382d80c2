"""``celery beat -S walstore``: a beat scheduler whose runs are recorded one by one, in a store instead of a shelve.

A run is recorded as started before its message is sent and as done afterwards. A beat that is killed in between sends
the message again when it is back: no run is forgotten, and the one that was cut off may happen twice.
"""

from __future__ import annotations

import logging
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

from walstore.errors import CorruptionError, StoreClosedError
from walstore.integrations.celery_blob import KIND, History, decode_definition, decode_history, encode, key_of
from walstore.integrations.celery_shelve import import_shelve, refuse_shelve
from walstore.integrations.entries import EntryStore, OrphanedRun
from walstore.integrations.entry_model import Entry, datetime_of_us
from walstore.options import Durability

try:
    from celery.beat import ScheduleEntry, Scheduler, SchedulingError
except ImportError as missing:
    raise ImportError("WalScheduler needs Celery: pip install 'walstore[celery]'") from missing

if TYPE_CHECKING:
    from celery import Celery
    from kombu import Producer

__all__ = ["WalScheduler", "import_shelve"]

_BATCH: Final = 512
_CHOICES: Final = {True: "enabled", False: "disabled"}
_logger = logging.getLogger("celery.beat")


class WalScheduler(Scheduler):
    """The scheduler of ``celery beat`` on a store. ``--schedule`` names its directory.

    What is due, and what the configuration does to known entries, is decided as by Celery's ``PersistentScheduler``;
    ``docs/celery.md`` says what differs. A store that can't be opened or written to stops beat with an error of
    ``walstore.errors``; nothing is ever deleted in order to go on without it.

    The setting ``beat_walstore_durability`` (``"process"`` or ``"power"``) says what a recorded run survives.
    """

    def __init__(
        self, app: Celery, *args: object, schedule_filename: str = "celerybeat-schedule", **kwargs: object
    ) -> None:
        """Open the store in the directory ``schedule_filename``, unless ``lazy``. The other arguments are Celery's."""
        self.schedule_filename = schedule_filename
        self._store: EntryStore | None = None
        self._recorded: dict[str, bytes] = {}
        """The blob of each entry, by its name, as the store has it."""
        self._running: ScheduleEntry | None = None
        """The entry whose task is being sent, as it is after this run: which must not be recorded before that."""
        self._is_sent = False
        self._time_settings: tuple[str | None, bool] = None, True
        """The time zone of the application, and whether it uses UTC. Asking it takes long."""
        super().__init__(app, *args, **kwargs)  # type: ignore[arg-type]  # They are passed on as they came.

    def setup_schedule(self) -> None:
        """Open the store, restore the entries, and merge the configuration into them."""
        directory = Path(self.schedule_filename)
        refuse_shelve(directory)
        conf = self.app.conf
        self._time_settings = None if conf.timezone is None else str(conf.timezone), bool(conf.enable_utc)
        self._store = EntryStore(directory, kind=KIND, durability=self._durability(), logger=_logger)
        try:
            self._restore(self._store)
        except BaseException:
            self._store.close()
            raise

    def _durability(self) -> Durability:
        setting = self.app.conf.get("beat_walstore_durability", Durability.PROCESS)
        try:
            return Durability(setting)
        except ValueError:
            raise ValueError(f"beat_walstore_durability must be 'process' or 'power', not {setting!r}") from None

    def _restore(self, store: EntryStore) -> None:
        self.schedule = {}
        histories = {}
        for found in store.found.values():
            if found.is_present:
                history = _history_of(found, store)
                histories[history.name] = history
                self._restore_definition(found, history.name, store)
        if changes := self._changes_of_time(list(histories.values())):
            _logger.warning("Reset: %s: what was due by the old setting is forgotten", changes)
            self.schedule.clear()
            histories.clear()
        self.merge_inplace(self.app.conf.beat_schedule)
        self.install_default_entries(self.schedule)
        for name, entry in self.schedule.items():
            # Of its own default entries Celery makes new ones at every start, which know of no run.
            if name in histories:
                _give(entry, histories[name])
        for orphan in store.orphaned_runs:
            _report(orphan)
        self._record_changes(store)
        store.settle_orphaned_runs()
        store.found.clear()
        store.checkpoint()

    def _restore_definition(self, found: Entry, name: str, store: EntryStore) -> None:
        try:
            definition = decode_definition(found.blob)
        except ValueError as error:
            if name in self.app.conf.beat_schedule:
                # The configuration has it as well, and when it ran is known.
                self._recorded[name] = found.blob
            else:
                store.quarantine(found.key, found.blob, error)
            return
        self._recorded[name] = found.blob
        if definition is not None:
            self.schedule[name] = self.Entry(name=name, app=self.app, **definition)

    def _changes_of_time(self, histories: list[History]) -> str:
        """Say which time settings differ from those by which the entries ran; "" if none."""
        timezone, enable_utc = self._time_settings
        changes = set()
        for old in histories:
            # As Celery: what ran without a time zone may go on with one.
            if old.timezone is not None and old.timezone != timezone:
                changes.add(f"Timezone changed from {old.timezone!r} to {timezone!r}")
            if old.enable_utc != enable_utc:
                changes.add(f"UTC changed from {_CHOICES[old.enable_utc]} to {_CHOICES[enable_utc]}")
        return ", ".join(sorted(changes))

    def _encode(self, entry: ScheduleEntry) -> bytes:
        return encode(entry, *self._time_settings)

    # What happens at each run, in this order.

    def reserve(self, entry: ScheduleEntry) -> ScheduleEntry:  # type: ignore[override]  # See below.
        """Record that a run begins, and plan the next one."""
        self._opened().started(key_of(_name(entry)), entry.total_run_count)
        self._is_sent = False
        # The stubs take what is returned for a place in the heap.
        self._running = cast("ScheduleEntry", super().reserve(entry))
        return self._running

    def apply_entry(self, entry: ScheduleEntry, producer: Producer | None = None) -> None:
        """Send the task of an entry and record the run. What can't be sent is logged, and waits for the next run."""
        super().apply_entry(entry, producer=producer)
        self._record_run()

    def apply_async(
        self, entry: ScheduleEntry, producer: Producer | None = None, advance: bool = True, **kwargs: object
    ) -> object:
        """Send the task of an entry. ``advance`` (beat itself never asks for it) makes a run of its own of that."""
        try:
            result: object = super().apply_async(entry, producer=producer, advance=advance, **kwargs)
            self._is_sent = True
        except SchedulingError:
            if advance:
                self._record_run()
            raise
        if advance:
            self._record_run()
        return result

    def _record_run(self) -> None:
        entry = self._running
        if entry is None:
            return
        blob = self._encode(entry)
        self._opened().finished_as(key_of(_name(entry)), entry.total_run_count - 1, self._is_sent, blob, None)
        self._recorded[_name(entry)] = blob
        self._running = None
        # Celery asks after it has sent the task, which is too early for a run that is to be on the device.
        if self.should_sync():
            self._do_sync()  # type: ignore[attr-defined]  # The stubs leave it out.

    def should_sync(self) -> bool:
        """Whether ``sync`` is due: every three minutes, or after ``beat_sync_every`` runs."""
        return self._running is None and super().should_sync()

    # What happens now and then.

    def sync(self) -> None:
        """Record what was changed in ``schedule`` by others, and return when all is on the device."""
        if self._store is not None and not self._store.closed:
            self._record_changes(self._store)
            self._store.sync()

    def _record_changes(self, store: EntryStore) -> None:
        blobs = {name: self._encode(entry) for name, entry in self.schedule.items() if entry is not self._running}
        changed = ((key_of(name), blob, None) for name, blob in blobs.items() if self._recorded.get(name) != blob)
        while batch := list(islice(changed, _BATCH)):
            store.put_many(batch)
        for name in self._recorded.keys() - self.schedule.keys():
            _logger.info("beat: %r is configured no more, and forgotten", name)
            store.remove(key_of(name))
            del self._recorded[name]
        self._recorded |= blobs

    def close(self) -> None:
        """Sync, and close the store. Closing twice is fine."""
        try:
            super().close()
        finally:
            if self._store is not None:
                self._store.close()

    @property
    def info(self) -> str:
        """What beat prints about the scheduler when it starts."""
        return f"    . store -> {self.schedule_filename}"

    def _opened(self) -> EntryStore:
        if self._store is None:
            raise StoreClosedError(f"the scheduler is lazy, and has not opened {self.schedule_filename}")
        return self._store


def _name(entry: ScheduleEntry) -> str:
    assert entry.name is not None
    return entry.name


def _history_of(found: Entry, store: EntryStore) -> History:
    try:
        return decode_history(found.blob)
    except ValueError as error:
        raise CorruptionError(f"when {found.key!r} ran can't be read ({error})", path=str(store.path)) from error


def _give(entry: ScheduleEntry, history: History) -> None:
    """Give an entry its past. What is local time to it decides about day and hour, also across a restart."""
    entry.last_run_at, entry.total_run_count = history.last_run_at, history.total_run_count
    zone = entry.default_now().tzinfo
    if zone is not None and history.last_run_at.tzinfo is not None:
        entry.last_run_at = history.last_run_at.astimezone(zone)


def _report(orphan: OrphanedRun) -> None:
    _logger.warning(
        "beat: run %d of %r was cut off: it began at %s UTC, and whether its task was sent is not known. "
        "It is made again if it is due, so the task may run twice.",
        orphan.run.number + 1,
        orphan.entry.key,
        datetime_of_us(orphan.run.started_us).replace(tzinfo=None),
    )
