"""Runs all benchmarks and writes the report: ``BENCH_SCALE=quick make bench``."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Final

from bench import machine
from bench.concurrency import measure_concurrency
from bench.driver import measure_driver
from bench.growth import measure_growth
from bench.latency import measure_closed, measure_paced
from bench.plots import draw_plots
from bench.replay import measure_replay
from bench.report import write_report
from bench.results import Results
from bench.scale import SCALES
from bench.stage import Stage
from bench.throughput import measure_sustained, measure_trace
from bench.timing import clock_cost_ns

_HERE: Final = Path(__file__).parent
_SECTIONS: Final[dict[str, tuple[Callable[[Stage], None], int]]] = {
    "latency": (measure_closed, 18),
    "paced": (measure_paced, 6),
    "sustained": (measure_sustained, 12),
    "trace": (measure_trace, 16),
    "concurrency": (measure_concurrency, 8),
    "growth": (measure_growth, 30),
    "replay": (measure_replay, 10),
    "driver": (measure_driver, 12),
}
"""What is measured, and about what share of the time it takes."""


def main() -> None:
    """Do so as the arguments say."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    scale_name = os.environ.get("BENCH_SCALE", "full")
    parser.add_argument(
        "--scale", choices=SCALES, default=scale_name, help="how much to measure (default: %(default)s)"
    )
    parser.add_argument("--only", nargs="+", choices=_SECTIONS, default=list(_SECTIONS), help="measure a part only")
    parser.add_argument("--stores", type=Path, default=_HERE.parent / "build", help="where to put the stores")
    parser.add_argument("--report", type=Path, default=_HERE / "report", help="where to put the report")
    arguments = parser.parse_args()
    if arguments.scale not in SCALES:
        parser.error(f"BENCH_SCALE must be one of {', '.join(SCALES)}, not {arguments.scale!r}")
    arguments.stores.mkdir(parents=True, exist_ok=True)
    root = Path(tempfile.mkdtemp(prefix="bench-", dir=arguments.stores))
    started = monotonic()
    about = machine.describe(root)
    about["load average before"] = machine.load()
    scale, results = SCALES[arguments.scale], Results()
    try:
        with _progress() as (say, advance):
            clock_ns = clock_cost_ns()
            stage = Stage(scale, results, root, clock_ns, say)
            about["timer"] = f"time.perf_counter_ns, {clock_ns:.0f} ns, subtracted from every measured call"
            results.left_out += [f"section {name}" for name in _SECTIONS if name not in arguments.only]
            for name in arguments.only:
                measure, share = _SECTIONS[name]
                measure(stage)
                advance(share)
                about["load average after"] = machine.load()
                about["duration"] = f"{(monotonic() - started) / 60:.1f} minutes"
                # After each part, so that whoever stops the run has what was measured until then.
                write_report(arguments.report, about, scale, results)
                draw_plots(results, arguments.report)
    finally:
        shutil.rmtree(root)
    print(f"The report is in {arguments.report / 'report.md'}.")


Progress = tuple[Callable[[str], None], Callable[[int], None]]


@contextmanager
def _progress() -> Iterator[Progress]:
    """Show what is measured, with rich where that is present; never from a thread, which would disturb."""
    try:
        from rich import progress  # noqa: PLC0415  # Without it, lines are printed.
    except ImportError:
        yield _say_line, lambda _: None
        return
    if not sys.stdout.isatty():
        yield _say_line, lambda _: None
        return
    columns = (progress.BarColumn(), progress.TimeElapsedColumn(), progress.TextColumn("{task.description}"))
    with progress.Progress(*columns, auto_refresh=False) as bar:
        task = bar.add_task("", total=sum(share for _, share in _SECTIONS.values()))
        yield (
            lambda text: bar.update(task, description=text, refresh=True),
            lambda share: bar.update(task, advance=share, refresh=True),
        )


def _say_line(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    main()
