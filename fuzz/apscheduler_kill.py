"""Kills a process with APScheduler (SIGKILL) at random instants, over and over, on one and the same ``WalJobStore``.

``python -m fuzz.apscheduler_kill --seconds 600``. No job may be lost, no removed job may be back, every run that was
cut off must be reported, and none twice, and next run times must be where they should be. What a life does follows from
the seed, but for the timing.

``python -m fuzz.apscheduler_kill --compare 100`` makes the same kills on APScheduler's own store in SQLite as well, and
tells what each loses.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fuzz.harness import Deadline, Tally, main
from walstore.options import Durability

try:
    from fuzz import apscheduler_past, apscheduler_victim
except ImportError:
    if TYPE_CHECKING:
        raise
    apscheduler_past = apscheduler_victim = None

__all__ = ["Victim", "run"]

_DELAYS_S: Final = 0.001, 0.3
"""Between these a kill comes after the start, at any order of magnitude as often."""
_DELAYS_COMPARED_S: Final = 0.05, 1.0
"""Long enough that a store which syncs each change gets something done as well."""
_OPENS_S: Final = 30.0
_POLL_S: Final = 0.001


def run(seconds: float, seed: int) -> Tally:
    """Kill schedulers for some seconds. The store is kept where a kill lost something."""
    tally, deadline = Tally("apscheduler_kill"), Deadline(seconds)
    if apscheduler_victim is None:
        tally.skipped = "APScheduler is not installed"
        return tally
    root = Path(tempfile.mkdtemp(prefix="walstore-apscheduler-"))
    try:
        victim = Victim(root, seed, walstore_at(root))
        while not deadline.passed() and not tally.failures:
            trouble = victim.live_and_die()
            tally.runs += 1
            tally.points += 1
            if trouble:
                tally.failures.append(f"seed {seed}, life {tally.runs - 1}: {trouble}. The store is kept: {root}")
    finally:
        if not tally.failures:
            shutil.rmtree(root)
    tally.seconds = deadline.elapsed()
    return tally


def walstore_at(root: Path) -> Callable[[int], Any]:
    """Return what makes, for each life, what makes a ``WalJobStore``; at a level that survives a kill."""
    from walstore.integrations.apscheduler import WalJobStore  # noqa: PLC0415  # Only where APScheduler is installed.

    levels = [Durability.PROCESS, Durability.PROCESS, Durability.POWER]
    return lambda life: lambda tell: WalJobStore(root / "store", durability=levels[life % 3], on_orphaned_run=tell)


def sqlite_at(root: Path) -> Callable[[int], Any]:
    """Return the same of APScheduler's own store; it knows of no orphaned run."""
    from apscheduler.jobstores.sqlalchemy import SQLAlchemyJobStore  # noqa: PLC0415  # As above.

    return lambda _: lambda _: SQLAlchemyJobStore(f"sqlite:///{root / 'jobs.sqlite'}")


class Victim:
    """A store and the processes that use it, one after the other."""

    def __init__(
        self, root: Path, seed: int, makes: Callable[[int], Any], delays_s: tuple[float, float] = _DELAYS_S
    ) -> None:
        self.past = apscheduler_past.Past()
        self._root = root
        self._makes = makes
        self._seed = seed
        self._delays_s = delays_s
        self._lives = 0

    def live_and_die(self) -> str:
        """Let a process live, kill it, and return what is wrong with what it found; "" if nothing."""
        number, self._lives = self._lives, self._lives + 1
        choice = random.Random(f"apscheduler {self._seed} {number}")
        diary, complaint = self._root / f"diary{number}.txt", self._root / "complaint.txt"
        child = self._fork(diary, complaint, number)
        try:
            if choice.random() < 0.9:
                self._wait_until_opened(diary, complaint)
            shortest_s, longest_s = self._delays_s
            time.sleep(shortest_s * (longest_s / shortest_s) ** choice.random())
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        if complaint.exists():
            return f"a process failed: {complaint.read_text('utf-8')}"
        self.past.add(diary.read_text("utf-8") if diary.exists() else "", apscheduler_victim.us_of_now())
        return "; ".join(self.past.details)

    def _fork(self, diary: Path, complaint: Path, number: int) -> int:
        child = os.fork()
        if child:
            return child
        try:
            sys.stderr = complaint.with_suffix(".log").open("a", encoding="utf-8")
            apscheduler_victim.live(self._makes(number), str(diary), str(self._seed), number)
        except BaseException:  # noqa: BLE001  # Nothing of the parent may run in here, whatever happens.
            complaint.write_text(traceback.format_exc(), encoding="utf-8")
        os._exit(1)

    def _wait_until_opened(self, diary: Path, complaint: Path) -> None:
        deadline = Deadline(_OPENS_S)
        while not (diary.exists() and "opened\n" in diary.read_text("utf-8")):
            if deadline.passed() or complaint.exists():
                return
            time.sleep(_POLL_S)


def compare(kills: int, seed: int) -> None:
    """Make the same kills on both stores and print what each lost."""
    print(f"{kills} kills of a process with APScheduler, seed {seed}")
    for name, at in ("WalJobStore", walstore_at), ("SQLAlchemyJobStore (SQLite)", sqlite_at):
        with tempfile.TemporaryDirectory(prefix="walstore-apscheduler-") as directory:
            victim = Victim(Path(directory), seed, at(Path(directory)), _DELAYS_COMPARED_S)
            for _ in range(kills):
                victim.live_and_die()
            past = victim.past
            print(f"{name}: {past.cut_off} runs cut off, {past.reported} of them reported")
            for kind, what in apscheduler_past.LOSSES.items():
                print(f"  {past.found[kind]:6} {what}")


if __name__ == "__main__":
    if "--compare" in sys.argv[1:2]:
        compare(int(sys.argv[2]), random.SystemRandom().randrange(2**32))
    else:
        main(run, __doc__ or "")
