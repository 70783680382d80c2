"""``walstore salvage``: make a new store of all that still verifies in a damaged one, and name the rest."""

from __future__ import annotations

import argparse
import os
from pathlib import PurePath

from walstore.cli.outcome import Exit
from walstore.cli.output import Output
from walstore.cli.reading import count_jobs, describe_jobs, plural, reading
from walstore.engine.salvage import Salvaged, salvage
from walstore.engine.scan import Gap
from walstore.model.records import JobState, SchedulerJobStatus
from walstore.options import WalOptions
from walstore.wal import JOBS, os_environment

__all__ = ["run"]


def run(args: argparse.Namespace, out: Output) -> int:
    """Salvage a store; returns ``DAMAGE`` where something is missing in the new one. Raises what ``salvage`` raises."""
    # Through links, since the new store must not come to lie in the old one.
    source, target = os.path.realpath(args.path), os.path.realpath(args.target)
    found = salvage(os_environment(), source, target, JOBS, WalOptions().segment_bytes_min, out.progress)
    # What is told is what the new store says of itself, every byte of it read back.
    with reading(target, out) as store:
        jobs = count_jobs(store)
    if out.is_json:
        out.json_document(_document(args.path, args.target, found, jobs))
    else:
        _show(args.target, found, jobs, out)
    if not found.is_damaged:
        return Exit.OK
    out.error(
        f"{args.path} is damaged, and what it lost is not in {args.target}: compare that with "
        "what else you know before you use it"
    )
    return Exit.DAMAGE


def _document(source: str, target: str, found: Salvaged[JobState], jobs: dict[str, int]) -> dict[str, object]:
    return {
        "ok": not found.is_damaged,
        "path": source,
        "target": target,
        "records": found.records,
        "events": found.events,
        "jobs": jobs,
        "gaps": [
            {
                "file": gap.path,
                "offset": gap.offset,
                "length": gap.length,
                "from_lsn": gap.from_lsn,
                "to_lsn": gap.to_lsn,
                "what": gap.what,
                "loses": gap.loses,
                "after_id": gap.after_key,
                "before_id": gap.before_key,
                "damage": gap.is_damage,
            }
            for gap in found.gaps
        ],
    }


def _show(target: str, found: Salvaged[JobState], jobs: dict[str, int], out: Output) -> None:
    out.line(f"new store  {target}")
    out.line(f"made of    {plural(found.records, 'record')} and {plural(found.events, 'event')} that verify")
    out.line(f"jobs       {describe_jobs(jobs)}")
    if not found.gaps:
        out.line("OK: nothing was wrong with the old store, and the new one is a copy.")
        return
    out.table(
        "Gaps",
        ["file", "offset", "bytes", "from LSN", "to LSN", "what is wrong", "what it takes"],
        [
            [
                PurePath(gap.path).name,
                gap.offset,
                gap.length,
                _lsn(gap.from_lsn),
                _lsn(gap.to_lsn),
                gap.what if gap.is_damage else f"torn tail: {gap.what}",
                _taken(gap),
            ]
            for gap in found.gaps
        ],
    )
    if not found.is_damaged:
        out.line("OK: the log ends in a torn tail, of which nothing had been promised; there is no damage.")
        return
    running = jobs[SchedulerJobStatus.RUNNING.value]
    if any(gap.loses == "events" for gap in found.gaps):
        out.line("Events in a gap are lost, of any job. What can't be vouched for:")
        out.line("- any job may be older than it was, or not be there: its last events may lie in a gap;")
        out.line("- a job that was cancelled in a gap is back;")
        out.line("- a job that was scheduled in a gap has its schedule of before, or none (Manual);")
        if running:
            out.line(f"- a run may have ended in a gap: {plural(running, 'job')} came out as Running.")
    if any(gap.loses == "records" for gap in found.gaps):
        out.line("Records in a gap are lost: those jobs are not there, or only as far as events behind the gap tell.")


def _lsn(lsn: int | None) -> str | None:
    # Without separators: as it stands in the errors, to be searched for and copied.
    return str(lsn) if lsn is not None else None


def _taken(gap: Gap) -> str:
    if gap.loses == "events":
        return "events of any job"
    if gap.loses == "nothing":
        return "nothing"
    bounds = [f"after {gap.after_key}"] if gap.after_key is not None else []
    bounds += [f"before {gap.before_key}"] if gap.before_key is not None else []
    return f"records of jobs {' and '.join(bounds)}" if bounds else "records of any job"
