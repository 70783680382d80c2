"""Defects of compaction: snapshots that are not what they say, and logs that go before the snapshot is there."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence

from fuzz.defects.planting import defect, swap
from walstore.engine import compactor, merge, survey
from walstore.engine.compactor import Compactor
from walstore.engine.segment import FrameReader
from walstore.engine.snapshot import Snapshot
from walstore.engine.survey import Files
from walstore.engine.view import View
from walstore.errors import CorruptionError
from walstore.format.filenames import parse_segment, parse_snapshot
from walstore.format.index import IndexEntry, Trailer
from walstore.format.layout import HEADER_BYTES, FrameKind
from walstore.fs.api import File, FileSystem
from walstore.model.events import EventForm
from walstore.model.records import JobState

__all__: list[str] = []

JobCompactor = Compactor[EventForm, JobState]
JobMerge = merge._Merge[EventForm, JobState]
JobSnapshot = Snapshot[EventForm, JobState]
JobView = View[EventForm, JobState]


@defect("simulate", "small_worlds")
def log_deleted_before_the_snapshot_is_durable() -> None:
    """The log below a snapshot is removed before the snapshot is on the device."""

    def create(
        fs: FileSystem,
        directory: str,
        name: str,
        temporary: str,
        fill: Callable[[File], None],
        before_naming: Callable[[], None] = lambda: None,
    ) -> File:
        file = fs.create(f"{directory}/{temporary}")
        fill(file)
        before_naming()
        fs.rename(f"{directory}/{temporary}", f"{directory}/{name}")
        lsn = parse_snapshot(name)
        for other in fs.list_directory(directory):
            segment = parse_segment(other)
            if segment is not None and lsn is not None and segment.base_lsn < lsn:
                fs.unlink(f"{directory}/{other}")
        fs.sync_directory(directory)
        file.sync()
        return file

    swap(compactor, "create_atomically", create)


@defect("simulate", "small_worlds")
def snapshot_renamed_before_its_sync() -> None:
    """A snapshot gets its name before its bytes are on the device (the empty files of early ext4)."""

    def create(
        fs: FileSystem,
        directory: str,
        name: str,
        temporary: str,
        fill: Callable[[File], None],
        before_naming: Callable[[], None] = lambda: None,
    ) -> File:
        file = fs.create(f"{directory}/{temporary}")
        fill(file)
        before_naming()
        fs.rename(f"{directory}/{temporary}", f"{directory}/{name}")
        fs.sync_directory(directory)
        file.sync()
        return file

    swap(compactor, "create_atomically", create)


@defect("simulate", "small_worlds")
def snapshot_written_in_place() -> None:
    """A snapshot is written under its own name, so a crash leaves half of one."""

    def create(
        fs: FileSystem,
        directory: str,
        name: str,
        temporary: str,
        fill: Callable[[File], None],
        before_naming: Callable[[], None] = lambda: None,
    ) -> File:
        del temporary
        file = fs.create(f"{directory}/{name}")
        fill(file)
        before_naming()
        file.sync()
        fs.sync_directory(directory)
        return file

    swap(compactor, "create_atomically", create)


@defect("damage", "small_worlds")
def snapshot_without_footer_accepted() -> None:
    """A snapshot that was cut short is read as far as it goes, instead of being refused for its missing trailer."""
    read_trailer = Snapshot._read_trailer
    read_index = Snapshot._read_index

    def entries(self: JobSnapshot) -> list[IndexEntry]:
        found = []
        for offset, frame in FrameReader(self._file, self.header.nonce, HEADER_BYTES, self.length):
            if frame.kind is FrameKind.RECORDS:
                records = self._codec.decode_records(frame.payload)
                found.append(IndexEntry(records[0][0], offset, len(records)))
        return found

    def trailer(self: JobSnapshot) -> Trailer:
        try:
            return read_trailer(self)
        except CorruptionError:
            found = entries(self)
            reader = FrameReader(self._file, self.header.nonce, HEADER_BYTES, self.length)
            end = HEADER_BYTES
            for _, frame in reader:
                end = reader.position if frame.kind is FrameKind.RECORDS else end
            return Trailer(end, sum(entry.records for entry in found), len(found))

    def index(self: JobSnapshot) -> list[IndexEntry]:
        try:
            return read_index(self)
        except CorruptionError:
            return entries(self)

    swap(Snapshot, "_read_trailer", trailer)
    swap(Snapshot, "_read_index", index)


@defect("damage")
def snapshot_that_does_not_verify_ignored() -> None:
    """A damaged snapshot is passed over as if there were none."""
    open_snapshot = survey._open_snapshot

    def fall_back(
        fs: FileSystem,
        directory: str,
        plug: object,
        snapshots: dict[str, int],
        files: Files[EventForm, JobState],
    ) -> int:
        try:
            return open_snapshot(fs, directory, plug, snapshots, files)  # type: ignore[arg-type]
        except CorruptionError:
            # The log is taken from where it happens to begin.
            bases = [parsed.base_lsn for name in fs.list_directory(directory) if (parsed := parse_segment(name))]
            return min(bases)

    swap(survey, "_open_snapshot", fall_back)


@defect("simulate", "small_worlds")
def temporary_file_taken_for_a_snapshot() -> None:
    """A snapshot that was never finished counts, since only the beginning of its name is looked at."""
    swap(survey, "parse_snapshot", lambda name: parse_snapshot(f"{name[:25]}.snap"))


class _Shorter(View[EventForm, JobState]):
    """A view without its last frame of events."""

    def frames(self) -> Iterator[tuple[int, Sequence[EventForm]]]:
        before: tuple[int, Sequence[EventForm]] | None = None
        for frame in super().frames():
            if before is not None:
                yield before
            before = frame


@defect("simulate", "small_worlds")
def snapshot_covers_one_frame_less() -> None:
    """A snapshot says that it covers the log up to where the next segment begins, and lacks the last frame below."""
    open_view = Compactor._open_view

    def shorter(self: JobCompactor, end_lsn: int) -> JobView:
        view = open_view(self, end_lsn)
        return _Shorter(view._files, end_lsn, self._plug, before_frame=self._raise_if_abandoned)

    swap(Compactor, "_open_view", shorter)


@defect("simulate", "small_worlds")
def snapshot_covers_more_than_it_says() -> None:
    """A snapshot holds a segment more than it says that it covers, so the events of that are applied twice."""
    open_view, write = Compactor._open_view, Compactor._write
    ends: list[int] = []

    def whole(self: JobCompactor, end_lsn: int) -> JobView:
        del end_lsn
        return open_view(self, ends[-1])

    def lower(self: JobCompactor, lsn: int) -> int:
        ends.append(lsn)
        names = self._fs.list_directory(self._directory)
        bases = [parsed.base_lsn for name in names if (parsed := parse_segment(name))]
        return write(self, max((base for base in bases if self.snapshot_lsn < base < lsn), default=lsn))

    swap(Compactor, "_open_view", whole)
    swap(Compactor, "_write", lower)


@defect("simulate", "small_worlds")
def range_off_by_one() -> None:
    """Of the events in a run, the one for the first key of the next frame is folded onto the frame before it."""
    swap(merge, "bisect_left", bisect_right)


@defect("simulate", "small_worlds")
def last_run_not_folded() -> None:
    """Of the events that a merge has spilled, those of the last run are left out."""
    read = merge.FileSpill.read

    def short(self: merge.FileSpill, run: int) -> Iterator[bytes]:
        for payload in read(self, run):
            if run != max(self._extents):
                yield payload

    swap(merge.FileSpill, "read", short)


@defect("simulate", "small_worlds")
def runs_folded_backwards() -> None:
    """Of several events for one job in several runs, the last one is applied first."""
    sort_log = merge._Merge._sort_log

    def backwards(self: JobMerge) -> list[merge._Run[EventForm]]:
        return sort_log(self)[::-1]

    swap(merge._Merge, "_sort_log", backwards)


@defect("simulate", "small_worlds")
def events_behind_the_last_frame_lost() -> None:
    """A merge ends with the last key of the snapshot, and new jobs behind it are forgotten."""
    has_events_below = merge._Merge.has_events_below

    def bounded(self: JobMerge, end: str | None) -> bool:
        return end is not None and has_events_below(self, end)

    swap(merge._Merge, "has_events_below", bounded)


@defect("simulate", "small_worlds")
def cancellation_lost_in_a_merge() -> None:
    """A job that was cancelled after a snapshot is in the next one again, for want of a tombstone (LSM trees)."""
    fold_onto = merge._Merge._fold_onto

    def without_tombstones(self: JobMerge, states: dict[str, JobState], stop: str | None) -> list[tuple[str, JobState]]:
        before = dict(states)
        return sorted((before | dict(fold_onto(self, states, stop))).items())

    swap(merge._Merge, "_fold_onto", without_tombstones)


@defect("threads")
def orphaned_merge_publishes() -> None:
    """A compaction goes on after the store was closed, and changes files that belong to the next opening by then."""

    def leave(self: JobCompactor) -> None:
        self._finished = True

    def go_on(self: JobCompactor) -> None:
        del self

    swap(Compactor, "finish", leave)
    swap(Compactor, "abandon", leave)
    swap(Compactor, "_raise_if_abandoned", go_on)
