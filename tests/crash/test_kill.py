"""Real processes, killed at random instants; and stores with a bug, which the same harness must find."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from fuzz import kill
from walstore.engine import compactor, repair
from walstore.engine.recovery import LogEnd
from walstore.engine.store import Store
from walstore.engine.survey import Link

Plant = Callable[[pytest.MonkeyPatch], None]


@pytest.fixture(autouse=True)
def stores_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def test_no_kill_loses_anything(tmp_path: Path) -> None:
    points = 0
    # As many kills on a busy machine as on an idle one.
    for seed in count(1):
        tally = kill.run(3.0, seed)
        assert tally.failures == []
        points += tally.points
        if points >= 10:
            break
    assert list(tmp_path.iterdir()) == []


def _keep_events_back(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[object] = []
    record = Store[Any, Any]._record_in_process

    def record_later(store: Store[Any, Any], event: object) -> None:
        kept.append(event)
        if len(kept) == 3:
            for one in kept:
                record(store, one)
            kept.clear()

    monkeypatch.setattr(Store, "_record_in_process", record_later)


def _halve_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    record_batch = Store[Any, Any].record_batch

    def record_halves(store: Store[Any, Any], events: Sequence[object]) -> None:
        half = len(events) // 2
        record_batch(store, events[:half])
        record_batch(store, events[half:])

    monkeypatch.setattr(Store, "record_batch", record_halves)


def _forget_the_last_event(monkeypatch: pytest.MonkeyPatch) -> None:
    events_above = repair._events_above

    def all_but_one(chain: list[Link], end: LogEnd) -> Iterator[bytes]:
        yield from list(events_above(chain, end))[:-1]

    monkeypatch.setattr(repair, "_events_above", all_but_one)


def _remove_the_log_first(monkeypatch: pytest.MonkeyPatch) -> None:
    write = compactor.Compactor[Any, Any]._write

    def remove_and_write(self: compactor.Compactor[Any, Any], lsn: int) -> int:
        for name in self._fs.list_directory(self._directory):
            if name.startswith("log-") and int(name.split("-")[1], 16) < lsn:
                self._fs.unlink(f"{self._directory}/{name}")
        return write(self, lsn)

    monkeypatch.setattr(compactor.Compactor, "_write", remove_and_write)


@pytest.mark.parametrize("plant", [_keep_events_back, _halve_batches, _forget_the_last_event, _remove_the_log_first])
def test_a_store_with_a_bug_is_found(plant: Plant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    tally = kill.run(120.0, 1)
    assert len(tally.failures) == 1
    (kept,) = tmp_path.iterdir()
    assert str(kept) in tally.failures[0]
    assert "seed 1" in tally.failures[0]
    assert (kept / "store").is_dir()
