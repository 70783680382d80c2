"""Opening a persistence by its URL: the right one, and one line that says what is wrong."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from walstore import Durability, MemoryPersistence, Once, WalPersistence, open_persistence
from walstore.errors import StoreClosedError, StoreNotFoundError


def test_a_path_opens_a_store_there(tmp_path: Path) -> None:
    path = tmp_path / "a store:1 %20"
    with open_persistence(f"wal:{path}", clock=lambda: 7) as store:
        assert isinstance(store, WalPersistence)
        assert store.path == path
        store.record_scheduled("a.b", Once(at_ns=7))
    with open_persistence(f"wal:{path}", read_only=True) as reader:
        assert [job.next_fire_at_ns for job in reader.load_all()] == [7]
        with pytest.raises(StoreClosedError, match="read-only"):
            reader.cancel("a.b")


def test_a_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with open_persistence("wal:jobs.walstore", durability=Durability.POWER) as store:
        store.record_started("a.b", 1)
    assert (tmp_path / "jobs.walstore" / "LOCK").is_file()


def test_keywords_reach_the_store(tmp_path: Path) -> None:
    with pytest.raises(StoreNotFoundError):
        open_persistence(f"wal:{tmp_path / 'absent'}", create=False)
    with pytest.raises(TypeError, match="durability"):
        open_persistence(f"wal:{tmp_path / 'new'}", durability="power")  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_memory_keeps_nothing() -> None:
    with open_persistence("memory:", durability=Durability.POWER) as store:
        assert isinstance(store, MemoryPersistence)


@pytest.mark.parametrize(
    ("url", "what"),
    [
        ("jobs.walstore", "'jobs.walstore' has no scheme: write wal:PATH, "),
        ("", "has no scheme"),
        ("sqlite:jobs.db", "the scheme 'sqlite' is not known: write wal:PATH, "),
        ("WAL:jobs", "the scheme 'WAL' is not known"),
        ("wal:", "names no place"),
        ("unidb:", "names no place"),
        ("memory:jobs", "nothing may follow it"),
    ],
)
def test_what_names_nothing_is_refused_in_one_line(url: str, what: str) -> None:
    with pytest.raises(ValueError, match=re.escape(what)) as raised:
        open_persistence(url)
    assert "\n" not in str(raised.value)


def test_a_url_is_a_string(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="must be a str"):
        open_persistence(tmp_path)  # type: ignore[arg-type]


# Nothing but walstore itself: no extra can be imported, wherever it is installed.
_WITHOUT_EXTRAS = """
import sys
sys.modules.update(dict.fromkeys(["psycopg", "uni_db"]))
from walstore import SchedulerPersistenceError, open_persistence
try:
    open_persistence(sys.argv[1])
except SchedulerPersistenceError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("url", "extra"),
    [("postgresql://localhost/jobs", "postgres"), ("postgres://localhost/jobs", "postgres"), ("unidb:jobs", "unidb")],
)
def test_a_missing_extra_says_what_to_install(url: str, extra: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT_EXTRAS, url], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert f"pip install 'walstore[{extra}]'" in done.stdout
    assert len(done.stdout.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_the_outside_is_imported_when_it_is_asked_for() -> None:
    code = "import sys, walstore; print([name for name in sys.modules if name.startswith('walstore.backends')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
