"""The schedule file of Celery's own scheduler is imported whole, or not at all."""

from __future__ import annotations

import dbm
import pickle
import shelve
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

pytest.importorskip("celery", reason="Celery is not installed")

from celery.beat import PersistentScheduler, ScheduleEntry
from celery.schedules import crontab, schedule

from fuzz.celery_beats import Seen, read_store
from tests.integrations.celery_apps import START, TimedCelery, application, opened, run_due
from walstore.errors import SchedulerPersistenceError, StoreNotFoundError
from walstore.integrations.celery import WalScheduler, import_shelve
from walstore.integrations.entries import EntryStore


def app_of(instant: datetime = START) -> TimedCelery:
    app = application(
        {
            "hourly": {"task": "job.hourly", "schedule": 3600.0, "args": (1,), "options": {"queue": "other"}},
            "nightly": {"task": "job.nightly", "schedule": crontab(minute="0", hour="4")},
        },
        instant,
        timezone="Europe/Berlin",
    )
    # What Celery's own scheduler reads back from its file belongs to the current application.
    app.set_current()
    return app


def contents_of(directory: Path) -> Mapping[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A folder with the schedule file of a scheduler that ran, half a day ago."""
    directory = tmp_path / "old"
    directory.mkdir()
    with opened(app_of(), directory, PersistentScheduler) as scheduler:
        scheduler.app.later(hours=1)
        assert run_due(scheduler) == ["job.hourly"]
    return directory


def test_what_was_due_in_the_shelve_is_due_in_the_store(tmp_path: Path, old: Path) -> None:
    before = contents_of(old)
    assert import_shelve(str(old / "schedule"), str(tmp_path / "schedule")) == 2
    assert contents_of(old) == before
    assert read_store(tmp_path) == {"hourly": Seen(1, START + timedelta(hours=1)), "nightly": Seen(0, START)}
    later = START + timedelta(hours=18)
    with opened(app_of(later), old, PersistentScheduler) as theirs, opened(app_of(later), tmp_path) as ours:
        assert sorted(run_due(ours)) == sorted(run_due(theirs)) == ["job.hourly", "job.nightly"]


def test_the_definitions_are_imported_as_well(tmp_path: Path, old: Path) -> None:
    class Keeping(WalScheduler):
        def merge_inplace(self, _: object) -> None:
            """Leave everything as it was found."""

    import_shelve(str(old / "schedule"), str(tmp_path / "schedule"))
    app = app_of()
    with opened(app, tmp_path, Keeping) as scheduler:
        for name, entry in app.conf.beat_schedule.items():
            assert scheduler.schedule[name] == ScheduleEntry(name=name, app=app, **entry)


def test_nothing_is_imported_into_a_store_with_entries(tmp_path: Path, old: Path) -> None:
    with opened(application({"other": {"task": "job.other", "schedule": 60.0}}), tmp_path):
        pass
    with pytest.raises(SchedulerPersistenceError, match="1 entries already"):
        import_shelve(str(old / "schedule"), str(tmp_path / "schedule"))
    assert list(read_store(tmp_path)) == ["other"]


@pytest.mark.parametrize("damage", ["no file", "no pickle", "another pickle", "an entry"])
def test_what_can_not_be_read_whole_is_not_imported(tmp_path: Path, old: Path, damage: str) -> None:
    source = old / "schedule"
    with dbm.open(str(source), "w") as file:
        pickled = pickle.loads(file[b"entries"])
        if damage == "no file":
            source = old / "nothing"
        elif damage == "no pickle":
            file[b"entries"] = b"garbage"
        elif damage == "another pickle":
            file[b"entries"] = pickle.dumps([1, 2])
        else:
            # Pickled by name: the class is gone when it is read.
            file[b"entries"] = pickle.dumps(pickled).replace(b"crontab", b"crontub")
    with pytest.raises(SchedulerPersistenceError, match="nothing was imported"):
        import_shelve(str(source), str(tmp_path / "schedule"))
    assert not (tmp_path / "schedule").exists()


def test_a_new_store_does_not_take_the_name_of_a_shelve(old: Path) -> None:
    before = contents_of(old)
    with pytest.raises(StoreNotFoundError, match="walstore import celery"):
        WalScheduler(app=app_of(), schedule_filename=str(old / "schedule"))
    assert contents_of(old) == before


def test_an_entry_that_json_can_not_express_keeps_when_it_ran(tmp_path: Path) -> None:
    # A clock of its own is a function, which the shelve takes where it has a name.
    entry = ScheduleEntry("own", "job.own", START, 7, schedule(60.0, nowfun=utc_now))
    with shelve.open(str(tmp_path / "old")) as shelf:
        shelf.update({"entries": {"own": entry}, "tz": None, "utc_enabled": True, "__version__": "5.4.0"})
    assert import_shelve(str(tmp_path / "old"), str(tmp_path / "schedule")) == 1
    with EntryStore(tmp_path / "schedule", kind="beat/1") as store:
        assert store.found["own"].blob.endswith(b"\n")
    app = application({"own": {"task": "job.own", "schedule": schedule(60.0, nowfun=utc_now)}})
    with opened(app, tmp_path) as scheduler:
        assert scheduler.schedule["own"].last_run_at == START
        assert scheduler.schedule["own"].total_run_count == 7


def utc_now() -> datetime:
    return datetime.now(UTC)
