"""Defects around the log: locks, forks, signals, closing, checking of arguments, and what events mean when replayed."""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from types import SimpleNamespace

from fuzz.defects.planting import defect, swap
from walstore.engine.buffer import Buffer
from walstore.engine.commit import Commit
from walstore.engine.log import Log
from walstore.engine.opening import Opened
from walstore.engine.store import Store
from walstore.errors import StorePoisonedError
from walstore.fs import os_fs
from walstore.model import reducer
from walstore.model.events import CANCELLED, FINISHED, RESTORED, EventForm
from walstore.model.names import Instant, JobId, id_of, instant_ns
from walstore.model.records import JobState
from walstore.model.schedule import Manual
from walstore.wal import WalPersistence

__all__: list[str] = []

JobBuffer = Buffer[EventForm, JobState]
JobReducer = reducer.JobReducer
JobStore = Store[EventForm, JobState]
States = dict[str, JobState]


@defect("threads", "kill")
def lock_released_by_a_forked_child() -> None:
    """A forked child unlocks what it inherited, and with it the lock of its parent (``flock`` belongs to both)."""

    def close(self: os_fs._OsLock) -> None:
        if self._descriptor >= 0:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
            os.close(self._descriptor)
            self._descriptor = -1

    swap(os_fs._OsLock, "abandon", close)


@defect("threads")
def forked_child_goes_on() -> None:
    """A forked child may use the store of its parent, and writes over what the parent appends (SQLite warns of it)."""

    def stay(self: JobStore) -> None:
        del self

    swap(Store, "abandon_after_fork", stay)


@defect("threads")
def lock_shared_where_it_must_be_exclusive() -> None:
    """The lock is taken in shared mode, so a second writer opens the same store."""
    flags = {name: getattr(fcntl, name) for name in ("LOCK_NB", "LOCK_UN", "flock")}
    swap(os_fs, "fcntl", SimpleNamespace(LOCK_EX=fcntl.LOCK_SH, **flags))


@defect("threads")
def fence_check_skipped() -> None:
    """A writer does not notice that its directory was moved or replaced, and goes on in one that is not its own."""

    def look_away(self: Opened) -> None:
        del self

    swap(Opened, "check_fence", look_away)


@defect("threads")
def commit_lock_not_reentrant() -> None:
    """A signal handler that syncs while its own thread is syncing waits for a lock that this thread holds."""
    create = Commit.__init__

    def locked(self: Commit, log: Log, durable_lsn: int, on_poison: Callable[[StorePoisonedError], None]) -> None:
        create(self, log, durable_lsn, on_poison)
        self._lock = threading.Lock()  # type: ignore[assignment]

    swap(Commit, "__init__", locked)


@defect("simulate", "small_worlds")
def close_without_drain() -> None:
    """Closing leaves in the buffer what was not drained yet."""
    close = Store._close

    def forgetful(self: JobStore) -> None:
        del self.buffer.items[:]
        close(self)

    swap(Store, "_close", forgetful)


@defect("simulate", "small_worlds")
def load_all_without_the_buffer() -> None:
    """``load_all`` shows the log only, and not what was recorded a moment ago."""

    def pending(self: JobBuffer) -> list[Sequence[EventForm]]:
        del self
        return []

    swap(Buffer, "pending", pending)


@defect("threads")
def recorded_before_it_is_checked() -> None:
    """An event with a wrong argument is recorded, and only then refused: the log holds what can't be read back."""

    def record_finished(self: WalPersistence, id: JobId, finished_at: Instant, success: bool) -> None:
        self._record((FINISHED, id_of(id), instant_ns(finished_at, "finished_at"), success))
        if success is not True and success is not False:
            raise ValueError(f"success must be a bool, not {success!r}")

    swap(WalPersistence, "record_finished", record_finished)


@defect("threads")
def recorded_though_its_encoding_failed() -> None:
    """The buffer keeps an event that can't be encoded, and can never be drained again."""

    def cancel(self: WalPersistence, id: JobId) -> None:
        # Not checked: a lone surrogate has no UTF-8.
        self._record((CANCELLED, str(id)))

    swap(WalPersistence, "cancel", cancel)


def _replay(first: Callable[[States, EventForm], bool]) -> None:
    """Let ``first`` handle events before the reducer does; it returns whether that was all."""
    fold = reducer.fold

    def fold_otherwise(self: JobReducer, states: States, events: Iterable[EventForm]) -> None:
        del self
        for event in events:
            if not first(states, event):
                fold(states, (event,))

    swap(JobReducer, "fold", fold_otherwise)


@defect("simulate", "small_worlds")
def restored_not_applied() -> None:
    """A restored record of a job that is not known yet is passed over in replay."""
    _replay(lambda states, event: event[0] == RESTORED and event[1] not in states)


@defect("simulate", "small_worlds")
def finished_applied_twice() -> None:
    """The end of a run counts twice in replay (counters, in every log that replays without LSNs)."""

    def twice(states: States, event: EventForm) -> bool:
        if event[0] == FINISHED:
            reducer.fold(states, (event,))
        return False

    _replay(twice)


@defect("simulate", "small_worlds")
def cancelled_job_comes_back() -> None:
    """The end of a run brings back the job that was cancelled meanwhile (uni-db 4.1)."""

    def revive(states: States, event: EventForm) -> bool:
        if event[0] == FINISHED and event[1] not in states:
            states[event[1]] = (0, None, None, event[2], 0, (Manual.KIND,))
        return False

    _replay(revive)
