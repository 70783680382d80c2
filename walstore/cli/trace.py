"""Reads traces of real jobs in the Standard Workload Format and turns them into the calls that a scheduler would make.

The format is that of the Parallel Workloads Archive: lines that begin with ``;`` are the header, every other line is
one job in columns of integers, where -1 means unknown. Of the columns, counted from 1, this module reads 1 job number,
2 submit (seconds since the header's ``UnixStartTime``), 3 wait (s), 4 run (s) and 11 status.
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

__all__ = ["Call", "PlainSchedule", "Trace", "TraceEvent", "TraceJob", "read_trace"]

PlainSchedule = tuple[str] | tuple[str, int] | tuple[str, str]
"""A schedule in plain types: ``("manual",)``, ``("once", at_ns)``, ``("periodic", every_ns)``, ``("cron", text)``."""

_NS_PER_SECOND = 1_000_000_000
_INSTANT_MAX_S = (2**63 - 1) // _NS_PER_SECOND
_EVERY_HOUR: PlainSchedule = ("periodic", 3_600 * _NS_PER_SECOND)
_MANUAL: PlainSchedule = ("manual",)
_SUCCEEDED, _CANCELLED = 1, 5

# Keeps a file without line ends, which is no trace, from being read whole.
_LINE_BYTES_MAX = 64 * 1024
_HEADER = re.compile(rb";\s*(\w+):\s*(.*?)\s*$")
_JOB = re.compile(rb"\s*(\d{1,18})\s+(-1|\d{1,18})\s+(-1|\d{1,18})\s+(-1|\d{1,18})(?:\s+\S+){6}\s+(-1|\d{1,3})(?:\s|$)")


class Call(IntEnum):
    """The call that an event stands for. The numbers order events of the same instant."""

    SCHEDULED = 0
    STARTED = 1
    FINISHED = 2
    CANCELLED = 3


class TraceEvent(NamedTuple):
    """One call: ``schedule`` belongs to ``SCHEDULED`` and ``success`` to ``FINISHED``; else they are None."""

    at_ns: int
    call: Call
    id: str
    schedule: PlainSchedule | None = None
    success: bool | None = None


class TraceJob(NamedTuple):
    """One job of a trace. Instants are seconds since 1970 in UTC, ``status`` is the format's number."""

    number: int
    submitted_s: int
    started_s: int
    finished_s: int
    status: int


@dataclass(frozen=True, slots=True)
class Trace:
    """A trace that was read whole: ``name`` is its file's, the rest is what its header and its lines say."""

    name: str
    installation: str
    acknowledgement: str
    jobs: tuple[TraceJob, ...]

    @property
    def namespace(self) -> str:
        """The namespace of the trace's job ids: the first word of the file's name, ``kth`` for ``KTH-SP2-1996``."""
        word = re.match(r"[a-z0-9]+", self.name.lower())
        return word[0] if word else "trace"

    def events(self) -> Iterator[TraceEvent]:
        """Yield the events by time, then scheduled < started < finished < cancelled, then by line of the trace."""
        events = [event for job in self.jobs for event in _events_of(job, f"{self.namespace}.job{job.number}")]
        yield from sorted(events, key=lambda event: (event.at_ns, event.call))


def read_trace(path: Path) -> Trace:
    """Read a trace, plain or compressed by gzip.

    Raises ``ValueError`` with a message of one line when the file can't be read or is no trace; it names the line.
    """
    number = 0
    header: dict[str, list[str]] = {}
    jobs: list[TraceJob] = []
    try:
        with path.open("rb") as file:
            # The first bytes decide, as downloads get renamed. gzip reads like a file opened for reading.
            packed = file.peek(2)[:2] == b"\x1f\x8b"
            lines = cast("BinaryIO", gzip.GzipFile(fileobj=file)) if packed else file
            for number, line in enumerate(iter(lambda: lines.readline(_LINE_BYTES_MAX), b""), start=1):  # noqa: B007
                if found := _HEADER.match(line):
                    header.setdefault(found[1].decode(), []).append(found[2].decode("utf-8", "replace"))
                elif line.strip() and not line.startswith(b";"):
                    jobs.append(_job_of(line, header.get("UnixStartTime", [""])[0]))
    except ValueError as error:
        raise ValueError(f"{path}, line {number}: {error}") from None
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path}, after line {number}: damaged gzip data ({error}); fetch the file again") from None
    except OSError as error:
        raise ValueError(f"{path}: can't be read: {error.strerror or error}") from None
    if not jobs:
        raise ValueError(f"{path}, line {number}: the file ends without a single job, so it is no trace")
    return Trace(
        path.name,
        "; ".join(header.get("Installation", [])),
        "; ".join(header.get("Acknowledge", [])),
        tuple(jobs),
    )


def _job_of(line: bytes, start: str) -> TraceJob:
    """Return the job of a line. Raises ``ValueError`` when it is none; ``start`` is the header's ``UnixStartTime``."""
    fields = _JOB.match(line)
    if fields is None:
        text = line[:60].decode("ascii", "backslashreplace").rstrip()
        raise ValueError(f"not a job in the Standard Workload Format: {text!r}")
    if not re.fullmatch(r"[0-9]{1,18}", start):
        raise ValueError("a job before a valid '; UnixStartTime: <seconds>' in the header, which dates the jobs")
    number, *spans_s, status = (max(int(field), 0) for field in fields.groups())
    submitted_s = int(start) + spans_s[0]
    started_s = submitted_s + spans_s[1]
    finished_s = started_s + spans_s[2]
    if finished_s > _INSTANT_MAX_S:
        raise ValueError(f"job {number} ends after the year 2262, the last that an instant can hold")
    return TraceJob(number, submitted_s, started_s, finished_s, status)


def _events_of(job: TraceJob, id: str) -> Iterator[TraceEvent]:
    # Both shapes of a job's life shall be exercised: with a next fire after each run, and without.
    schedule = _EVERY_HOUR if job.number % 2 == 0 else _MANUAL
    finished_ns = job.finished_s * _NS_PER_SECOND
    yield TraceEvent(job.submitted_s * _NS_PER_SECOND, Call.SCHEDULED, id, schedule)
    if job.status != _CANCELLED or job.finished_s > job.started_s:
        yield TraceEvent(job.started_s * _NS_PER_SECOND, Call.STARTED, id)
        yield TraceEvent(finished_ns, Call.FINISHED, id, success=job.status == _SUCCEEDED)
    if job.status == _CANCELLED:
        yield TraceEvent(finished_ns, Call.CANCELLED, id)
