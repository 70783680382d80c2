"""The plots of the report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from bench.concurrency import THREADS
from bench.floors import BareAppend, MapFloor, SyncFloor
from bench.growth import CHECKPOINT, COST, RESTART
from bench.latency import CLOSED
from bench.peers_kv import LmdbWritemap
from bench.peers_sql import SqliteFull, SqliteNormal
from bench.peers_whole import JsonFile
from bench.results import Results
from bench.stores import WAL_LEVELS
from bench.throughput import RATE

__all__ = ["draw_plots"]

_SHOWN: Final = [
    *(kind.name for kind in WAL_LEVELS),
    *(kind.name for kind in (BareAppend, MapFloor, SyncFloor, LmdbWritemap, SqliteNormal, SqliteFull, JsonFile)),
]
_NINES: Final = (0.5, 0.9, 0.99, 0.999, 0.9999)


def draw_plots(results: Results, directory: Path) -> None:
    """Write the plots into ``directory``."""
    mpl.use("Agg")
    _draw(directory / "latency.png", partial(_latency, results))
    for name, tables, of, label in (
        ("threads", (THREADS,), "threads", f"durable {RATE}"),
        ("restart", (RESTART, CHECKPOINT), "jobs", "seconds"),
        ("cost", (COST,), "jobs", "microseconds per event"),
    ):
        _draw(directory / f"{name}.png", partial(_by_number, results, tables=tables, of=of, label=label))


def _draw(path: Path, plot: Callable[[Axes], None]) -> None:
    figure, axes = plt.subplots(figsize=(11, 5.5), layout="constrained")
    plot(axes)
    # A part that was not measured has no plot, and one of an earlier run does not stay.
    path.unlink(missing_ok=True)
    if axes.lines:
        axes.grid(visible=True, which="major", alpha=0.3)
        axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))
        figure.savefig(path, dpi=110)
    plt.close(figure)


def _line(axes: Axes, subject: str, points: Sequence[tuple[float, float]], marker: str = "") -> None:
    """Draw the line of a subject, so that walstore, floors and peers are told apart at a glance."""
    is_ours, is_floor = subject.startswith("walstore"), subject.startswith("floor")
    axes.plot(
        [x for x, _ in points],
        [y for _, y in points],
        label=subject,
        marker=marker,
        linewidth=2.5 if is_ours else 1.2,
        linestyle="-" if is_ours else ":" if is_floor else "--",
    )


def _latency(results: Results, axes: Axes) -> None:
    curves = results.curves.get(CLOSED, {})
    for subject in _SHOWN:
        points = [(1 / (1 - share), value) for share, value in curves.get(subject, []) if share <= _NINES[-1] + 1e-9]
        if points:
            _line(axes, subject, points)
    axes.set(xscale="log", yscale="log", xlabel="percentile of calls", ylabel="microseconds for one call")
    axes.set_xticks([1 / (1 - share) for share in _NINES], [f"p{100 * share:g}" for share in _NINES])
    axes.minorticks_off()


def _by_number(results: Results, axes: Axes, *, tables: Sequence[str], of: str, label: str) -> None:
    series = _series(results, tables)
    for subject, points in series.items():
        _line(axes, subject, points, marker="o")
    axes.set(xscale="log", yscale="log", xlabel=of, ylabel=label)
    counts = sorted({count for points in series.values() for count, _ in points})
    axes.set_xticks(counts, [f"{count:,}" for count in counts])
    axes.minorticks_off()


def _series(results: Results, tables: Sequence[str]) -> dict[str, list[tuple[int, float]]]:
    """Return for each subject its figures by the number that their names begin with."""
    series: dict[str, list[tuple[int, float]]] = {}
    for row in results.rows:
        if row.table in tables:
            count = int(row.metric.split()[0].replace(",", ""))
            series.setdefault(row.subject, []).append((count, row.median))
    return series
