"""The writer: events of all threads on their way to the server, in batches, by one thread.

A batch is one transaction. It has a number that is never used again, and is kept until it is known to be on the
server's device: a server that loses it, as one may that answers before it flushes, is told it again. So what was
acknowledged is lost only where this process ends as well, or the server's device.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from walstore.backends.postgres_connection import ServerUnreachableError, retrying
from walstore.backends.postgres_entries import Refusal, Refuser, Ticket, again
from walstore.backends.postgres_options import PostgresOptions
from walstore.backends.postgres_session import Claim, Session, reclaim
from walstore.errors import FencedError, SchedulerPersistenceError, StorageError, StorePoisonedError
from walstore.model.events import EventForm

__all__ = ["Writer"]

_logger = logging.getLogger("walstore")

_NS_PER_S: Final = 1_000_000_000
_FOR_GOOD: Final = (FencedError, StorePoisonedError)


@dataclass(slots=True)
class _Batch:
    number: int
    forms: list[EventForm]


_Entry = Sequence[EventForm] | Ticket


class Writer:
    """Takes events from any thread, also in a signal handler; only its own thread touches the server."""

    def __init__(self, claim: Claim, session: Session, options: PostgresOptions) -> None:
        self.epoch = session.epoch
        self.applied = 0
        """The number of the last batch that the server has taken."""
        self._claim = claim
        self._session: Session | None = session
        self._options = options
        # Never replaced by another one: a thread that is about to append would append to the wrong one.
        self._entries: deque[_Entry] = deque()
        self._sink: deque[_Entry] | Refuser = self._entries
        # Putting to this queue never waits, so a signal handler may do it wherever it comes. True is urgent.
        self._wakes: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._is_idle = False
        self._number = 0
        self._turn = 0
        self._kept: list[_Batch] = []
        self._kept_events = 0
        self._sync_due_ns = 0
        self._unsent_events = 0
        self._released = 0
        self._failure: SchedulerPersistenceError | None = None
        self._ends = False
        self._thread = threading.Thread(target=self._run, name="walstore-postgres", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    @property
    def unsaved_events(self) -> int:
        """How many events were acknowledged and are not known to be on the server's device."""
        return self._kept_events + sum(len(entry) for entry in list(self._entries) if not isinstance(entry, Ticket))

    def buffer(self, forms: Sequence[EventForm]) -> None:
        """Take events that belong together. The caller waits only when the buffer is full.

        Raises what keeps the server from taking them when it is; nothing is recorded then.
        """
        if self._unsent_events + len(self._entries) >= self._options.buffer_events:
            self.write((), durable=False)
        # Looking the sink up and appending to it come without a call between them, so no other thread can swap the
        # sink and drain the entries in between.
        self._sink.append(forms)
        if self._is_idle:
            self._is_idle = False
            self._wakes.put(False)

    def write(self, forms: Sequence[EventForm], *, durable: bool) -> None:
        """Return when the server has these events and all before; with ``durable``, when they are on its device.

        Raises what keeps it from that.
        """
        ticket = Ticket(forms, durable=durable)
        self._sink.append(ticket)
        self._wait_for(ticket)

    def refuse(self, refusal: Refusal) -> None:
        """Let every further call raise."""
        self._sink = Refuser(refusal)

    def accept(self) -> None:
        """Take events again, after ``refuse``."""
        self._sink = self._entries

    def finish(self) -> None:
        """Return when all is on the server's device. To be called after ``refuse``. Raises what keeps it from that."""
        if self._failure is None:
            # A batch on its way is counted nowhere, so first wait until none is. That takes no server if none is left.
            self._enter(Ticket((), durable=False))
        failure = self._failure
        if failure is not None and (self.unsaved_events or isinstance(failure, StorePoisonedError)):
            raise again(failure)
        if failure is None and self.unsaved_events:
            self._enter(Ticket((), durable=True))

    def stop(self) -> None:
        """End the thread and the session. What is not written by then is lost."""
        self._ends = True
        self._wakes.put(True)
        self._thread.join()

    def is_running_here(self) -> bool:
        """Whether the calling thread is the writer's own."""
        return self._thread is threading.current_thread()

    def _enter(self, ticket: Ticket) -> None:
        self._entries.append(ticket)
        self._wait_for(ticket)

    def _wait_for(self, ticket: Ticket) -> None:
        self._wakes.put(True)
        while not ticket.done.acquire(timeout=1):
            if not self._thread.is_alive() and not ticket.done.acquire(blocking=False):
                raise StorageError(f"{self._claim.place} was closed meanwhile: whether this was recorded is not known")
        if ticket.error is not None:
            raise again(ticket.error)

    # What follows is for the thread alone.

    def _run(self) -> None:
        try:
            self._work()
        finally:
            if not self._ends:
                # Nobody must go on buffering for a thread that is no more.
                self.refuse(lambda: StorePoisonedError(f"the thread that writes to {self._claim.place} has died"))
            if self._session is not None:
                self._session.leave()

    def _work(self) -> None:
        while not self._ends:
            self._wait()
            forms, tickets, durable = self._gather()
            is_due = bool(self._kept) and time.monotonic_ns() >= self._sync_due_ns
            if not (forms or tickets or is_due):
                continue
            try:
                if self._failure is not None:
                    raise self._failure
                self._write(forms, durable=durable or is_due or self._kept_events >= self._options.kept_events)
            except SchedulerPersistenceError as error:
                self._fail(error, tickets)
            else:
                for ticket in tickets:
                    ticket.done.release()

    def _wait(self) -> None:
        """Return when there is something to do."""
        self._is_idle = True
        try:
            urgent = False
            # Whoever appended before this look is seen by it, and whoever appends after it wakes the thread.
            if not self._entries:
                until_due_s = max(self._sync_due_ns - time.monotonic_ns(), 0) / _NS_PER_S if self._kept else None
                urgent = self._wakes.get(timeout=until_due_s)
            until_ns = time.monotonic_ns() + self._options.drain_interval_ns
            while not urgent:
                urgent = self._wakes.get(timeout=max(until_ns - time.monotonic_ns(), 0) / _NS_PER_S)
        except queue.Empty:
            """Nobody was in a hurry: the time to gather is over."""
        finally:
            self._is_idle = False

    def _gather(self) -> tuple[list[EventForm], list[Ticket], bool]:
        """Take entries out of the queue: the events of one batch, who waits for it, and whether for the device."""
        forms: list[EventForm] = []
        tickets: list[Ticket] = []
        while self._entries and len(forms) < self._options.batch_events:
            entry = self._entries.popleft()
            if isinstance(entry, Ticket):
                tickets.append(entry)
                forms += entry.forms
            else:
                forms += entry
        return forms, tickets, any(ticket.durable for ticket in tickets)

    def _write(self, forms: list[EventForm], *, durable: bool) -> None:
        self._turn = self._number + 1
        is_behind = bool(self._kept) and self._kept[-1].number > self.applied
        if forms or (durable and not is_behind):
            self._number += 1
            if not self._kept:
                self._postpone_sync()
            self._kept.append(_Batch(self._number, forms))
            self._kept_events += len(forms)
        if self._kept:
            retrying(lambda: self._push(durable=durable), self._options.retry_ns)
        self._unsent_events = 0
        if durable:
            self._released = self._number
            self._kept.clear()
            self._kept_events = 0

    def _push(self, *, durable: bool) -> None:
        """Let the server have every batch that is kept and that it does not have."""
        if self._session is None:
            self._session = reclaim(self._claim, self.epoch)
        session = self._session
        try:
            while True:
                if session.sequence < self._released:
                    raise StorePoisonedError(
                        f"{self._claim.place} has lost batches {session.sequence + 1} to {self._released}, which it "
                        "had said to be durable, as after a failover to a replica that was behind. Open it again, "
                        "and compare."
                    )
                place = bisect_right(self._kept, session.sequence, key=lambda batch: batch.number)
                if place == len(self._kept):
                    if not durable or session.flushed >= self._kept[-1].number:
                        break
                    # It is there, but it came with a session that was lost before the device, or a synchronous
                    # standby, had answered. Another one behind it waits for both.
                    self._number += 1
                    self._kept.append(_Batch(self._number, []))
                batch = self._kept[place]
                session.apply(batch.number, batch.forms, durable=durable and batch is self._kept[-1])
        except SchedulerPersistenceError:
            self._session = None
            session.close()
            raise
        self.applied = session.sequence

    def _fail(self, error: SchedulerPersistenceError, tickets: list[Ticket]) -> None:
        if isinstance(error, _FOR_GOOD):
            if self._failure is None:
                _logger.error("%s", error)
            self._failure = error
            self.refuse(lambda: again(error))
        else:
            _logger.error("%s", error)
            self._postpone_sync()
            if isinstance(error, ServerUnreachableError):
                error = ServerUnreachableError(f"{error} Whether this call was recorded is not known.")
        if any(ticket.forms for ticket in tickets):
            # Its callers are told, and may call again. Should the server have it after all, its number is not used by
            # another one.
            while self._kept and self._kept[-1].number >= self._turn:
                self._kept_events -= len(self._kept.pop().forms)
        self._unsent_events = sum(len(batch.forms) for batch in self._kept if batch.number > self.applied)
        with suppress(IndexError):
            # Those who wait behind would only be told the same, later.
            while isinstance(self._entries[0], Ticket):
                entry = self._entries.popleft()
                assert isinstance(entry, Ticket)
                tickets.append(entry)
        for ticket in tickets:
            ticket.error = error
            ticket.done.release()

    def _postpone_sync(self) -> None:
        self._sync_due_ns = time.monotonic_ns() + self._options.sync_interval_ns
