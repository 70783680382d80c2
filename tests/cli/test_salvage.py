"""The way out of corruption on a real disk: what comes out, what is refused, and that the old store is not touched."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from walstore import WalPersistence
from walstore.cli import main
from walstore.format.frame import find_frames
from walstore.format.layout import HEADER_BYTES, Header

Capture = pytest.CaptureFixture[str]
Flip = Callable[[Path, int], None]
Run = Callable[..., "subprocess.CompletedProcess[str]"]


def state(directory: Path) -> dict[str, tuple[bytes, int, int]]:
    """Everything of a store that a write would change."""
    paths = [directory, *directory.iterdir()]
    return {
        path.name: (path.read_bytes() if path.is_file() else b"", path.stat().st_mtime_ns, path.stat().st_mode)
        for path in paths
    }


def jobs(directory: Path) -> dict[str, str]:
    with WalPersistence(directory, read_only=True) as store:
        return {str(record.id): record.status.value for record in store.load_all()}


def segment(store: Path) -> Path:
    return max(store.glob("log-*.wal"))


@pytest.fixture
def damaged(store: Path, flip: Flip) -> Path:
    """A store in which the second event of ``ops.backup``, that it failed, is damaged."""
    last = segment(store)
    flip(last, last.read_bytes().rindex(b"ops.backup"))
    return store


@pytest.fixture
def new(tmp_path: Path) -> Path:
    return tmp_path / "new.walstore"


def error_of(capsys: Capture) -> str:
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"walstore: [^\n]+\n", err)
    return err


def test_a_store_in_order_is_copied(store: Path, new: Path, capsys: Capture) -> None:
    before = state(store)
    assert main(["salvage", str(store), str(new)]) == 0
    out, err = capsys.readouterr()
    assert "nothing was wrong with the old store" in out
    assert err == ""
    assert jobs(new) == jobs(store)
    assert state(store) == before
    assert main(["verify", str(new)]) == 0


def test_what_verifies_comes_out_and_the_rest_is_named(damaged: Path, new: Path, capsys: Capture) -> None:
    assert main(["verify", str(damaged)]) == 1
    assert "`walstore salvage`" in error_of(capsys)
    before = state(damaged)
    assert main(["salvage", str(damaged), str(new)]) == 1
    out, err = capsys.readouterr()
    assert re.search(
        rf"^{segment(damaged).name} .* the checksum of the frame does not match +events of any job$", out, re.MULTILINE
    )
    assert "a job that was cancelled in a gap is back" in out
    assert "a run may have ended in a gap: 1 job came out as Running." in out
    assert f"{damaged} is damaged" in err
    assert jobs(new) == {"ai.geo.index": "Pending", "ai.geo.tile": "Pending", "ops.backup": "Running"}
    assert state(damaged) == before
    assert new.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in new.iterdir()} == {0o600}
    with WalPersistence(new) as store:
        assert store.recovery.situation.value == "clean"
        store.record_started("ai.geo.tile", 1)


def test_a_damaged_snapshot_names_the_jobs_between(store: Path, new: Path, flip: Flip, capsys: Capture) -> None:
    (snapshot,) = store.glob("*.snap")
    flip(snapshot, HEADER_BYTES + 30)
    assert main(["salvage", "--json", str(store), str(new)]) == 1
    document = json.loads(capsys.readouterr().out)
    (gap,) = document["gaps"]
    assert (gap["file"], gap["offset"], gap["loses"], gap["damage"]) == (str(snapshot), HEADER_BYTES, "records", True)
    assert document["ok"] is False
    assert (document["records"], document["events"]) == (0, 6)
    # Of the jobs whose records are gone, only what the log tells is there.
    assert jobs(new) == {"ai.geo.tile": "Idle", "ai.geo.index": "Pending", "ops.backup": "FailedRetrying"}


@pytest.fixture
def in_frames(tmp_path: Path) -> tuple[Path, list[int]]:
    """A store whose snapshot has several frames of records, and where each of its frames begins."""
    path = tmp_path / "frames.walstore"
    with WalPersistence(path) as writer:
        for number in range(2_000):
            writer.record_started(f"a.job{number:04}", number)
        writer.flush_checkpoint(compact=True)
    (snapshot,) = path.glob("*.snap")
    data = snapshot.read_bytes()
    seed = Header.decode(data[:HEADER_BYTES]).nonce
    ends = [HEADER_BYTES + frame.end for frame in find_frames(data[HEADER_BYTES:], seed)]
    return snapshot, [HEADER_BYTES, *ends[:-1]]


@pytest.mark.parametrize(
    ("number", "taken"),
    [
        (0, r"records of jobs before a\.job\d{4}"),
        (1, r"records of jobs after a\.job\d{4} and before a\.job\d{4}"),
        (-3, r"records of jobs after a\.job\d{4}"),
        (-2, "nothing"),
    ],
    ids=["the first", "the second", "the last", "the index"],
)
def test_people_are_told_which_records_a_gap_took(
    number: int, taken: str, in_frames: tuple[Path, list[int]], new: Path, flip: Flip, capsys: Capture
) -> None:
    snapshot, offsets = in_frames
    flip(snapshot, offsets[number] + 30)
    assert main(["salvage", str(snapshot.parent), str(new)]) == 1
    out = capsys.readouterr().out
    assert re.search(rf"\.snap .* +{taken}$", out, re.MULTILINE)
    assert ("Records in a gap are lost" in out) is (taken != "nothing")
    assert "Events in a gap are lost" not in out


def test_people_are_told_of_all_records_where_no_neighbour_is_known(
    store: Path, new: Path, flip: Flip, capsys: Capture
) -> None:
    (snapshot,) = store.glob("*.snap")
    flip(snapshot, HEADER_BYTES + 30)
    assert main(["salvage", str(store), str(new)]) == 1
    assert re.search("records of any job$", capsys.readouterr().out, re.MULTILINE)


def test_people_are_told_of_runs_that_may_have_ended(store: Path, new: Path, flip: Flip, capsys: Capture) -> None:
    with WalPersistence(store) as writer:
        writer.record_started("a.b", 1)
        writer.record_finished("a.b", 2, True)
    flip(segment(store), segment(store).read_bytes().rindex(b"a.b"))
    assert main(["salvage", str(store), str(new)]) == 1
    assert "a run may have ended in a gap: 1 job came out as Running" in capsys.readouterr().out
    assert jobs(new)["a.b"] == "Running"


def test_a_torn_tail_is_no_damage(store: Path, tmp_path: Path, new: Path, flip: Flip, capsys: Capture) -> None:
    died = tmp_path / "died"
    with WalPersistence(store) as writer:
        writer.record_started("a.b", 1)
        shutil.copytree(store, died)
    flip(segment(died), segment(died).read_bytes().index(b"a.b"))
    assert main(["salvage", str(died), str(new)]) == 0
    assert "torn tail, of which nothing had been promised" in capsys.readouterr().out
    assert jobs(new) == jobs(died)


def test_nothing_verifies(store: Path, new: Path, capsys: Capture) -> None:
    for path in store.iterdir():
        if path.name != "LOCK":
            path.write_bytes(bytes(path.stat().st_size))
    assert main(["salvage", "--json", str(store), str(new)]) == 1
    out, err = capsys.readouterr()
    assert json.loads(out)["error"]["type"] == "CorruptionError"
    assert "there is nothing to keep" in err
    assert not new.exists()


def test_where_the_new_store_must_not_be(damaged: Path, tmp_path: Path, capsys: Capture) -> None:
    before = state(damaged)
    (tmp_path / "link").symlink_to(damaged)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("hello")
    for target, complaint in {
        damaged: "must not be changed",
        damaged / "new": "must not be changed",
        tmp_path / "link": "must not be changed",
        tmp_path / "link" / "new": "must not be changed",
        tmp_path / "notes": "is not empty",
        tmp_path / "notes" / "a.txt": "Not a directory",
        tmp_path / "none" / "new": "does not exist; create that first",
    }.items():
        assert main(["salvage", str(damaged), str(target)]) == 3
        assert complaint in error_of(capsys)
    assert state(damaged) == before
    assert [path.name for path in (tmp_path / "notes").iterdir()] == ["a.txt"]


def test_an_empty_directory_will_do(damaged: Path, new: Path) -> None:
    new.mkdir()
    assert main(["salvage", str(damaged), str(new)]) == 1
    assert jobs(new)


def test_there_must_be_a_store_to_salvage(tmp_path: Path, new: Path, capsys: Capture) -> None:
    assert main(["salvage", str(tmp_path / "none"), str(new)]) == 3
    assert "there is no store at" in error_of(capsys)
    (tmp_path / "empty").mkdir()
    assert main(["salvage", str(tmp_path / "empty"), str(new)]) == 3
    assert "there is no store in it" in error_of(capsys)
    assert main(["salvage", str(tmp_path)]) == 2
    assert not new.exists()


def test_a_store_in_use_is_refused(store: Path, new: Path, capsys: Capture) -> None:
    with WalPersistence(store) as writer:
        writer.record_started("a.b", 1)
        assert main(["salvage", str(store), str(new)]) == 3
        assert f"open for writing in process {os.getpid()}" in error_of(capsys)
    assert not new.exists()
    assert main(["salvage", str(store), str(new)]) == 0


def test_a_store_of_a_newer_release(store: Path, new: Path, capsys: Capture) -> None:
    newest = segment(store)
    newest.write_bytes(b"WALSTORE" + b"\x00\x02\xff\xfd" + newest.read_bytes()[12:])
    assert main(["salvage", str(store), str(new)]) == 3
    assert "format version 2, which this release can't read" in error_of(capsys)
    assert not new.exists()


@pytest.fixture
def read_only(damaged: Path) -> Iterator[Path]:
    """The damaged store, without permission to write anything in it."""
    for path in damaged.iterdir():
        path.chmod(0o400)
    damaged.chmod(0o500)
    yield damaged
    damaged.chmod(0o700)


def test_no_permission_to_write_is_needed(read_only: Path, new: Path) -> None:
    before = state(read_only)
    assert main(["salvage", str(read_only), str(new)]) == 1
    assert len(jobs(new)) == 3
    assert state(read_only) == before


def test_a_missing_lock_file_is_not_made(damaged: Path, new: Path) -> None:
    (damaged / "LOCK").unlink()
    assert main(["salvage", str(damaged), str(new)]) == 1
    assert not (damaged / "LOCK").exists()


def test_a_full_disk_leaves_an_empty_directory(
    large_store: Path, new: Path, command: list[str], process_environment: dict[str, str]
) -> None:
    def limit() -> None:
        # A file that grows beyond it gets an error in place of the signal.
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))

    # Where coverage is measured, its files would meet the limit as well.
    unmeasured = {name: value for name, value in process_environment.items() if not name.startswith("COVERAGE")}
    done = subprocess.run(
        [*command, "salvage", str(large_store), str(new)],
        env=unmeasured,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=limit,
    )
    assert done.returncode == 3
    assert re.fullmatch(r"walstore: [^\n]+ while making the store [^\n]+\n", done.stderr)
    assert list(new.iterdir()) == []
    assert main(["salvage", str(large_store), str(new)]) == 0


_INTERRUPTED = """
import sys
from walstore.cli import main
from walstore.engine import founding

original = founding.write_snapshot

def write_snapshot(*arguments):
    original(*arguments)
    print("written", flush=True)
    sys.stdin.read()

founding.write_snapshot = write_snapshot
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_what_is_ended_in_the_middle_is_no_store(
    ending: signal.Signals, damaged: Path, new: Path, process_environment: dict[str, str], capsys: Capture
) -> None:
    arguments = [sys.executable, "-c", _INTERRUPTED, "salvage", str(damaged), str(new)]
    with subprocess.Popen(
        arguments,
        env=process_environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "written\n"
        process.send_signal(ending)
        process.wait(60)
        assert process.stderr is not None
        assert process.stderr.read() == ""
    if ending is not signal.SIGKILL:
        assert process.returncode == 128 + ending
        assert list(new.iterdir()) == []
        assert main(["salvage", str(damaged), str(new)]) == 1
        return
    for command in ("verify", "checkpoint"):
        assert main([command, str(new)]) == 3
        assert "holds other things and no store" in error_of(capsys)
    assert main(["salvage", str(damaged), str(new)]) == 3
    assert "holds what was never finished: remove it" in error_of(capsys)
