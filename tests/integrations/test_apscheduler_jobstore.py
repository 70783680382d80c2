"""``WalJobStore``: what APScheduler's own tests ask of every job store, restarts, and what can't be restored."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from importlib.metadata import entry_points
from pathlib import Path
from types import SimpleNamespace
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from walstore import Durability
from walstore.errors import SchedulerPersistenceError, StoreClosedError, StoreLockedError, StoreNotFoundError
from walstore.integrations.entries import EntryStore

pytest.importorskip("apscheduler", reason="APScheduler is not installed")

from apscheduler.job import Job
from apscheduler.jobstores.base import ConflictingIdError, JobLookupError
from apscheduler.jobstores.memory import MemoryJobStore
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.date import DateTrigger

from walstore.integrations.apscheduler import KIND, WalJobStore

BERLIN = ZoneInfo("Europe/Berlin")
NEVER = datetime(2999, 1, 1, tzinfo=BERLIN)


def first() -> None:
    """Be the function of a job."""


def second() -> None:
    """Be the function of a job."""


class Adder:
    """A class whose methods are functions of jobs."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Adder)

    __hash__ = None  # type: ignore[assignment]  # Nobody asks for it.

    def add(self, a: int, b: int) -> int:
        return a + b

    @classmethod
    def add_in_class(cls, a: int, b: int) -> int:
        return a + b


adder = Adder()


def a_job(
    job_id: str = "job", due: datetime | None = NEVER, func: Callable[..., object] | str = first, **options: object
) -> Job:
    defaults = {"misfire_grace_time": 1, "coalesce": False, "max_instances": 1, "args": (), "kwargs": {}}
    scheduler = SimpleNamespace(timezone=BERLIN)
    trigger = DateTrigger(due or NEVER)
    return Job(
        scheduler, id=job_id, func=func, trigger=trigger, executor="default", next_run_time=due, **defaults | options
    )


def at(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=BERLIN)  # type: ignore[arg-type,misc]  # Year, month, day and so on.


def ids(jobs: list[Job]) -> list[str]:
    return [job.id for job in jobs]


@pytest.fixture(params=list(Durability), ids=lambda level: level.value)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[WalJobStore]:
    store = WalJobStore(tmp_path / "store", durability=request.param)
    store.start(None, "walstore")
    yield store
    store.shutdown()


def look_up(store: WalJobStore, job_id: str = "job") -> Job:
    job = store.lookup_job(job_id)
    assert job is not None
    return job


def restart(store: WalJobStore) -> None:
    store.shutdown()
    store.start(None, "walstore")


@pytest.mark.parametrize(
    "func",
    [adder.add, Adder.add_in_class, f"{__name__}:adder.add", f"{__name__}:Adder.add_in_class"],
    ids=["method", "class method", "method as text", "class method as text"],
)
def test_methods_are_functions_of_jobs(store: WalJobStore, func: Callable[..., object] | str) -> None:
    store.add_job(a_job(func=func, kwargs={"a": 1, "b": 2}))
    restart(store)
    job = look_up(store)
    assert job.func(*job.args, **job.kwargs) == 3


def test_a_job_is_looked_up(store: WalJobStore) -> None:
    job = a_job(name="näme", args=(1, "ä"), kwargs={}, func=print, max_instances=3, misfire_grace_time=None)
    store.add_job(job)
    restart(store)
    found = look_up(store)
    assert found == job
    assert (found.name, found.args, found.max_instances, found.misfire_grace_time) == ("näme", (1, "ä"), 3, None)
    assert str(found.trigger) == str(job.trigger)
    assert found.next_run_time == job.next_run_time


def test_an_unknown_job_is_none(store: WalJobStore) -> None:
    assert store.lookup_job("foo") is None


