from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from walstore import WalPersistence
from walstore.cli import main
from walstore.format.layout import HEADER_BYTES, Header

Capture = pytest.CaptureFixture[str]
Flip = Callable[[Path, int], None]
Document = Mapping[str, object]


def segment(store: Path) -> Path:
    return max(store.glob("log-*.wal"))


def inspected(store: Path, capsys: Capture, status: int) -> Document:
    """The JSON document, after a look at what people get: the same exit code, and an error on one line at most."""
    assert main(["inspect", str(store)]) == status
    out, err = capsys.readouterr()
    assert err.count("\n") == (1 if status else 0)
    assert all(path.name in out for path in store.iterdir())
    assert main(["inspect", "--json", str(store)]) == status
    document: Document = json.loads(capsys.readouterr().out)
    assert document["ok"] is (status == 0)
    return document


def files(document: Document, kind: str) -> list[Document]:
    found = document[kind]
    assert isinstance(found, list)
    return found


def error(document: Document) -> Document:
    found = document["error"]
    assert isinstance(found, dict)
    return found


def test_a_store_in_order(store: Path, capsys: Capture) -> None:
    document = inspected(store, capsys, 0)
    assert (document["situation"], document["events"], document["torn_bytes"]) == ("clean", 6, 0)
    assert document["jobs"] == {"Pending": 2, "Running": 0, "Idle": 0, "FailedRetrying": 1}
    assert document["lock"] == {"host": "ada", "pid": 4711, "since_ns": 1_700_000_000_000_000_000}
    (snapshot,) = files(document, "snapshots")
    assert (snapshot["records"], snapshot["trouble"], snapshot["in_use"]) == (4, None, True)
    (log,) = files(document, "segments")
    assert (log["events"], log["trouble"], log["closed_cleanly"], log["epoch"]) == (6, None, True, 1)
    assert log["lsn"] == snapshot["lsn"]
    assert log["end_lsn"] == document["end_lsn"]
    assert log["watermark_lsn"] == document["watermark_lsn"]
    assert files(document, "other_files") == [{"name": "LOCK", "what": "the writer's lock", "length": 256}]


def test_for_people(store: Path, capsys: Capture) -> None:
    assert main(["inspect", str(store)]) == 0
    out = capsys.readouterr().out
    assert "clean: the last writer closed it" in out
    assert "process 4711 on ada, 2023-11-14 22:13:20 UTC" in out
    assert "3 (2 Pending, 1 FailedRetrying)" in out


def test_a_damaged_log_is_shown_as_far_as_it_reads(store: Path, flip: Flip, capsys: Capture) -> None:
    damaged = segment(store)
    place = damaged.read_bytes().index(b"ops.backup")
    flip(damaged, place)
    document = inspected(store, capsys, 1)
    assert error(document)["type"] == "CorruptionError"
    assert error(document)["file"] == str(damaged)
    (log,) = files(document, "segments")
    assert log["events"] == 2
    assert log["frames_end"] == error(document)["offset"]
    assert log["end_lsn"] == error(document)["lsn"]
    # Three events, the watermark of the sync and the mark of the close.
    assert log["frames_behind_trouble"] == 4
    assert (document["situation"], document["jobs"]) == (None, None)
    assert document["watermark_lsn"] == log["watermark_lsn"] != None  # noqa: E711


def test_a_damaged_header(store: Path, flip: Flip, capsys: Capture) -> None:
    flip(segment(store), 20)
    document = inspected(store, capsys, 1)
    (log,) = files(document, "segments")
    assert log["trouble"] == "the checksum of the header does not match"
    assert (log["lsn"], log["events"], log["length"]) == (None, None, segment(store).stat().st_size)
    assert files(document, "snapshots")[0]["records"] == 4


def test_a_damaged_snapshot(store: Path, flip: Flip, capsys: Capture) -> None:
    (path,) = store.glob("*.snap")
    flip(path, HEADER_BYTES + 30)
    document = inspected(store, capsys, 1)
    (snapshot,) = files(document, "snapshots")
    assert (snapshot["records"], snapshot["frames_end"], snapshot["frames_behind_trouble"]) == (0, HEADER_BYTES, 2)
    assert files(document, "segments")[0]["events"] == 6


def test_a_snapshot_without_its_end(store: Path, capsys: Capture) -> None:
    (path,) = store.glob("*.snap")
    path.write_bytes(path.read_bytes()[:-40])
    document = inspected(store, capsys, 1)
    (snapshot,) = files(document, "snapshots")
    assert snapshot["trouble"] == "the snapshot does not end with a trailer"
    assert snapshot["records"] == 4


def test_an_empty_segment_file(store: Path, capsys: Capture) -> None:
    segment(store).write_bytes(b"")
    document = inspected(store, capsys, 1)
    assert files(document, "segments")[0]["trouble"] == "the header is cut short"


