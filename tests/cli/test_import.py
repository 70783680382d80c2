from __future__ import annotations

import json
import os
import shelve
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import timedelta
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

from walstore import WalPersistence
from walstore.cli import main
from walstore.cli.import_ import KINDS, Importer

Capture = pytest.CaptureFixture[str]

REAL = Path(__file__).parents[1] / "backends" / "data" / "background_jobs.json"


with_integrations = pytest.mark.skipif(
    find_spec("walstore.integrations") is None, reason="this walstore was built without its integrations"
)


def names_at(path: Path) -> set[str]:
    with WalPersistence(path, create=False, read_only=True) as store:
        return {str(job.id) for job in store.iter_jobs()}


def one_line(capsys: Capture) -> str:
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("walstore: ")
    assert err.count("\n") == 1
    return err


@pytest.mark.parametrize("there", ["nothing", "an empty directory"])
def test_the_jobs_of_uni_db(there: str, tmp_path: Path, capsys: Capture) -> None:
    target = tmp_path / "jobs"
    if there == "an empty directory":
        target.mkdir()
    assert main(["import", "unidb", str(REAL), str(target)]) == 0
    assert "12 jobs" in capsys.readouterr().out
    assert names_at(target) == {job["qname"] for job in json.loads(REAL.read_text("utf-8"))}
    assert list(tmp_path.iterdir()) == [target]
    assert main(["verify", str(target)]) == 0


def test_the_document(tmp_path: Path, capsys: Capture) -> None:
    assert main(["import", "--json", "unidb", str(REAL), str(tmp_path / "jobs")]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "ok": True,
        "kind": "unidb",
        "source": str(REAL),
        "target": str(tmp_path / "jobs"),
        "imported": 12,
    }