def test_jobs_come_in_the_order_of_their_run_times_paused_ones_last(store: WalJobStore) -> None:
    store.add_job(a_job("later", at(2016, 5, 3)))
    store.add_job(a_job("sooner", at(2013, 8, 14)))
    store.add_job(a_job("paused", None))
    store.add_job(a_job("ancient", at(1960, 1, 1)))
    store.add_job(a_job("never", datetime.max.replace(tzinfo=UTC)))
    for _ in range(2):
        assert ids(store.get_all_jobs()) == ["ancient", "sooner", "later", "never", "paused"]
        restart(store)


def test_due_jobs(store: WalJobStore) -> None:
    store.add_job(a_job("far", at(2016, 5, 3)))
    store.add_job(a_job("second", at(2014, 2, 26)))
    store.add_job(a_job("first", at(2013, 8, 14)))
    store.add_job(a_job("paused", None))
    for _ in range(2):
        assert ids(store.get_due_jobs(at(2014, 2, 27))) == ["first", "second"]
        assert ids(store.get_due_jobs(at(2014, 2, 26))) == ["first", "second"]
        assert store.get_due_jobs(at(2013, 8, 13)) == []
        assert store.get_next_run_time() == at(2013, 8, 14)
        restart(store)


def test_run_times_differ_by_microseconds(store: WalJobStore) -> None:
    for job_id, microsecond in ("middle", 401), ("last", 402), ("first", 400):
        store.add_job(a_job(job_id, at(2014, 7, 7, 0, 0, 0, microsecond)))
    restart(store)
    assert ids(store.get_due_jobs(at(2014, 7, 7, 1))) == ["first", "middle", "last"]
    assert ids(store.get_due_jobs(at(2014, 7, 7, 0, 0, 0, 401))) == ["first", "middle"]
    assert store.get_next_run_time() == at(2014, 7, 7, 0, 0, 0, 400)


def test_run_times_in_an_hour_that_comes_twice_are_two(store: WalJobStore) -> None:
    store.add_job(a_job("second", datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN, fold=1)))
    store.add_job(a_job("first", datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN)))
    assert ids(store.get_due_jobs(datetime(2026, 10, 25, 0, 45, tzinfo=UTC))) == ["first"]
    assert ids(store.get_due_jobs(datetime(2026, 10, 25, 1, 30, tzinfo=UTC))) == ["first", "second"]


def test_an_empty_store_has_no_next_run_time(store: WalJobStore) -> None:
    assert store.get_next_run_time() is None
    store.add_job(a_job("paused", None))
    assert store.get_next_run_time() is None


def test_an_id_is_there_once(store: WalJobStore) -> None:
    store.add_job(a_job("blah", at(2016, 5, 3)))
    with pytest.raises(ConflictingIdError):
        store.add_job(a_job("blah", at(2014, 2, 26), second))
    restart(store)
    with pytest.raises(ConflictingIdError):
        store.add_job(a_job("blah", at(2014, 2, 26), second))
    assert store.get_next_run_time() == at(2016, 5, 3)


def test_a_job_is_updated(store: WalJobStore) -> None:
    store.add_job(a_job("one", at(2016, 5, 3)))
    store.add_job(a_job("two", at(2014, 2, 26)))
    store.update_job(a_job("one", at(2016, 5, 4), max_instances=6))
    for _ in range(2):
        jobs = store.get_all_jobs()
        assert ids(jobs) == ["two", "one"]
        assert (jobs[1].next_run_time, jobs[1].max_instances) == (at(2016, 5, 4), 6)
        restart(store)


@pytest.mark.parametrize("due", [at(2013, 8, 13), None], ids=["earlier", "paused"])
@pytest.mark.parametrize("moved", [0, 1, 2])
def test_an_update_moves_a_job(store: WalJobStore, due: datetime | None, moved: int) -> None:
    names = ["job0", "job1", "job2"]
    for name in names:
        store.add_job(a_job(name, at(2014, 2, 26)))
    job = look_up(store, names[moved])
    job.next_run_time = due
    store.update_job(job)
    rest = [name for name in names if name != names[moved]]
    expected = rest if due is None else [names[moved], *rest]
    for _ in range(2):
        assert ids(store.get_due_jobs(at(2014, 2, 27))) == expected
        assert store.get_next_run_time() == (due or at(2014, 2, 26))
        restart(store)


