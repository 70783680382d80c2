from __future__ import annotations

import importlib.util
import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from walstore import WalPersistence
from walstore.cli.output import Output

Capture = pytest.CaptureFixture[str]

WITHOUT_RICH = "import sys; sys.modules['rich'] = None; from walstore.cli import main; sys.exit(main(sys.argv[1:]))"
needs_rich = pytest.mark.skipif(importlib.util.find_spec("rich") is None, reason="rich is not installed")


def on_a_terminal(arguments: list[str], environment: dict[str, str], columns: int = 120) -> tuple[str, str]:
    """Run a command whose standard output and standard error are terminals; return what each of them was sent."""
    masters, slaves = zip(*(pty.openpty() for _ in range(2)), strict=True)
    result = subprocess.Popen(
        arguments,
        stdout=slaves[0],
        stderr=slaves[1],
        env={**environment, "COLUMNS": str(columns), "TERM": "xterm", "NO_COLOR": "1"},
    )
    for slave in slaves:
        os.close(slave)
    out, err = (_read_all(master) for master in masters)
    assert result.wait() == 0
    return out.replace("\r\n", "\n"), err


def _read_all(master: int) -> str:
    """Return what a terminal was sent until all that wrote to it have ended."""
    parts = []
    with open(master, "rb", buffering=0) as terminal:
        try:
            while part := terminal.read(4096):
                parts.append(part)
        except OSError:
            """That is how Linux reports the end."""
    return b"".join(parts).decode()


def test_columns_of_numbers_are_aligned_to_the_right(capsys: Capture) -> None:
    out = Output()
    out.line("before")
    out.table("Fruit", ["name", "pieces", "of"], [["apples", 12_345, "3 kinds"], ["a pear", None, "1 kind"]])
    out.line("after")
    assert capsys.readouterr().out.splitlines() == [
        "before",
        "",
        "Fruit",
        "name    pieces       of",
        "------  ------  -------",
        "apples  12,345  3 kinds",
        "a pear           1 kind",
        "",
        "after",
    ]


def test_a_table_without_rows(capsys: Capture) -> None:
    Output().table("Nothing", ["a", "b"], [])
    assert "Nothing" in capsys.readouterr().out


def test_with_json_nothing_else_is_printed(capsys: Capture) -> None:
    out = Output(is_json=True)
    out.line("text")
    out.table("title", ["a"], [[1]])
    out.progress("half of it")
    out.json_document({"name": "größe", "size": 1})
    printed = capsys.readouterr()
    assert json.loads(printed.out) == {"name": "größe", "size": 1}
    assert printed.err == ""


def test_what_a_terminal_would_obey_is_escaped(capsys: Capture) -> None:
    out = Output()
    out.line("a\x1b[2Jb")
    out.table("t", ["file"], [["\x1b]0;title\x07"]])
    out.error("two\nlines")
    printed = capsys.readouterr()
    assert r"a\x1b[2Jb" in printed.out
    assert r"\x1b]0;title\x07" in printed.out
    assert printed.err == "walstore: two\\nlines\n"


@needs_rich
def test_on_a_terminal_tables_are_drawn(store: Path, command: list[str], process_environment: dict[str, str]) -> None:
    out, _ = on_a_terminal([*command, "inspect", str(store)], process_environment)
    assert "│ LOCK │ the writer's lock │   256 │" in out


@needs_rich
def test_a_table_that_is_too_wide_is_not_broken(
    store: Path, command: list[str], process_environment: dict[str, str]
) -> None:
    out, _ = on_a_terminal([*command, "inspect", str(store)], process_environment, columns=60)
    name = max(store.glob("log-*.wal")).name
    assert [line.split()[-1] for line in out.splitlines() if line.startswith(name)] == ["clean"]
    assert "│ LOCK │ the writer's lock │   256 │" in out


def test_without_rich_a_terminal_gets_columns(store: Path, process_environment: dict[str, str]) -> None:
    out, _ = on_a_terminal([sys.executable, "-c", WITHOUT_RICH, "inspect", str(store)], process_environment)
    assert "LOCK  the writer's lock    256\n" in out
    assert "│" not in out


def test_rich_is_not_imported_unless_a_table_is_drawn(store: Path, process_environment: dict[str, str]) -> None:
    script = (
        "import sys; from walstore.cli import main; main(['inspect', sys.argv[1]]); sys.exit('rich' in sys.modules)"
    )
    arguments = [sys.executable, "-c", script, str(store)]
    assert subprocess.run(arguments, env=process_environment, capture_output=True, check=False).returncode == 0


def test_long_work_shows_progress_and_cleans_up(
    tmp_path: Path, command: list[str], process_environment: dict[str, str]
) -> None:
    with WalPersistence(tmp_path / "jobs") as jobs:
        for _ in range(50_001):
            jobs.record_started("a.b", 1)
    out, err = on_a_terminal([*command, "verify", str(tmp_path / "jobs")], process_environment)
    assert "checking events: at LSN " in err
    assert err.endswith("\r\x1b[K")
    assert "checking events" not in out


def test_without_a_terminal_there_is_no_progress(
    tmp_path: Path, command: list[str], process_environment: dict[str, str], store: Path
) -> None:
    result = subprocess.run(
        [*command, "verify", str(store)], env=process_environment, capture_output=True, check=False, cwd=tmp_path
    )
    assert result.stderr == b""
