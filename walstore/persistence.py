"""The contract: what a scheduler asks of its persistence, and the implementation that keeps nothing.

The calls and their meaning are those of the trait ``SchedulerPersistence`` of uni-db's crate ``uni-plugin``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Protocol, Self, runtime_checkable

from walstore.model.events import Event
from walstore.model.names import Instant, JobId
from walstore.model.records import SchedulerJobRecord
from walstore.model.schedule import Schedule

__all__ = ["BatchPersistence", "MemoryPersistence", "SchedulerPersistence"]


class SchedulerPersistence(ABC):
    """Persistence backend for the state of scheduled jobs.

    The scheduler calls it at each transition of a job, and ``load_all`` when it starts. Every method raises
    ``SchedulerPersistenceError`` when the backend fails, and ``TypeError`` or ``ValueError``, before anything is
    recorded, when an argument is wrong. An instance is a context manager that closes itself.
    """

    def record_scheduled(self, id: JobId, schedule: Schedule) -> None:
        """Record that a job was given a schedule.

        A new job becomes pending; a known one keeps its history. By default this does nothing.
        """

    @abstractmethod
    def record_started(self, id: JobId, started_at: Instant) -> None:
        """Record that a run of a job began. An unknown job is created with the schedule ``Manual``."""

    @abstractmethod
    def record_finished(self, id: JobId, finished_at: Instant, success: bool) -> None:
        """Record how a run of a job ended. For an unknown job this is accepted and creates nothing."""

    @abstractmethod
    def cancel(self, id: JobId) -> None:
        """Record that a job was cancelled: it is gone from ``load_all``. An unknown job is no error."""

    @abstractmethod
    def load_all(self) -> list[SchedulerJobRecord]:
        """Return every known job in any order, running ones included: those are the runs that a crash orphaned."""

    def flush_checkpoint(self) -> None:
        """Return once every call that returned before it is on durable storage. By default this does nothing."""

    def close(self) -> None:
        """Give back what the backend holds. Closing twice is fine. By default this does nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


@runtime_checkable
class BatchPersistence(Protocol):
    """What a persistence offers beyond the contract: events in batches, whole records, and streaming."""

    def record_many(self, events: Iterable[Event]) -> None:
        """Record several events together: after a crash all of them are there, or none."""
        ...

    def restore(self, records: Iterable[SchedulerJobRecord]) -> None:
        """Put jobs to the states that the records say, whatever they were before. Other jobs stay as they are."""
        ...

    def sync(self) -> None:
        """Return once every call that returned before it is on the device."""
        ...

    def iter_jobs(self) -> Iterator[SchedulerJobRecord]:
        """Yield every known job as of the call, in the order of their ids, without holding all of them in memory."""
        ...


class MemoryPersistence(SchedulerPersistence):
    """Keeps nothing: every call does nothing, and ``load_all`` is empty. For tests, and where no restart matters."""

    def record_started(self, id: JobId, started_at: Instant) -> None:
        """Do nothing."""

    def record_finished(self, id: JobId, finished_at: Instant, success: bool) -> None:
        """Do nothing."""

    def cancel(self, id: JobId) -> None:
        """Do nothing."""

    def load_all(self) -> list[SchedulerJobRecord]:
        """Return an empty list."""
        return []
