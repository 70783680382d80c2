"""System calls of a real process that fail, by strace."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from fuzz import syscalls
from fuzz.harness import Tally
from walstore.engine.commit import Commit


@pytest.fixture(autouse=True)
def stores_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def fail(seconds: float) -> Tally:
    tally = syscalls.run(seconds, 1)
    if tally.skipped:
        pytest.skip(tally.skipped)
    return tally


def test_no_failing_call_loses_anything(tmp_path: Path) -> None:
    tally = fail(3.0)
    assert tally.failures == []
    assert tally.points >= 2
    assert list(tmp_path.iterdir()) == []


def test_an_error_that_says_nothing_was_recorded_is_taken_by_its_word(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is in the log is called unrecorded, which the writer takes for a reason to record it again."""
    monkeypatch.setattr(Commit, "sync_recorded", Commit.sync)
    monkeypatch.setattr(syscalls, "_FAULTS", {"?fstat,?newfstatat,?statx": ("EIO",)})
    assert len(fail(120.0).failures) == 1
