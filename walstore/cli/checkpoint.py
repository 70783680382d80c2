"""``walstore checkpoint``: recover a store that no one has open, and compact its log into a snapshot."""

from __future__ import annotations

import argparse

from walstore.cli.outcome import Exit
from walstore.cli.output import Output
from walstore.cli.reading import plural
from walstore.wal import WalPersistence

__all__ = ["run"]

_MIB = 1024 * 1024


def run(args: argparse.Namespace, out: Output) -> int:
    """Checkpoint a store. Raises what opening it for writing and compacting raise."""

    def show(done_bytes: int, total_bytes: int) -> None:
        out.progress(f"reading the log: {done_bytes // _MIB:,} of {total_bytes // _MIB:,} MiB")

    with WalPersistence(args.path, create=False, progress=show) as store:
        report, before = store.recovery, store.stats()
        out.progress(f"compacting {report.events_replayed:,} events")
        store.flush_checkpoint(compact=True)
        after = store.stats()
    compacted = after.snapshot_lsn != before.snapshot_lsn
    if report.torn_bytes:
        out.line(f"A torn tail of {report.torn_bytes:,} bytes was cut off the log; it is kept at {report.kept_at}.")
    if compacted:
        events = plural(report.events_replayed, "event")
        out.line(
            f"Compacted {events} into a snapshot of {after.snapshot_bytes:,} bytes, which covers the log up to LSN "
            f"{after.snapshot_lsn}."
        )
    else:
        out.line("Nothing to compact: there is no event above the snapshot.")
    if out.is_json:
        out.json_document(
            {
                "ok": True,
                "path": args.path,
                "situation": report.situation.value,
                "compacted": compacted,
                "events": report.events_replayed,
                "snapshot_lsn": after.snapshot_lsn,
                "snapshot_bytes": after.snapshot_bytes,
                "torn_bytes": report.torn_bytes,
                "kept_at": report.kept_at,
            }
        )
    return Exit.OK
