"""Kills a writing process (SIGKILL) at random instants, over and over, on one and the same store.

``python -m fuzz.kill --seconds 600``; with ``TMPDIR`` on a tmpfs it gets around more often. What is left after each
kill must be the fold of a prefix of what was recorded, and hold all that was acknowledged at a level that survives the
death of the process; the next life goes on from there, at another level. Everything but the timing follows from the
seed.
"""

from __future__ import annotations

import math
import os
import random
import shutil
import signal
import tempfile
import time
from pathlib import Path
from typing import Final

from fuzz.harness import Deadline, Tally, main
from fuzz.lives import LANES, Board, Plan, plan_of
from fuzz.past import Past, read_store
from fuzz.writer import Writer, fork

__all__ = ["run"]

_DELAY_MIN_S: Final = 0.0002
_DELAY_MAX_S: Final = 0.05
"""Between these a kill comes after the fork, or after the opening, at any order of magnitude as often."""
_DELAY_WORKERS_MAX_S: Final = 1.0
"""Uniformly up to this where merges run in processes of their own, so that some of them come to their end."""
_OPENS_S: Final = 1.0
"""How long an opening is waited for. On a busy machine it may take longer than all of the delays."""
_POLL_S: Final = 0.0002


def run(seconds: float, seed: int) -> Tally:
    """Kill writers for some seconds. The store is kept where a kill lost something."""
    tally, deadline = Tally("kill"), Deadline(seconds)
    root = Path(tempfile.mkdtemp(prefix="walstore-kill-"))
    try:
        victim = _Victim(root, seed)
        while not deadline.passed() and not tally.failures:
            trouble = victim.live_and_die(tally.runs)
            tally.runs += 1
            tally.points += 1
            if trouble:
                tally.failures.append(f"seed {seed}, life {tally.runs - 1}: {trouble}. The store is kept: {root}")
    finally:
        if not tally.failures:
            shutil.rmtree(root)
    tally.seconds = deadline.elapsed()
    return tally


class _Victim:
    """A store and those who write to it."""

    def __init__(self, root: Path, seed: int) -> None:
        self._directory = root / "store"
        self._complaint = root / "complaint.txt"
        self._board = Board(root / "board")
        self._past = Past()
        self._seed = seed

    def live_and_die(self, number: int) -> str:
        """Let one writer live, or two that want the lock, kill them, and return what is wrong then; "" if nothing."""
        choice = random.Random(f"kill {self._seed} {number}")
        half = LANES // 2
        rivals = choice.random() < 0.1
        plans = [plan_of(str(self._seed), number, range(half), waits=rivals)]
        if rivals:
            plans.append(plan_of(str(self._seed), number, range(half, LANES), waits=True))
        self._board.reset()
        expected = self._past.jobs()
        children = []
        try:
            for plan in plans:
                writer = Writer(self._directory, plan, self._board)
                # Of rivals, whoever comes second finds what the first one has done by then.
                children.append(fork(writer, None if rivals else expected, self._complaint))
            if choice.random() < 0.7:
                self._wait_until_opened()
            for child in children:
                time.sleep(_delay_s(choice, workers=any(plan.workers for plan in plans)))
                os.kill(child, signal.SIGKILL)
        finally:
            statuses = [_reap(child) for child in children]
        return self._judge(plans, statuses)

    def _wait_until_opened(self) -> None:
        deadline = Deadline(_OPENS_S)
        while not self._board.opened and not deadline.passed():
            time.sleep(_POLL_S)

    def _judge(self, plans: list[Plan], statuses: list[int]) -> str:
        if self._complaint.exists():
            return f"a writer failed: {self._complaint.read_text(encoding='utf-8')}"
        for status in statuses:
            if status not in {0, signal.SIGKILL}:
                return f"a writer ended with wait status {status}"
        self._past.add(plans, self._board)
        try:
            found = read_store(self._directory)
        except Exception as error:  # noqa: BLE001  # Whatever a reader raises here is what this harness looks for.
            return f"reading raised {type(error).__name__}: {error}"
        return self._past.check(found, power=False)


def _delay_s(choice: random.Random, *, workers: bool) -> float:
    if workers:
        return _DELAY_WORKERS_MAX_S * choice.random()
    return _DELAY_MIN_S * math.pow(_DELAY_MAX_S / _DELAY_MIN_S, choice.random())


def _reap(child: int) -> int:
    """Kill a child, unless it has ended, wait for it, and return its wait status."""
    os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1]


if __name__ == "__main__":
    main(run, __doc__ or "")
