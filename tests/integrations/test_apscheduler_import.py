"""From APScheduler's own store in SQLite to walstore: all jobs as they were, or nothing."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from walstore.errors import SchedulerPersistenceError, StorageError
from walstore.integrations.apscheduler_import import import_sqlite
from walstore.integrations.entries import EntryStore
from walstore.integrations.entry_model import us_of

pytest.importorskip("apscheduler", reason="APScheduler is not installed")
pytest.importorskip("sqlalchemy", reason="SQLAlchemy is not installed")

from apscheduler.jobstores.sqlalchemy import SQLAlchemyJobStore
from apscheduler.triggers.cron import CronTrigger

from tests.integrations.passes import PassScheduler, work
from walstore.integrations.apscheduler import WalJobStore


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A file of APScheduler's own store, with jobs of several kinds."""
    path = tmp_path / "jobs.sqlite"
    scheduler = PassScheduler(SQLAlchemyJobStore(f"sqlite:///{path}"))
    scheduler.start()
    berlin = ZoneInfo("Europe/Berlin")
    scheduler.add_job(work, "interval", hours=1, id="hourly", args=["ä"], max_instances=3)
    scheduler.add_job(work, CronTrigger(hour=4, minute=30, timezone=berlin), id="nightly", name="Nächtlich")
    scheduler.add_job(work, "date", run_date=datetime(2400, 1, 2, 3, 4, 5, 678_901, tzinfo=berlin), id="far")
    scheduler.add_job(work, "date", run_date=datetime(2031, 1, 2, 3, 4, 5, 678_901, tzinfo=berlin), id="once")
    scheduler.add_job(work, "interval", hours=1, id="paused").pause()
    scheduler.add_job(work, "date", run_date=datetime.now(UTC) - timedelta(hours=1), id="due")
    scheduler.shutdown()
    return path


def described(scheduler: PassScheduler) -> list[tuple[object, ...]]:
    return [
        (job.id, job.name, job.next_run_time, job.func, job.args, job.max_instances, str(job.trigger))
        for job in scheduler.get_jobs()
    ]


def test_all_jobs_come_over_as_they_were(source: Path, tmp_path: Path) -> None:
    assert import_sqlite(str(source), str(tmp_path / "store")) == 6
    told = []
    for store in SQLAlchemyJobStore(f"sqlite:///{source}"), WalJobStore(tmp_path / "store"):
        scheduler = PassScheduler(store)
        scheduler.start()
        told.append(described(scheduler))
        scheduler.shutdown()
    assert len(told[0]) == 6
    assert told[0] == told[1]


def test_due_times_are_exact_without_the_jobs_being_read(source: Path, tmp_path: Path) -> None:
    import_sqlite(str(source), str(tmp_path / "store"))
    with EntryStore(tmp_path / "store", kind="aps/1") as entries:
        found_us = {key: entry.next_run_us for key, entry in entries.found.items()}
    once = datetime(2031, 1, 2, 3, 4, 5, 678_901, tzinfo=ZoneInfo("Europe/Berlin"))
    assert found_us["once"] == us_of(once)
    assert found_us["paused"] is None


def test_a_table_of_another_name(source: Path, tmp_path: Path) -> None:
    with closing(sqlite3.connect(source)) as database:
        database.execute('ALTER TABLE apscheduler_jobs RENAME TO "our ""jobs"""')
    with pytest.raises(ValueError, match="no table apscheduler_jobs"):
        import_sqlite(str(source), str(tmp_path / "store"))
    assert import_sqlite(str(source), str(tmp_path / "store"), table='our "jobs"') == 6


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE apscheduler_jobs SET job_state = 'text' WHERE id = 'paused'",
        "UPDATE apscheduler_jobs SET next_run_time = 'tomorrow' WHERE id = 'paused'",
        "UPDATE apscheduler_jobs SET next_run_time = 9e999 WHERE id = 'paused'",
        "UPDATE apscheduler_jobs SET next_run_time = 253402300800 WHERE id = 'paused'",
        "UPDATE apscheduler_jobs SET id = x'00' WHERE id = 'paused'",
        "UPDATE apscheduler_jobs SET id = '' WHERE id = 'paused'",
        "UPDATE apscheduler_jobs SET job_state = zeroblob(2000000) WHERE id = 'paused'",
        "ALTER TABLE apscheduler_jobs RENAME COLUMN job_state TO state",
        "DROP TABLE apscheduler_jobs",
    ],
)
def test_what_can_not_be_imported_leaves_nothing_behind(source: Path, tmp_path: Path, damage: str) -> None:
    with closing(sqlite3.connect(source)) as database, database:
        database.execute(damage)
    with pytest.raises(ValueError, match=r"job|entry|64 bits"):
        import_sqlite(str(source), str(tmp_path / "store"))
    assert not (tmp_path / "store").exists()


def test_what_is_no_file_of_sqlite_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="can't be opened"):
        import_sqlite(str(tmp_path / "nothing"), str(tmp_path / "store"))
    with pytest.raises(StorageError, match="can't be opened"):
        import_sqlite(str(tmp_path), str(tmp_path / "store"))
    (tmp_path / "text").write_text("Dear SQLite, " * 100, "utf-8")
    with pytest.raises(StorageError, match="SQLite file"):
        import_sqlite(str(tmp_path / "text"), str(tmp_path / "store"))
    assert not (tmp_path / "store").exists()


def test_a_target_that_holds_something_is_left_alone(source: Path, tmp_path: Path) -> None:
    import_sqlite(str(source), str(tmp_path / "store"))
    for target in tmp_path / "store", tmp_path:
        with pytest.raises(SchedulerPersistenceError, match="not empty"):
            import_sqlite(str(source), str(target))
    store = WalJobStore(tmp_path / "store")
    store.start(None, "default")
    assert len(store.get_all_jobs()) == 6
    store.shutdown()


def test_the_source_is_not_changed(source: Path, tmp_path: Path) -> None:
    before = source.read_bytes()
    import_sqlite(str(source), str(tmp_path / "store"))
    assert source.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["jobs.sqlite", "store"]


def test_a_transaction_that_was_cut_off_is_not_taken_for_the_truth(source: Path, tmp_path: Path) -> None:
    """A killed writer leaves its journal; without rolling back, its half of a change would be imported."""
    with closing(sqlite3.connect(source, isolation_level=None)) as database:
        database.execute("PRAGMA cache_size = 1")
        database.execute("BEGIN")
        database.execute("CREATE TABLE filler (x)")
        for _ in range(100):
            database.execute("INSERT INTO filler VALUES (zeroblob(4000))")
        database.execute("DELETE FROM apscheduler_jobs")
        for name in source.name, f"{source.name}-journal":
            (tmp_path / f"killed-{name}").write_bytes((tmp_path / name).read_bytes())
        database.execute("ROLLBACK")
    killed = tmp_path / f"killed-{source.name}"
    with pytest.raises(StorageError, match="opened once"):
        import_sqlite(str(killed), str(tmp_path / "store"))
    with closing(sqlite3.connect(killed)) as database:
        database.execute("SELECT * FROM apscheduler_jobs").fetchall()
    assert import_sqlite(str(killed), str(tmp_path / "store")) == 6
