from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from walstore import Cron, Finished, Manual, Once, Periodic, Started, WalPersistence
from walstore.cli import main
from walstore.format.layout import HEADER_BYTES

Capture = pytest.CaptureFixture[str]

START_NS = 1_700_000_000_000_000_000


def dumped(capsys: Capture) -> list[dict[str, object]]:
    out, err = capsys.readouterr()
    assert err == ""
    return [json.loads(line) for line in out.splitlines()]


def test_events_with_their_lsn(store: Path, capsys: Capture) -> None:
    assert main(["dump", str(store)]) == 0
    events = dumped(capsys)
    lsns = [event.pop("lsn") for event in events]
    assert lsns == sorted(set(lsns), key=str)
    assert events == [
        {"event": "started", "id": "ai.geo.tile", "at_ns": START_NS + 1},
        {"event": "finished", "id": "ai.geo.tile", "at_ns": START_NS + 2, "success": True},
        {"event": "started", "id": "ops.backup", "at_ns": START_NS + 5},
        {"event": "finished", "id": "ops.backup", "at_ns": START_NS + 6, "success": False},
        {"event": "cancelled", "id": "ops.report"},
        {
            "event": "restored",
            "id": "ai.geo.index",
            "status": "Pending",
            "next_fire_at_ns": 1_700_022_600_000_000_000,
            "last_started_at_ns": None,
            "last_finished_at_ns": None,
            "consecutive_failures": 0,
            "schedule": {"kind": "cron", "expression": "0 30 4 * * *"},
        },
    ]


def test_events_are_what_is_dumped_by_default(store: Path, capsys: Capture) -> None:
    assert main(["dump", str(store)]) == 0
    default = capsys.readouterr().out
    assert main(["dump", "--events", str(store)]) == 0
    assert capsys.readouterr().out == default


def test_every_schedule(tmp_path: Path, capsys: Capture) -> None:
    with WalPersistence(tmp_path / "jobs", clock=lambda: START_NS) as jobs:
        jobs.record_scheduled("a.manual", Manual())
        jobs.record_scheduled("a.once", Once(at_ns=2**63 - 1))
        jobs.record_scheduled("a.periodic", Periodic(every_ns=1))
        jobs.record_scheduled("a.cron", Cron("0 30 4 * * Mon"))
    assert main(["dump", str(tmp_path / "jobs")]) == 0
    events = dumped(capsys)
    assert {event["at_ns"] for event in events} == {START_NS}
    assert [event["schedule"] for event in events] == [
        {"kind": "manual"},
        {"kind": "once", "at_ns": 2**63 - 1},
        {"kind": "periodic", "every_ns": 1},
        {"kind": "cron", "expression": "0 30 4 * * Mon"},
    ]


def test_events_of_one_frame_share_its_lsn(tmp_path: Path, capsys: Capture) -> None:
    with WalPersistence(tmp_path / "jobs") as jobs:
        jobs.record_many([Started("a.b", 1), Finished("a.b", 2, True)])
        jobs.record_started("a.b", 3)
    assert main(["dump", str(tmp_path / "jobs")]) == 0
    first, second, third = (event["lsn"] for event in dumped(capsys))
    assert first == second != third


def test_records_are_the_jobs(store: Path, capsys: Capture) -> None:
    assert main(["dump", "--records", str(store)]) == 0
    assert dumped(capsys) == [
        {
            "id": "ai.geo.index",
            "status": "Pending",
            "next_fire_at_ns": 1_700_022_600_000_000_000,
            "last_started_at_ns": None,
            "last_finished_at_ns": None,
            "consecutive_failures": 0,
            "schedule": {"kind": "cron", "expression": "0 30 4 * * *"},
        },
        {
            "id": "ai.geo.tile",
            "status": "Pending",
            "next_fire_at_ns": START_NS + 2 + 3_600_000_000_000,
            "last_started_at_ns": START_NS + 1,
            "last_finished_at_ns": START_NS + 2,
            "consecutive_failures": 0,
            "schedule": {"kind": "periodic", "every_ns": 3_600_000_000_000},
        },
        {
            "id": "ops.backup",
            "status": "FailedRetrying",
            "next_fire_at_ns": START_NS + 5,
            "last_started_at_ns": START_NS + 5,
            "last_finished_at_ns": START_NS + 6,
            "consecutive_failures": 1,
            "schedule": {"kind": "once", "at_ns": START_NS + 5},
        },
    ]


def test_a_writer_at_work_does_not_disturb(store: Path, capsys: Capture) -> None:
    with WalPersistence(store) as jobs:
        jobs.record_started("a.b", 7)
        assert main(["dump", str(store)]) == 0
    last = dumped(capsys)[-1]
    last.pop("lsn")
    assert last == {"event": "started", "id": "a.b", "at_ns": 7}


@pytest.mark.parametrize("what", ["--events", "--records"])
def test_nothing_is_dumped_of_a_damaged_store(
    what: str, store: Path, flip: Callable[[Path, int], None], capsys: Capture
) -> None:
    damaged = max(store.glob("log-*.wal"))
    flip(damaged, HEADER_BYTES + 20)
    assert main(["dump", what, str(store)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert f"{damaged}, offset {HEADER_BYTES}" in err


def test_names_in_other_alphabets(tmp_path: Path, capsys: Capture) -> None:
    with WalPersistence(tmp_path / "jobs") as jobs:
        jobs.record_started("größe.名前", 1)
    assert main(["dump", str(tmp_path / "jobs")]) == 0
    assert dumped(capsys)[0]["id"] == "größe.名前"
