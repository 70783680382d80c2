from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cli.other_homes import LABELS
from walstore import Manual, Periodic, QName, SchedulerJobRecord, SchedulerJobStatus, WalPersistence, urls
from walstore.cli import main
from walstore.cli.copy import place_of, shown

Run = Callable[..., "subprocess.CompletedProcess[str]"]
Capture = pytest.CaptureFixture[str]

HOMES = "tests.cli.other_homes"


@pytest.fixture(autouse=True)
def other_homes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Backends that need nothing installed."""
    monkeypatch.setitem(urls._BACKENDS, "label", (HOMES, "open_label", "none"))
    monkeypatch.setitem(urls._BACKENDS, "forgetful", (HOMES, "open_forgetful", "none"))
    LABELS.clear()
    yield
    LABELS.clear()


def jobs_at(path: Path) -> list[SchedulerJobRecord]:
    with WalPersistence(path, create=False, read_only=True) as store:
        return list(store.iter_jobs())


def numbered(count: int) -> Iterator[SchedulerJobRecord]:
    for number in range(count):
        id_ = QName("job", f"n{number:06}")
        yield SchedulerJobRecord(id_, SchedulerJobStatus.IDLE, None, number, None, 0, Periodic(every_ns=number + 1))


def one_line(capsys: Capture) -> str:
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("walstore: ")
    assert err.count("\n") == 1
    return err


def test_every_job_is_copied_as_it_is(store: Path, tmp_path: Path, capsys: Capture) -> None:
    target = tmp_path / "copy"
    assert main(["copy", str(store), str(target)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "copied  3 jobs" in out
    assert "OK: " in out
    assert jobs_at(target) == jobs_at(store) != []


@pytest.mark.parametrize("count", [0, 1, 511, 512, 513, 1600])
def test_any_number_of_jobs(count: int, tmp_path: Path, capsys: Capture) -> None:
    with WalPersistence(tmp_path / "jobs") as store:
        store.restore(numbered(count))
    assert main(["copy", "--json", str(tmp_path / "jobs"), f"wal:{tmp_path / 'copy'}"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["copied"], document["already_there"]) == (count, 0)
    assert jobs_at(tmp_path / "copy") == list(numbered(count))


def test_from_one_kind_to_another_and_back(store: Path, tmp_path: Path, capsys: Capture) -> None:
    assert main(["copy", str(store), "label:here"]) == 0
    assert sorted(str(row["qname"]) for row in LABELS["label:here"].rows) == [
        "ai.geo.index",
        "ai.geo.tile",
        "ops.backup",
    ]
    assert main(["copy", "label:here", str(tmp_path / "back")]) == 0
    assert jobs_at(tmp_path / "back") == jobs_at(store)
    assert capsys.readouterr().err == ""


def test_the_document(store: Path, tmp_path: Path, capsys: Capture) -> None:
    assert main(["copy", "--json", str(store), str(tmp_path / "copy")]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "ok": True,
        "source": str(store),
        "target": str(tmp_path / "copy"),
        "jobs": {"Pending": 2, "Running": 0, "Idle": 0, "FailedRetrying": 1},
        "copied": 3,
        "already_there": 0,
        "difference": None,
    }


def test_a_copy_that_was_begun_goes_on(tmp_path: Path, capsys: Capture) -> None:
    with WalPersistence(tmp_path / "jobs") as store:
        store.restore(numbered(1200))
    with WalPersistence(tmp_path / "copy") as begun:
        begun.restore(job for job in numbered(700) if job.last_started_at_ns != 3)
    for copied, there in ((501, 699), (0, 1200)):
        assert main(["copy", "--json", str(tmp_path / "jobs"), str(tmp_path / "copy")]) == 0
        document = json.loads(capsys.readouterr().out)
        assert (document["copied"], document["already_there"]) == (copied, there)
        assert jobs_at(tmp_path / "copy") == list(numbered(1200))


def test_a_killed_copy_goes_on(
    tmp_path: Path, command: list[str], process_environment: dict[str, str], capsys: Capture
) -> None:
    with WalPersistence(tmp_path / "jobs") as store:
        store.restore(numbered(3_000))
    arguments = ["copy", str(tmp_path / "jobs"), str(tmp_path / "copy")]
    with subprocess.Popen([*command, *arguments], env=process_environment) as copy:
        deadline_s = time.monotonic() + 60
        while copy.poll() is None and not any((tmp_path / "copy").glob("log-*.wal")):
            assert time.monotonic() < deadline_s
        copy.send_signal(signal.SIGKILL)
    assert main(arguments) == 0
    assert "OK: " in capsys.readouterr().out
    assert jobs_at(tmp_path / "copy") == list(numbered(3_000))


@pytest.mark.parametrize("other", ["a job of its own", "another state"])
def test_a_destination_with_other_jobs_is_refused(other: str, store: Path, tmp_path: Path, capsys: Capture) -> None:
    with WalPersistence(tmp_path / "other") as target:
        if other == "another state":
            target.restore(jobs_at(store)[:2])
            target.record_started("ai.geo.tile", 1)
        else:
            target.record_scheduled("ops.zebra", Manual())
    before = jobs_at(tmp_path / "other")
    assert main(["copy", str(store), str(tmp_path / "other")]) == 3
    assert ("ai.geo.tile" if other == "another state" else "ops.zebra") in one_line(capsys)
    assert jobs_at(tmp_path / "other") == before


def test_a_source_that_is_not_there_makes_no_destination(tmp_path: Path, capsys: Capture) -> None:
    assert main(["copy", str(tmp_path / "none"), str(tmp_path / "copy")]) == 3
    assert f"there is no store at {tmp_path}/none" in one_line(capsys)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_source_is_not_copied(
    store: Path, tmp_path: Path, flip: Callable[[Path, int], None], capsys: Capture
) -> None:
    flip(max(store.glob("log-*.wal")), 216)
    assert main(["copy", str(store), str(tmp_path / "copy")]) == 1
    assert "damaged below the watermark" in one_line(capsys)
    assert not (tmp_path / "copy").exists()


def test_a_store_is_copied_while_its_scheduler_goes_on(store: Path, tmp_path: Path, capsys: Capture) -> None:
    with WalPersistence(store) as writer:
        writer.record_started("a.new", 7)
        assert main(["copy", str(store), str(tmp_path / "copy")]) == 0
        writer.record_started("a.newer", 8)
    assert "copied  4 jobs" in capsys.readouterr().out
    assert str(jobs_at(tmp_path / "copy")[0].id) == "a.new"


def test_a_destination_that_is_open_elsewhere(store: Path, tmp_path: Path, capsys: Capture) -> None:
    with WalPersistence(tmp_path / "copy"):
        assert main(["copy", str(store), str(tmp_path / "copy")]) == 3
        assert "open for writing in process" in one_line(capsys)


@pytest.mark.parametrize(
    ("place", "what"),
    [("lost", "missing"), ("changed", "the first job that differs is ops.backup")],
)
def test_a_destination_that_does_not_keep_what_it_is_given(place: str, what: str, store: Path, capsys: Capture) -> None:
    assert main(["copy", "--json", str(store), f"forgetful:{place}"]) == 1
    out, err = capsys.readouterr()
    document = json.loads(out)
    assert document["ok"] is False
    assert what in document["difference"]
    assert document["difference"] in err
    assert err.count("\n") == 1


def test_onto_itself(store: Path, capsys: Capture) -> None:
    assert main(["copy", str(store), f"wal:{store}"]) == 3
    assert "both source and destination" in one_line(capsys)


@pytest.mark.parametrize(
    ("arguments", "status", "what"),
    [
        (["memory:", "DST"], 3, "keeps nothing"),
        (["SRC", "memory:"], 3, "keeps nothing"),
        (["sqlite:jobs.db", "DST"], 2, "'sqlite' is not known"),
        (["SRC", "unidb:"], 2, "names no place"),
    ],
    ids=str,
)
def test_places_that_can_not_be_copied(
    arguments: list[str], status: int, what: str, store: Path, tmp_path: Path, capsys: Capture
) -> None:
    places = {"SRC": str(store), "DST": str(tmp_path / "copy")}
    assert main(["copy", *(places.get(argument, argument) for argument in arguments)]) == status
    assert what in one_line(capsys)
    assert not (tmp_path / "copy").exists()


def test_paths_and_urls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert place_of("jobs") == place_of("wal:jobs") == f"wal:{tmp_path}/jobs"
    assert place_of("./a:b") == f"wal:{tmp_path}/a:b"
    assert place_of("unidb:graph") == f"unidb:{tmp_path}/graph"
    url = "postgresql://ada:secret@db.example:5432/jobs?sslmode=require"
    assert place_of(url) == url
    assert shown(url) == "postgresql://ada:***@db.example:5432/jobs?sslmode=require"
    assert shown("postgresql:///jobs") == "postgresql:///jobs"
    assert shown("postgresql://ada@/jobs?password=a%26b&port=1") == "postgresql://ada@/jobs?password=***&port=1"
    assert shown("postgresql://db:5432/jobs") == "postgresql://db:5432/jobs"
    assert shown(place_of("jobs")) == f"{tmp_path}/jobs"


def test_an_empty_path_is_a_wrong_command_line(capsys: Capture) -> None:
    assert main(["copy", "", "x"]) == 2
    assert "neither a URL nor a path" in capsys.readouterr().err
