"""The planted defects fit the engine as it is, and a few are found; ``python -m fuzz.mutants`` tries them all."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fuzz.defects import DEFECTS
from fuzz.defects.planting import planted, swap, uproot
from fuzz.mutants import hunt, run_apart
from walstore.engine.commit import Commit

_ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    yield
    uproot()


def test_the_list_names_the_defects_and_nothing_else() -> None:
    listed = subprocess.run(
        [sys.executable, "-m", "fuzz.mutants", "--list"], cwd=_ROOT, capture_output=True, text=True, check=True
    )
    assert listed.stdout.split() == list(DEFECTS)
    assert len(DEFECTS) >= 34


@pytest.mark.parametrize("name", DEFECTS)
def test_a_defect_fits_the_engine_and_can_be_taken_out_again(name: str) -> None:
    defect = DEFECTS[name]
    assert defect.summary.endswith(".")
    assert defect.catchers
    defect.plant()
    before = {(owner, attribute): getattr(owner, attribute) for owner, attribute in planted()}
    assert before
    uproot()
    for (owner, attribute), changed in before.items():
        assert getattr(owner, attribute) is not changed
    assert not planted()


def test_a_defect_whose_place_is_gone_is_told() -> None:
    with pytest.raises(AttributeError, match="Commit has no sync_once of its own"):
        swap(Commit, "sync_once", None)


@pytest.mark.parametrize(
    "name", ["acknowledge-before-sync", "half-a-record-many", "snapshot-written-in-place", "stale-epoch-accepted"]
)
def test_a_defect_is_caught(name: str) -> None:
    tally, _ = hunt(DEFECTS[name])
    assert tally is not None
    assert tally.failures


def test_the_engine_as_it_is_passes() -> None:
    tally = run_apart("real", "simulate", 1.0)
    assert not tally.skipped
    assert tally.points
    assert tally.failures == []
