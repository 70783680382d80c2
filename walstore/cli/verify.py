"""``walstore verify``: read every byte that counts, decode everything, fold it, and name the first damaged place."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace

from walstore.cli.outcome import Exit
from walstore.cli.output import Output
from walstore.cli.reading import PROGRESS_EVERY, SITUATIONS, Reading, count_jobs, describe_jobs, plural, reading
from walstore.engine.view import View
from walstore.errors import CorruptionError
from walstore.format.index import IndexEntry
from walstore.model.events import EventForm, event_of
from walstore.model.names import QName
from walstore.model.records import JobState, record_of
from walstore.wal import JOBS

__all__ = ["run"]


def run(args: argparse.Namespace, out: Output) -> int:
    """Verify a store. Raises ``CorruptionError`` that names the place, and what else keeps it from being read."""
    with reading(args.path, out) as store:
        view = _CheckedView(store)
        jobs = count_jobs(replace(store, view=view))
        events = view.seen
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


class _CheckedView(View[EventForm, JobState]):
    """A view that checks, as it is read, what the codec leaves to those who recorded, so that nothing is read twice."""

    def __init__(self, store: Reading) -> None:
        super().__init__(store.files, store.view.end_lsn, JOBS)
        self._chain = store.files.chain
        self._progress = store.out.progress
        self.seen = 0
        """The number of events that were read."""

    def frame_records(self, entry: IndexEntry) -> list[tuple[str, JobState]]:
        assert self.snapshot is not None
        self._progress(f"checking records: at byte {entry.offset:,} of {self.snapshot.length:,}")
        records = super().frame_records(entry)
        for job, state in records:
            try:
                QName.parse(job)
                record_of(job, state)
            except (TypeError, ValueError) as error:
                raise CorruptionError(
                    f"a frame that verifies holds a record that can't be ({error})",
                    path=self.snapshot.path,
                    offset=entry.offset,
                ) from error
        return records

    def frames(self) -> Iterator[tuple[int, Sequence[EventForm]]]:
        for number, (lsn, events) in enumerate(super().frames()):
            if number % PROGRESS_EVERY == 0:
                self._progress(f"checking events: at LSN {lsn} of {self.end_lsn}")
            for event in events:
                self._check(lsn, event)
            self.seen += len(events)
            yield lsn, events

    def _check(self, lsn: int, event: EventForm) -> None:
        try:
            event_of(event)
        except (TypeError, ValueError) as error:
            link = next(link for link in self._chain if link.base_lsn <= lsn < link.end_lsn)
            raise CorruptionError(
                f"a frame that verifies holds an event that can't be ({error})",
                path=link.path,
                offset=lsn - link.base_lsn,
                lsn=lsn,
            ) from error
