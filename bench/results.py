"""What was measured: one flat list of figures, from which tables, goals and plots are made."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

__all__ = ["Result", "Results"]


@dataclass(frozen=True, slots=True)
class Result:
    """One figure of one subject: a value for each round."""

    table: str
    subject: str
    metric: str
    unit: str
    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """The figure that counts."""
        return statistics.median(self.values)


@dataclass(slots=True)
class Results:
    """All figures of one run, in the order in which they were measured."""

    rows: list[Result] = field(default_factory=list)
    survives: dict[str, str] = field(default_factory=dict)
    """For each subject what an event survives once its call has returned."""
    curves: dict[str, dict[str, list[tuple[float, float]]]] = field(default_factory=dict)
    """For each table and subject: share of the calls, and the microseconds that they take at most."""
    left_out: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, table: str, subject: str, metric: str, unit: str, values: Sequence[float]) -> None:
        """Note a figure. One without values, because there was no time for it, is left out."""
        if values:
            self.rows.append(Result(table, subject, metric, unit, tuple(values)))

    def find(self, table: str, subject: str, metric: str) -> float | None:
        """Return the median of a figure, or None where it was not measured."""
        for row in self.rows:
            if (row.table, row.subject, row.metric) == (table, subject, metric):
                return row.median
        return None
