"""Beats killed at random instants; and schedulers with a bug, which the same harness must find."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("celery", reason="Celery is not installed")

from celery.beat import ScheduleEntry, Scheduler

from fuzz import celery_kill
from walstore.integrations import celery as integration
from walstore.integrations.celery import WalScheduler
from walstore.integrations.celery_blob import History
from walstore.integrations.entries import EntryStore

Plant = Callable[[pytest.MonkeyPatch], None]


@pytest.fixture(autouse=True)
def stores_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def test_no_kill_loses_anything(tmp_path: Path) -> None:
    tally = celery_kill.run(3.0, 1)
    assert tally.failures == []
    assert tally.points >= 3
    assert list(tmp_path.iterdir()) == []


def _record_before_sending(monkeypatch: pytest.MonkeyPatch) -> None:
    reserve = WalScheduler.reserve

    def reserve_and_record(self: WalScheduler, entry: ScheduleEntry) -> object:
        reserved = reserve(self, entry)
        self._record_run()
        return reserved

    monkeypatch.setattr(WalScheduler, "reserve", reserve_and_record)
    monkeypatch.setattr(WalScheduler, "apply_entry", Scheduler.apply_entry)


def _record_at_the_next_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    # As Celery's own scheduler.
    def forget(self: WalScheduler) -> None:
        self._running = None

    monkeypatch.setattr(WalScheduler, "_record_run", forget)
    monkeypatch.setattr(EntryStore, "started", lambda *_: None)


def _begin_silently(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EntryStore, "started", lambda *_: None)


def _forget_the_past(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(integration, "_give", lambda *_: None)


def _run_early(monkeypatch: pytest.MonkeyPatch) -> None:
    give = integration._give

    def give_half(entry: ScheduleEntry, history: History) -> None:
        give(entry, history)
        assert entry.last_run_at is not None
        entry.last_run_at = entry.last_run_at.replace(year=2000)

    monkeypatch.setattr(integration, "_give", give_half)


@pytest.mark.parametrize(
    "plant",
    [_record_before_sending, _record_at_the_next_sync, _begin_silently, _forget_the_past, _run_early],
    ids=lambda plant: plant.__name__,
)
def test_the_harness_finds(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    assert celery_kill.run(60.0, 2).failures
