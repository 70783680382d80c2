"""Proof of the harnesses: each defect that engines had is planted into this one, and one of them has to find it.

``python -m fuzz.mutants`` plants all, one after another, each in a process of its own, and ends with a line
``N of M caught``. A catch counts only if the same harness with the same seed passes the engine as it is, for the
longest time that it needed for a defect.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from fuzz.defects import DEFECTS
from fuzz.defects.planting import Defect
from fuzz.harness import Tally

__all__ = ["SEED", "hunt", "run_apart"]

SEED: Final = 1
_LIMIT_S: Final = 60.0
"""For all harnesses that are tried on one defect."""
_GRACE_S: Final = 60.0
"""What a harness may take beyond its seconds to finish what it has begun."""
_REAL: Final = "real"
_BROKEN: Final = re.compile(r"\b(AttributeError|NameError|TypeError)\b")
"""What a patch raises that does not fit the engine any more."""
_ROOT: Final = Path(__file__).parent.parent


def run_apart(defect: str, harness: str, seconds: float, seed: int = SEED) -> Tally:
    """Run a harness on the engine with a defect, in a fresh process.

    A process that ends without a tally has found nothing, whatever it ended with: its tally says that it was skipped.
    """
    command = [sys.executable, "-m", "fuzz.defects", defect, harness, str(seconds), str(seed)]
    try:
        done = subprocess.run(
            command, cwd=_ROOT, capture_output=True, text=True, timeout=seconds + _GRACE_S, check=False
        )
    except subprocess.TimeoutExpired:
        return Tally(harness, skipped=f"it had not come back after {seconds + _GRACE_S:.0f} s")
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        return Tally(harness, skipped=f"it ended with {done.returncode}: {done.stderr.strip()[-400:]}")
    return Tally(**json.loads(lines[-1]))


def hunt(defect: Defect) -> tuple[Tally | None, list[str]]:
    """Try the harnesses in turn; return the tally of the first that finds the defect, and what those before it said."""
    missed: list[str] = []
    started = time.monotonic()
    for number, harness in enumerate(defect.catchers):
        left_s = _LIMIT_S - (time.monotonic() - started)
        tally = run_apart(defect.name, harness, max(left_s / (len(defect.catchers) - number), 1.0))
        if tally.failures and not _BROKEN.search(tally.failures[0]):
            return tally, missed
        if tally.failures:
            missed.append(f"the defect itself is broken: {tally.failures[0][:300]}")
            continue
        missed.append(tally.skipped or f"{harness} found nothing in {tally.points:,} points, {tally.seconds:.0f} s")
    return None, missed


def _check_real(longest_s: dict[str, float]) -> bool:
    """Run each harness that caught something on the engine as it is; returns whether all of them pass."""
    passed = True
    for harness, seconds in sorted(longest_s.items()):
        tally = run_apart(_REAL, harness, seconds)
        verdict = tally.skipped or (f"FAILS: {tally.failures[0]}" if tally.failures else "passes")
        passed = passed and verdict == "passes"
        print(f"the real engine, {harness}, seed {SEED}, {tally.seconds:.1f} s, {tally.points:,} points: {verdict}")
    return passed


def _run(defects: Iterable[Defect]) -> bool:
    planted, caught = 0, 0
    longest_s: dict[str, float] = {}
    for defect in defects:
        planted += 1
        tally, missed = hunt(defect)
        if tally is None:
            print(f"{defect.name}: NOT CAUGHT ({'; '.join(missed)})", flush=True)
            continue
        caught += 1
        longest_s[tally.harness] = max(longest_s.get(tally.harness, 0.0), tally.seconds)
        effort = f"{tally.runs:,} runs, {tally.points:,} points, {tally.seconds:.1f} s"
        print(f"{defect.name}: {tally.harness}, {effort}: {tally.failures[0][:150]!r}", flush=True)
    passed = _check_real(longest_s)
    print(f"{caught} of {planted} caught")
    return passed and caught == planted


def main() -> None:
    """Plant what the command line asks for, and exit with 1 unless all of it is caught."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--list", action="store_true", help="print the names of the defects, and do nothing")
    parser.add_argument("--only", choices=DEFECTS, metavar="NAME", help="plant this one only")
    arguments = parser.parse_args()
    if arguments.list:
        print("\n".join(DEFECTS))
        return
    sys.exit(0 if _run([DEFECTS[arguments.only]] if arguments.only else DEFECTS.values()) else 1)


if __name__ == "__main__":
    main()
