"""A store opened for looking at it: no lock, nothing written, and every byte that counts verified."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from walstore.cli.output import Output
from walstore.engine.merge import MemorySpill, merged
from walstore.engine.opening import open_for_reading
from walstore.engine.recovery import RecoveryReport, Situation
from walstore.engine.survey import Files
from walstore.engine.view import View
from walstore.errors import storage_error
from walstore.model.events import EventForm
from walstore.model.records import JobState, SchedulerJobRecord, SchedulerJobStatus, record_of
from walstore.options import WalOptions
from walstore.wal import JOBS, os_environment

__all__ = ["PROGRESS_EVERY", "SITUATIONS", "Reading", "count_jobs", "describe_jobs", "plural", "reading"]

SITUATIONS = {
    Situation.CLEAN: "clean: the last writer closed it",
    Situation.UNCLEAN: "not closed: a writer is at work, or died without closing; every byte is accounted for",
    Situation.TORN: "not closed, and the log ends in a torn tail: bytes that no sync had covered; that is no damage",
}
"""What the situations of a store that opens mean, for people."""

PROGRESS_EVERY = 50_000
"""After how many frames or jobs a long command says where it is."""
_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Reading:
    """An open store. ``files`` are closed with it."""

    directory: str
    files: Files[EventForm, JobState]
    view: View[EventForm, JobState]
    report: RecoveryReport
    out: Output

    @property
    def records(self) -> int:
        """How many records the snapshot has."""
        return self.files.snapshot.trailer.records if self.files.snapshot is not None else 0

    @property
    def read_bytes(self) -> int:
        """The bytes of all files that count."""
        snapshot_bytes = self.files.snapshot.length if self.files.snapshot is not None else 0
        return snapshot_bytes + sum(link.end for link in self.files.chain)

    def jobs(self) -> Iterator[SchedulerJobRecord]:
        """Yield every job in the order of their ids, in the memory that the log takes."""
        states = merged(self.view, WalOptions().merge_memory_bytes, MemorySpill())
        for number, (job, state) in enumerate(states):
            if number % PROGRESS_EVERY == PROGRESS_EVERY - 1:
                self.out.progress(f"folding: {number:,} jobs")
            yield record_of(job, state)

    def events(self) -> Iterator[tuple[int, EventForm]]:
        """Yield every event above the snapshot with the LSN of its frame."""
        for number, (lsn, events) in enumerate(self.view.frames()):
            if number % PROGRESS_EVERY == PROGRESS_EVERY - 1:
                self.out.progress(f"reading events: at LSN {lsn} of {self.view.end_lsn}")
            for event in events:
                yield lsn, event


@contextmanager
def reading(directory: str, out: Output) -> Iterator[Reading]:
    """Open a store for looking at it and close it at the end; raises what opening read-only raises."""

    def show(done_bytes: int, total_bytes: int) -> None:
        out.progress(f"reading the log: {done_bytes // _MIB:,} of {total_bytes // _MIB:,} MiB")

    out.progress("reading")
    files, end_lsn, report = open_for_reading(os_environment(), directory, JOBS, show)
    try:
        yield Reading(directory, files, View(files, end_lsn, JOBS), report, out)
    except BrokenPipeError:
        # That was standard output.
        raise
    except OSError as error:
        raise storage_error(error, f"reading the store {directory}") from error
    finally:
        files.close()


def count_jobs(store: Reading) -> dict[str, int]:
    """Return how many jobs there are of each status that is stored."""
    counts = Counter(record.status for record in store.jobs())
    return {status.value: counts[status] for status in SchedulerJobStatus if status != SchedulerJobStatus.CANCELLED}


def describe_jobs(counts: dict[str, int]) -> str:
    """Return the counts in one line."""
    kinds = ", ".join(f"{count:,} {status}" for status, count in counts.items() if count)
    return f"{sum(counts.values()):,}" + (f" ({kinds})" if kinds else "")


def plural(count: int, noun: str) -> str:
    """Return the count with the noun."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
