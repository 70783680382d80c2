"""What is open on behalf of one ``PostgresPersistence``: its writer, its readers, its end."""

from __future__ import annotations

import os
import threading

from walstore.backends.postgres_connection import retrying
from walstore.backends.postgres_options import PostgresOptions
from walstore.backends.postgres_reader import Reader, Snapshot
from walstore.backends.postgres_session import Claim, claim_store
from walstore.backends.postgres_writer import Writer
from walstore.errors import (
    FencedError,
    ForkedProcessError,
    SchedulerPersistenceError,
    StoreClosedError,
    StorePoisonedError,
)
from walstore.model.records import SchedulerJobRecord

__all__ = ["PostgresStore"]


class PostgresStore:
    """What is open on behalf of a ``PostgresPersistence``, apart from it: it can be closed when that is gone."""

    def __init__(self, claim: Claim, options: PostgresOptions, *, buffered: bool) -> None:
        self.claim = claim
        self.directory = claim.target.name
        """Where the store is, for messages."""
        self.writer: Writer | None = None
        self.reader = Reader(claim)
        self.closed = False
        self._options = options
        self._buffered = buffered
        self._pid = os.getpid()
        self._closing_lock = threading.RLock()

    def open_for_writing(self, *, create: bool, takeover: bool) -> None:
        """Take the next epoch. Raises what ``claim_store`` raises."""
        session = claim_store(self.claim, create=create, takeover=takeover)
        self.writer = Writer(self.claim, session, self._options)
        self.writer.start()

    def open_for_reading(self) -> None:
        """Look whether there is a store that can be read."""
        self.reader.check()

    def writing(self) -> Writer:
        """Return the writer. Raises where there is none."""
        if self.closed:
            raise self._refusal()
        if self.writer is None:
            raise StoreClosedError(f"{self.claim.place} was opened read-only: open it without read_only to do this")
        return self.writer

    def load(self) -> list[SchedulerJobRecord]:
        """Return every job."""

        def attempt() -> list[SchedulerJobRecord]:
            snapshot = self._snapshot()
            try:
                return snapshot.load()
            finally:
                snapshot.close()

        return retrying(attempt, self._options.retry_ns)

    def snapshot(self) -> Snapshot:
        """Return the jobs as of now, with all that was recorded by calls that have returned."""
        return retrying(self._snapshot, self._options.retry_ns)

    def _snapshot(self) -> Snapshot:
        if self.closed:
            raise self._refusal()
        writer = self.writer
        if writer is None:
            return self.reader.snapshot()
        if self._buffered:
            writer.write((), durable=False)
        wanted = (writer.epoch, writer.applied)
        snapshot = self.reader.snapshot()
        while not wanted <= snapshot.position < (writer.epoch + 1, 0):
            # The server has lost batches, which the writer sends again, or somebody has taken over, which it tells.
            snapshot.close()
            writer.write((), durable=True)
            snapshot = self.reader.snapshot()
        return snapshot

    def close(self) -> None:
        """See ``PostgresPersistence.close``."""
        if self.closed:
            return
        with self._closing_lock:
            if self.closed:
                return
            if self.writer is not None:
                self._finish(self.writer)
            self._shut()

    def _finish(self, writer: Writer) -> None:
        writer.refuse(self._refusal)
        try:
            writer.finish()
        except (FencedError, StorePoisonedError):
            self._shut()
            raise
        except BaseException:
            writer.accept()
            raise

    def _shut(self) -> None:
        self.closed = True
        self.reader.close()
        if self.writer is not None:
            self.writer.stop()

    def is_running_here(self) -> bool:
        """Whether the calling thread is the writer's own, in which the store can't be closed."""
        return self.writer is not None and self.writer.is_running_here()

    def check_process(self) -> None:
        """Raise ``ForkedProcessError`` in a child that was forked."""
        if self._pid != os.getpid():
            raise self._refusal()

    def abandon_after_fork(self) -> None:
        """Make this copy of the store unusable, in a forked child; says nothing to the server."""
        self.closed = True
        if self.writer is not None:
            self.writer.refuse(self._refusal)

    def _refusal(self) -> SchedulerPersistenceError:
        if self._pid != os.getpid():
            return ForkedProcessError(f"{self.claim.place} was opened before this process was forked: open it in here")
        return StoreClosedError(f"{self.claim.place} was closed: open it again")
