"""The report: tables in Markdown, all figures in JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

from bench.goals import Goal, goals_of
from bench.results import Result, Results
from bench.scale import Scale

__all__ = ["write_report"]

_TITLES: Final = {
    "latency": "Latency of one call of record_started, closed loop, 1,000 jobs",
    "paced": "Latency at 50,000 events a second, from the time when each was due",
    "paced-checkpoint": "The same while a checkpoint of all jobs is made",
    "sustained": "Events per second, one call for each, with a final sync",
    "batches": "Events per second in batches of 512, with a final sync",
    "bandwidth": "What the device takes",
    "trace": "Events per second of the KTH trace (83,976 events of 27,992 jobs)",
    "mix": "Events per second of the synthetic mix (1,000 jobs)",
    "threads": "Durable events per second, by threads",
    "tasks": "Durable events per second, asyncio tasks",
    "cost": "Cost of one event by number of jobs, compactions that come due included",
    "checkpoint": "Checkpoint after 1,000 events, by number of jobs",
    "restart": "Restart after a checkpoint, by number of jobs",
    "rewrite": "Checkpoint of many jobs of which few have changed",
    "memory": "Resident memory over an empty process",
    "replay": "Replay of a log",
    "driver": "The driver of the scheduler: jobs due over 60 s of simulated time, two events each",
    "tick": "A tick of the scheduler when no job is due, by number of jobs",
}
_PREFACE: Final = """A cell is the median of the rounds, with the lowest and the highest in brackets. Peers are given
the record of each job ready-made, where a scheduler would compute it, and store it under the job's id; walstore is
given the event. An event *survives* what the second column says once its call has returned; *nothing* means that the
death of the process takes the last ones."""
_PLOTS: Final = ("latency", "threads", "restart", "cost")


def write_report(directory: Path, machine: dict[str, str], scale: Scale, results: Results) -> None:
    """Write ``report.md`` and ``report.json``."""
    goals = goals_of(results, scale)
    directory.mkdir(parents=True, exist_ok=True)
    text = "\n".join(_lines(machine, scale, results, goals))
    (directory / "report.md").write_text(text + "\n", "utf-8")
    content = {
        "machine": machine,
        "scale": asdict(scale),
        "notes": results.notes,
        "left_out": results.left_out,
        "survives": results.survives,
        "goals": [{**asdict(goal), "met": goal.is_met} for goal in goals],
        "results": [{**asdict(row), "median": row.median} for row in results.rows],
        "curves_us": results.curves,
    }
    (directory / "report.json").write_text(json.dumps(content, indent=1), "utf-8")


def _lines(machine: dict[str, str], scale: Scale, results: Results, goals: Sequence[Goal]) -> Iterator[str]:
    yield f"# Benchmarks, {scale.name} scale"
    yield ""
    yield from (f"- {key}: {value}" for key, value in machine.items())
    yield f"- scale: {scale.rounds} rounds, up to {scale.jobs_max:,} jobs; subjects alternate: A B C A B C ..."
    yield from (f"- left out: {what}" for what in results.left_out)
    yield from (f"- {note}" for note in results.notes)
    yield ""
    yield _PREFACE
    yield ""
    yield "## Goals"
    yield ""
    yield "| goal | measured | limit | |"
    yield "|---|---:|---:|---|"
    yield from map(_goal_line, goals)
    tables = list(dict.fromkeys(row.table for row in results.rows))
    for table in sorted(tables, key=list(_TITLES).index):
        yield ""
        yield f"## {_TITLES[table]}"
        yield ""
        yield from _table([row for row in results.rows if row.table == table], results.survives)
        if table in _PLOTS:
            yield ""
            yield f"![{_TITLES[table]}]({table}.png)"


def _goal_line(goal: Goal) -> str:
    verdict = {True: "met", False: "**missed**", None: "not measured"}[goal.is_met]
    measured = "" if goal.value is None else f"{_number(goal.value)} {goal.unit}"
    sign = "≥" if goal.at_least else "≤"
    return f"| {goal.text} | {measured} | {sign} {goal.limit:,.10g} {goal.unit} | {verdict} |"


def _table(rows: Sequence[Result], survives: dict[str, str]) -> Iterator[str]:
    metrics = {row.metric: row.unit for row in rows}
    heads = [metric if metric == unit else f"{metric} [{unit}]" for metric, unit in metrics.items()]
    subjects = list(dict.fromkeys(row.subject for row in rows))
    has_survives = any(subject in survives for subject in subjects)
    yield f"| | {'survives | ' if has_survives else ''}" + " | ".join(heads) + " |"
    yield "|---|" + "---|" * has_survives + "---:|" * len(heads)
    cells = {(row.subject, row.metric): _cell(row) for row in rows}
    for subject in subjects:
        second = f"{survives.get(subject, '')} | " if has_survives else ""
        yield f"| {subject} | {second}" + " | ".join(cells.get((subject, metric), "") for metric in metrics) + " |"


def _cell(row: Result) -> str:
    if len(row.values) == 1:
        return _number(row.median)
    return f"{_number(row.median)} ({_number(min(row.values))}-{_number(max(row.values))})"


def _number(value: float) -> str:
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3
    return f"{value:,.{digits}f}"
