"""Makes a failing script short: drops what the failure does not need, for as long as it stays the same failure."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from fuzz.harness import Deadline
from fuzz.sim_script import Script, Step

__all__ = ["shrink"]

_SMALL_SEEDS = 6


def shrink(script: Script, fails: Callable[[Script], bool], seconds: float) -> Script:
    """Return a script that fails as well, of which no step can be left out; a longer one when the seconds are over."""
    deadline = Deadline(seconds)
    size = len(script) // 2
    while size:
        place = len(script) - size
        is_shorter = False
        while place > -size and not deadline.passed():
            start = max(place, 0)
            found = _first(_variants(script[:start] + script[place + size :]), fails, deadline)
            if found is not None:
                script, is_shorter = found, True
            place -= size
        # Another round of the same size only where single steps still went.
        size = size if is_shorter and size == 1 and not deadline.passed() else size // 2
    for place, step in enumerate(script):
        for simpler in _simpler(step):
            candidate = [*script[:place], simpler, *script[place + 1 :]]
            if not deadline.passed() and fails(candidate):
                script = candidate
                break
    return script


def _first(candidates: Iterator[Script], fails: Callable[[Script], bool], deadline: Deadline) -> Script | None:
    return next((candidate for candidate in candidates if not deadline.passed() and fails(candidate)), None)


def _variants(script: Script) -> Iterator[Script]:
    """Yield the script, and then with other outcomes of its last power loss: there is less to lose than there was."""
    yield script
    place = max((place for place, step in enumerate(script) if step[:2] == ("crash", "power")), default=None)
    if place is not None:
        for seed in range(_SMALL_SEEDS):
            yield [*script[:place], ("crash", "power", str(seed)), *script[place + 1 :]]


def _simpler(step: Step) -> Iterator[Step]:
    """Yield steps of the same kind with smaller numbers, the smallest first."""
    for place, word in enumerate(step):
        if word.isdecimal():
            for number in range(min(int(word), 8)):
                yield (*step[:place], str(number), *step[place + 1 :])
