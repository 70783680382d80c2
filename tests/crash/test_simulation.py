"""A short slice of the simulation, the scripts that once showed a failure, and that the simulation can fail."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest

from fuzz.harness import Deadline
from fuzz.sim_player import Player
from fuzz.sim_script import format_script, parse_script, random_script
from fuzz.simulate import replay, run, simulate
from tests.crash.worlds import contents, crash_seeds
from walstore.engine.recovery import Situation
from walstore.errors import StorageError, StorePoisonedError
from walstore.testing.sim_disk import FileNode

_SEEDS = sorted((Path(__file__).parent / "seeds").glob("*.txt"))


@pytest.mark.parametrize("path", _SEEDS, ids=lambda path: path.stem)
def test_what_once_went_wrong_goes_well(path: Path) -> None:
    failure = replay(parse_script(path.read_text(encoding="utf-8")))
    if failure is not None:
        raise failure.error


def test_random_lives() -> None:
    seen: Counter[str] = Counter()
    points = 0
    for seed in crash_seeds(5):
        player = Player(seen=seen)
        failure = simulate(player, seed, Deadline(float("inf")))
        points += player.points
        assert failure is None, f"seed {seed}: {failure}\n{format_script(failure.script)}"
    assert points > 500
    for found in (Situation.CREATED, Situation.CLEAN, Situation.UNCLEAN, Situation.TORN):
        assert seen[found.name], seen
    for raised in (StorageError, StorePoisonedError):
        assert seen[raised.__name__], seen


def test_a_device_that_lies_is_found_out_by_a_short_script(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FileNode, "sync", lambda _: None)
    (failure,) = run(60.0, 0).failures
    message, *lines = failure.splitlines()
    script = parse_script("\n".join(lines))
    assert "seed" in message
    assert len(script) < 12, failure
    assert replay(script) is not None
    monkeypatch.undo()
    assert replay(script) is None


def test_a_script_is_its_own_replay() -> None:
    script = random_script(random.Random(1))
    assert parse_script(format_script(script)) == script
    traces = []
    for _ in range(2):
        player = Player()
        player.play(script)
        traces.append((player.world.fs.trace, contents(player.world.fs), player.seen))
        player.leave()
    assert traces[0] == traces[1]
    assert traces[0][1]
