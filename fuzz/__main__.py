"""Runs every harness under one time budget and prints one table: ``FUZZ_SECONDS=300 python -m fuzz``."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import random
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import Final

from fuzz import ledger
from fuzz.harness import Run, Tally

_SHARES: Final = {
    "simulate": 18,
    "small_worlds": 17,
    "hostile": 12,
    "powercut": 11,
    "kill": 8,
    "celery_kill": 6,
    "apscheduler_kill": 5,
    "host": 5,
    "damage": 4,
    "postgres": 4,
    "salvage": 3,
    "syscalls": 3,
    "threads": 3,
    "interleavings": 1,
}
"""Percent of the time that each harness gets."""
_WORKERS: Final = 2


def _run(name: str, seconds: float, seed: int) -> Tally:
    run: Run = importlib.import_module(f"fuzz.{name}").run
    tally = run(seconds, seed)
    tally.seed = seed
    return tally


def main() -> None:
    """Run all harnesses, two at a time, add to the ledger, and exit with 1 if anything failed."""
    seconds = float(os.environ.get("FUZZ_SECONDS", "300"))
    seed = int(os.environ.get("FUZZ_SEED", "0")) or random.SystemRandom().randrange(1, 2**32)
    print(f"walstore {ledger.version()}: {len(_SHARES)} harnesses, {seconds:g} seconds", flush=True)
    tallies: list[Tally] = []
    # Spawned: some of the harnesses fork processes of their own, which a thread of a pool would not survive.
    with ProcessPoolExecutor(_WORKERS, multiprocessing.get_context("spawn")) as pool:
        futures = {
            pool.submit(_run, name, _WORKERS * seconds * share / 100, seed): name for name, share in _SHARES.items()
        }
        for future in as_completed(futures):
            tallies.append(future.result())
            print(f"{futures[future]} has ended", flush=True)
    ledger.add(tallies)
    print(ledger.table(sorted(tallies, key=lambda tally: tally.harness)))
    failures = [f"{tally.harness}: {failure}" for tally in tallies for failure in tally.failures]
    print(*failures, sep="\n" if failures else "")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
