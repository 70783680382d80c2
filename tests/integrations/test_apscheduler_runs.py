"""Runs of jobs: recorded before they begin and when they end, found when they were cut off, on disks that fail."""

from __future__ import annotations

import asyncio
import errno
import itertools
import logging
import shutil
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from walstore import Durability, WalOptions
from walstore.engine.environment import Environment
from walstore.errors import StorageFullError, StorePoisonedError
from walstore.integrations.entries import EntryStore
from walstore.integrations.entry_model import Entry, us_of
from walstore.testing.sim_fs import SimFileSystem

pytest.importorskip("apscheduler", reason="APScheduler is not installed")

from apscheduler.events import EVENT_JOB_EXECUTED
from apscheduler.executors.pool import ProcessPoolExecutor
from apscheduler.jobstores.base import ConflictingIdError
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.schedulers.background import BackgroundScheduler

from tests.integrations.passes import AGO, PassScheduler, calls, during, fail, work
from walstore.integrations.apscheduler import KIND, OrphanedJobRun, WalJobStore

DEADLINE_S = 30


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    calls.clear()
    during.clear()
    yield
    during.clear()


@pytest.fixture
def store(tmp_path: Path) -> WalJobStore:
    return WalJobStore(tmp_path / "store")


@pytest.fixture
def scheduler(store: WalJobStore) -> Iterator[PassScheduler]:
    scheduler = PassScheduler(store)
    scheduler.start()
    yield scheduler
    if scheduler.running:
        scheduler.shutdown()


def as_after_a_kill(store: WalJobStore, copy: Path) -> dict[str, Entry]:
    """Return the entries that the death of the process would leave at this moment, in a copy of the store."""
    shutil.copytree(store.path, copy)
    with EntryStore(copy, kind=KIND) as entries:
        return entries.found


def started_again(path: Path) -> WalJobStore:
    store = WalJobStore(path)
    store.start(None, "default")
    return store


def test_a_run_is_known_before_it_begins_and_when_it_has_ended(
    scheduler: PassScheduler, store: WalJobStore, tmp_path: Path
) -> None:
    found: list[dict[str, Entry]] = []
    during.append(lambda: found.append(as_after_a_kill(store, tmp_path / "killed")))
    scheduler.add_due("job")
    scheduler.make_pass()
    assert len(found[0]["job"].runs) == 1
    entry = as_after_a_kill(store, tmp_path / "later")["job"]
    assert entry.runs == ()
    assert entry.last_started_us == found[0]["job"].runs[0].started_us
    assert entry.last_finished_us is not None
    assert entry.consecutive_failures == 0


def test_failures_in_a_row_are_counted(scheduler: PassScheduler, store: WalJobStore, tmp_path: Path) -> None:
    job = scheduler.add_due("job", func=fail)
    scheduler.make_pass()
    job.modify(next_run_time=AGO)
    scheduler.make_pass()
    assert as_after_a_kill(store, tmp_path / "twice")["job"].consecutive_failures == 2
    job.modify(next_run_time=AGO, func=work)
    scheduler.make_pass()
    assert as_after_a_kill(store, tmp_path / "never")["job"].consecutive_failures == 0