def test_an_unknown_job_can_not_be_updated_or_removed(store: WalJobStore) -> None:
    with pytest.raises(JobLookupError):
        store.update_job(a_job())
    with pytest.raises(JobLookupError):
        store.remove_job("job")
    assert store.get_all_jobs() == []


def test_jobs_are_removed(store: WalJobStore) -> None:
    store.add_job(a_job("one", at(2016, 5, 3)))
    store.add_job(a_job("two", at(2014, 2, 26)))
    store.remove_job("two")
    for _ in range(2):
        assert ids(store.get_all_jobs()) == ["one"]
        assert store.get_next_run_time() == at(2016, 5, 3)
        restart(store)
    store.remove_job("one")
    restart(store)
    assert store.get_all_jobs() == []


def test_all_jobs_are_removed(store: WalJobStore) -> None:
    for number in range(3):
        store.add_job(a_job(f"job{number}"))
    store.remove_all_jobs()
    for _ in range(2):
        assert store.get_all_jobs() == []
        assert store.get_next_run_time() is None
        restart(store)


def test_a_job_that_is_changed_and_not_updated_is_not_changed_in_the_store(store: WalJobStore) -> None:
    store.add_job(a_job("job", at(2016, 5, 3)))
    look_up(store).next_run_time = None
    assert look_up(store).next_run_time == at(2016, 5, 3)


def test_the_representation_names_the_directory(tmp_path: Path) -> None:
    assert repr(WalJobStore(tmp_path / "x")) == f"<WalJobStore (path={tmp_path / 'x'})>"


_ids = st.sampled_from("abc")
_dues = st.none() | st.integers(-2, 2)
_steps = st.one_of(
    st.tuples(st.just("add"), _ids, _dues),
    st.tuples(st.just("update"), _ids, _dues),
    st.tuples(st.just("remove"), _ids, st.none()),
    st.tuples(st.sampled_from(["clear", "restart"]), st.none(), st.none()),
)


@settings(max_examples=25)
@given(steps=st.lists(_steps, max_size=20))
def test_it_agrees_with_the_store_in_memory(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, str, int | None]]
) -> None:
    start = at(2026, 1, 1)
    store, memory = WalJobStore(tmp_path_factory.mktemp("jobs") / "store"), MemoryJobStore()
    store.start(None, "walstore")
    try:
        for name, job_id, due in steps:
            job = None if job_id is None else a_job(job_id, None if due is None else start + timedelta(days=due))
            said = []
            for one in store, memory:
                try:
                    if name == "restart":
                        restart(store)
                    elif name == "clear":
                        one.remove_all_jobs()
                    elif name == "remove":
                        one.remove_job(job_id)
                    else:
                        getattr(one, f"{name}_job")(job)
                except (ConflictingIdError, JobLookupError) as error:
                    said.append(repr(error))
            assert said in ([], said[:1] * 2)
            assert ids(store.get_all_jobs()) == ids(memory.get_all_jobs())
            assert store.get_next_run_time() == memory.get_next_run_time()
            for day in range(-3, 4):
                now = start + timedelta(days=day)
                assert ids(store.get_due_jobs(now)) == ids(memory.get_due_jobs(now))
    finally:
        store.shutdown()


# Beyond what every store does.


def test_apscheduler_finds_the_store_by_its_name(tmp_path: Path) -> None:
    if not entry_points(group="apscheduler.jobstores", name="walstore"):
        pytest.skip("walstore is not installed but imported from its source: no entry points")
    config = {
        "apscheduler.jobstores.default": {"type": "walstore", "path": str(tmp_path / "store"), "durability": "power"}
    }
    scheduler = BackgroundScheduler(config, timezone=UTC)
    scheduler.start()
    scheduler.add_job(first, "interval", hours=1, id="job")
    scheduler.shutdown()
    with EntryStore(tmp_path / "store", kind=KIND, create=False) as entries:
        assert list(entries.found) == ["job"]


