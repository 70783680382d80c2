"""docs/cli.md says what the command line does: every command, option, exit code and JSON key, and its examples run."""

from __future__ import annotations

import argparse
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from walstore.cli import build_parser, main
from walstore.cli.import_ import KINDS
from walstore.cli.outcome import MEANINGS

DOCS = (Path(__file__).parents[2] / "docs" / "cli.md").read_text("utf-8")
SECTIONS = {part.partition("\n")[0]: part for part in DOCS.split("\n## ")[1:]}
EXAMPLES = re.findall(r"^```console\n(.*?)^```$", DOCS, re.MULTILINE | re.DOTALL)
ON_EVERY_COMMAND = SECTIONS["Options of every command"]

Capture = pytest.CaptureFixture[str]


def subparsers(command: str | None) -> dict[str, argparse.ArgumentParser]:
    (action,) = (action for action in build_parser(command)._actions if isinstance(action, argparse._SubParsersAction))
    choices: dict[str, argparse.ArgumentParser] = action.choices
    return choices


COMMANDS = list(subparsers(None))


def options(parser: argparse.ArgumentParser) -> list[str]:
    return [option for action in parser._actions for option in action.option_strings]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_and_option_is_documented(command: str) -> None:
    assert f"`walstore {command}" in DOCS
    text = SECTIONS[command] + ON_EVERY_COMMAND
    assert [option for option in options(subparsers(command)[command]) if f"`{option}" not in text] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_no_option_is_documented_that_does_not_exist(command: str) -> None:
    documented = set(re.findall(r"`(--[a-z-]+)", SECTIONS[command]))
    assert documented - set(options(subparsers(command)[command])) == set()


def test_the_options_without_a_command_are_documented() -> None:
    assert [option for option in options(build_parser(None)) if f"`{option}`" not in ON_EVERY_COMMAND] == []


def test_every_exit_code_is_documented_in_the_same_words() -> None:
    rows = re.findall(r"^\| (\d+) \| (.*) \|$", SECTIONS["Output and exit codes"], re.MULTILINE)
    assert rows == [(str(int(code)), meaning) for code, meaning in MEANINGS.items()]
    help_text = " ".join(build_parser(None).format_help().split())
    assert [meaning for meaning in MEANINGS.values() if meaning not in help_text] == []


def keys(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from keys(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from keys(inner)


@pytest.mark.parametrize("command", ["inspect", "checkpoint"])
def test_every_json_key_is_documented(command: str, store: Path, capsys: Capture) -> None:
    assert main([command, "--json", str(store)]) == 0
    statuses = {"Pending", "Running", "Idle", "FailedRetrying"}
    found = set(keys(json.loads(capsys.readouterr().out))) - statuses
    assert [key for key in sorted(found) if f"`{key}`" not in SECTIONS[command]] == []


def test_every_json_key_of_salvage_is_documented(store: Path, capsys: Capture) -> None:
    segment = max(store.glob("log-*.wal"))
    segment.write_bytes(segment.read_bytes()[:-8])
    assert main(["salvage", "--json", str(store), str(store.parent / "new")]) == 1
    found = set(keys(json.loads(capsys.readouterr().out))) - {"Pending", "Running", "Idle", "FailedRetrying"}
    assert [key for key in sorted(found) if f"`{key}`" not in SECTIONS["salvage"]] == []


def test_every_json_key_of_copy_and_import_is_documented(
    store: Path, background_jobs: Path, tmp_path: Path, capsys: Capture
) -> None:
    for command, arguments in (
        ("copy", [store, tmp_path / "a"]),
        ("import", ["unidb", background_jobs, tmp_path / "b"]),
    ):
        assert main([command, "--json", *map(str, arguments)]) == 0
        found = set(keys(json.loads(capsys.readouterr().out))) - {"Pending", "Running", "Idle", "FailedRetrying"}
        assert [key for key in sorted(found) if f"`{key}`" not in SECTIONS[command]] == []


def test_every_kind_of_import_is_documented() -> None:
    assert re.findall(r"^\| `([a-z]+)` \|", SECTIONS["import"], re.MULTILINE) == list(KINDS)


@pytest.fixture
def background_jobs(tmp_path: Path) -> Path:
    """A file of uni-db."""
    data = Path(__file__).parents[1] / "backends" / "data" / "background_jobs.json"
    return Path(shutil.copy(data, tmp_path / "background_jobs.json"))


@pytest.fixture
def damaged(store: Path, flip: Callable[[Path, int], None]) -> None:
    """A copy of the store, in which an event is damaged."""
    copy = store.parent / "damaged.walstore"
    shutil.copytree(store, copy)
    segment = max(copy.glob("log-*.wal"))
    flip(segment, segment.read_bytes().index(b"ops.backup"))


def comparable(text: str, command: str) -> str:
    """Without what differs from one run to the next: all numbers of a demo, and of what a background thread did."""
    if command not in {"demo", "checkpoint"}:
        return text
    text = re.sub(r"\b(torn|unclean)\b", "SITUATION", re.sub(r"\d[\d,.]*", "N", text))
    # A number that is wider than the title of its column moves the title.
    return re.sub(r"-+", "-", re.sub(r"^ +", "", re.sub(r" +", " ", text), flags=re.MULTILINE))


@pytest.mark.usefixtures("background_jobs", "damaged")
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.partition("\n")[0])
def test_every_example_prints_what_the_docs_say(example: str, tmp_path: Path, capsys: Capture) -> None:
    status = None
    for block in re.split(r"^\$ ", example, flags=re.MULTILINE)[1:]:
        line, _, expected = block.partition("\n")
        if line == "echo $?":
            assert expected == f"{status}\n"
            continue
        program, *arguments = line.replace("/srv/", f"{tmp_path}/").split()
        assert program == "walstore"
        status = main(arguments)
        printed = "".join(capsys.readouterr()).replace(f"{tmp_path}/", "/srv/")
        assert comparable(printed, arguments[0]) == comparable(expected, arguments[0])


def test_every_command_has_an_example() -> None:
    assert {example.split()[2] for example in EXAMPLES} >= set(COMMANDS)
