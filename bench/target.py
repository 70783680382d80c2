"""What every subject of the benchmarks can do: walstore at its levels, its peers and its floors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any, ClassVar, Final

from bench.timing import Call
from bench.workloads import Row, Starts, State
from walstore.model.events import EventForm

__all__ = ["NOTHING", "POWER_LOSS", "PROCESS_DEATH", "Target"]

NOTHING: Final = "nothing"
PROCESS_DEATH: Final = "death of the process"
POWER_LOSS: Final = "power loss"

_CHUNK: Final = 64


class Target(ABC):
    """One subject, open in a directory of its own. A missing library raises ``ImportError`` when it is opened."""

    name: ClassVar[str]
    survives: ClassVar[str]
    """What an event survives once its call has returned."""

    @abstractmethod
    def __init__(self, directory: Path) -> None:
        """Open it in an empty directory."""

    @abstractmethod
    def record(self, job: str, state: State) -> None:
        """Store the record of a job after an event."""

    @abstractmethod
    def forget(self, job: str) -> None:
        """Remove the record of a job that was cancelled."""

    def record_many(self, rows: Sequence[tuple[str, State]]) -> None:
        """Store several records at once; as one transaction where the subject has such a thing."""
        for job, state in rows:
            self.record(job, state)

    def sync(self) -> None:  # noqa: B027  # Those that sync each event have nothing to do.
        """Return when everything is on the device."""

    @abstractmethod
    def close(self) -> None:
        """Close it."""

    def started(self, work: Starts) -> tuple[Call[Any], Sequence[Any]]:
        """Return the call that stores that a run began, and its arguments beside the jobs."""
        return self.record, work.states

    def replay(self, events: Sequence[EventForm], rows: Sequence[Row], seconds: float) -> tuple[int, float]:
        """Store events one after another until they, or the seconds, are over; return how many, and the seconds."""
        start = perf_counter()
        for begin in range(0, len(events), _CHUNK):
            self.replay_chunk(events[begin : begin + _CHUNK], rows[begin : begin + _CHUNK])
            if perf_counter() - start > seconds:
                break
        self.sync()
        return min(begin + _CHUNK, len(events)), perf_counter() - start

    def replay_chunk(self, events: Sequence[EventForm], rows: Sequence[Row]) -> None:
        """Store events one after another. Peers take the rows, walstore the events."""
        assert len(events) == len(rows)
        for job, state in rows:
            if state is None:
                self.forget(job)
            else:
                self.record(job, state)
