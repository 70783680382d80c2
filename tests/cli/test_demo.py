from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from walstore import Durability, WalPersistence
from walstore.cli import main
from walstore.cli.demo_parent import DemoFailure, Replay
from walstore.cli.demo_tally import Tally
from walstore.cli.expected import differences, expected_of, fold
from walstore.cli.trace import TraceEvent, read_trace

# Enough for children to be killed in the middle, and for their syncs to cover most of it.
JOBS = 5_000


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """A trace with every status, jobs of both schedules, and runs that overlap."""
    lines = (f"{job} {job * 3} {job % 7 - 1} {job % 11 - 1} 1 1 1 1 1 1 {job % 7 - 1}\n" for job in range(1, JOBS + 1))
    path = tmp_path / "made-up.swf"
    path.write_text("; UnixStartTime: 1000000000\n" + "".join(lines))
    return path


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory in which temporary directories are made."""
    directory = tmp_path / "temporary"
    directory.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(directory))
    return directory


@pytest.fixture
def events(trace: Path) -> list[TraceEvent]:
    return list(read_trace(trace).events())


@pytest.fixture(params=list(Durability), ids=lambda level: level.value)
def replay(request: pytest.FixtureRequest, trace: Path, events: list[TraceEvent], tmp_path: Path) -> Iterator[Replay]:
    store = tmp_path / "store"
    with Replay(
        trace, events, store=store, work=tmp_path, durability=request.param, progress=lambda _text: None
    ) as found:
        yield found


def store_of(tmp_path: Path) -> WalPersistence:
    return WalPersistence(tmp_path / "store", create=False)


@pytest.mark.parametrize("durability", [level.value for level in Durability])
def test_all_comes_back_after_each_kill(
    durability: str, trace: Path, events: list[TraceEvent], temporary: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = main(["demo", "--json", "--trace", str(trace), "--durability", durability, "--kills", "3"])
    document = json.loads(capsys.readouterr().out)
    assert (status, document["ok"], document["failure"]) == (0, True, None)
    *kills, end = document["openings"]
    assert len(kills) == 3
    came_back = [opening["came_back"] for opening in kills]
    assert came_back == sorted(came_back)
    for opening in kills:
        assert opening["synced"] <= opening["came_back"] <= opening["acknowledged"] + document["events_per_call"]
        assert opening["taken"] == 0 or durability == "buffered"
        assert opening["orphaned_runs"] == opening["statuses"].get("Running", 0)
    jobs = fold(events)
    assert end["came_back"] == len(events)
    assert {status: sum(job.status == status for job in jobs.values()) for status in end["statuses"]} == end["statuses"]
    latencies = list(document["latency_ns"].values())
    assert latencies == sorted(latencies)
    assert list(temporary.iterdir()) == [], "something was left behind"


def test_the_report_ends_with_the_verdict(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--trace", str(trace)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("Replaying made-up.swf: 5,000 jobs")
    assert lines[-1].startswith("OK in ")


def test_a_named_store_is_kept(trace: Path, events: list[TraceEvent], tmp_path: Path) -> None:
    assert main(["demo", "--trace", str(trace), "--store", str(tmp_path / "store")]) == 0
    with store_of(tmp_path) as store:
        found = {str(record.id): expected_of(record) for record in store.load_all()}
    assert differences(fold(events), found) == []


def test_a_store_that_exists_is_not_touched(trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "store").mkdir()
    assert main(["demo", "--trace", str(trace), "--store", str(tmp_path / "store")]) == 2
    assert "exists already" in capsys.readouterr().err
    assert list((tmp_path / "store").iterdir()) == []


def test_a_file_that_is_no_trace_is_a_usage_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "notes.txt").write_text("hello\n")
    assert main(["demo", "--trace", str(tmp_path / "notes.txt")]) == 2
    complaint = capsys.readouterr().err
    assert "notes.txt, line 1: not a job" in complaint
    assert complaint.count("\n") == 1


def test_an_unusable_trace_is_told_to_machines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--json", "--trace", str(tmp_path / "none.swf")]) == 2
    out, err = capsys.readouterr()
    document = json.loads(out)
    assert (document["ok"], document["error"]["type"]) == (False, "UsageError")
    assert err == f"walstore: {document['error']['message']}\n"


def test_no_room_for_temporary_files_is_told(
    temporary: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(temporary / "none"))
    assert main(["demo", "--json"]) == 3
    out, err = capsys.readouterr()
    document = json.loads(out)
    assert (document["ok"], document["error"]["type"]) == (False, "StorageError")
    assert f"{temporary}/none" in document["error"]["message"]
    assert err == f"walstore: {document['error']['message']}\n"


def test_a_child_that_ends_by_itself_is_a_failure(
    trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", "--trace", str(trace), "--store", str(tmp_path / ("x" * 300))]) == 1
    out = capsys.readouterr().out
    assert "the child ended by itself" in out
    assert "kept at" not in out, "nothing is there"


def test_a_lost_job_is_noticed(replay: Replay, events: list[TraceEvent], tmp_path: Path) -> None:
    replay.kill_at(len(events))
    with store_of(tmp_path) as store:
        store.cancel(events[0].id)
    with pytest.raises(DemoFailure, match=f"{events[0].id}: is missing"):
        replay.finish()


def test_a_job_too_many_is_noticed(replay: Replay, events: list[TraceEvent], tmp_path: Path) -> None:
    replay.kill_at(len(events) // 2)
    with store_of(tmp_path) as store:
        store.record_started("not.there", 1)
    with pytest.raises(DemoFailure, match=r"not\.there: should not be there"):
        replay.kill_at(len(events))


def test_a_store_that_lost_all_is_noticed(replay: Replay, events: list[TraceEvent], tmp_path: Path) -> None:
    replay.kill_at(len(events))
    shutil.rmtree(tmp_path / "store")
    with pytest.raises(DemoFailure, match="jobs differ"):
        replay.finish()


def test_a_prefix_shorter_than_promised_is_noticed(replay: Replay, events: list[TraceEvent], tmp_path: Path) -> None:
    came_back = replay.kill_at(len(events) // 2).events
    with Tally(tmp_path / "tally") as tally:
        tally.acknowledged = tally.synced = came_back + 1
    with pytest.raises(DemoFailure, match=f"holds the first {came_back:,} events, but {came_back + 1:,} were"):
        replay._reopen()


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_demo_that_is_ended_leaves_nothing_behind(ending: signal.Signals, temporary: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-u", "-m", "walstore", "demo", "--kills", "20"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(temporary), "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as demo:
        assert demo.stdout is not None
        assert demo.stderr is not None
        while not demo.stdout.readline().startswith("Kill 1 "):
            pass
        demo.send_signal(ending)
        assert demo.stderr.read() == ""
    assert demo.returncode == 128 + ending
    assert list(temporary.iterdir()) == []


def test_a_signal_that_is_ignored_stays_ignored(trace: Path, process_environment: dict[str, str]) -> None:
    """As under `nohup`: the terminal may be closed, and the demo goes on."""
    with subprocess.Popen(
        ["sh", "-c", 'trap "" HUP; exec "$@"', "sh", sys.executable, "-u", "-m", "walstore", "demo", "--trace", trace],
        stdout=subprocess.PIPE,
        text=True,
        env=process_environment,
    ) as demo:
        assert demo.stdout is not None
        while not demo.stdout.readline().startswith("Replaying"):
            pass
        demo.send_signal(signal.SIGHUP)
        assert "OK in" in demo.stdout.read()
    assert demo.returncode == 0
