from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from walstore import WalPersistence, __version__
from walstore.cli import main

Run = Callable[..., "subprocess.CompletedProcess[str]"]
Capture = pytest.CaptureFixture[str]

ON_A_STORE = ["inspect", "verify", "dump", "checkpoint"]
READING = ["inspect", "verify", "dump"]


def segments(store: Path) -> list[Path]:
    return sorted(store.glob("log-*.wal"))


def contents(directory: Path) -> dict[str, tuple[bytes, int]]:
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in directory.iterdir()}


def one_line(capsys: Capture) -> str:
    """What was printed, which is one line on standard error."""
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"walstore: [^\n]+\n", err)
    return err


def test_without_arguments_it_shows_what_it_can_do(capsys: Capture) -> None:
    assert main([]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert all(command in err for command in [*ON_A_STORE, "demo", "exit codes:"])


def test_help_is_asked_for(capsys: Capture) -> None:
    assert main(["--help"]) == 0
    assert "exit codes:" in capsys.readouterr().out


def test_version(run: Run) -> None:
    result = run("--version")
    assert (result.returncode, result.stdout, result.stderr) == (0, f"walstore {__version__}\n", "")


@pytest.mark.parametrize(
    "arguments",
    [
        ["vrify", "x"],
        ["verify"],
        ["verify", ""],
        ["verify", "x", "y"],
        ["verify", "x", "--jso"],
        ["dump", "x", "--events", "--records"],
    ],
    ids=" ".join,
)
def test_a_wrong_command_line(arguments: list[str], capsys: Capture) -> None:
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("usage: walstore")


@pytest.mark.parametrize("arguments", [["dump", "x", "--json"], ["dump"], ["dump", "x", "y"]], ids=" ".join)
def test_the_usage_is_that_of_the_command(arguments: list[str], capsys: Capture) -> None:
    assert main(arguments) == 2
    assert capsys.readouterr().err.startswith("usage: walstore dump [-h] [--events | --records] PATH\nwalstore dump: ")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["verify", "--json"], "the following arguments are required: PATH"),
        (["--json", "vrify", "x"], "invalid choice"),
        (["inspect", "--json", "x", "y"], "unrecognized arguments: y"),
        (["salvage", "x", "", "--json"], "not a path"),
        (["demo", "--json", "--kills", "many"], "must be between 0 and 999"),
        (["verify", "x", "--jso", "--json"], "unrecognized arguments: --jso"),
    ],
)
def test_a_wrong_command_line_is_told_to_machines(arguments: list[str], complaint: str, capsys: Capture) -> None:
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    document = json.loads(out)
    assert (document["ok"], document["error"]["type"]) == (False, "UsageError")
    assert complaint in document["error"]["message"]
    assert set(document["error"]) == {"type", "message", "file", "offset", "lsn"}
    assert err.startswith("usage: walstore")
    assert document["error"]["message"] in err


def test_a_path_may_look_like_an_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["verify", "--", "--json"]) == 3
    assert f"there is no store at {tmp_path}/--json" in one_line(capsys)
    assert main(["verify", "--", "--json", "x"]) == 2
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("command", ON_A_STORE)
def test_a_mistyped_path_is_an_error_and_creates_nothing(command: str, tmp_path: Path, capsys: Capture) -> None:
    assert main([command, str(tmp_path / "jobs.walstroe")]) == 3
    assert f"there is no store at {tmp_path}/jobs.walstroe" in one_line(capsys)
    assert main([command, str(tmp_path / "not" / "there")]) == 3
    assert "there is no store" in one_line(capsys)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ON_A_STORE)
def test_a_file_is_no_store(command: str, tmp_path: Path, capsys: Capture) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("hello")
    assert main([command, str(file)]) == 3
    assert "is no directory" in one_line(capsys)
    assert main([command, str(file / "inside")]) == 3
    assert "no directory" in one_line(capsys)
    assert file.read_text() == "hello"


