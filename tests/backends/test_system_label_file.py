from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from walstore import (
    Cron,
    Manual,
    Once,
    Periodic,
    QName,
    SchedulerJobRecord,
    SchedulerJobStatus,
    SchedulerPersistenceError,
    WalPersistence,
)
from walstore.backends.system_label_file import import_file, read_file
from walstore.errors import StorageError, StoreNotFoundError

REAL = Path(__file__).parent / "data" / "background_jobs.json"
JOB: dict[str, Any] = {"qname": "a.b", "status": "Pending", "consecutive_failures": 0, "schedule": "Manual"}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "background_jobs.json"


def test_a_file_of_uni_db() -> None:
    records = {str(record.id): record for record in read_file(str(REAL))}
    assert len(records) == len(json.loads(REAL.read_text("utf-8"))) == 12
    pending, failed = SchedulerJobStatus.PENDING, SchedulerJobStatus.FAILED_RETRYING
    for name, status, next_fire_at_ns, schedule in [
        ("ai.dragonscale.geo.tile0", pending, 1_795_448_885_496_560_086, Periodic(every_ns=3_600_000_000_000)),
        ("ai.dragonscale.geo.heartbeat", failed, 1_795_445_286_509_403_978, Periodic(every_ns=1_000_000_000)),
        ("uni.reports.named", pending, 1_795_598_100_000_000_000, Cron("0 15 9 * * Mon,Wed,Fri *")),
        ("custom.reindex", failed, 1_795_445_285_513_478_029, Manual()),
    ]:
        id_ = QName.parse(name)
        assert records[name] == SchedulerJobRecord(id_, status, next_fire_at_ns, None, None, 0, schedule)


def test_a_store_of_it(tmp_path: Path) -> None:
    assert import_file(str(REAL), str(tmp_path / "jobs")) == 12
    with WalPersistence(tmp_path / "jobs", create=False, read_only=True) as store:
        assert list(store.iter_jobs()) == sorted(read_file(str(REAL)), key=lambda record: str(record.id))
    with pytest.raises(SchedulerPersistenceError, match="jobs"):
        import_file(str(REAL), str(tmp_path / "jobs"))


def test_the_file_of_a_database(tmp_path: Path) -> None:
    (tmp_path / "_system").mkdir()
    (tmp_path / "_system" / "background_jobs.json").write_bytes(REAL.read_bytes())
    assert read_file(str(tmp_path)) == read_file(str(REAL))


def test_all_that_a_job_may_say(file: Path) -> None:
    instant = {"secs_since_epoch": 9_223_372_036, "nanos_since_epoch": 854_775_807}
    job = {
        "qname": "größe.日本.🜁",
        "status": "Running",
        "consecutive_failures": 2**32 - 1,
        "schedule": {"Once": instant},
        "next_fire_at": None,
        "last_started_at": instant,
        "last_finished_at": {"secs_since_epoch": 0, "nanos_since_epoch": 1},
    }
    file.write_text(json.dumps([job, {**JOB, "status": "Cancelled"}]))
    last = 2**63 - 1
    assert read_file(str(file)) == [
        SchedulerJobRecord(
            QName("größe.日本", "🜁"), SchedulerJobStatus.RUNNING, None, last, 1, 2**32 - 1, Once(at_ns=last)
        )
    ]


WRONG: list[dict[str, Any]] = [
    {"qname": "nodot"},
    {"status": "Sleeping"},
    {"status": None},
    {"consecutive_failures": -1},
    {"consecutive_failures": None},
    {"schedule": None},
    {"schedule": {"Periodic": {"secs": 0, "nanos": 0}}},
    {"schedule": {"Periodic": {"secs": 1, "nanos": 10**9}}},
    {"schedule": {"Weekly": 1}},
    {"next_fire_at": 7},
    {"next_fire_at": {"secs_since_epoch": 2**40, "nanos_since_epoch": 0}},
    {"next_fire_at": {"secs_since_epoch": 1.5, "nanos_since_epoch": 0}},
    {"retries_left": 3},
]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        REAL.read_bytes()[:-1],
        REAL.read_bytes()[:1000],
        b"[" * 100_000,
        b"\xff\xfe",
        b"{}",
        b"[7]",
        b'[{"qname": 7}]',
        *(json.dumps([JOB | wrong]).encode() for wrong in WRONG),
        json.dumps([JOB, JOB]).encode(),
    ],
    ids=lambda content: str(content)[:90],
)
def test_what_is_wrong_in_it_is_an_error_of_one_line(content: bytes, file: Path, tmp_path: Path) -> None:
    file.write_bytes(content)
    with pytest.raises(SchedulerPersistenceError) as caught:
        import_file(str(file), str(tmp_path / "jobs"))
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "jobs").exists()


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StoreNotFoundError, match="there is no file"):
        read_file(str(tmp_path / "none.json"))
    with pytest.raises(StoreNotFoundError, match=r"_system/background_jobs\.json"):
        read_file(str(tmp_path))
    (tmp_path / "file").touch()
    with pytest.raises(StorageError):
        read_file(str(tmp_path / "file" / "inside"))
