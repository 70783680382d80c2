"""``SystemLabelPersistence`` on rows in memory; ``test_system_label_unidb.py`` has it on uni-db."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import pytest

pytest.register_assert_rewrite("walstore.testing.contract")

from tests.backends.label_in_memory import DELETE, MERGE, MERGE_AND_DELETE, READ_SOME, LabelInMemory, Properties  # noqa: E402
from walstore import (  # noqa: E402
    Cancelled,
    Cron,
    Finished,
    Manual,
    Once,
    Periodic,
    QName,
    Restored,
    Schedule,
    SchedulerJobRecord,
    SchedulerJobStatus,
    SchedulerPersistence,
    SchedulerPersistenceError,
    Started,
)
from walstore.backends.system_label import SystemLabelPersistence  # noqa: E402
from walstore.backends.system_label_rows import schedule_of_unidb  # noqa: E402
from walstore.errors import StorageError, StoreClosedError, StoreLockedError  # noqa: E402
from walstore.testing.contract import PersistenceContract  # noqa: E402

JOB = "ai.geo.tile"


class TestInMemory(PersistenceContract):
    jobs_many = 2_000
    labels: dict[Path, LabelInMemory]

    def open(self, path: Path, clock: Callable[[], int]) -> SchedulerPersistence:
        self.labels = getattr(self, "labels", {})
        return SystemLabelPersistence(self.labels.setdefault(path, LabelInMemory()).execute, clock=clock)

    def crash(self, store: SchedulerPersistence, path: Path) -> Path:  # noqa: ARG002
        """Statements are whole, so what they have done is what a crash leaves."""
        crashed = path.with_name(f"crashed{len(self.labels)}")
        self.labels[crashed] = LabelInMemory(self.labels[path].rows)
        return crashed


@pytest.fixture
def label() -> LabelInMemory:
    return LabelInMemory()


@pytest.fixture
def store(label: LabelInMemory) -> SystemLabelPersistence:
    return SystemLabelPersistence(label.execute, clock=lambda: 5)


def test_what_a_row_holds(label: LabelInMemory, store: SystemLabelPersistence) -> None:
    store.record_scheduled(JOB, Periodic(every_ns=3_600_000_000_007))
    store.record_started(JOB, 2**63 - 2)
    assert label.rows == [
        {
            "qname": JOB,
            "status": "Running",
            "next_fire_at_ns": 3_600_000_000_012,
            "last_started_at_ns": 2**63 - 2,
            "consecutive_failures": 0,
            "schedule": '{"Periodic": {"secs": 3600, "nanos": 7}}',
        }
    ]


@pytest.mark.parametrize(
    ("schedule", "text"),
    [
        (Manual(), '"Manual"'),
        (Once(at_ns=2**63 - 1), '{"Once": {"secs_since_epoch": 9223372036, "nanos_since_epoch": 854775807}}'),
        (Periodic(every_ns=1), '{"Periodic": {"secs": 0, "nanos": 1}}'),
        (Cron("0 15 9 * * Mon,Wed *"), '{"Cron": "0 15 9 * * Mon,Wed *"}'),
    ],
    ids=repr,
)
def test_schedules_in_the_words_of_uni_db(
    label: LabelInMemory, store: SystemLabelPersistence, schedule: Schedule, text: str
) -> None:
    store.record_scheduled(JOB, schedule)
    assert label.rows[0]["schedule"] == text
    assert [job.schedule for job in store.load_all()] == [schedule]


def test_a_cron_that_does_not_parse_is_kept_and_never_fires() -> None:
    schedule = schedule_of_unidb({"Cron": "every now and then"})
    assert isinstance(schedule, Cron)
    assert (schedule.expression, schedule.next_after(0)) == ("every now and then", None)


def test_a_row_of_uni_db_is_a_job(label: LabelInMemory, store: SystemLabelPersistence) -> None:
    for status in SchedulerJobStatus:
        label.merge({"qname": f"uni.{status.name}", "status": status.value})
    jobs = {str(job.id): job for job in store.load_all()}
    assert jobs == {
        f"uni.{status.name}": SchedulerJobRecord(QName("uni", status.name), status, None, None, None, 0, Manual())
        for status in SchedulerJobStatus
        if status is not SchedulerJobStatus.CANCELLED
    }


def test_a_status_that_uni_db_sets_is_the_status_of_our_job(
    label: LabelInMemory, store: SystemLabelPersistence
) -> None:
    store.record_scheduled(JOB, Periodic(every_ns=7))
    label.merge({"qname": JOB, "status": "FailedRetrying"})
    (job,) = store.load_all()
    assert (job.status, job.schedule, job.next_fire_at_ns) == (
        SchedulerJobStatus.FAILED_RETRYING,
        Periodic(every_ns=7),
        12,
    )


def test_a_job_of_uni_db_goes_on_as_ours(label: LabelInMemory, store: SystemLabelPersistence) -> None:
    label.merge({"qname": JOB, "status": "FailedRetrying"})
    label.merge({"qname": "uni.cancelled", "status": "Cancelled"})
    store.record_finished(JOB, 9, False)
    store.record_finished("uni.cancelled", 9, False)
    (job,) = store.load_all()
    assert (job.consecutive_failures, job.last_finished_at_ns) == (1, 9)


@pytest.mark.parametrize(
    "wrong",
    [
        {"qname": "nodot", "status": "Pending"},
        {"qname": None, "status": "Pending"},
        {"qname": JOB},
        {"qname": JOB, "status": "Sleeping"},
        {"qname": JOB, "status": "Pending", "next_fire_at_ns": 1.5},
        {"qname": JOB, "status": "Pending", "next_fire_at_ns": -1},
        {"qname": JOB, "status": "Pending", "last_started_at_ns": 2**63},
        {"qname": JOB, "status": "Pending", "consecutive_failures": 2**32},
        {"qname": JOB, "status": "Pending", "consecutive_failures": True},
        {"qname": JOB, "status": "Pending", "schedule": "Manual"},
        {"qname": JOB, "status": "Pending", "schedule": '"Yearly"'},
        {"qname": JOB, "status": "Pending", "schedule": '{"Periodic": {"secs": 0, "nanos": 0}}'},
        {"qname": JOB, "status": "Pending", "schedule": '{"Periodic": {"secs": "1", "nanos": 0}}'},
        {"qname": JOB, "status": "Pending", "schedule": "[" * 100_000},
        {"qname": JOB, "status": "Pending", "schedule": 7},
    ],
    ids=lambda wrong: str(wrong)[:70],
)
def test_a_row_that_is_no_job_is_an_error_and_not_a_job_less(
    label: LabelInMemory, store: SystemLabelPersistence, wrong: Properties
) -> None:
    store.record_started("a.b", 1)
    label.merge(wrong)
    before = [dict(row) for row in label.rows]
    with pytest.raises(SchedulerPersistenceError, match=f"{wrong['qname']}.*correct the row or delete it"):
        store.load_all()
    with pytest.raises(SchedulerPersistenceError):
        list(store.iter_jobs())
    if wrong["qname"] == JOB:
        with pytest.raises(SchedulerPersistenceError):
            store.record_finished(JOB, 1, True)
    assert label.rows == before


def test_two_rows_of_one_job_are_an_error(label: LabelInMemory, store: SystemLabelPersistence) -> None:
    store.record_started(JOB, 1)
    store.record_started("a.b", 1)
    label.rows.append(dict(label.rows[0]))
    with pytest.raises(SchedulerPersistenceError, match=f"two rows of the job {JOB}"):
        store.load_all()
    with pytest.raises(SchedulerPersistenceError, match="two rows"):
        store.record_finished(JOB, 1, True)


def test_a_batch_is_one_statement(label: LabelInMemory, store: SystemLabelPersistence) -> None:
    store.record_started("a.gone", 1)
    store.record_started("a.kept", 1)
    label.statements.clear()
    restored = SchedulerJobRecord(QName("a", "gone"), SchedulerJobStatus.IDLE, None, None, None, 0, Manual())
    store.record_many(
        [Restored(restored), Started("a.new", 2), Cancelled("a.gone"), Finished("a.kept", 2, True), Cancelled("a.new")]
    )
    assert label.statements == [READ_SOME, MERGE_AND_DELETE]
    assert [row["qname"] for row in label.rows] == ["a.kept"]


def test_an_event_reads_and_writes_one_row_and_a_cancel_only_deletes(
    label: LabelInMemory, store: SystemLabelPersistence
) -> None:
    store.record_started(JOB, 1)
    assert label.statements == [READ_SOME, MERGE]
    label.statements.clear()
    store.cancel(JOB)
    assert label.statements == [DELETE]


def test_nothing_is_written_for_a_run_of_an_unknown_job(label: LabelInMemory, store: SystemLabelPersistence) -> None:
    store.record_finished("a.b", 1, True)
    assert label.statements == [READ_SOME]


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (OSError("the disk is gone"), StorageError),
        (KeyError("j"), StorageError),
        (StoreLockedError("x"), StoreLockedError),
    ],
)
def test_what_goes_wrong_in_the_executor_reaches_the_caller(raised: Exception, expected: type[Exception]) -> None:
    def execute(cypher: str, parameters: Mapping[str, object]) -> Iterable[Properties]:  # noqa: ARG001
        raise raised

    store = SystemLabelPersistence(execute)
    for call in (lambda: store.record_started(JOB, 1), lambda: store.cancel(JOB), store.load_all):
        with pytest.raises(expected) as caught:
            call()
        assert raised in {caught.value, caught.value.__cause__}


def test_rows_that_end_in_an_error_are_an_error() -> None:
    def execute(cypher: str, parameters: Mapping[str, object]) -> Iterable[Properties]:  # noqa: ARG001
        yield {"qname": JOB, "status": "Pending"}
        raise ConnectionError("lost")

    with pytest.raises(StorageError, match="lost"):
        SystemLabelPersistence(execute).load_all()


def test_a_write_that_fails_can_be_repeated(label: LabelInMemory) -> None:
    failing = True

    def execute(cypher: str, parameters: Mapping[str, object]) -> list[Properties]:
        if failing and cypher == MERGE:
            raise TimeoutError
        return label.execute(cypher, parameters)

    store = SystemLabelPersistence(execute)
    with pytest.raises(StorageError, match="TimeoutError"):
        store.record_started(JOB, 1)
    assert store.load_all() == []
    failing = False
    store.record_started(JOB, 1)
    assert len(store.load_all()) == 1


def test_syncing_and_closing_are_handed_on(label: LabelInMemory) -> None:
    calls: list[str] = []
    store = SystemLabelPersistence(
        label.execute, sync=lambda: calls.append("sync"), close=lambda: calls.append("close")
    )
    store.sync()
    store.flush_checkpoint()
    store.close()
    store.close()
    assert calls == ["sync", "sync", "close"]
    with pytest.raises(StoreClosedError):
        store.sync()
    with pytest.raises(StoreClosedError):
        store.restore([])


@pytest.mark.signals
def test_a_signal_handler_in_the_middle_of_a_call_is_refused_and_overwrites_nothing(label: LabelInMemory) -> None:
    caught: list[Exception] = []
    store: SystemLabelPersistence

    def handler(*_: object) -> None:
        try:
            store.record_finished(JOB, 9, True)
        except SchedulerPersistenceError as error:
            caught.append(error)

    def execute(cypher: str, parameters: Mapping[str, object]) -> list[Properties]:
        rows = label.execute(cypher, parameters)
        if cypher == READ_SOME and not caught:
            signal.raise_signal(signal.SIGUSR1)
        return rows

    store = SystemLabelPersistence(execute)
    before = signal.signal(signal.SIGUSR1, handler)
    try:
        store.record_started(JOB, 1)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert "signal handler" in str(*caught)
    assert [job.status for job in store.load_all()] == [SchedulerJobStatus.RUNNING]


def test_a_call_waits_for_the_one_of_another_thread(label: LabelInMemory) -> None:
    inside, go_on = threading.Event(), threading.Event()

    def execute(cypher: str, parameters: Mapping[str, object]) -> list[Properties]:
        rows = label.execute(cypher, parameters)
        if cypher == READ_SOME and not inside.is_set():
            inside.set()
            assert go_on.wait(30)
        return rows

    store = SystemLabelPersistence(execute)
    first = threading.Thread(target=store.record_finished, args=(JOB, 1, False))
    label.merge({"qname": JOB, "status": "Running"})
    first.start()
    assert inside.wait(30)
    second = threading.Thread(target=store.record_finished, args=(JOB, 2, False))
    second.start()
    go_on.set()
    first.join(30)
    second.join(30)
    (job,) = store.load_all()
    assert job.consecutive_failures == 2
