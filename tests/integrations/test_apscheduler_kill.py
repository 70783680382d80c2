"""Processes with APScheduler, killed at random instants; and stores with a bug, which the same harness must find."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("apscheduler", reason="APScheduler is not installed")

from fuzz import apscheduler_kill
from walstore.integrations import entry_model
from walstore.integrations.apscheduler_runs import Runs
from walstore.integrations.entries import EntryStore

Plant = Callable[[pytest.MonkeyPatch], None]


@pytest.fixture(autouse=True)
def stores_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def test_no_kill_loses_anything(tmp_path: Path) -> None:
    tally = apscheduler_kill.run(3.0, 1)
    assert tally.failures == []
    assert tally.points >= 3
    assert list(tmp_path.iterdir()) == []


def _forget_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Runs, "begin", lambda *_: True)


def _forget_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Runs, "on_end", lambda *_: None)


def _forget_removals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EntryStore, "remove", lambda *_: None)


def _forget_runs_with_their_job(monkeypatch: pytest.MonkeyPatch) -> None:
    after = entry_model._after

    def forget(state: entry_model.EntryState | None, event: entry_model.EntryEvent) -> entry_model.EntryState | None:
        return None if event[0] == entry_model.REMOVED else after(state, event)

    monkeypatch.setattr(entry_model, "_after", forget)


def _report_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EntryStore, "settle_orphaned_runs", lambda *_: None)


def _lose_every_third_job(monkeypatch: pytest.MonkeyPatch) -> None:
    put, count = EntryStore.put, 0

    def lose(store: EntryStore, key: str, blob: bytes, next_run_us: int | None) -> None:
        nonlocal count
        count += 1
        if count % 3:
            put(store, key, blob, next_run_us)

    monkeypatch.setattr(EntryStore, "put", lose)


@pytest.mark.parametrize(
    ("plant", "found"),
    [
        (_forget_runs, "not reported"),
        (_forget_ends, "recorded as ended"),
        (_forget_removals, "that are back"),
        (_forget_runs_with_their_job, "not reported"),
        (_report_for_ever, "reported twice"),
        (_lose_every_third_job, "gone|wrong|last one"),
    ],
)
def test_a_store_with_a_bug_is_found(plant: Plant, found: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    tally = apscheduler_kill.run(120.0, 1)
    (failure,) = tally.failures
    assert any(words in failure for words in found.split("|")), failure
    (kept,) = tmp_path.iterdir()
    assert str(kept) in failure
