"""What all harnesses share: the tally that each returns, and the command line around it.

A harness is a module with ``run(seconds, seed)``. It starts nothing new once its seconds are over, stops at its first
failure, and draws everything from the seed.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field

__all__ = ["Deadline", "Run", "Tally", "main"]


@dataclass(slots=True)
class Tally:
    """What a harness did, and what it found."""

    harness: str
    runs: int = 0
    """Workloads that were run."""
    points: int = 0
    """Crashes, damages or inputs, after each of which the outcome was checked."""
    seconds: float = 0.0
    failures: list[str] = field(default_factory=list)
    """A line each: what was wrong, and the seed or the bytes that show it again."""
    skipped: str = ""
    """Why nothing was run here, if nothing was."""
    seed: int | None = None
    """What ``run`` was given, where it is known."""


Run = Callable[[float, int], Tally]


class Deadline:
    """Says when the seconds of a harness are over."""

    def __init__(self, seconds: float) -> None:
        self._started = time.monotonic()
        self._seconds = seconds

    def passed(self) -> bool:
        """Whether nothing new should be started."""
        return self.elapsed() >= self._seconds

    def elapsed(self) -> float:
        """Return the seconds since the start."""
        return time.monotonic() - self._started


def main(run: Run, description: str, replay: Callable[[str], Tally] | None = None) -> None:
    """Run one harness from the command line, add what it did to the ledger, and exit with 1 if anything failed.

    A harness that can show a failure again gives ``replay``; that goes into no ledger.
    """
    from fuzz import ledger  # noqa: PLC0415  # The ledger reads tallies.

    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long to go on (default: 60)")
    parser.add_argument("--seed", type=int, default=None, help="the first seed (default: a random one)")
    parser.add_argument("--no-ledger", action="store_true", help="leave the ledger as it is")
    if replay is not None:
        parser.add_argument(
            "--replay",
            metavar="FAILURE",
            help="show a failure again: a file, a seed or the line that was printed, as the harness has it",
        )
    arguments = parser.parse_args()
    is_replay = replay is not None and arguments.replay is not None
    seed = random.SystemRandom().randrange(2**32) if arguments.seed is None else arguments.seed
    tally = replay(arguments.replay) if replay is not None and is_replay else run(arguments.seconds, seed)
    tally.seed = seed
    if not arguments.no_ledger and not is_replay:
        ledger.add([tally])
    print(ledger.table([tally]))
    for failure in tally.failures:
        print(failure)
    sys.exit(1 if tally.failures else 0)