@pytest.mark.parametrize("command", ON_A_STORE)
def test_another_directory_is_no_store(command: str, tmp_path: Path, capsys: Capture) -> None:
    assert main([command, str(tmp_path)]) == 3
    assert "is empty" in one_line(capsys)
    (tmp_path / "notes.txt").write_text("hello")
    assert main([command, str(tmp_path)]) == 3
    assert "holds other things and no store" in one_line(capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("command", READING)
def test_looking_changes_nothing(command: str, store: Path, capsys: Capture) -> None:
    before = contents(store)
    assert main([command, str(store)]) == 0
    assert capsys.readouterr().err == ""
    assert contents(store) == before


def test_a_store_that_is_open_elsewhere(store: Path, capsys: Capture) -> None:
    with WalPersistence(store) as jobs:
        jobs.record_started("a.b", 1)
        for command in READING:
            assert main([command, str(store)]) == 0
        capsys.readouterr()
        before = contents(store)
        assert main(["checkpoint", str(store)]) == 3
        assert "open for writing in process" in one_line(capsys)
        assert contents(store) == before


@pytest.mark.parametrize("command", ON_A_STORE)
def test_a_store_of_a_newer_release(command: str, store: Path, capsys: Capture) -> None:
    newest = segments(store)[-1]
    newest.write_bytes(b"WALSTORE" + b"\x00\x02\xff\xfd" + newest.read_bytes()[12:])
    before = contents(store)
    assert main([command, str(store)]) == 3
    complaint = capsys.readouterr().err
    assert complaint.count("\n") == 1
    assert "format version 2, which this release can't read" in complaint
    assert contents(store) == before


@pytest.mark.parametrize("command", ["verify", "checkpoint"])
def test_an_error_is_a_json_document_as_well(command: str, tmp_path: Path, capsys: Capture) -> None:
    assert main([command, str(tmp_path / "none"), "--json"]) == 3
    out, err = capsys.readouterr()
    document = json.loads(out)
    assert document["ok"] is False
    assert document["error"]["type"] == "StoreNotFoundError"
    assert err == f"walstore: {document['error']['message']}\n"


def test_the_other_commands_do_not_need_the_demo(store: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    # None in this place makes the import fail.
    monkeypatch.setitem(sys.modules, "walstore.cli.demo", None)
    assert [main([command, str(store)]) for command in ON_A_STORE] == [0, 0, 0, 0]
    assert main(["--help"]) == 0
    assert "demo" in capsys.readouterr().out


def test_it_runs_as_a_module(run: Run, store: Path, tmp_path: Path) -> None:
    assert run("verify", store).returncode == 0
    assert run("verify", tmp_path / "none").returncode == 3


def test_a_name_that_is_not_text(tmp_path: Path, command: list[str], process_environment: dict[str, str]) -> None:
    path = bytes(tmp_path) + b"/\xff\xe4"
    result = subprocess.run(
        [*command, "verify", path],
        env={**process_environment, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 3
    assert r"\udcff\udce4: check the path" in result.stderr
    assert result.stderr.count("\n") == 1


def test_it_may_be_run_by_any_thread(store: Path, capsys: Capture) -> None:
    """Only the main thread can handle signals; the others do without."""
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(main, ["verify", str(store)]).result() == 0
    assert "no damage" in capsys.readouterr().out


def test_ctrl_c_ends_quietly(large_store: Path, command: list[str], process_environment: dict[str, str]) -> None:
    with subprocess.Popen(
        [*command, "dump", str(large_store)],
        env=process_environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as dump:
        assert dump.stdout is not None
        # It has begun, and can't end: nobody reads the rest.
        dump.stdout.readline()
        dump.send_signal(signal.SIGINT)
        _, err = dump.communicate(timeout=60)
    assert (dump.returncode, err) == (130, "")


def test_ctrl_c_ends_it_quietly_while_it_is_imported(tmp_path: Path, process_environment: dict[str, str]) -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8"))["project"]
    module, _, function = project["scripts"]["walstore"].partition(":")
    # As the installed script does it; a dependency that is imported early stands in for the user.
    script = f"import sys; from {module} import {function}; sys.exit({function}())"
    (tmp_path / "xxhash.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    search_path = os.pathsep.join([str(tmp_path), process_environment["PYTHONPATH"]])
    result = subprocess.run(
        [sys.executable, "-c", script, "--version"],
        env={**process_environment, "PYTHONPATH": search_path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stdout, result.stderr) == (130, "", "")


def test_a_reader_that_has_seen_enough(
    large_store: Path, command: list[str], process_environment: dict[str, str]
) -> None:
    with subprocess.Popen(
        [*command, "dump", str(large_store)],
        env=process_environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as dump:
        assert dump.stdout is not None
        assert dump.stderr is not None
        dump.stdout.readline()
        dump.stdout.close()
        assert dump.stderr.read() == ""
    assert dump.returncode == 141


@pytest.mark.parametrize("arguments", [["dump"], ["verify"], ["verify", "--json"], ["inspect"], ["checkpoint"]])
@pytest.mark.parametrize(
    ("redirection", "complaint"), [(">/dev/full", "No space left on device"), (">&-", "standard output is closed")]
)
def test_output_that_goes_nowhere(
    arguments: list[str],
    redirection: str,
    complaint: str,
    store: Path,
    command: list[str],
    process_environment: dict[str, str],
) -> None:
    result = subprocess.run(
        ["sh", "-c", f'"$@" {redirection}', "sh", *command, *arguments, str(store)],
        env=process_environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 3
    assert complaint in result.stderr
    assert result.stderr.count("\n") == 1


def test_errors_without_standard_error(tmp_path: Path, command: list[str], process_environment: dict[str, str]) -> None:
    result = subprocess.run(
        ["sh", "-c", '"$@" 2>&-', "sh", *command, "verify", str(tmp_path / "none"), "--json"],
        env=process_environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 3
    assert json.loads(result.stdout)["error"]["type"] == "StoreNotFoundError"
