"""A service on ``SchedulerHost``, killed in the middle of its runs; and hosts with a bug, which the harness finds."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from fuzz import host as harness
from walstore.model.events import Cancelled, Event, Finished, Started
from walstore.scheduler import JobPolicy, Scheduler, SchedulerHost
from walstore.scheduler.recorder import Recorder

Plant = Callable[[pytest.MonkeyPatch], None]


@pytest.fixture(autouse=True)
def _stores_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def test_no_kill_loses_a_job_or_a_run(tmp_path: Path) -> None:
    tally = harness.run(3.0, 1)
    assert tally.failures == []
    assert tally.points >= 1
    assert list(tmp_path.iterdir()) == []


def _never_record(kind: type[Event]) -> Plant:
    def plant(monkeypatch: pytest.MonkeyPatch) -> None:
        record = Recorder.record

        async def leave_out(recorder: Recorder, *events: Event) -> None:
            await record(recorder, *(event for event in events if not isinstance(event, kind)))

        monkeypatch.setattr(Recorder, "record", leave_out)

    return plant


def _never_requeue(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Scheduler, "requeue_orphaned_runs", lambda _: 0)


def _requeue_in_memory_only(monkeypatch: pytest.MonkeyPatch) -> None:
    async def nothing(*_: object) -> None:
        pass

    monkeypatch.setattr(SchedulerHost, "_record_restored", nothing)


def _retry_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(JobPolicy, "retry_at_ns", lambda _, record: record.last_finished_at_ns)


@pytest.mark.parametrize(
    ("plant", "symptom"),
    [
        (_never_record(Started), "does not know"),
        (_never_record(Finished), "were found twice|has not settled"),
        (_never_record(Cancelled), r"gone(\.|', ')\d"),
        (_never_requeue, "were found twice"),
        (_requeue_in_memory_only, "were found twice"),
        (_retry_at_once, "was tried again too early"),
    ],
    ids=["Started", "Finished", "Cancelled", "requeue", "requeue in memory", "retry"],
)
def test_a_host_with_a_bug_is_found(
    plant: Plant, symptom: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    monkeypatch.setattr(harness, "_HANGS_S", 20.0)
    tally = harness.run(60.0, 1)
    assert len(tally.failures) == 1
    assert re.search(symptom, tally.failures[0])
    (kept,) = tmp_path.iterdir()
    assert str(kept) in tally.failures[0]
    assert (kept / "store").is_dir()
