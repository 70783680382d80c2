"""A short slice of the lives that many threads lead on one store."""

from __future__ import annotations

import pytest

from fuzz.threads import run


@pytest.mark.signals
def test_lives_of_many_threads() -> None:
    tally = run(3.0, 1)
    assert tally.failures == []
    assert tally.points > tally.runs > 0
