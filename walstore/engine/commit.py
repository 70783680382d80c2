"""Making the log durable: group commit, the watermark, and what happens when a sync fails."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from walstore.engine.log import Log, Refusal
from walstore.errors import SchedulerPersistenceError, StorageError, StoreClosedError, StorePoisonedError
from walstore.format.frame import frame_bytes
from walstore.format.layout import Watermark
from walstore.fs.api import File

__all__ = ["Commit"]

_NAP_MAX_S: Final = 0.05
"""Whoever waits looks for itself this often, should the one who was to wake it have been interrupted."""

_LINGER_S: Final = 20e-6
_MARK_BYTES: Final = frame_bytes(len(Watermark(0).encode()))

_Waiter = tuple[int, threading.Lock]
"""A thread that waits until everything below an LSN is on the device, and its bell: releasing that wakes it."""


class Commit:
    """Syncs the log for all who wait. Any thread may call any method.

    Whoever comes first leads: it syncs for itself and for all who appended before it began. The others wait, each on a
    lock of its own. The leader wakes one of those that came too late, who leads next, and one of those that it synced
    for; each of these wakes the next one. Woken together, they would only wait again, all of them, for the GIL.

    Appending goes on meanwhile. The lock of the leader may be taken again by its own thread, so that a signal handler
    that interrupts a sync and wants one itself makes its own; syncs may be repeated freely.
    """

    def __init__(self, log: Log, durable_lsn: int, on_poison: Callable[[StorePoisonedError], None]) -> None:
        self._log = log
        self._lock = threading.RLock()
        self._on_poison = on_poison
        self._quiet_lsn = durable_lsn
        self._settled = True
        self._depth = 0
        self._waiters: deque[_Waiter] = deque()
        self._served: deque[threading.Lock] = deque()
        """The bells of those whose bytes are on the device, or who are to be told that the store is poisoned."""
        self._company = 0
        """How many waited for the last sync: so many may be about to come again."""
        self._last_sync_ns = 0
        self.durable_lsn = durable_lsn
        """Everything below is on the device."""
        self._broken = False
        self.syncs = 0
        self.failure: StorePoisonedError | None = None
        """Why the store is poisoned, or None."""
        log.on_sync_failure = self.poison

    def sync(self) -> None:
        """Return when everything whose append returned before the call is on the device.

        Raises ``StorePoisonedError`` when a sync fails or has failed.
        """
        target_lsn = self._log.end_lsn()
        while not self._is_durable(target_lsn):
            if self._lock.acquire(blocking=False):
                self._lead(target_lsn)
            else:
                self._follow(target_lsn)

    def sync_recorded(self) -> None:
        """Sync what the caller has recorded. Poisons where ``sync`` would say that nothing was: it is in the log."""
        try:
            self.sync()
        except StorageError as error:
            raise self.poison(OSError(error.errno, str(error)), "what was recorded") from error

    def _lead(self, target_lsn: int) -> None:
        try:
            if not self._is_durable(target_lsn):
                if self._company:
                    self._linger()
                start_ns = time.monotonic_ns()
                self._sync()
                self._last_sync_ns = time.monotonic_ns() - start_ns
        finally:
            self._release()

    def _follow(self, target_lsn: int) -> None:
        bell = threading.Lock()
        bell.acquire()
        waiter, was_woken = (target_lsn, bell), False
        self._waiters.append(waiter)
        try:
            if self._lock.acquire(blocking=False):
                # The leader was done before it could have seen this one.
                self._lead(target_lsn)
            else:
                was_woken = bell.acquire(timeout=_NAP_MAX_S)
        finally:
            if not was_woken:
                self._leave(waiter)
            # At once, so that the next one finds the GIL free when it is awake; and however the waiting ended.
            self._wake_next()

    def _leave(self, waiter: _Waiter) -> None:
        """Let nobody wake ``waiter``, who would not be there to wake the next one."""
        with suppress(ValueError):
            self._waiters.remove(waiter)
        with suppress(ValueError):
            self._served.remove(waiter[1])

    def _wake_next(self) -> None:
        if self._served:
            with suppress(IndexError):
                self._served.popleft().release()

    def _linger(self) -> None:
        """Give those who were woken by the last sync the time to append again, as long as they keep coming.

        A sync takes as long for many events as for one, so a leader that starts alone makes all others wait twice. But
        it waits no longer than the last sync took: in that time it could have synced for those who are there already.
        """
        waiting, end_ns = -1, time.monotonic_ns() + self._last_sync_ns
        while waiting < len(self._waiters) < self._company and time.monotonic_ns() < end_ns:
            waiting = len(self._waiters)
            time.sleep(_LINGER_S)

    def _release(self) -> None:
        """Give the lock back, and begin to wake those whose bytes are durable; of the others the first leads next."""
        self._lock.release()
        # After the release: whoever takes a place among those who wait after this look finds the lock free.
        self._company = len(self._waiters)
        leader: threading.Lock | None = None
        for _ in range(self._company):
            try:
                waiter = self._waiters.popleft()
            except IndexError:
                break  # The next leader is done already, and looks as well.
            target_lsn, bell = waiter
            if target_lsn <= self.durable_lsn or self._broken:
                self._served.append(bell)
            elif leader is None:
                leader = bell
            else:
                self._waiters.append(waiter)
        if leader is not None:
            # Before the others, so that the device has something to do while those are woken.
            leader.release()
        self._wake_next()

    def settle(self) -> bool:
        """Do what is left after a quiet time, for the keeper: sync what is new, or, once, the last watermark.

        Never waits: returns False when somebody else is syncing.
        """
        if not self._lock.acquire(blocking=False):
            return False
        try:
            if not self._is_durable(self._log.end_lsn()):
                self._sync()
            elif not self._settled:
                self._sync_files()
                self._settled = True
        finally:
            self._release()
        return True

    def finish(self, refusal: Refusal) -> None:
        """Refuse further appends with ``refusal``, sync all of the log, and end it with the mark of a clean close."""
        # Refusing under the lock lets a sync that is under way write its watermark and answer those who wait for it.
        self._lock.acquire()
        try:
            self.raise_if_poisoned()
            self._log.refuse(refusal)
            end_lsn = self._sync_files()
            self.durable_lsn = end_lsn
            file = self._log.write_last(Watermark(end_lsn, clean=True).encode())
            self._sync_file(file, self._log.live.path)
            # The mark included: who appended just before, and looks for the end only now, waits for nothing more.
            self.durable_lsn = self._log.end_lsn()
        finally:
            self._release()

    def poison(self, error: OSError, what: str) -> SchedulerPersistenceError:
        """Refuse everything from now on because a sync of ``what`` failed; returns the error to raise."""
        failure = self.failure
        self._broken = True
        if failure is None:
            failure = self.failure = StorePoisonedError(
                f"{error.strerror or error} while syncing {what}: what had not reached the device may be gone, and a "
                "second sync would not bring it back. Close the store, look at the device, and open it again: recovery "
                f"finds out what is there. Known to be durable: everything below LSN {self.durable_lsn}."
            )
            self._on_poison(failure)
        return failure

    def raise_if_poisoned(self) -> None:
        """Raise ``StorePoisonedError`` if a sync has failed."""
        if self._broken:
            raise StorePoisonedError(str(self.failure or "a sync has just failed: close the store")) from self.failure

    def _is_durable(self, lsn: int) -> bool:
        if self._broken:
            self.raise_if_poisoned()
        return lsn <= self.durable_lsn or lsn == self._quiet_lsn

    def _sync(self) -> None:
        lsn = self._sync_files()
        mark = Watermark(lsn).encode()
        try:
            self._log.append_watermark(mark)
        except StorageError as error:
            # Whoever waits must not be told that nothing was recorded, or to try again: only the reason is told.
            reason = error.__cause__ if isinstance(error.__cause__, OSError) else OSError(error.errno, str(error))
            raise self.poison(reason, f"the log and writing a watermark to {self._log.live.path}") from error
        # The watermark itself is not synced, and must not count as something that has to be: where nothing but it
        # came behind the position that was synced, the log is quiet.
        end_lsn = self._log.end_lsn()
        if end_lsn == lsn + _MARK_BYTES:
            self._quiet_lsn = end_lsn
        self._settled = False
        self.durable_lsn = max(self.durable_lsn, lsn)

    def _sync_files(self) -> int:
        """Sync all segments that need it and return the LSN below which all is now on the device."""
        try:
            self._log.check_fence()
        except StorageError as error:
            if self._log.closed:
                raise StoreClosedError("the store was closed before it was synced: open it again") from error
            raise
        lsn, sealed, live = self._log.unsynced()
        self._depth += 1
        try:
            for segment in sealed:
                self._sync_file(segment.file, segment.path)
            self._sync_file(live.file, live.path)
            # A sync in a signal handler must not close what the sync that it interrupted has still to sync.
            if self._depth == 1:
                self._log.synced(sealed)
        finally:
            self._depth -= 1
        return lsn

    def _sync_file(self, file: File, path: str) -> None:
        try:
            file.sync()
        except OSError as error:
            if self._log.closed:
                # By a signal handler, in the middle of this very sync.
                raise StoreClosedError(f"the store was closed while {path} was synced: open it again") from error
            # The kernel tells of a failure once, so whoever syncs next hears of none. That may be a signal handler in
            # this very thread: no call, where one could run, may come before this assignment.
            self._broken = True
            raise self.poison(error, path) from error
        if self._broken:
            self.raise_if_poisoned()
        self.syncs += 1
