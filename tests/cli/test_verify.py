from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from walstore import WalPersistence
from walstore.cli import main
from walstore.cli.outcome import Exit, exit_of
from walstore.errors import StorageError
from walstore.format.layout import HEADER_BYTES
from walstore.model.events import EventForm

Capture = pytest.CaptureFixture[str]
Flip = Callable[[Path, int], None]

START_NS = 1_700_000_000_000_000_000


def segment(store: Path) -> Path:
    return max(store.glob("log-*.wal"))


def crashed_copy(store: Path, target: Path) -> Path:
    """A store as it is when its writer dies: one event is on the device, another one is only in the file."""
    with WalPersistence(store) as jobs:
        jobs.record_started("a.synced", START_NS)
        jobs.sync()
        jobs.record_started("a.unsynced", START_NS + 1)
        shutil.copytree(store, target)
    return target


def test_a_store_in_order(store: Path, capsys: Capture) -> None:
    assert main(["verify", str(store)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "clean: the last writer closed it" in out
    assert "snapshot   4 records" in out
    assert "6 events, 1 segment" in out
    assert "jobs       3 (2 Pending, 1 FailedRetrying)" in out
    assert "no damage" in out.splitlines()[-1]


def test_a_store_in_order_for_machines(store: Path, capsys: Capture) -> None:
    assert main(["verify", "--json", str(store)]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["ok"] is True
    assert document["path"] == str(store)
    assert (document["records"], document["segments"], document["events"]) == (4, 1, 6)
    assert document["jobs"] == {"Pending": 2, "Running": 0, "Idle": 0, "FailedRetrying": 1}
    assert document["read_bytes"] == sum(path.stat().st_size for path in store.iterdir() if path.name != "LOCK")


def test_damage_below_the_watermark_is_named(store: Path, flip: Flip, capsys: Capture) -> None:
    damaged = segment(store)
    base_lsn = int(damaged.name.split("-")[1], 16)
    flip(damaged, HEADER_BYTES + 20)
    assert main(["verify", str(store)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("walstore: damaged below the watermark")
    assert err.count("\n") == 1
    assert f"{damaged}, offset {HEADER_BYTES} (LSN {base_lsn + HEADER_BYTES})" in err


def test_damage_is_named_for_machines(store: Path, flip: Flip, capsys: Capture) -> None:
    damaged = segment(store)
    flip(damaged, HEADER_BYTES + 20)
    assert main(["verify", str(store), "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["ok"] is False
    assert document["error"]["type"] == "CorruptionError"
    assert document["error"]["file"] == str(damaged)
    assert document["error"]["offset"] == HEADER_BYTES
    assert document["error"]["lsn"] == int(damaged.name.split("-")[1], 16) + HEADER_BYTES


def test_every_byte_of_the_snapshot_counts(store: Path, flip: Flip, capsys: Capture) -> None:
    (snapshot,) = store.glob("*.snap")
    for offset in range(0, snapshot.stat().st_size, 7):
        flip(snapshot, offset)
        assert main(["verify", str(store)]) == 1
        assert str(snapshot) in capsys.readouterr().err
        flip(snapshot, offset)
    assert main(["verify", str(store)]) == 0


def test_a_lost_file_is_damage(store: Path, capsys: Capture) -> None:
    segment(store).unlink()
    assert main(["verify", str(store)]) == 1
    assert "the log of the store is missing" in capsys.readouterr().err


def test_a_writer_that_died_is_no_damage(store: Path, tmp_path: Path, capsys: Capture) -> None:
    died = crashed_copy(store, tmp_path / "died")
    assert main(["verify", str(died)]) == 0
    out = capsys.readouterr().out
    assert "not closed: a writer is at work, or died without closing" in out
    assert "8 events" in out


def test_a_torn_tail_is_no_damage(store: Path, tmp_path: Path, flip: Flip, capsys: Capture) -> None:
    died = crashed_copy(store, tmp_path / "died")
    last = segment(died)
    flip(last, last.read_bytes().index(b"a.unsynced"))
    assert main(["verify", str(died)]) == 0
    out = capsys.readouterr().out
    assert "torn tail  38 bytes from LSN" in out
    assert "7 events" in out
    assert main(["verify", "--json", str(died)]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["situation"], document["torn_bytes"], document["ok"]) == ("torn", 38, True)


def test_a_store_is_read_twice(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once to find out where its log ends, and once to check and fold it."""
    with WalPersistence(store) as jobs:
        # Nearly as much as the segment holds: the zeros behind the end are looked at once more.
        for number in range(3_500):
            jobs.record_started(f"a.job{number}", number)
    size = sum(path.stat().st_size for path in store.iterdir())
    read_bytes, pread = 0, os.pread

    def counted(descriptor: int, size: int, offset: int) -> bytes:
        nonlocal read_bytes
        data = pread(descriptor, size, offset)
        read_bytes += len(data)
        return data

    monkeypatch.setattr(os, "pread", counted)
    assert main(["verify", str(store)]) == 0
    assert size < read_bytes < 2.2 * size


@pytest.fixture
def impossible() -> EventForm:
    """An event that the codec takes for one, and whose id no release has ever accepted."""
    return 2, "a.\x07bell", START_NS


def test_an_event_that_can_not_be_is_damage(store: Path, impossible: EventForm, capsys: Capture) -> None:
    with WalPersistence(store) as jobs:
        lsn = jobs.stats().end_lsn
        assert jobs._store is not None
        jobs._store.record(impossible)
    assert main(["verify", str(store)]) == 1
    assert f"(LSN {lsn})" in capsys.readouterr().err


def test_a_record_that_can_not_be_is_damage(store: Path, impossible: EventForm, capsys: Capture) -> None:
    with WalPersistence(store) as jobs:
        assert jobs._store is not None
        jobs._store.record(impossible)
        jobs.flush_checkpoint(compact=True)
    (snapshot,) = store.glob("*.snap")
    assert main(["verify", str(store)]) == 1
    assert f"{snapshot}, offset {HEADER_BYTES}" in capsys.readouterr().err


def test_a_device_that_can_not_be_read_is_damage() -> None:
    assert exit_of(StorageError("Input/output error while reading the store", errno.EIO)) == Exit.DAMAGE
    assert exit_of(StorageError("Permission denied while reading the store", errno.EACCES)) == Exit.REFUSED
