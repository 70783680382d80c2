from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from walstore import SchedulerJobRecord, WalPersistence
from walstore.cli import main

Capture = pytest.CaptureFixture[str]


def load(store: Path) -> list[SchedulerJobRecord]:
    with WalPersistence(store, read_only=True) as jobs:
        return sorted(jobs.load_all(), key=lambda record: str(record.id))


def test_the_log_is_compacted_and_nothing_changes(store: Path, capsys: Capture) -> None:
    before = load(store)
    assert main(["checkpoint", str(store)]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("Compacted 6 events into a snapshot of ")
    assert err == ""
    assert load(store) == before
    with WalPersistence(store, read_only=True) as jobs:
        assert jobs.recovery.events_replayed == 0


def test_there_may_be_nothing_to_compact(store: Path, capsys: Capture) -> None:
    assert main(["checkpoint", str(store)]) == 0
    capsys.readouterr()
    assert main(["checkpoint", str(store)]) == 0
    assert capsys.readouterr().out == "Nothing to compact: there is no event above the snapshot.\n"


def test_what_it_did_for_machines(store: Path, capsys: Capture) -> None:
    assert main(["checkpoint", "--json", str(store)]) == 0
    document = json.loads(capsys.readouterr().out)
    (snapshot,) = store.glob("*.snap")
    assert document == {
        "ok": True,
        "path": str(store),
        "situation": "clean",
        "compacted": True,
        "events": 6,
        "snapshot_lsn": int(snapshot.stem.removeprefix("snapshot-"), 16),
        "snapshot_bytes": snapshot.stat().st_size,
        "torn_bytes": 0,
        "kept_at": None,
    }


def test_a_torn_tail_is_cut_off_and_kept(
    store: Path, tmp_path: Path, flip: Callable[[Path, int], None], capsys: Capture
) -> None:
    died = tmp_path / "died"
    with WalPersistence(store) as jobs:
        jobs.record_started("a.b", 1)
        shutil.copytree(store, died)
    last = max(died.glob("log-*.wal"))
    flip(last, last.read_bytes().index(b"a.b"))
    assert main(["checkpoint", str(died)]) == 0
    (kept,) = died.glob("torn-*.bin")
    assert f"A torn tail of 23 bytes was cut off the log; it is kept at {kept}." in capsys.readouterr().out
    assert main(["verify", str(died)]) == 0


def test_a_damaged_store_is_left_alone(store: Path, flip: Callable[[Path, int], None], capsys: Capture) -> None:
    damaged = max(store.glob("log-*.wal"))
    flip(damaged, 130)
    before = {path.name: path.read_bytes() for path in store.iterdir()}
    assert main(["checkpoint", str(store)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert str(damaged) in err
    assert {path.name: path.read_bytes() for path in store.iterdir()} == before
