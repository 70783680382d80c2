"""``walstore inspect``: what is in every file of a store and how far it reads, even of a store that does not open."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from walstore.cli.files import Contents, FileFacts, look
from walstore.cli.outcome import Exit, error_document, exit_of
from walstore.cli.output import Output
from walstore.cli.reading import SITUATIONS, count_jobs, describe_jobs, plural, reading
from walstore.engine.recovery import RecoveryReport
from walstore.engine.survey import is_store
from walstore.errors import SchedulerPersistenceError, storage_error
from walstore.format.layout import FORMAT_VERSION, FileKind
from walstore.model.names import datetime_of
from walstore.wal import os_environment

__all__ = ["run"]


@dataclass(frozen=True, slots=True)
class _Verdict:
    """What opening the store comes to: an error, or what is in it."""

    error: SchedulerPersistenceError | None
    report: RecoveryReport | None = None
    end_lsn: int | None = None
    jobs: dict[str, int] | None = None


def run(args: argparse.Namespace, out: Output) -> int:
    """Inspect a store. Returns what opening it would come to; raises only where there is nothing to show."""
    fs = os_environment().fs
    verdict = _judge(args.path, out)
    try:
        names = fs.list_directory(args.path)
    except OSError as error:
        raise verdict.error or storage_error(error, f"listing {args.path}") from error
    if verdict.error is not None and not is_store(names):
        raise verdict.error
    out.progress("reading file by file")
    contents = look(fs, args.path, names)
    if out.is_json:
        out.json_document(_document(args.path, contents, verdict))
    else:
        _show(args.path, contents, verdict, out)
    if verdict.error is None:
        return Exit.OK
    out.error(str(verdict.error))
    return exit_of(verdict.error)


def _judge(path: str, out: Output) -> _Verdict:
    try:
        with reading(path, out) as store:
            return _Verdict(None, store.report, store.view.end_lsn, count_jobs(store))
    except SchedulerPersistenceError as error:
        return _Verdict(error)


def _document(path: str, contents: Contents, verdict: _Verdict) -> dict[str, object]:
    return {
        "ok": verdict.error is None,
        "path": path,
        "error": error_document(verdict.error) if verdict.error is not None else None,
        "situation": verdict.report.situation.value if verdict.report is not None else None,
        "events": verdict.report.events_replayed if verdict.report is not None else None,
        "torn_bytes": verdict.report.torn_bytes if verdict.report is not None else None,
        "end_lsn": verdict.end_lsn,
        "watermark_lsn": contents.watermark_lsn,
        "jobs": verdict.jobs,
        "lock": (
            {"host": contents.holder.host, "pid": contents.holder.pid, "since_ns": contents.holder.since_ns}
            if contents.holder is not None
            else None
        ),
        "snapshots": [_file_document(facts) for facts in contents.snapshots],
        "segments": [_file_document(facts) for facts in contents.segments],
        "other_files": [{"name": name, "what": what, "length": length} for name, what, length in contents.others],
    }


def _file_document(facts: FileFacts) -> dict[str, object]:
    header = facts.header
    document: dict[str, object] = {
        "name": facts.name,
        "in_use": facts.in_use,
        "length": facts.length,
        "format_version": FORMAT_VERSION if header else None,
        "store_id": header.store_id.hex() if header else None,
        "codec": header.codec_id if header else None,
        "reducer": header.reducer_id if header else None,
        "lsn": header.lsn if header else None,
        "epoch": header.epoch if header else None,
        "boot_id": header.boot_id.hex() if header else None,
        "frames_end": facts.end,
        "trouble": facts.trouble,
        "frames_behind_trouble": facts.frames_behind,
    }
    if facts.kind is FileKind.SNAPSHOT:
        return {**document, "records": facts.items}
    return {
        **document,
        "allocated_bytes": header.length if header else None,
        "end_lsn": facts.end_lsn,
        "events": facts.items,
        "watermark_lsn": facts.watermark_lsn,
        "closed_cleanly": facts.clean,
    }


def _show(path: str, contents: Contents, verdict: _Verdict, out: Output) -> None:
    headers = [facts.header for facts in contents.segments + contents.snapshots if facts.header is not None]
    out.line(f"store      {path}")
    for header in headers[:1]:
        out.line(f"id         {header.store_id.hex()}, format version {FORMAT_VERSION}, codec {header.codec_id}")
    out.line(f"situation  {SITUATIONS[verdict.report.situation] if verdict.report is not None else 'DOES NOT OPEN'}")
    if verdict.report is not None:
        torn = f", then {verdict.report.torn_bytes:,} torn bytes" if verdict.report.torn_bytes else ""
        events = plural(verdict.report.events_replayed, "event")
        out.line(f"log        {events} above the snapshot, ends at LSN {verdict.end_lsn}{torn}")
    if contents.watermark_lsn is not None:
        out.line(f"watermark  on the device up to LSN {contents.watermark_lsn} at least")
    if contents.holder is not None:
        since = datetime_of(contents.holder.since_ns)
        holder = f"process {contents.holder.pid} on {contents.holder.host}, {since:%Y-%m-%d %H:%M:%S} UTC"
        out.line(f"lock       last opened for writing by {holder}")
    if verdict.jobs is not None:
        out.line(f"jobs       {describe_jobs(verdict.jobs)}")
    _show_files(contents, verdict.error is None, out)


def _show_files(contents: Contents, opens: bool, out: Output) -> None:
    if contents.snapshots:
        out.table(
            "Snapshots",
            ["file", "to LSN", "bytes", "records", "state"],
            [
                [facts.name, _header_lsn(facts), facts.length, facts.items, _state(facts, opens)]
                for facts in contents.snapshots
            ],
        )
    if contents.segments:
        out.table(
            "Segments",
            ["file", "from LSN", "to LSN", "epoch", "bytes", "events", "watermark", "state"],
            [
                [
                    facts.name,
                    _header_lsn(facts),
                    _lsn(facts.end_lsn),
                    facts.header.epoch if facts.header is not None else None,
                    facts.length,
                    facts.items,
                    _lsn(facts.watermark_lsn),
                    _state(facts, opens),
                ]
                for facts in contents.segments
            ],
        )
    if contents.others:
        out.table("Other files", ["file", "what it is", "bytes"], contents.others)
    for facts in contents.snapshots + contents.segments:
        if facts.trouble is not None:
            out.line(f"{facts.name}: {_trouble(facts)}.")


def _header_lsn(facts: FileFacts) -> str | None:
    return _lsn(facts.header.lsn if facts.header is not None else None)


def _lsn(lsn: int | None) -> str | None:
    # Without separators: as it stands in the errors, to be searched for and copied.
    return str(lsn) if lsn is not None else None


def _state(facts: FileFacts, opens: bool) -> str:
    if not facts.in_use:
        return "unused"
    if facts.trouble is not None:
        return "torn tail" if opens else "see below"
    return "clean" if facts.clean else "whole"


def _trouble(facts: FileFacts) -> str:
    where = f" at offset {facts.end}" if facts.end is not None else ""
    where += f" (LSN {facts.end_lsn})" if facts.end_lsn is not None else ""
    behind = f"; {facts.frames_behind:,} frames behind it verify" if facts.frames_behind else ""
    return f"{facts.trouble}{where}{behind}"