def test_a_scheduler_is_started_again(tmp_path: Path) -> None:
    scheduler = BackgroundScheduler(jobstores={"default": WalJobStore(tmp_path / "store")}, timezone=UTC)
    for _ in range(2):
        scheduler.start()
        scheduler.add_job(first, "interval", hours=1, id="job", replace_existing=True)
        assert ids(scheduler.get_jobs()) == ["job"]
        scheduler.get_job("job").pause()
        assert scheduler.get_job("job").next_run_time is None
        scheduler.get_job("job").reschedule("interval", hours=2)
        assert scheduler.get_job("job").next_run_time is not None
        scheduler.shutdown()


def test_a_store_that_is_not_open_says_so_and_has_nothing_to_run(tmp_path: Path) -> None:
    store = WalJobStore(tmp_path / "store")
    calls: list[Callable[[], object]] = [
        store.get_all_jobs,
        store.remove_all_jobs,
        store.sync,
        lambda: store.add_job(a_job()),
        lambda: store.update_job(a_job()),
        lambda: store.remove_job("job"),
        lambda: store.lookup_job("job"),
        lambda: store.quarantined,
    ]
    for _ in range(2):
        for call in calls:
            with pytest.raises(StoreClosedError, match="start its scheduler"):
                call()
        # The loop of a scheduler asks these once more when it is shut down.
        assert store.get_due_jobs(NEVER) == []
        assert store.get_next_run_time() is None
        store.start(None, "walstore")
        store.add_job(a_job())
        store.remove_job("job")
        store.shutdown()


def test_a_store_that_can_not_be_opened_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "occupied").mkdir()
    (tmp_path / "occupied" / "letter.txt").write_text("Dear", "utf-8")
    scheduler = BackgroundScheduler(jobstores={"default": WalJobStore(tmp_path / "occupied")}, timezone=UTC)
    with pytest.raises(StoreNotFoundError, match="other things"):
        scheduler.start()
    assert not scheduler.running


def test_a_second_scheduler_is_refused(store: WalJobStore) -> None:
    other = WalJobStore(store.path)
    with pytest.raises(StoreLockedError):
        other.start(None, "walstore")
    store.add_job(a_job())


def test_a_store_of_another_scheduler_is_refused(tmp_path: Path) -> None:
    EntryStore(tmp_path / "store", kind="beat/1").close()
    with pytest.raises(SchedulerPersistenceError, match="beat/1"):
        WalJobStore(tmp_path / "store").start(None, "walstore")


def test_started_twice_it_opens_again(store: WalJobStore) -> None:
    store.add_job(a_job())
    store.start(None, "walstore")
    assert ids(store.get_all_jobs()) == ["job"]


def test_jobs_that_are_too_large_are_refused(store: WalJobStore) -> None:
    with pytest.raises(ValueError, match="keep large data elsewhere"):
        store.add_job(a_job(func=print, args=("x" * 2_000_000,)))
    with pytest.raises(ValueError, match="1 to 1024 bytes"):
        store.add_job(a_job("x" * 1025))
    assert store.get_all_jobs() == []


# What can't be restored.


