"""A short slice of the simulation, the scripts that once showed a failure, and that the simulation can fail."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from fuzz.harness import Deadline
from fuzz.sim_player import Player
from fuzz.sim_script import format_script, parse_script
from fuzz.simulate import replay, simulate
from tests.crash.worlds import crash_seeds
from walstore.engine.recovery import Situation
from walstore.errors import StorageError, StorePoisonedError

_SEEDS = sorted((Path(__file__).parent / "seeds").glob("*.txt"))


@pytest.mark.parametrize("path", _SEEDS, ids=lambda path: path.stem)
def test_what_once_went_wrong_goes_well(path: Path) -> None:
    failure = replay(parse_script(path.read_text(encoding="utf-8")))
    if failure is not None:
        raise failure.error


def test_random_lives() -> None:
    seen: Counter[str] = Counter()
    points = 0
    for seed in crash_seeds(10):
        player = Player(seen=seen)
        failure = simulate(player, seed, Deadline(float("inf")))
        points += player.points
        assert failure is None, f"seed {seed}: {failure}\n{format_script(failure.script)}"
    assert points > 500
    for found in (Situation.CREATED, Situation.CLEAN, Situation.UNCLEAN, Situation.TORN):
        assert seen[found.name], seen
    for raised in (StorageError, StorePoisonedError):
        assert seen[raised.__name__], seen