def test_a_file_that_is_wrong_somewhere_imports_nothing(tmp_path: Path, capsys: Capture) -> None:
    jobs = json.loads(REAL.read_text("utf-8"))
    jobs[-1]["status"] = "Sleeping"
    (tmp_path / "jobs.json").write_text(json.dumps(jobs))
    assert main(["import", "unidb", str(tmp_path / "jobs.json"), str(tmp_path / "jobs")]) == 3
    assert "custom.reindex" in one_line(capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["jobs.json"]


@pytest.mark.parametrize("there", [False, True])
def test_what_fails_half_way_leaves_nothing(
    there: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setitem(KINDS, "half", Importer("tests.cli.other_homes", "import_half"))
    target = tmp_path / "jobs"
    if there:
        target.mkdir()
    assert main(["import", "half", str(REAL), str(target)]) == 3
    assert "the second half of" in one_line(capsys)
    assert list(tmp_path.iterdir()) == [target] * there
    assert not there or list(target.iterdir()) == []


def test_a_target_that_is_there_stays_what_it_is(store: Path, tmp_path: Path, capsys: Capture) -> None:
    before = names_at(store)
    (tmp_path / "notes.txt").write_text("hello")
    for target in (store, tmp_path, tmp_path / "notes.txt"):
        assert main(["import", "unidb", str(REAL), str(target)]) == 3
        assert "is there already" in one_line(capsys)
    assert names_at(store) == before
    assert (tmp_path / "notes.txt").read_text() == "hello"


def test_a_target_whose_directory_is_not_there(tmp_path: Path, capsys: Capture) -> None:
    assert main(["import", "unidb", str(REAL), str(tmp_path / "not" / "there")]) == 3
    assert "No such file or directory" in one_line(capsys)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_import_that_is_ended_in_the_middle_leaves_no_store(
    ending: signal.Signals, tmp_path: Path, command: list[str], process_environment: dict[str, str]
) -> None:
    source, target = tmp_path / "jobs.json", tmp_path / "jobs"
    os.mkfifo(source)
    with subprocess.Popen([*command, "import", "unidb", source, target], env=process_environment) as child:
        # Opening returns when the other side has opened it, and then it waits for what never comes.
        writer = os.open(source, os.O_WRONLY)
        child.send_signal(ending)
        assert child.wait(60) == (-ending if ending == signal.SIGKILL else 128 + ending)
        os.close(writer)
    assert not target.exists()
    source.unlink()
    leftovers = [path.name for path in tmp_path.iterdir()]
    if ending != signal.SIGKILL:
        assert leftovers == []
    assert all(name.startswith(".jobs.importing-") for name in leftovers)
    assert main(["import", "unidb", str(REAL), str(target)]) == 0


def test_what_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    # None in this place makes the import fail.
    monkeypatch.setitem(sys.modules, "celery", None)
    assert main(["import", "celery", str(REAL), str(tmp_path / "jobs")]) == 3
    assert "pip install 'walstore[celery]'" in one_line(capsys)
    assert list(tmp_path.iterdir()) == []


@with_integrations
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_its_function(kind: str) -> None:
    importer = KINDS[kind]
    if importer.package is not None:
        pytest.importorskip(importer.package)
    assert callable(getattr(import_module(importer.module), importer.function))


@pytest.fixture
def sqlite_file(tmp_path: Path) -> Path:
    """A file as APScheduler's SQLAlchemyJobStore writes it, with two jobs."""
    with closing(sqlite3.connect(tmp_path / "jobs.sqlite")) as database, database:
        database.execute("CREATE TABLE own_jobs (id VARCHAR(191), next_run_time FLOAT(25), job_state BLOB NOT NULL)")
        rows = [("a", 1_700_000_000.5, b"state"), ("b", None, b"paused")]
        database.executemany("INSERT INTO own_jobs VALUES (?, ?, ?)", rows)
    return tmp_path / "jobs.sqlite"


@with_integrations
def test_the_jobs_of_apscheduler(sqlite_file: Path, tmp_path: Path, capsys: Capture) -> None:
    arguments = ["import", "apscheduler", str(sqlite_file), str(tmp_path / "jobs")]
    assert main([*arguments, "--json", "--table", "own_jobs"]) == 0
    assert json.loads(capsys.readouterr().out)["imported"] == 2
    assert (tmp_path / "jobs" / "LOCK").is_file()


@with_integrations
def test_a_table_that_is_not_there(sqlite_file: Path, tmp_path: Path, capsys: Capture) -> None:
    assert main(["import", "apscheduler", str(sqlite_file), str(tmp_path / "jobs")]) == 3
    assert "no table apscheduler_jobs" in one_line(capsys)
    assert list(tmp_path.iterdir()) == [sqlite_file]


@with_integrations
def test_the_schedule_of_celery(tmp_path: Path, capsys: Capture) -> None:
    beat = pytest.importorskip("celery.beat")
    entry = beat.ScheduleEntry(name="tidy", task="tasks.tidy", schedule=timedelta(seconds=30))
    with shelve.open(str(tmp_path / "celerybeat-schedule")) as shelf:
        shelf.update({"entries": {"tidy": entry}, "tz": "UTC", "utc_enabled": True, "__version__": "5"})
    arguments = ["import", "celery", str(tmp_path / "celerybeat-schedule"), str(tmp_path / "beat.walstore")]
    assert main(arguments) == 0
    assert "1 job of" in capsys.readouterr().out
    assert (tmp_path / "beat.walstore" / "LOCK").is_file()
    assert main(arguments) == 3
    assert "is there already" in one_line(capsys)


@with_integrations
def test_a_file_of_something_else(tmp_path: Path, capsys: Capture) -> None:
    for kind in KINDS:
        importer = KINDS[kind]
        if importer.package is None or find_spec(importer.package) is not None:
            assert main(["import", kind, str(Path(__file__)), str(tmp_path / "jobs")]) == 3
            assert __file__ in one_line(capsys)
    assert list(tmp_path.iterdir()) == []


def test_only_sqlite_has_tables(tmp_path: Path, capsys: Capture) -> None:
    assert main(["import", "unidb", str(REAL), str(tmp_path / "jobs"), "--table", "jobs"]) == 2
    assert "has no tables" in one_line(capsys)
    assert list(tmp_path.iterdir()) == []


def test_a_kind_that_is_not_known_is_a_wrong_command_line(tmp_path: Path, capsys: Capture) -> None:
    assert main(["import", "cron", str(REAL), str(tmp_path / "jobs")]) == 2
    assert "invalid choice: 'cron'" in capsys.readouterr().err


def test_a_source_that_is_not_there(tmp_path: Path, capsys: Capture) -> None:
    assert main(["import", "unidb", str(tmp_path / "none.json"), str(tmp_path / "jobs")]) == 3
    assert "there is no file" in one_line(capsys)
    assert list(tmp_path.iterdir()) == []
