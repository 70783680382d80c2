"""Entries in a directory: what comes back, which runs were cut off, and what can't be read."""

from __future__ import annotations

import logging
import subprocess
import sys
import textwrap
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from walstore import Durability, WalOptions, WalPersistence
from walstore.errors import StoreClosedError, StoreLockedError, StoreNotFoundError
from walstore.integrations.entries import EntryStore
from walstore.integrations.entry_model import BLOB_BYTES_MAX, Run, datetime_of_us, us_of

Open = Callable[[], EntryStore]


@pytest.fixture(params=list(Durability), ids=lambda level: level.value)
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    return lambda: EntryStore(tmp_path / "store", kind="test/1", durability=request.param)


def test_entries_come_back(open_store: Open) -> None:
    with open_store() as store:
        assert store.found == {}
        store.put("é", b"\x80blob", 7)
        store.put("x", b"", None)
        store.put("x", b"again", -3)
        shown = store.load()
    with open_store() as store:
        assert store.found == shown
        assert [(entry.blob, entry.next_run_us, entry.is_present) for entry in store.found.values()] == [
            (b"\x80blob", 7, True),
            (b"again", -3, True),
        ]
        assert store.orphaned_runs == ()


def test_a_run_that_ends_is_told_by_when_and_how(open_store: Open) -> None:
    with open_store() as store:
        store.put("x", b"x", 1)
        store.started("x", 1, at_us=10)
        store.started("x", 2, at_us=20)
        store.finished("x", 1, False, at_us=30)
        entry = store.load()["x"]
        assert (entry.last_started_us, entry.last_finished_us, entry.consecutive_failures) == (10, 30, 1)
        assert entry.runs == (Run(2, 20),)
        store.finished("x", 2, True, at_us=40)
        entry = store.load()["x"]
        assert (entry.last_started_us, entry.last_finished_us, entry.consecutive_failures) == (20, 40, 0)
        assert entry.runs == ()


def test_a_run_that_is_dropped_leaves_no_trace(open_store: Open) -> None:
    with open_store() as store:
        store.put("x", b"x", 1)
        before = store.load()
        store.started("x", 1)
        store.dropped("x", 1)
        assert store.load() == before


def test_a_removed_entry_stays_gone_and_its_run_is_known_until_it_ends(open_store: Open) -> None:
    with open_store() as store:
        store.put("x", b"x", 1)
        store.started("x", 1)
        store.remove("x")
        assert not store.load()["x"].is_present
        store.finished("x", 1, True)
        assert store.load() == {}
        store.finished("x", 1, True)
        store.remove("x")
        assert store.load() == {}


def test_everything_is_removed(open_store: Open) -> None:
    with open_store() as store:
        store.put_many((f"job{number}", b"x", number) for number in range(10_001))
        store.started("job3", 3, at_us=5)
        store.clear()
        assert [(key, entry.is_present, entry.runs) for key, entry in store.load().items()] == [
            ("job3", False, (Run(3, 5),))
        ]


def test_orphaned_runs_are_found_until_they_are_settled(open_store: Open) -> None:
    with open_store() as store:
        store.put("x", b"x", 1)
        store.started("x", 1, at_us=5)
        store.put("gone", b"still here", 1)
        store.started("gone", 2, at_us=6)
        store.remove("gone")
        store.put("done", b"", 1)
        store.started("done", 1)
        store.finished("done", 1, True)
    for _ in range(2):
        with open_store() as store:
            found = {orphan.entry.key: (orphan.run, orphan.entry.blob) for orphan in store.orphaned_runs}
            assert found == {"x": (Run(1, 5), b"x"), "gone": (Run(2, 6), b"still here")}
    with open_store() as store:
        store.started("x", 9)
        store.settle_orphaned_runs()
        assert [run.number for run in store.load()["x"].runs] == [9]
        store.finished("x", 9, True)
    with open_store() as store:
        assert store.orphaned_runs == ()
        assert store.found.keys() == {"x", "done"}


def test_an_orphaned_run_that_is_settled_counts_as_a_failure(open_store: Open) -> None:
    with open_store() as store:
        store.put("x", b"x", 1)
        store.started("x", 1, at_us=5)
    with open_store() as store:
        store.settle_orphaned_runs(at_us=50)
        entry = store.load()["x"]
        assert (entry.consecutive_failures, entry.last_started_us, entry.last_finished_us) == (1, 5, 50)