def test_a_job_whose_code_is_gone_is_kept_and_the_others_run(
    store: WalJobStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store.add_job(a_job("fine", at(2014, 2, 26)))
    store.add_job(a_job("gone", at(2013, 8, 14), second))
    monkeypatch.delitem(globals(), "second")
    with caplog.at_level(logging.ERROR, "apscheduler.jobstores.walstore"):
        assert ids(store.get_due_jobs(at(2014, 2, 27))) == ["fine"]
    assert "'gone' can't be restored and is kept" in caplog.text
    assert store.get_next_run_time() == at(2014, 2, 26)
    assert ids(store.get_all_jobs()) == ["fine"]
    assert store.lookup_job("gone") is None
    assert list(store.quarantined) == ["gone"]
    assert "second" in store.quarantined["gone"].reason
    with pytest.raises(ConflictingIdError):
        store.add_job(a_job("gone"))
    # It is tried again, and is there when its code is.
    restart(store)
    assert ids(store.get_all_jobs()) == ["fine"]
    monkeypatch.undo()
    restart(store)
    assert ids(store.get_all_jobs()) == ["gone", "fine"]
    assert not store.quarantined


@pytest.mark.parametrize("how", ["update", "remove", "clear"])
def test_a_quarantined_job_can_be_replaced_and_removed(store: WalJobStore, how: str) -> None:
    store.add_job(a_job("gone", at(2013, 8, 14), second))
    code, blob = globals().pop("second"), store._blobs["gone"]
    try:
        assert store.lookup_job("gone") is None
        assert store.quarantined["gone"].blob == blob
        if how == "update":
            store.update_job(a_job("gone"))
        elif how == "remove":
            store.remove_job("gone")
        else:
            store.remove_all_jobs()
        assert not store.quarantined
        restart(store)
        assert ids(store.get_all_jobs()) == (["gone"] if how == "update" else [])
    finally:
        globals()["second"] = code


class Exits:
    """What ends the interpreter when it is unpickled, as a script without a main guard does when it is imported."""

    def __reduce__(self) -> tuple[Callable[[], object], tuple[()]]:
        return _exit, ()


def _exit() -> object:
    raise SystemExit(3)


@pytest.mark.parametrize(
    "blob",
    [
        b"",
        b"\x80garbage",
        pickle.dumps({"version": 2}),
        pickle.dumps("text"),
        pickle.dumps(Exits()),
        pickle.dumps(a_job("other").__getstate__()),
    ],
    ids=["empty", "garbage", "newer", "no job", "exit", "another id"],
)
def test_a_state_that_is_damaged_is_kept(tmp_path: Path, blob: bytes) -> None:
    path = tmp_path / "store"
    with EntryStore(path, kind=KIND) as entries:
        entries.put("bad", blob, 0)
    store = WalJobStore(path)
    store.start(None, "walstore")
    store.add_job(a_job("good", at(2014, 1, 1)))
    assert ids(store.get_due_jobs(NEVER)) == ["good"]
    assert list(store.quarantined) == ["bad"]
    store.shutdown()
    with EntryStore(path, kind=KIND) as entries:
        assert entries.found["bad"].blob == blob
        assert entries.found["bad"].next_run_us == 0


def test_the_job_itself_says_when_it_is_due(tmp_path: Path) -> None:
    path = tmp_path / "store"
    state = pickle.dumps(a_job("job", at(2014, 1, 2)).__getstate__())
    with EntryStore(path, kind=KIND) as entries:
        entries.put("job", state, 0)
    store = WalJobStore(path)
    store.start(None, "walstore")
    store.get_due_jobs(at(2014, 1, 1))
    assert store.get_due_jobs(at(2014, 1, 1)) == []
    assert store.get_next_run_time() == at(2014, 1, 2)
    store.shutdown()


def test_time_zones_of_all_kinds_survive(store: WalJobStore) -> None:
    zones = [UTC, BERLIN, timezone(timedelta(hours=5, minutes=45))]
    for number, zone in enumerate(zones):
        store.add_job(a_job(f"job{number}", datetime(2030, 6, 1, 12, tzinfo=zone)))
    restart(store)
    for number, zone in enumerate(zones):
        job = look_up(store, f"job{number}")
        assert job.next_run_time == datetime(2030, 6, 1, 12, tzinfo=zone)
        assert job.next_run_time.utcoffset() == datetime(2030, 6, 1, 12, tzinfo=zone).utcoffset()