def test_a_lost_log(store: Path, capsys: Capture) -> None:
    segment(store).unlink()
    document = inspected(store, capsys, 1)
    assert "the log of the store is missing" in str(error(document)["message"])
    assert files(document, "segments") == []
    assert files(document, "snapshots")[0]["records"] == 4


def test_a_newer_store(store: Path, capsys: Capture) -> None:
    newest = segment(store)
    newest.write_bytes(b"WALSTORE" + b"\x00\x02\xff\xfd" + newest.read_bytes()[12:])
    document = inspected(store, capsys, 3)
    assert error(document)["type"] == "NewerFormatError"
    assert files(document, "segments")[0]["trouble"] == "format version 2, which this release can't read"


def test_a_store_of_other_records(store: Path, capsys: Capture) -> None:
    for path in store.glob("*-*"):
        header = dataclasses.replace(Header.decode(path.read_bytes()[:HEADER_BYTES]), codec_id="cache/7")
        path.write_bytes(header.encode() + path.read_bytes()[HEADER_BYTES:])
    document = inspected(store, capsys, 3)
    assert "belongs to a store of 'cache/7' records" in str(error(document)["message"])
    (log,) = files(document, "segments")
    # Frames are frames, whatever is in them; nothing is said of events.
    assert (log["codec"], log["events"], log["trouble"], log["closed_cleanly"]) == ("cache/7", None, None, True)
    for command in ("verify", "dump", "checkpoint"):
        assert main([command, str(store)]) == 3
        assert capsys.readouterr().err.count("\n") == 1


def test_a_store_that_was_never_finished(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "LOCK").touch()
    document = inspected(tmp_path, capsys, 3)
    assert "creation was never finished" in str(error(document)["message"])
    assert document["lock"] is None


def test_a_torn_tail(store: Path, tmp_path: Path, flip: Flip, capsys: Capture) -> None:
    died = tmp_path / "died"
    with WalPersistence(store) as jobs:
        jobs.record_started("a.b", 1)
        shutil.copytree(store, died)
    flip(segment(died), segment(died).read_bytes().index(b"a.b"))
    document = inspected(died, capsys, 0)
    assert (document["situation"], document["torn_bytes"]) == ("torn", 23)
    assert main(["inspect", str(died)]) == 0
    assert "torn tail" in capsys.readouterr().out
    assert main(["checkpoint", str(died)]) == 0
    capsys.readouterr()
    kinds = {what for file in files(inspected(died, capsys, 0), "other_files") for what in [file["what"]]}
    assert kinds == {"the writer's lock", "a torn tail that a recovery cut off"}


def test_files_that_do_not_count(store: Path, tmp_path: Path, capsys: Capture) -> None:
    shutil.copytree(store, tmp_path / "before")
    assert main(["checkpoint", str(store)]) == 0
    capsys.readouterr()
    for path in (tmp_path / "before").glob("*-*"):
        shutil.copy(path, store)
    (store / "snapshot-0000000000000200.snap-00000002.tmp").write_bytes(b"1234")
    (store / "notes.txt").write_text("hello")
    document = inspected(store, capsys, 0)
    assert [snapshot["in_use"] for snapshot in files(document, "snapshots")] == [False, True]
    assert files(document, "segments")[0]["in_use"] is False
    assert {str(file["name"]): (file["what"], file["length"]) for file in files(document, "other_files")} == {
        "LOCK": ("the writer's lock", 256),
        "snapshot-0000000000000200.snap-00000002.tmp": ("a file that was never finished", 4),
        "notes.txt": ("none of the store's", 5),
    }


def test_damage_in_a_file_that_does_not_count(store: Path, tmp_path: Path, flip: Flip, capsys: Capture) -> None:
    shutil.copytree(store, tmp_path / "before")
    assert main(["checkpoint", str(store)]) == 0
    capsys.readouterr()
    shutil.copy(segment(tmp_path / "before"), store)
    flip(store / segment(tmp_path / "before").name, 20)
    document = inspected(store, capsys, 0)
    assert [log["trouble"] for log in files(document, "segments") if not log["in_use"]] == [
        "the checksum of the header does not match"
    ]
    assert files(document, "segments")[0]["in_use"] is False


def test_names_that_are_no_files(store: Path, capsys: Capture) -> None:
    (store / "a directory").mkdir()
    (store / "snapshot-ffffffffffffffff.snap").symlink_to(store / "LOCK")
    assert main(["inspect", "--json", str(store)]) == 3
    document = json.loads(capsys.readouterr().out)
    assert files(document, "other_files")[1] == {"name": "a directory", "what": "none of the store's", "length": None}
    assert files(document, "snapshots")[-1]["trouble"] == "Too many levels of symbolic links"


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"host": "ada"}', '{"host": "a", "pid": 1, "since_ns": 1e99}', "[" * 4096]
)
def test_a_lock_that_says_nothing(content: str, store: Path, capsys: Capture) -> None:
    (store / "LOCK").write_text(content)
    assert inspected(store, capsys, 0)["lock"] is None
