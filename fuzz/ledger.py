"""The ledger: how much has been run against which version of the engine, added up over all runs.

``python -m fuzz.ledger`` prints it. A version is a hash of the sources that decide what a store holds, so that a
change of the engine starts a new count, and one of the command line does not.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import xxhash

import walstore
from fuzz.harness import Tally

__all__ = ["add", "read", "table", "version"]

PATH: Final = Path(__file__).with_name("ledger.json")
_ENGINE: Final = (
    "errors.py",
    "options.py",
    "model",
    "format",
    "fs",
    "persistence.py",
    "engine",
    "hotpath.py",
    "wal.py",
)

Counts = dict[str, dict[str, float]]
"""Runs, points, seconds and failures by harness."""


def version() -> str:
    """Return the version of the engine that is imported here: its number and a hash of its sources."""
    root = Path(walstore.__file__).parent
    digest = xxhash.xxh3_64()
    for part in _ENGINE:
        for path in sorted([root / part] if part.endswith(".py") else (root / part).rglob("*.py")):
            digest.update(path.relative_to(root).as_posix().encode())
            digest.update(path.read_bytes())
    return f"{walstore.__version__}+{digest.hexdigest()[:8]}"


def read() -> dict[str, Counts]:
    """Return the counts of each version, the oldest first."""
    versions: dict[str, Counts] = json.loads(PATH.read_text()) if PATH.exists() else {}
    return versions


def add(tallies: Iterable[Tally]) -> None:
    """Add what was run to the counts of this version. Several processes may do so at once."""
    with Path(__file__).open("rb") as lock:
        # The source of this module is the lock: it is always there, and nothing more has to be ignored by git.
        fcntl.flock(lock, fcntl.LOCK_EX)
        versions = read()
        counts = versions.setdefault(version(), {})
        for tally in tallies:
            if tally.skipped:
                continue
            sums = counts.setdefault(tally.harness, {"runs": 0, "points": 0, "seconds": 0, "failures": 0})
            sums["runs"] += tally.runs
            sums["points"] += tally.points
            sums["seconds"] = round(sums["seconds"] + tally.seconds)
            sums["failures"] += len(tally.failures)
        temporary = PATH.with_suffix(".tmp")
        temporary.write_text(json.dumps(versions, indent=1, sort_keys=False) + "\n")
        temporary.replace(PATH)


def table(tallies: Sequence[Tally]) -> str:
    """Return the tallies as a table for people."""
    rows = [["harness", "runs", "points", "seconds", "seed", "failures"]]
    for tally in tallies:
        if tally.skipped:
            rows.append([tally.harness, "-", "-", "-", "-", f"skipped: {tally.skipped}"])
        else:
            counts = [f"{tally.runs:,}", f"{tally.points:,}", f"{tally.seconds:,.0f}"]
            rows.append([tally.harness, *counts, f"{tally.seed or '-'}", f"{len(tally.failures):,}"])
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    lines = []
    for name, *middle, failures in rows:
        cells = [cell.rjust(width) for cell, width in zip(middle, widths[1:], strict=True)]
        lines.append("  ".join([name.ljust(widths[0]), *cells, failures]))
    return "\n".join(lines)


def _all() -> str:
    versions = read()
    sums: Counts = {}
    for counts in versions.values():
        for harness, count in counts.items():
            total = sums.setdefault(harness, {})
            for what, number in count.items():
                total[what] = total.get(what, 0) + number
    blocks = []
    for name, counts in [*versions.items(), ("all versions", sums)]:
        tallies = [
            Tally(harness, int(count["runs"]), int(count["points"]), count["seconds"], ["?"] * int(count["failures"]))
            for harness, count in sorted(counts.items())
        ]
        blocks.append(f"walstore {name}\n{table(tallies)}")
    return "\n\n".join(blocks)


if __name__ == "__main__":
    print(_all())