def test_a_run_that_was_cut_off_is_reported_once(
    scheduler: PassScheduler, store: WalJobStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    killed = tmp_path / "killed"
    during.append(lambda: shutil.copytree(store.path, killed))
    scheduler.add_due("job", args=["x"])
    scheduler.make_pass()
    with caplog.at_level(logging.WARNING, "apscheduler.jobstores.default"):
        again = started_again(killed)
    (orphan,) = again.orphaned_runs
    assert (orphan.job_id, orphan.scheduled_at, orphan.is_removed) == ("job", AGO, False)
    assert AGO < orphan.started_at <= datetime.now(UTC)
    assert orphan.job is not None
    assert orphan.job.args == ("x",)
    assert 'Run of job "job"' in caplog.text
    again.shutdown()
    again = started_again(killed)
    assert again.orphaned_runs == ()
    again.shutdown()
    with EntryStore(killed, kind=KIND) as entries:
        assert entries.found["job"].consecutive_failures == 1


def test_a_last_run_that_was_cut_off_is_reported_with_its_job(
    scheduler: PassScheduler, store: WalJobStore, tmp_path: Path
) -> None:
    """APScheduler removes a job when it hands its last run over, so nothing else would know of it."""
    killed, begun, over = tmp_path / "killed", threading.Event(), threading.Event()

    def wait() -> None:
        begun.set()
        assert over.wait(DEADLINE_S)

    during.append(wait)
    scheduler.add_executor("threadpool", "threads", max_workers=1)
    scheduler.add_due("once", "date", executor="threads", args=["x"])
    scheduler.make_pass()
    assert begun.wait(DEADLINE_S)
    assert store.lookup_job("once") is None
    shutil.copytree(store.path, killed)
    over.set()
    scheduler.shutdown()
    for path, expected in (killed, ["once"]), (store.path, []):
        again = started_again(path)
        assert [orphan.job_id for orphan in again.orphaned_runs] == expected
        assert all(orphan.is_removed for orphan in again.orphaned_runs)
        assert [orphan.job.args for orphan in again.orphaned_runs if orphan.job] == [("x",)] * len(expected)
        assert again.get_all_jobs() == []
        again.shutdown()


def test_a_job_that_was_cancelled_while_it_ran_stays_gone(
    scheduler: PassScheduler, store: WalJobStore, tmp_path: Path
) -> None:
    killed = tmp_path / "killed"

    def cancel() -> None:
        store.remove_job("job")
        shutil.copytree(store.path, killed)

    during.append(cancel)
    scheduler.add_due("job", "date")
    scheduler.add_due("other")
    with pytest.raises(LookupError):
        # APScheduler wants to remove the job after its last run as well.
        scheduler.make_pass()
    again = started_again(killed)
    assert [orphan.job_id for orphan in again.orphaned_runs] == ["job"]
    assert [job.id for job in again.get_all_jobs()] == ["other"]
    again.shutdown()


def test_a_run_beyond_the_limit_is_none(scheduler: PassScheduler, store: WalJobStore, tmp_path: Path) -> None:
    begun, over = threading.Event(), threading.Event()

    def wait() -> None:
        begun.set()
        assert over.wait(DEADLINE_S)

    during.append(wait)
    scheduler.add_executor("threadpool", "threads", max_workers=2)
    job = scheduler.add_due("job", executor="threads")
    scheduler.make_pass()
    assert begun.wait(DEADLINE_S)
    job.modify(next_run_time=AGO + timedelta(minutes=1))
    scheduler.make_pass()
    assert len(as_after_a_kill(store, tmp_path / "killed")["job"].runs) == 1
    over.set()
    scheduler.shutdown()
    again = started_again(store.path)
    assert again.orphaned_runs == ()
    again.shutdown()
    assert calls == [""]


def test_a_run_that_was_missed_is_none(scheduler: PassScheduler, store: WalJobStore, tmp_path: Path) -> None:
    scheduler.add_due("job", misfire_grace_time=1)
    scheduler.make_pass()
    entry = as_after_a_kill(store, tmp_path / "killed")["job"]
    assert calls == []
    assert (entry.runs, entry.last_started_us, entry.consecutive_failures) == ((), None, 0)


def test_runs_that_are_handed_over_together_are_one(
    scheduler: PassScheduler, store: WalJobStore, tmp_path: Path
) -> None:
    numbers = itertools.count()
    during.append(lambda: shutil.copytree(store.path, tmp_path / f"killed{next(numbers)}"))
    job = scheduler.add_due("job", hours=0, minutes=25, coalesce=False)
    job.modify(func=work, trigger=job.trigger)
    scheduler.make_pass()
    assert len(calls) == 3
    for number in range(3):
        again = started_again(tmp_path / f"killed{number}")
        assert [orphan.scheduled_at for orphan in again.orphaned_runs] == [AGO + timedelta(minutes=50)]
        again.shutdown()
    assert as_after_a_kill(store, tmp_path / "later")["job"].runs == ()


def test_runs_of_other_stores_are_not_ours(store: WalJobStore, tmp_path: Path) -> None:
    scheduler = PassScheduler(store)
    other = WalJobStore(tmp_path / "other")
    scheduler.add_jobstore(other, "other")
    scheduler.start()
    scheduler.add_due("job")
    scheduler.add_due("job", jobstore="other", func=fail)
    scheduler.make_pass()
    scheduler.shutdown()
    failures = []
    for path in store.path, other.path:
        with EntryStore(path, kind=KIND) as entries:
            failures.append(entries.found["job"].consecutive_failures)
    assert failures == [0, 1]


def test_runs_in_other_processes(store: WalJobStore) -> None:
    done = threading.Event()
    scheduler = BackgroundScheduler(jobstores={"default": store}, timezone=UTC)
    scheduler.add_executor(ProcessPoolExecutor(1))
    scheduler.add_listener(lambda _: done.set(), EVENT_JOB_EXECUTED)
    scheduler.start()
    scheduler.add_job(print, "interval", hours=1, id="job", next_run_time=AGO, misfire_grace_time=None)
    assert done.wait(DEADLINE_S)
    scheduler.shutdown()
    with EntryStore(store.path, kind=KIND) as entries:
        assert entries.found["job"].last_finished_us is not None
        assert entries.orphaned_runs == ()


async def _coroutine() -> None:
    work("coroutine")


def test_runs_of_coroutines(store: WalJobStore) -> None:
    async def main() -> None:
        done = asyncio.Event()
        scheduler = AsyncIOScheduler(jobstores={"default": store}, timezone=UTC)
        scheduler.add_listener(lambda _: done.set(), EVENT_JOB_EXECUTED)
        scheduler.start()
        scheduler.add_job(_coroutine, "interval", hours=1, id="job", next_run_time=AGO, misfire_grace_time=None)
        await asyncio.wait_for(done.wait(), DEADLINE_S)
        scheduler.shutdown()
        await asyncio.sleep(0)

    asyncio.run(main())
    assert calls == ["coroutine"]
    with EntryStore(store.path, kind=KIND) as entries:
        assert entries.found["job"].last_finished_us is not None
        assert entries.orphaned_runs == ()


# Reports.

reported: list[OrphanedJobRun] = []


def report(orphan: OrphanedJobRun) -> None:
    reported.append(orphan)


@pytest.mark.parametrize("how", [report, f"{__name__}:report"], ids=["function", "text"])
def test_the_application_is_told_before_it_is_forgotten(tmp_path: Path, how: str) -> None:
    path = with_an_orphan(tmp_path / "store")

    def refuse(orphan: OrphanedJobRun) -> None:
        assert orphan.job is None
        raise RuntimeError("not now")

    reported.clear()
    for _ in range(2):
        with pytest.raises(RuntimeError, match="not now"):
            WalJobStore(path, on_orphaned_run=refuse).start(None, "default")
    store = WalJobStore(path, on_orphaned_run=how)
    store.start(None, "default")
    store.shutdown()
    assert [(orphan.job_id, orphan.scheduled_at) for orphan in reported] == [
        ("job", datetime(1970, 1, 1, microsecond=5, tzinfo=UTC))
    ]
    store.start(None, "default")
    store.shutdown()
    assert len(reported) == 1


def with_an_orphan(path: Path) -> Path:
    """Make a store in which a run was cut off, with a number that no run of today has."""
    with EntryStore(path, kind=KIND) as entries:
        entries.put("job", b"unreadable", None)
        entries.started("job", 5, at_us=6)
    return path


def test_jobs_that_are_added_instead_are_recorded_before_the_reports_are(tmp_path: Path) -> None:
    path = with_an_orphan(tmp_path / "store")

    told: list[str] = []

    def add(orphan: OrphanedJobRun) -> None:
        told.append(orphan.job_id)
        # While the scheduler starts, it keeps what is added until its stores have started.
        starting.add_job(work, "interval", hours=1, id=f"instead of {orphan.job_id}", replace_existing=True)

    starting = PassScheduler(WalJobStore(path, on_orphaned_run=add))
    conflicting = starting.add_job(work, "interval", hours=1, id="job")
    with pytest.raises(ConflictingIdError):
        starting.start()
    conflicting.remove()
    starting.start()
    assert told == ["job", "job"]
    assert [job.id for job in starting.get_jobs()] == ["instead of job"]
    starting.shutdown()
    with EntryStore(path, kind=KIND) as entries:
        assert entries.orphaned_runs == ()


def test_a_store_that_is_added_to_a_running_scheduler_reports_at_once(tmp_path: Path) -> None:
    path = with_an_orphan(tmp_path / "late")
    scheduler = PassScheduler(WalJobStore(tmp_path / "store"))
    scheduler.start()
    late = WalJobStore(path)
    scheduler.add_jobstore(late, "late")
    assert [orphan.job_id for orphan in late.orphaned_runs] == ["job"]
    scheduler.add_due("new", jobstore="late")
    scheduler.make_pass()
    scheduler.remove_jobstore("late")
    scheduler.shutdown()
    with EntryStore(path, kind=KIND) as entries:
        assert entries.orphaned_runs == ()
        assert entries.found["new"].last_finished_us is not None


# Disks that fail.


class Disk:
    """A simulated disk with a store, and a scheduler that runs on it."""

    def __init__(self, durability: Durability = Durability.PROCESS) -> None:
        self.fs = SimFileSystem()
        self.fs.make_directory("/data")
        self.scheduler = PassScheduler(
            WalJobStore(
                "/data/store",
                durability=durability,
                options=WalOptions(segment_bytes_min=1024, segment_bytes_max=1024),
                environment=environment_of(self.fs),
            )
        )
        self.scheduler.start()

    def fill(self) -> None:
        """Leave no space for anything more."""
        self.fs.fail("create", errno.ENOSPC, times=10**6)
        with pytest.raises(StorageFullError):
            for number in itertools.count():
                self.scheduler.add_job(work, "interval", hours=1, id=f"filler{number}")

    def free(self) -> None:
        """Make space again."""
        assert self.fs.heal()

    def found_after_a_kill(self) -> dict[str, Entry]:
        """Return the entries that a process would find that starts when this one was killed."""
        with EntryStore(
            "/data/store", kind=KIND, environment=environment_of(self.fs.clone().process_crash())
        ) as entries:
            return entries.found


def environment_of(fs: SimFileSystem) -> Environment:
    counter = itertools.count()
    return Environment(
        fs=fs,
        random_bytes=lambda size: next(counter).to_bytes(size, "big"),
        monotonic_ns=lambda: 0,
        wall_ns=lambda: 0,
        holder=lambda: {"host": "sim", "pid": 1},
        threads=False,
    )


def test_a_run_that_can_not_be_recorded_does_not_begin(caplog: pytest.LogCaptureFixture) -> None:
    disk = Disk()
    disk.scheduler.add_due("job")
    disk.fill()
    with caplog.at_level(logging.WARNING, "apscheduler.scheduler"):
        # The first pass finds out; the scheduler asks again at once, is told the reason, and then waits.
        assert disk.scheduler.make_pass() == 0
        assert disk.scheduler.make_pass() > 5
    assert "no space left" in caplog.text
    assert calls == []
    disk.free()
    disk.scheduler.make_pass()
    assert calls == [""]
    disk.scheduler.shutdown()


@pytest.mark.parametrize("trigger", ["interval", "date"])
def test_what_follows_from_a_run_is_recorded_when_it_can_be(caplog: pytest.LogCaptureFixture, trigger: str) -> None:
    disk = Disk()
    disk.scheduler.add_due("job", trigger)
    disk.scheduler.add_due("other")
    disk.scheduler.get_job("other").modify(next_run_time=AGO + timedelta(minutes=1))
    during.append(disk.fill)
    with caplog.at_level(logging.WARNING, "apscheduler"):
        disk.scheduler.make_pass()
        during.clear()
        # The loop lives on, begins nothing, and says why.
        assert disk.scheduler.make_pass() > 5
    assert calls == [""]
    assert "Error notifying listener" in caplog.text
    assert "Error getting due jobs" in caplog.text
    with pytest.raises(StorageFullError):
        disk.scheduler.get_job("other").modify(name="new")
    assert len(disk.found_after_a_kill()["job"].runs) == 1
    disk.free()
    disk.scheduler.make_pass()
    assert calls == ["", ""]
    found = disk.found_after_a_kill()
    if trigger == "date":
        assert "job" not in found
    else:
        assert found["job"].runs == ()
        assert found["job"].next_run_us == us_of(AGO + timedelta(hours=24))
        assert found["job"].last_finished_us is not None
    disk.scheduler.shutdown()


def test_a_disk_that_stays_full_does_not_let_the_store_close_in_silence() -> None:
    disk = Disk()
    disk.scheduler.add_due("job")
    during.append(disk.fill)
    disk.scheduler.make_pass()
    with pytest.raises(StorageFullError):
        disk.scheduler.shutdown()
    disk.free()
    # It is closed all the same, and whoever starts it again is told of the run whose end is not known.
    with EntryStore("/data/store", kind=KIND, environment=environment_of(disk.fs)) as entries:
        assert [orphan.entry.key for orphan in entries.orphaned_runs] == ["job"]


def test_after_a_failed_sync_nothing_runs_any_more(caplog: pytest.LogCaptureFixture) -> None:
    disk = Disk(Durability.POWER)
    disk.scheduler.add_due("job")
    disk.fs.fail("sync", errno.EIO)
    with caplog.at_level(logging.WARNING, "apscheduler.scheduler"):
        for _ in range(3):
            disk.scheduler.make_pass()
    assert calls == []
    assert "sync" in caplog.text
    with pytest.raises(StorePoisonedError):
        disk.scheduler.add_due("another")
    with pytest.raises(StorePoisonedError):
        disk.scheduler.shutdown()


# The real thing.

KILLED = """
    import os, signal, sys, threading
    from datetime import UTC, datetime
    from apscheduler.events import EVENT_JOB_EXECUTED, EVENT_JOB_SUBMITTED
    from apscheduler.schedulers.background import BackgroundScheduler
    from walstore.integrations.apscheduler import WalJobStore

    def quick():
        pass

    def endless():
        os.write(1, b"begun\\n")
        threading.Event().wait()

    if __name__ == "__main__":
        store = WalJobStore(sys.argv[1], on_orphaned_run=lambda run: print("orphan", run.job_id, run.is_removed))
        scheduler = BackgroundScheduler(jobstores={"default": store}, timezone=UTC)
        scheduler.start()
        if sys.argv[2] == "live":
            now = datetime.now(UTC)
            over = threading.Event()
            scheduler.add_listener(lambda _: over.set(), EVENT_JOB_EXECUTED)
            scheduler.add_job(quick, "interval", days=1, id="quick", next_run_time=now, misfire_grace_time=None)
            assert over.wait(30)
            scheduler.add_job(quick, "interval", days=1, id="removed")
            scheduler.remove_job("removed")
            scheduler.add_listener(lambda _: os.write(1, b"handed over\\n"), EVENT_JOB_SUBMITTED)
            scheduler.add_job(endless, "interval", days=1, id="endless", next_run_time=now, misfire_grace_time=None)
            scheduler.add_job(endless, "date", run_date=now, id="once", misfire_grace_time=None)
            sys.stdin.read()
        print("jobs", *(job.id for job in scheduler.get_jobs()))
        scheduler.shutdown()
"""


def test_a_process_that_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "service.py"
    script.write_text(textwrap.dedent(KILLED), "utf-8")
    command = [sys.executable, str(script), str(tmp_path / "store")]
    with subprocess.Popen([*command, "live"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout is not None
            # The runs go on, and what followed for their jobs is recorded.
            lines = sorted(child.stdout.readline() for _ in range(4))
        finally:
            child.kill()
    assert lines == ["begun\n", "begun\n", "handed over\n", "handed over\n"]
    for expected in ["orphan endless False", "orphan once True", "jobs endless quick"], ["jobs endless quick"]:
        said = subprocess.run([*command, "again"], capture_output=True, text=True, check=True).stdout
        assert sorted(said.splitlines()[:-1]) + said.splitlines()[-1:] == expected
