"""The beat scheduler in one process: what it restores, merges, records and refuses."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NoReturn
from zoneinfo import ZoneInfo

import pytest

pytest.importorskip("celery", reason="Celery is not installed")

from celery.beat import PersistentScheduler, Scheduler
from celery.schedules import crontab, schedule
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from fuzz.celery_beats import Seen, read_store
from tests.integrations.celery_apps import START, application, opened, run_due
from walstore.errors import CorruptionError, StoreLockedError, StoreNotFoundError
from walstore.format.layout import FRAME_HEADER_BYTES
from walstore.integrations.celery import WalScheduler
from walstore.integrations.entries import EntryStore

HOURLY = {"task": "job.hourly", "schedule": 3600.0}
BERLIN = ZoneInfo("Europe/Berlin")


def nightly() -> dict[str, object]:
    # A new one each time: a crontab remembers the time zone of the first application that it belongs to.
    return {"task": "job.nightly", "schedule": crontab(minute="0", hour="4")}


def seen(directory: Path, name: str) -> Seen:
    return read_store(directory)[name]


# Each run is recorded when it happens.


def test_a_run_is_in_the_store_as_soon_as_it_was_made(tmp_path: Path) -> None:
    app = application({"hourly": HOURLY, "nightly": nightly()})
    with opened(app, tmp_path) as scheduler:
        assert seen(tmp_path, "hourly") == Seen(0, START)
        for number in range(1, 4):
            app.later(hours=1)
            assert run_due(scheduler) == ["job.hourly"]
            assert seen(tmp_path, "hourly") == Seen(number, app.instant)
        assert seen(tmp_path, "nightly") == Seen(0, START)


def test_a_run_that_was_missed_is_made_after_the_restart(tmp_path: Path) -> None:
    app = application({"nightly": nightly()})
    with opened(app, tmp_path) as scheduler:
        assert run_due(scheduler) == []
    app.later(days=1)
    with opened(app, tmp_path) as scheduler:
        assert run_due(scheduler) == ["job.nightly"]
    with opened(app, tmp_path) as scheduler:
        assert run_due(scheduler) == []


def test_a_run_is_recorded_as_begun_before_its_task_is_sent_and_as_done_after(tmp_path: Path) -> None:
    app = application({"hourly": HOURLY})
    during: list[Seen] = []

    class Watching(WalScheduler):
        def send_task(self, *args: object, **kwargs: object) -> object:
            # A sync in between must not record the run as done either.
            self.sync()
            during.append(seen(tmp_path, "hourly"))
            return super().send_task(*args, **kwargs)

    with opened(app, tmp_path, Watching) as scheduler:
        app.later(hours=1)
        run_due(scheduler)
        assert during == [Seen(0, START, is_orphaned=True)]
        assert seen(tmp_path, "hourly") == Seen(1, app.instant)


def test_a_run_that_was_cut_off_is_reported_once_and_made_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    app = application({"hourly": HOURLY})
    app_of_the_next = application({"hourly": HOURLY}, START + timedelta(hours=2))

    class Dying(WalScheduler):
        def send_task(self, *_: object, **__: object) -> object:
            raise SystemExit

    with opened(app, tmp_path, Dying) as scheduler:
        app.later(hours=1)
        with pytest.raises(SystemExit):
            run_due(scheduler)
    assert seen(tmp_path, "hourly") == Seen(0, START, is_orphaned=True)
    with opened(app_of_the_next, tmp_path) as scheduler:
        assert "run 1 of 'hourly' was cut off" in caplog.text
        caplog.clear()
        assert run_due(scheduler) == ["job.hourly"]
    with opened(app_of_the_next, tmp_path) as scheduler:
        assert "cut off" not in caplog.text
        assert run_due(scheduler) == []


def test_a_task_that_can_not_be_sent_waits_for_its_next_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    # As with Celery's own scheduler. That it failed is in the store.
    app = application({"hourly": HOURLY})

    class Offline(WalScheduler):
        def send_task(self, *_: object, **__: object) -> object:
            raise ConnectionRefusedError("no broker")

    with opened(app, tmp_path, Offline) as scheduler:
        app.later(hours=1)
        run_due(scheduler)
        assert "no broker" in caplog.text
        assert seen(tmp_path, "hourly") == Seen(1, app.instant)
        app.later(minutes=59)
        assert run_due(scheduler) == []
    with EntryStore(tmp_path / "schedule", kind="beat/1", create=False) as store:
        assert store.found["hourly"].consecutive_failures == 1
        assert store.orphaned_runs == ()


def test_a_scheduler_that_loses_its_broker_before_it_sends_makes_the_run_again(tmp_path: Path) -> None:
    app = application({"hourly": HOURLY})

    class Unconnected(WalScheduler):
        @property
        def producer(self) -> NoReturn:
            raise ConnectionRefusedError("no broker")

    with opened(app, tmp_path, Unconnected) as scheduler:
        app.later(hours=1)
        with pytest.raises(ConnectionRefusedError):
            run_due(scheduler)
    with opened(app, tmp_path) as scheduler:
        assert run_due(scheduler) == ["job.hourly"]


@pytest.mark.parametrize("advance", [True, False])
def test_a_task_sent_by_hand_counts_where_it_is_to_count(tmp_path: Path, advance: bool) -> None:
    app = application({"hourly": HOURLY})
    with opened(app, tmp_path) as scheduler:
        app.later(minutes=10)
        scheduler.apply_async(scheduler.schedule["hourly"], advance=advance)
    assert seen(tmp_path, "hourly") == (Seen(1, app.instant) if advance else Seen(0, START))


# What Celery's own scheduler does with the configuration, this one does.

TASKS = st.fixed_dictionaries(
    {
        "task": st.sampled_from(["job.one", "job.two"]),
        # Made anew at each start, as by an application: a crontab remembers the time zone of its first one.
        "schedule": st.sampled_from(
            [
                lambda: 60,
                lambda: 3600.0,
                lambda: timedelta(minutes=7),
                lambda: crontab(minute="*/20"),
                lambda: crontab(hour="4,16", minute="30"),
            ]
        ),
        "args": st.sampled_from([(), (1, "two")]),
        "options": st.sampled_from([{}, {"queue": "other"}]),
    },
    optional={"relative": st.booleans(), "kwargs": st.just({"day": 1})},
)
CONFIGURATIONS = st.dictionaries(st.sampled_from("abc"), TASKS)
# Without a time zone before, and with one now, Celery's own scheduler goes on in the old one until an entry has run.
TIMES = st.sampled_from(
    [{"timezone": "UTC"}] * 3 + [{"timezone": "Europe/Berlin"}, {"enable_utc": False, "timezone": "Asia/Kolkata"}]
)
MINUTES = st.lists(st.integers(0, 200), max_size=3)
LIVES = st.lists(st.tuples(CONFIGURATIONS, TIMES, MINUTES), min_size=1, max_size=4)

Life = tuple[dict[str, dict[str, Any]], dict[str, object], list[int]]


def live(lives: list[Life], directory: Path, kind: type[WalScheduler | PersistentScheduler]) -> list[object]:
    """Start a scheduler with each configuration in turn, let time pass, and return all that is to be seen."""
    instant, found = START, list[object]()
    for configuration, times, minutes in lives:
        entries = {name: {**task, "schedule": task["schedule"]()} for name, task in configuration.items()}
        app = application(entries, instant, **times)
        # What Celery's own scheduler reads back from its file belongs to the current application.
        app.set_current()
        with opened(app, directory, kind) as scheduler:
            for pause in [0, *minutes]:
                app.later(minutes=pause)
                found.append((sorted(run_due(scheduler)), shown(scheduler)))
        app.later(minutes=30)
        instant = app.instant
    return found


def shown(scheduler: Scheduler) -> Mapping[str, object]:
    return {
        name: (
            (entry.task, entry.schedule, entry.args, entry.kwargs, entry.options),
            (entry.last_run_at, str(entry.last_run_at), entry.total_run_count, entry.is_due()),
        )
        for name, entry in scheduler.schedule.items()
        if entry.last_run_at is not None
    }


# An example takes a while: whatever fails first is good enough.
@settings(max_examples=15, phases=[Phase.explicit, Phase.generate])
@given(lives=LIVES)
def test_the_configuration_is_merged_as_celery_does(
    lives: list[Life], tmp_path_factory: pytest.TempPathFactory
) -> None:
    ours, theirs = tmp_path_factory.mktemp("ours"), tmp_path_factory.mktemp("theirs")
    assert live(lives, ours, WalScheduler) == live(lives, theirs, PersistentScheduler)


def test_a_periodic_task_that_is_added_when_the_application_is_ready_is_scheduled(tmp_path: Path) -> None:
    app = application({})
    app.add_periodic_task(3600.0, app.signature("job.added"), name="added")
    with opened(app, tmp_path) as scheduler:
        app.later(hours=1)
        assert run_due(scheduler) == ["job.added"]
    with opened(app, tmp_path) as scheduler:
        assert scheduler.schedule["added"].total_run_count == 1


def test_names_may_be_of_any_length(tmp_path: Path) -> None:
    # Without a name, Celery takes the representation of the task with its arguments.
    app = application({"é" * 700 + end: HOURLY for end in "ab"})
    with opened(app, tmp_path) as scheduler:
        app.later(hours=1)
        assert len(run_due(scheduler)) == 2
    with opened(app, tmp_path) as scheduler:
        assert [entry.total_run_count for entry in scheduler.schedule.values()] == [1, 1]


def test_the_entry_that_celery_adds_keeps_when_it_ran(tmp_path: Path) -> None:
    # Celery's own scheduler makes it anew at every start: a beat that is restarted each evening never cleans up.
    results = tmp_path / "results"
    results.mkdir()
    app = application({}, result_backend=f"file://{results}", result_expires=3600)
    with opened(app, tmp_path) as scheduler:
        assert run_due(scheduler) == []
    app.later(hours=18)
    with opened(app, tmp_path) as scheduler:
        assert run_due(scheduler) == ["celery.backend_cleanup"]
    with opened(app, tmp_path) as scheduler:
        assert scheduler.schedule["celery.backend_cleanup"].total_run_count == 1


def test_an_entry_added_while_beat_runs_is_recorded_at_the_next_sync(tmp_path: Path) -> None:
    # As with Celery's own scheduler, it is gone after the next start, unless the configuration has it by then.
    app = application({})
    with opened(app, tmp_path) as scheduler:
        scheduler.add(name="added", task="job.added", schedule=crontab(hour="4", minute="0"))
        scheduler.sync()
        assert seen(tmp_path, "added") == Seen(0, START)
        del scheduler.schedule["added"]
        scheduler.sync()
        assert read_store(tmp_path) == {}


def test_a_scheduler_that_keeps_what_is_not_configured_finds_it_whole(tmp_path: Path) -> None:
    class Keeping(WalScheduler):
        def merge_inplace(self, b: dict[str, Any]) -> None:
            self.update_from_dict(b)

    arguments = {"args": (1, "two"), "kwargs": {"at": START}, "options": {"expires": timedelta(hours=1), "priority": 3}}
    app = application({})
    with opened(app, tmp_path, Keeping) as scheduler:
        scheduler.add(name="added", task="job.added", schedule=crontab(hour="4,5", minute=[1, 2]), **arguments)
        added = scheduler.schedule["added"]
    with opened(app, tmp_path, Keeping) as scheduler:
        assert scheduler.schedule["added"] == added
        assert scheduler.schedule["added"].last_run_at == START


# Time.


def test_local_time_decides_also_after_a_restart(tmp_path: Path) -> None:
    # The night in which the clocks go forward: four o'clock in Berlin is an hour earlier than on the day before.
    app = application({"nightly": nightly()}, timezone="Europe/Berlin")
    with opened(app, tmp_path):
        pass
    app.instant = datetime(2026, 3, 29, 1, 59, tzinfo=UTC)
    with opened(app, tmp_path) as scheduler:
        assert run_due(scheduler) == []
        assert scheduler.schedule["nightly"].last_run_at.tzinfo == BERLIN
        app.instant = datetime(2026, 3, 29, 2, 0, tzinfo=UTC)
    with opened(app, tmp_path) as scheduler:
        assert run_due(scheduler) == ["job.nightly"]


def test_a_schedule_with_a_clock_of_its_own_keeps_its_naive_time(tmp_path: Path) -> None:
    naive = datetime(2026, 3, 28, 12, 0, 0, 123_456)  # noqa: DTZ001  # This is what it is about.
    app = application({"own": {"task": "job.own", "schedule": schedule(3600.0, nowfun=lambda: naive)}})
    for _ in range(2):
        with opened(app, tmp_path) as scheduler:
            assert scheduler.schedule["own"].last_run_at == naive


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"timezone": "Asia/Kolkata"}, "Timezone changed from 'Europe/Berlin' to 'Asia/Kolkata'"),
        ({"timezone": "Europe/Berlin", "enable_utc": False}, "UTC changed from enabled to disabled"),
        ({}, "Timezone changed from 'Europe/Berlin' to None"),
    ],
)
def test_another_time_zone_starts_anew(
    tmp_path: Path, changed: dict[str, object], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    with opened(application({"nightly": nightly()}, timezone="Europe/Berlin"), tmp_path):
        pass
    app = application({"nightly": nightly()}, START + timedelta(days=2), **changed)
    with opened(app, tmp_path) as scheduler:
        assert f"Reset: {said}" in caplog.text
        assert run_due(scheduler) == []
    caplog.clear()
    with opened(app, tmp_path):
        assert "Reset" not in caplog.text


# What can't be opened is not opened, and never deleted.


def test_a_second_scheduler_on_the_same_store_is_refused(tmp_path: Path) -> None:
    app = application({"hourly": HOURLY})
    with opened(app, tmp_path) as scheduler:
        with pytest.raises(StoreLockedError, match="is open for writing in process"):
            WalScheduler(app=app, schedule_filename=str(tmp_path / "schedule"))
        app.later(hours=1)
        assert run_due(scheduler) == ["job.hourly"]


def test_a_lazy_scheduler_opens_nothing(tmp_path: Path) -> None:
    # Beat makes one only to print what it is about to start.
    app = application({"hourly": HOURLY})
    scheduler = WalScheduler(app=app, schedule_filename=str(tmp_path / "schedule"), lazy=True)
    assert str(tmp_path / "schedule") in scheduler.info
    scheduler.close()
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_store_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    app = application({"hourly": HOURLY})
    with opened(app, tmp_path):
        pass
    newest = max((tmp_path / "schedule").glob("*.snap"))
    damaged = bytearray(newest.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    newest.write_bytes(damaged)
    before = {file.name: file.read_bytes() for file in (tmp_path / "schedule").iterdir()}
    for _ in range(2):
        with pytest.raises(CorruptionError, match=newest.name):
            WalScheduler(app=app, schedule_filename=str(tmp_path / "schedule"))
    assert {file.name: file.read_bytes() for file in (tmp_path / "schedule").iterdir()} == before


def test_a_history_that_can_not_be_read_is_refused(tmp_path: Path) -> None:
    # The checksums hold: a later release wrote it.
    with EntryStore(tmp_path / "schedule", kind="beat/1") as store:
        store.put("hourly", b'{"version": 2}\n', None)
    app = application({"hourly": HOURLY})
    with pytest.raises(CorruptionError, match="hourly"):
        WalScheduler(app=app, schedule_filename=str(tmp_path / "schedule"))


def test_a_definition_that_can_not_be_restored_is_taken_from_the_configuration(tmp_path: Path) -> None:
    app = application({"hourly": HOURLY})
    with opened(app, tmp_path) as scheduler:
        app.later(hours=1)
        run_due(scheduler)
    spoil_definition(tmp_path, "hourly")
    with opened(app, tmp_path) as scheduler:
        assert scheduler.schedule["hourly"].last_run_at == app.instant
        assert scheduler.schedule["hourly"].total_run_count == 1


def test_a_definition_that_can_not_be_restored_is_kept_where_the_configuration_has_none(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with opened(application({"hourly": HOURLY}), tmp_path):
        pass
    blob = spoil_definition(tmp_path, "hourly")
    for _ in range(2):
        caplog.clear()
        with opened(application({}), tmp_path) as scheduler:
            assert dict(scheduler.schedule) == {}
            assert "hourly" in caplog.text
    with EntryStore(tmp_path / "schedule", kind="beat/1") as store:
        assert store.found["hourly"].blob == blob


def spoil_definition(directory: Path, name: str) -> bytes:
    """Make the schedule of an entry one that Celery refuses."""
    with EntryStore(directory / "schedule", kind="beat/1") as store:
        history = store.found[name].blob.partition(b"\n")[0]
        blob = history + b'\n["job", ["crontab", ["0", "25", "*", "*", "*"]], [], {}, {}]'
        store.put(name, blob, None)
    return blob


@pytest.mark.parametrize("suffix", ["", ".db", ".dat"])
def test_the_file_of_the_stock_scheduler_is_not_taken_for_nothing(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"schedule{suffix}"
    file.write_bytes(b"a shelve")
    with pytest.raises(StoreNotFoundError, match="walstore import"):
        WalScheduler(app=application({}), schedule_filename=str(tmp_path / "schedule"))
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [(file.name, b"a shelve")]


def all_is_on_the_device(scheduler: WalScheduler) -> bool:
    assert scheduler._store is not None
    stats = scheduler._store.stats()
    # A sync is followed by a watermark, which no sync follows.
    return stats.end_lsn - stats.durable_lsn <= FRAME_HEADER_BYTES + 16


def test_the_durability_is_a_setting(tmp_path: Path) -> None:
    app = application({"hourly": HOURLY}, beat_walstore_durability="power")
    with opened(app, tmp_path) as scheduler:
        app.later(hours=1)
        run_due(scheduler)
        assert all_is_on_the_device(scheduler)
    app = application({}, beat_walstore_durability="most")
    with pytest.raises(ValueError, match="beat_walstore_durability must be 'process' or 'power'"):
        WalScheduler(app=app, schedule_filename=str(tmp_path / "schedule"))


def test_a_run_is_on_the_device_when_beat_is_to_sync_each(tmp_path: Path) -> None:
    app = application({"hourly": HOURLY}, beat_sync_every=1)
    with opened(app, tmp_path) as scheduler:
        for _ in range(3):
            app.later(hours=1)
            run_due(scheduler)
            assert all_is_on_the_device(scheduler)
