"""Kills a service on ``SchedulerHost`` (SIGKILL) in the middle of its runs, over and over, on one and the same store.

``python -m fuzz.host --seconds 60``. After each kill the store is read and held against the journal of the service: no
job is lost, no cancelled job is back, each run that was cut off shows as such, and next fires are where they should be.
The next life must find exactly the runs that were cut off, each of them once; the last life, which is not killed, must
have run again what was to be run again, and counted the other runs as failed, once.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import tempfile
import time
from pathlib import Path
from typing import Final

from fuzz.harness import Deadline, Tally, main
from fuzz.host_life import FAILING, FLAKY, OPTIONS, RETRY_NS, Entry, fork_life, read_journal
from walstore.errors import StoreNotFoundError
from walstore.model.records import SchedulerJobRecord, SchedulerJobStatus
from walstore.model.schedule import Cron, Periodic
from walstore.options import Durability
from walstore.testing.model import Jobs, jobs_of
from walstore.wal import WalPersistence

__all__ = ["run"]

RUNNING: Final = SchedulerJobStatus.RUNNING
_LIVES: Final = 25
"""Kills of one store, before its last life."""
_DELAY_MAX_S: Final = 0.12
_HANGS_S: Final = 60.0

Run = tuple[str, int]
"""A job and when the run was recorded as started."""


def run(seconds: float, seed: int) -> Tally:
    """Kill services for some seconds. The store is kept where something was wrong."""
    tally, deadline = Tally("host"), Deadline(seconds)
    while not deadline.passed() and not tally.failures:
        root = Path(tempfile.mkdtemp(prefix="walstore-host-"))
        service = _Service(root, f"{seed} {tally.runs}")
        try:
            for number in range(_LIVES):
                service.live(number)
                tally.points += 1
                if deadline.passed():
                    break
            service.end()
            shutil.rmtree(root)
        except AssertionError as trouble:
            tally.failures.append(f"seed {seed}, service {tally.runs}: {trouble}. The store is kept: {root}")
        tally.runs += 1
    tally.seconds = deadline.elapsed()
    return tally


class _Service:
    """A store, those who serve from it one after another, and what must be true of it."""

    def __init__(self, root: Path, seed: str) -> None:
        self._root = root
        self._seed = seed
        self._choice = random.Random(f"host {seed}")
        self._offset = 0
        self._there: dict[str, int] = {}
        """Jobs that must be there, and the instant from which on each may have been added."""
        self._open: dict[str, int] = {}
        """The same of jobs whose last call has not returned: they may be there or not."""
        self._runs: dict[str, int] = {}
        """The last run of each job, by the instant of its start."""
        self._ended: set[Run] = set()
        """Runs that came to their end, though that may not be recorded."""
        self._cut_off: set[Run] = set()
        """Runs that the last kill cut off."""
        self._found: set[Run] = set()
        """Runs that a life has found to be cut off; each is to be run again, or counted as failed."""
        self._failing: set[int] = set()
        """All runs of ``FAILING``."""
        self._failed_ns = 0
        """When the last run of ``FLAKY`` failed, or a little earlier."""

    def live(self, number: int) -> None:
        """Let a service live for a while, kill it, and judge what it leaves."""
        choice = self._choice
        level = choice.choice([Durability.PROCESS, Durability.PROCESS, Durability.POWER])
        child = fork_life(self._root, f"{self._seed} {number}", level, is_last=False)
        try:
            if choice.random() < 0.9:
                self._wait_until_up(child)
            # Often early, while what was found is not yet run again.
            time.sleep(_DELAY_MAX_S * choice.random() ** 2)
        finally:
            os.kill(child, signal.SIGKILL)
            status = os.waitpid(child, 0)[1]
        assert status == signal.SIGKILL, f"life {number} ended by itself: {self._complaint()}"
        self._judge()

    def end(self) -> None:
        """Let a last service live until it has nothing left to do, and judge the whole story."""
        child = fork_life(self._root, f"{self._seed} last", Durability.PROCESS, is_last=True)
        deadline = Deadline(_HANGS_S)
        while (ended := os.waitpid(child, os.WNOHANG))[0] == 0:
            if deadline.passed():
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                raise AssertionError(f"the last life has not settled: {self._read()}")
            time.sleep(0.002)
        assert ended[1] == 0, f"the last life failed: {self._complaint()}"
        jobs = self._judge()
        assert not self._cut_off, f"{self._cut_off} ran when the host had been shut down"
        for job, started_ns in self._found:
            if job != FAILING and job in jobs and not job.startswith("gone."):
                assert self._runs[job] > started_ns, f"{job}, cut off at {started_ns}, was not run again"
        failures = jobs[FAILING].consecutive_failures
        assert failures == len(self._failing), f"{failures} failures of {len(self._failing)} runs were counted"
        assert jobs[FLAKY].consecutive_failures == 0, f"{jobs[FLAKY]} has not succeeded at last"
        never = [job for job in jobs if job.startswith("once.") and job not in self._runs]
        assert not never, f"{never} have never run"

    def _wait_until_up(self, child: int) -> None:
        deadline = Deadline(_HANGS_S)
        while not deadline.passed() and not any(entry[0] == "up" for entry in self._entries()):
            if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                return
            time.sleep(0.001)

    def _entries(self) -> list[Entry]:
        journal = self._root / "journal"
        return read_journal(journal, self._offset)[0] if journal.exists() else []

    def _complaint(self) -> str:
        complaint = self._root / "complaint"
        return complaint.read_text("utf-8") if complaint.exists() else "it has not said why"

    def _read(self) -> Jobs:
        try:
            with WalPersistence(self._root / "store", read_only=True, options=OPTIONS) as store:
                return jobs_of(store)
        except StoreNotFoundError:
            return {}
        except Exception as error:  # Whatever else a reader raises here is what this harness looks for.
            raise AssertionError(f"reading raised {type(error).__name__}: {error}") from error

    def _judge(self) -> Jobs:
        """Hold the store against what the journal tells of the life that has just ended."""
        entries = self._entries()
        if entries:
            self._offset = read_journal(self._root / "journal", self._offset)[1]
        known = dict(self._runs)
        self._follow(entries)
        jobs = self._read()
        lost, back = set(self._there) - set(jobs), set(jobs) - set(self._there) - set(self._open)
        assert not lost, f"{lost} are lost"
        assert not back, f"{back} are back"
        # What a kill interrupted is decided by now.
        self._there.update((job, added_ns) for job, added_ns in self._open.items() if job in jobs)
        for job in set(self._open) - set(jobs):
            self._runs.pop(job, None)
        self._open.clear()
        for job, record in jobs.items():
            self._judge_run(record, known.get(job))
            self._judge_fire(record)
        cut_off = {(job, record.last_started_at_ns or 0) for job, record in jobs.items() if record.status is RUNNING}
        # A life that was killed before it could tell what it had found has recorded it, or not yet.
        self._found |= {found for found in self._cut_off - cut_off if found[0] in jobs}
        self._cut_off = cut_off
        return jobs

    def _follow(self, entries: list[Entry]) -> None:
        found: set[Run] = set()
        ran: set[str] = set()
        for what, job, at_ns, flag in entries:
            match what:
                case "orphan":
                    found.add((job, at_ns))
                case "up":
                    assert found == self._cut_off, f"{self._cut_off} were cut off, and {found} found"
                    assert not found & self._found, f"{found & self._found} were found twice"
                    self._found |= found
                    self._cut_off = set()
                case "add":
                    if job not in self._there:
                        self._open[job] = at_ns
                case "added":
                    if job in self._open:
                        self._there[job] = self._open.pop(job)
                case "cancel":
                    if job in self._there:
                        self._open[job] = self._there.pop(job)
                case "cancelled":
                    self._open.pop(job, None)
                    self._runs.pop(job, None)
                case "run" | "retry":
                    assert job in self._there or job in self._open, f"{job} ran and is cancelled"
                    assert not flag or job not in ran, f"{job} was run again without having been cut off"
                    assert flag or not job.startswith("once.") or job not in self._runs, f"{job} ran twice"
                    if what == "retry" and not flag:
                        assert at_ns >= self._failed_ns + RETRY_NS, f"{job} was tried again too early"
                    ran.add(job)
                    self._began(job, at_ns)
                case "end":
                    self._ended.add((job, self._runs.get(job, 0)))
                    if job == FLAKY:
                        self._failed_ns = at_ns

    def _began(self, job: str, started_ns: int) -> None:
        self._runs[job] = started_ns
        if job == FAILING:
            self._failing.add(started_ns)

    def _judge_run(self, record: SchedulerJobRecord, known_ns: int | None) -> None:
        job, started_ns, told_ns = str(record.id), record.last_started_at_ns, self._runs.get(str(record.id))
        assert (started_ns or 0) >= (told_ns or 0), f"{job} ran at {told_ns}, and {record} does not know"
        if started_ns is None:
            return
        if started_ns != told_ns:
            # It was killed after its start was recorded and before its code began.
            self._began(job, started_ns)
        if started_ns != known_ns and (job, started_ns) not in self._ended:
            assert record.status is RUNNING, f"{record} was cut off in the middle of a run"

    def _judge_fire(self, record: SchedulerJobRecord) -> None:
        started_ns, finished_ns = record.last_started_at_ns, record.last_finished_at_ns
        fire_ns, schedule = record.next_fire_at_ns, record.schedule
        if not isinstance(schedule, Periodic | Cron):
            return
        assert fire_ns is not None, f"{record} never fires"
        if started_ns is None:
            first_ns = schedule.next_after(self._there[str(record.id)])
            last_ns = schedule.next_after(time.time_ns())
            assert (first_ns or 0) <= fire_ns <= (last_ns or 0), f"{record} was added after {first_ns}"
        elif record.status is RUNNING or finished_ns is None or finished_ns < started_ns:
            assert fire_ns <= started_ns, f"{record} started before it was due"
        else:
            assert fire_ns == schedule.next_after(finished_ns), f"{record} fires at the wrong time"


if __name__ == "__main__":
    main(run, __doc__ or "")
