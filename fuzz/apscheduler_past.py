"""What must be found after a process with APScheduler was killed, from the diaries of its lives."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from fuzz.apscheduler_victim import ONCE, STEP, TICKS

__all__ = ["LOSSES", "Past"]

LOSSES = {
    "lost": "jobs that are gone",
    "back": "removed jobs that are back",
    "unreported": "runs that were cut off and are not reported",
    "vanished": "one-time jobs gone without a run that ended, and not reported",
    "false": "reports of runs that had been recorded as ended",
    "twice": "runs reported twice",
    "time": "next run times that are wrong",
    "state": "jobs in a state that is not their last one",
}
_STEP_US = STEP.total_seconds() * 1_000_000


@dataclass(slots=True)
class _Job:
    """What is known of a job while it is there, or may be."""

    due_us: int | None = None
    """The next run time that it was given."""
    submitted_us: int = -1
    """The last run of which APScheduler has said that it was handed over, and the next run time stored."""
    version_min: int = 0
    version_max: int = 0
    is_added: bool = False
    is_removing: bool = False
    is_over: bool = False
    """Whether a run of it has ended or was reported: a one-time job may be gone then."""


@dataclass(slots=True)
class Past:
    """The jobs and runs of all lives until now. ``found`` counts what went wrong, by the kinds of ``LOSSES``."""

    found: Counter[str] = field(default_factory=Counter)
    details: list[str] = field(default_factory=list)
    cut_off: int = 0
    """Runs that had begun and not ended when their process was killed."""
    reported: int = 0
    _jobs: dict[str, _Job] = field(default_factory=dict)
    _running: set[str] = field(default_factory=set)
    """Jobs of which a run has begun and not ended."""
    _open: set[str] = field(default_factory=set)
    """Of an earlier life: jobs of which a run was cut off."""
    _recorded: dict[tuple[str, int], int] = field(default_factory=dict)
    """Until when runs had been recorded as ended. A run may be made again, if it had ended before its job moved on."""
    _reports: set[tuple[str, int, int]] = field(default_factory=set)
    """Reported, and settled."""
    _killed_us: int = 0

    def add(self, diary: str, killed_us: int) -> None:
        """Take in the diary of one life, which was ended at an instant, and judge what it says that it found."""
        lines = iter([line.split(" ") for line in diary.splitlines()])
        reports, found, opened = self._beginning(lines)
        for report in reports:
            self._take_report(report)
        if not opened:
            return
        self._judge(found)
        self._reports.update(reports)
        for name, job_id, *numbers in lines:
            self._take(name, job_id, *map(int, numbers))
        self._killed_us = killed_us
        self._open, self._running = self._running, set()

    def _beginning(
        self, lines: Iterator[list[str]]
    ) -> tuple[list[tuple[str, int, int]], dict[str, tuple[int, int]], bool]:
        reports, found = [], {}
        for line in lines:
            match line:
                case ["orphan", job_id, scheduled, started]:
                    reports.append((job_id, int(scheduled), int(started)))
                case ["found", job_id, due, version]:
                    found[job_id] = int(due), int(version)
                case ["opened"]:
                    return reports, found, True
        return reports, found, False

    def _take_report(self, report: tuple[str, int, int]) -> None:
        job_id, scheduled_us, started_us = report
        if report in self._reports:
            self._note("twice", f"{report}")
        if started_us <= self._recorded.get((job_id, scheduled_us), -1):
            self._note("false", f"{report}")
        self.reported += job_id in self._open
        self.cut_off += job_id in self._open
        self._open.discard(job_id)
        if job_id in self._jobs:
            self._jobs[job_id].is_over = True

    def _judge(self, found: dict[str, tuple[int, int]]) -> None:
        self.cut_off += len(self._open)
        for job_id in sorted(self._open):
            self._note("unreported", job_id)
        self._open.clear()
        for job_id in sorted(found.keys() - self._jobs.keys()):
            self._note("back", job_id)
        for job_id, job in list(self._jobs.items()):
            if job_id in found:
                self._judge_state(job_id, job, *found[job_id])
                job.is_added, job.is_removing = True, False
                continue
            del self._jobs[job_id]
            if job.is_added and not job.is_removing:
                if not job_id.startswith(ONCE):
                    self._note("lost", job_id)
                elif not job.is_over:
                    self._note("vanished", job_id)

    def _judge_state(self, job_id: str, job: _Job, due_us: int, version: int) -> None:
        if not job.version_min <= version <= job.version_max:
            self._note("state", f"{job_id}: {version}, expected {job.version_min} to {job.version_max}")
        job.version_min = job.version_max = version
        if job_id in TICKS:
            # Planned after the last run that was handed over, and one step after one that was due at all.
            right = due_us % _STEP_US == 0 and job.submitted_us < due_us <= self._killed_us + _STEP_US
        else:
            right = job.due_us in {None, due_us}
        if not right:
            self._note("time", f"{job_id}: {due_us}, was {job.due_us}, handed over {job.submitted_us}")
        job.due_us = due_us

    def _take(self, name: str, job_id: str, number: int = 0, at_us: int = 0) -> None:
        """Take in a line of the diary. Its number is an instant or a version."""
        if name == "adding":
            self._jobs[job_id] = _Job()
        elif name == "begin":
            self._running.add(job_id)
        elif name == "end":
            self._running.discard(job_id)
        elif name == "recorded":
            self._recorded[job_id, number] = at_us
        # A run may go on when its job is gone, and what APScheduler says of it then comes late.
        job = self._jobs.get(job_id)
        if job is None:
            return
        if name == "added":
            job.is_added, job.due_us = True, number
        elif name == "removing":
            job.is_removing = True
        elif name == "removed":
            del self._jobs[job_id]
        elif name == "end":
            job.is_over = True
        elif name == "submitted":
            job.submitted_us = number
        elif name == "changing":
            job.version_max = number
        elif name == "changed":
            job.version_min = number

    def _note(self, kind: str, what: str) -> None:
        self.found[kind] += 1
        self.details.append(f"{LOSSES[kind]}: {what}")
