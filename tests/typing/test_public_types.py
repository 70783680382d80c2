"""The types that users rely on. mypy reads this file with the rest (`make lint`); the test runs it, so it stays true.

Each `assert_type` pins what a call returns. Each `type: ignore` pins what is refused: mypy complains about one that
suppresses nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import assert_type

import pytest

from walstore import (
    BatchPersistence,
    CancellationToken,
    Cancelled,
    Cron,
    Durability,
    Finished,
    Manual,
    MemoryPersistence,
    Once,
    Periodic,
    QName,
    RecoveryReport,
    Restored,
    Schedule,
    Scheduled,
    SchedulerJobRecord,
    SchedulerJobStatus,
    SchedulerPersistence,
    SchedulerPersistenceError,
    Started,
    StoreStats,
    WalOptions,
    WalPersistence,
)
from walstore.errors import CorruptionError, StorageError, StorageFullError


def test_what_a_store_takes_and_returns(tmp_path: Path) -> None:
    with WalPersistence(str(tmp_path / "jobs"), durability=Durability.POWER, options=WalOptions()) as store:
        assert_type(store, WalPersistence)
        assert_type(store.record_scheduled("a.b", Periodic(timedelta(hours=1))), None)
        store.record_started(QName("a", "b"), 1)
        store.record_finished("a.b", datetime.now(UTC), True)
        store.record_many([Scheduled("a.c", Manual()), Started("a.c", 1), Finished("a.c", 2, True), Cancelled("a.d")])
        store.restore(record for record in store.load_all())
        store.record_many(Restored(record) for record in store.load_all())
        store.flush_checkpoint(compact=True)
        assert_type(store.sync(), None)
        assert_type(store.load_all(), list[SchedulerJobRecord])
        assert_type(store.iter_jobs(), Iterator[SchedulerJobRecord])
        assert_type(store.stats(), StoreStats)
        assert_type(store.recovery, RecoveryReport)
        assert_type(store.path, Path)
        assert_type(store.closed, bool)


def test_what_a_record_holds() -> None:
    record = SchedulerJobRecord(QName.parse("a.b"), SchedulerJobStatus.IDLE, None, 1, 2, 0, Manual())
    assert_type(record.id, QName)
    assert_type(record.status, SchedulerJobStatus)
    assert_type(record.status.value, str)
    assert_type(record.next_fire_at_ns, int | None)
    assert_type(record.last_started_at, datetime | None)
    assert_type(record.consecutive_failures, int)
    assert_type(record.schedule, Schedule)
    assert_type(record.cancel, CancellationToken)
    assert_type(record.cancel.is_cancelled, bool)


def test_every_kind_of_schedule_is_one() -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    schedules: list[Schedule] = [Once(at), Once(at_ns=1), Periodic(every_ns=1), Cron("@hourly"), Manual()]
    for schedule in schedules:
        assert_type(schedule.next_after(1), int | None)


def test_what_implements_the_contract(tmp_path: Path) -> None:
    def remaining(persistence: SchedulerPersistence) -> int:
        return len(persistence.load_all())

    def in_batches(persistence: BatchPersistence) -> None:
        persistence.record_many([Started("a.b", 1)])

    assert remaining(MemoryPersistence()) == 0
    with WalPersistence(tmp_path / "jobs") as store:
        in_batches(store)
        assert remaining(store) == 1


def test_what_an_error_holds() -> None:
    errors: list[SchedulerPersistenceError] = [StorageFullError("no space"), CorruptionError("bad", path="log", lsn=1)]
    for error in errors:
        match error:
            case StorageError():
                assert_type(error.errno, int | None)
            case CorruptionError():
                assert_type(error.path, str)
                assert_type(error.lsn, int | None)


def test_what_is_refused_by_types_as_well() -> None:
    with pytest.raises(TypeError):
        Periodic(3600)  # type: ignore[arg-type]  # A bare number has no unit.
    Started("a.b", 1.5)  # type: ignore[arg-type]  # A float has no nanoseconds; recording the event raises.
    with pytest.raises(TypeError):
        SchedulerPersistence()  # type: ignore[abstract]  # The contract is implemented, not used.
    with pytest.raises(TypeError):
        WalOptions(1024)  # type: ignore[call-arg]  # By keyword only.
    with pytest.raises(TypeError):
        WalPersistence("jobs", Durability.POWER)  # type: ignore[call-arg]  # By keyword only.
    with pytest.raises(AttributeError):
        QName("a", "b").local = "c"  # type: ignore[misc]  # Names are immutable.