def test_a_killed_process_leaves_its_runs_behind(tmp_path: Path) -> None:
    code = """
        import os, signal, sys
        from walstore.integrations.entries import EntryStore

        store = EntryStore(sys.argv[1], kind="test/1")
        store.put("x", b"x", 1)
        store.started("x", 1)
        store.started("x", 2)
        store.finished("x", 1, True)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    child = subprocess.run([sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "store")], check=False)
    assert child.returncode == -9
    with EntryStore(tmp_path / "store", kind="test/1") as store:
        assert [orphan.run.number for orphan in store.orphaned_runs] == [2]
        assert store.found["x"].consecutive_failures == 0


def test_what_can_not_be_read_is_kept_and_reported(open_store: Open, caplog: pytest.LogCaptureFixture) -> None:
    with open_store() as store:
        store.put("bad", b"?", 1)
        with caplog.at_level(logging.ERROR, "walstore"):
            store.quarantine("bad", b"?", ImportError("no module named gone"))
        assert "bad" in caplog.text
        assert "no module named gone" in caplog.text
        assert store.quarantined["bad"].blob == b"?"
        assert store.quarantined["bad"].reason == "ImportError: no module named gone"
    with open_store() as store:
        assert store.quarantined == {}
        assert store.found["bad"].blob == b"?"
        ways: list[Callable[[], None]] = [
            lambda: store.put("bad", b"good", 1),
            lambda: store.remove("bad"),
            store.clear,
        ]
        for forget in ways:
            store.quarantine("bad", b"?", ValueError())
            forget()
            assert store.quarantined == {}


def test_a_store_of_another_kind_is_refused(tmp_path: Path) -> None:
    EntryStore(tmp_path / "store", kind="test/1").close()
    with pytest.raises(StoreNotFoundError, match=r"'test/1'.*not of 'test/2'"):
        EntryStore(tmp_path / "store", kind="test/2")
    with pytest.raises(StoreNotFoundError, match="test/1"):
        WalPersistence(tmp_path / "store")
    EntryStore(tmp_path / "store", kind="test/1").close()


def test_one_writer(tmp_path: Path) -> None:
    with EntryStore(tmp_path / "store", kind="test/1"), pytest.raises(StoreLockedError):
        EntryStore(tmp_path / "store", kind="test/1")


def test_a_closed_store_refuses(tmp_path: Path) -> None:
    store = EntryStore(tmp_path / "store", kind="test/1")
    store.close()
    store.close()
    calls: list[Callable[[], object]] = [store.load, store.sync, store.checkpoint, store.stats, store.clear]
    calls += [lambda: store.put("x", b"", 1), lambda: store.started("x", 1)]
    for call in calls:
        with pytest.raises(StoreClosedError):
            call()


def test_a_store_that_nobody_closes_warns(tmp_path: Path) -> None:
    with pytest.warns(ResourceWarning, match="never closed"):
        EntryStore(tmp_path / "store", kind="test/1")
    EntryStore(tmp_path / "store", kind="test/1").close()


@pytest.mark.parametrize(
    "options",
    [
        WalOptions(merge_memory_bytes=1024**3, small_store_bytes=1024**3),
        WalOptions(merge_memory_bytes=1024**2, small_store_bytes=1024**3),
        WalOptions(drain_interval_ns=3600 * 10**9, small_store_bytes=1024**3),
    ],
    ids=["snapshot", "spill", "buffer"],
)
def test_frames_hold_what_large_blobs_take(tmp_path: Path, options: WalOptions) -> None:
    blob = bytes(BLOB_BYTES_MAX)
    with EntryStore(tmp_path / "store", kind="test/1", durability=Durability.BUFFERED, options=options) as store:
        for number in range(18):
            store.put(f"job{number:03}", blob, number)
            store.put("again", blob, number)
        store.checkpoint()
        assert store.stats().last_background_error is None
        assert store.stats().snapshot_bytes > 19 * BLOB_BYTES_MAX
    with EntryStore(tmp_path / "store", kind="test/1") as store:
        assert len(store.found) == 19
        assert all(entry.blob == blob for entry in store.found.values())


@pytest.mark.parametrize(
    ("key", "blob", "next_run_us", "error"),
    [
        ("", b"", 1, ValueError),
        ("x" * 1025, b"", 1, ValueError),
        ("\udc80", b"", 1, ValueError),
        (b"x", b"", 1, TypeError),
        ("x", "text", 1, TypeError),
        ("x", bytes(BLOB_BYTES_MAX + 1), 1, ValueError),
        ("x", b"", 1.5, TypeError),
        ("x", b"", True, TypeError),
        ("x", b"", 2**63, ValueError),
    ],
)
def test_wrong_arguments_record_nothing(
    tmp_path: Path, key: str, blob: bytes, next_run_us: int, error: type[Exception]
) -> None:
    with EntryStore(tmp_path / "store", kind="test/1") as store:
        with pytest.raises(error):
            store.put(key, blob, next_run_us)
        with pytest.raises(error):
            store.put_many([("fine", b"", 1), (key, blob, next_run_us)])
        assert store.load() == {}


def test_wrong_arguments_of_runs(tmp_path: Path) -> None:
    with EntryStore(tmp_path / "store", kind="test/1") as store:
        with pytest.raises(TypeError):
            store.finished("x", 1, 1)  # type: ignore[arg-type]  # What is tested.
        with pytest.raises(TypeError):
            store.started("x", 1.0)  # type: ignore[arg-type]  # What is tested.
        with pytest.raises(ValueError, match="64 bits"):
            store.started("x", 2**63)
        with pytest.raises(TypeError, match="durability"):
            EntryStore(tmp_path / "other", kind="test/1", durability="process")  # type: ignore[arg-type]  # As above.
        with pytest.raises(TypeError, match="options"):
            EntryStore(tmp_path / "other", kind="test/1", options={})  # type: ignore[arg-type]  # As above.
        assert store.load() == {}


@pytest.mark.parametrize("year", [1, 1969, 1970, 2026, 2999, 9999])
def test_instants_are_exact(year: int) -> None:
    instant = datetime(year, 2, 3, 4, 5, 6, 789_012, tzinfo=UTC)
    assert datetime_of_us(us_of(instant)) == instant
    assert us_of(instant + timedelta(microseconds=1)) == us_of(instant) + 1
