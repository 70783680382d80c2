"""`walstore copy` between a store and a real PostgreSQL. ``on_unidb.py`` has uni-db."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest

from walstore import Cron, Manual, Once, Periodic, QName, SchedulerJobRecord, SchedulerJobStatus, WalPersistence
from walstore.cli import main

Capture = pytest.CaptureFixture[str]

SCHEDULES = [Manual(), Once(at_ns=2**63 - 1), Periodic(every_ns=1), Cron("0 30 4 * * Mon")]
KEPT = [status for status in SchedulerJobStatus if status is not SchedulerJobStatus.CANCELLED]


def jobs(count: int) -> Iterator[SchedulerJobRecord]:
    """Jobs of every kind, in the order of their ids."""
    for number in range(count):
        yield SchedulerJobRecord(
            QName("größe.日本", f"Job'{number:06}"),
            KEPT[number % 4],
            number if number % 3 else None,
            2**63 - 1 - number if number % 5 else None,
            number if number % 7 else None,
            number % 2**32,
            SCHEDULES[number // 4 % 4],
        )


@pytest.fixture
def url(dsn: str, tmp_path: Path) -> Iterator[str]:
    """A database for this test."""
    psycopg = pytest.importorskip("psycopg")
    name = f"walstore_copy_{os.getpid()}_{zlib.crc32(str(tmp_path).encode()):08x}"
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        yield "postgresql:///?" + urlencode(psycopg.conninfo.conninfo_to_dict(dsn) | {"dbname": name})
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def copied(capsys: Capture, *arguments: object) -> tuple[int, int]:
    """Copy, and return how many jobs were copied and how many were there."""
    assert main(["copy", "--json", *map(str, arguments)]) == 0
    document = json.loads(capsys.readouterr().out)
    return document["copied"], document["already_there"]


def test_there_and_back(url: str, tmp_path: Path, capsys: Capture) -> None:
    with WalPersistence(tmp_path / "jobs") as store:
        store.restore(jobs(5_000))
    assert copied(capsys, tmp_path / "jobs", url) == (5_000, 0)
    assert copied(capsys, tmp_path / "jobs", url) == (0, 5_000)
    assert copied(capsys, url, tmp_path / "back") == (5_000, 0)
    with WalPersistence(tmp_path / "back", create=False) as back:
        assert list(back.iter_jobs()) == list(jobs(5_000))


def test_a_database_with_other_jobs_is_refused(url: str, tmp_path: Path, capsys: Capture) -> None:
    for name, count in (("few", 10), ("more", 20)):
        with WalPersistence(tmp_path / name) as store:
            store.restore(jobs(count))
    assert copied(capsys, tmp_path / "more", url) == (20, 0)
    assert main(["copy", str(tmp_path / "few"), url]) == 3
    assert "already holds a job that SRC lacks" in capsys.readouterr().err
    assert copied(capsys, url, tmp_path / "back") == (20, 0)


def test_a_database_without_a_store_is_no_source(url: str, tmp_path: Path, capsys: Capture) -> None:
    assert main(["copy", url, str(tmp_path / "jobs")]) == 3
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert not (tmp_path / "jobs").exists()
