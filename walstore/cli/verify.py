"""``walstore verify``: read every byte that counts, decode everything, fold it, and name the first damaged place."""

from __future__ import annotations

import argparse

from walstore.cli.outcome import Exit
from walstore.cli.output import Output
from walstore.cli.reading import SITUATIONS, Reading, count_jobs, describe_jobs, plural, reading
from walstore.errors import CorruptionError
from walstore.model.events import event_of
from walstore.model.names import QName
from walstore.model.records import record_of

__all__ = ["run"]


def run(args: argparse.Namespace, out: Output) -> int:
    """Verify a store. Raises ``CorruptionError`` that names the place, and what else keeps it from being read."""
    with reading(args.path, out) as store:
        _check_records(store)
        events = _check_events(store)
        jobs = count_jobs(store)
        report, snapshot = store.report, store.files.snapshot
        segments = plural(len(store.files.chain), "segment")
        out.line(f"store      {store.directory}")
        out.line(f"situation  {SITUATIONS[report.situation]}")
        covers = (
            f"{plural(store.records, 'record')}, covers the log up to LSN {snapshot.lsn}"
            if snapshot is not None
            else "none"
        )
        out.line(f"snapshot   {covers}")
        out.line(f"log        {plural(events, 'event')}, {segments}, up to LSN {store.view.end_lsn}")
        out.line(f"jobs       {describe_jobs(jobs)}")
        if report.torn_bytes:
            out.line(
                f"torn tail  {report.torn_bytes:,} bytes from LSN {store.view.end_lsn} on; the next writer cuts them "
                "off and keeps them in a file beside the log"
            )
        out.line(f"OK: {store.read_bytes:,} bytes read, no damage.")
        if out.is_json:
            out.json_document(
                {
                    "ok": True,
                    "path": store.directory,
                    "situation": report.situation.value,
                    "snapshot_lsn": snapshot.lsn if snapshot is not None else None,
                    "records": store.records,
                    "segments": len(store.files.chain),
                    "events": events,
                    "end_lsn": store.view.end_lsn,
                    "torn_bytes": report.torn_bytes,
                    "read_bytes": store.read_bytes,
                    "jobs": jobs,
                }
            )
    return Exit.OK


def _check_records(store: Reading) -> None:
    snapshot = store.files.snapshot
    for entry in snapshot.index if snapshot is not None else ():
        assert snapshot is not None
        store.out.progress(f"checking records: at byte {entry.offset:,} of {snapshot.length:,}")
        for job, state in snapshot.frame_records(entry):
            try:
                QName.parse(job)
                record_of(job, state)
            except (TypeError, ValueError) as error:
                raise CorruptionError(
                    f"a frame that verifies holds a record that can't be ({error})",
                    path=snapshot.path,
                    offset=entry.offset,
                ) from error


def _check_events(store: Reading) -> int:
    count = 0
    for lsn, event in store.events():
        try:
            event_of(event)
        except (TypeError, ValueError) as error:
            link = next(link for link in store.files.chain if link.base_lsn <= lsn < link.end_lsn)
            raise CorruptionError(
                f"a frame that verifies holds an event that can't be ({error})",
                path=link.path,
                offset=lsn - link.base_lsn,
                lsn=lsn,
            ) from error
        count += 1
    return count
