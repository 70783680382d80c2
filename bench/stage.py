"""Where subjects are opened, one after another or side by side, and what all measurements share."""

from __future__ import annotations

import shutil
import statistics
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar

from bench.results import Results
from bench.scale import Scale
from bench.target import Target
from bench.timing import PERCENTILES, curve, looped, percentile
from bench.workloads import starts

__all__ = ["Pool", "Stage", "calls_in"]

TargetT = TypeVar("TargetT", bound=Target)

_WARM_UP_NS: Final = 30_000_000
_WARM_UP_CALLS: Final = 5_000
_WARM_UP_SEED: Final = 1_000
_CALLS_MIN: Final = 20


@dataclass(slots=True)
class Stage:
    """One run of the benchmarks: its scale, its figures, and a directory for stores."""

    scale: Scale
    results: Results
    root: Path
    clock_ns: float
    """What a measured call would show if it did nothing."""
    say: Callable[[str], None]
    _number: int = field(default=0, init=False)
    _missing: set[type[Target]] = field(default_factory=set, init=False)

    @contextmanager
    def opened(self, kind: type[TargetT]) -> Iterator[TargetT]:
        """Open a subject in an empty directory; close it and remove the directory afterwards."""
        self._number += 1
        directory = self.root / str(self._number)
        directory.mkdir()
        try:
            target = kind(directory)
            try:
                yield target
            finally:
                target.close()
        finally:
            shutil.rmtree(directory)

    def present(self, kinds: Iterable[type[Target]]) -> list[type[Target]]:
        """Return the subjects that can be opened here; the others are named in the report."""
        found = []
        for kind in kinds:
            self.results.survives[kind.name] = kind.survives
            if kind in self._missing:
                continue
            try:
                with self.opened(kind):
                    found.append(kind)
            except ImportError as error:
                self._missing.add(kind)
                self.results.left_out.append(f"{kind.name}: {error}")
        return found

    def alternated(self, what: str, kinds: Sequence[type[TargetT]]) -> Iterator[tuple[type[TargetT], TargetT]]:
        """Yield each subject, open and empty, in each round: A B C A B C ..."""
        for number in range(self.scale.rounds):
            for kind in kinds:
                self.say(f"{what}, round {number + 1} of {self.scale.rounds}: {kind.name}")
                with self.opened(kind) as target:
                    yield kind, target


class Pool:
    """The calls of all rounds of one table: percentiles for each round, and curves over all."""

    def __init__(self, stage: Stage, table: str) -> None:
        self._stage = stage
        self._table = table
        self._all: dict[str, array[int]] = {}
        self._rounds: dict[str, dict[str, list[float]]] = {}

    def add(self, subject: str, out: array[int]) -> None:
        """Add the calls of one round."""
        cost_ns = self._stage.clock_ns
        self._all.setdefault(subject, array("q")).extend(out)
        figures = self._rounds.setdefault(subject, {})
        ordered = sorted(out)
        for name, share in PERCENTILES.items():
            value = percentile(ordered, share)
            if value is not None:
                figures.setdefault(name, []).append(max(value - cost_ns, 1) / 1_000)
        figures.setdefault("max", []).append((ordered[-1] - cost_ns) / 1_000)
        figures.setdefault("mean", []).append((statistics.fmean(ordered) - cost_ns) / 1_000)

    def finish(self) -> None:
        """Put all figures into the results."""
        results = self._stage.results
        for subject, figures in self._rounds.items():
            for name in (*PERCENTILES, "max", "mean"):
                values = figures.get(name, [])
                # A percentile that only the longest rounds have can't be set beside those of all rounds.
                if len(values) == len(figures["mean"]):
                    results.add(self._table, subject, name, "µs", values)
            points = curve(sorted(self._all[subject]), self._stage.clock_ns)
            results.curves.setdefault(self._table, {})[subject] = points


def calls_in(target: Target, population: Sequence[str], seconds: float, calls_max: int) -> int:
    """Warm up, and return about how many calls take ``seconds``: at least a few, and at most ``calls_max``."""
    work = starts(population, _WARM_UP_CALLS, seed=_WARM_UP_SEED)
    call, args = target.started(work)
    done, spent_ns, step = 0, 0, 1
    while spent_ns < _WARM_UP_NS and done < _WARM_UP_CALLS:
        some = slice(done, done + step)
        spent_ns += looped(call, work.jobs[some], args[some])
        done = min(done + step, _WARM_UP_CALLS)
        step *= 2
    return min(max(int(seconds * 1e9 * done / spent_ns), _CALLS_MIN), calls_max)
