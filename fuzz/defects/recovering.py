"""Defects of recovery: what it takes for the log, where it believes that the log ends, and what it leaves behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

from xxhash import xxh3_64_intdigest

from fuzz.defects.planting import defect, swap
from walstore.engine import opening, recovery, repair, survey
from walstore.engine import segment as segments
from walstore.engine.environment import Environment, Plug
from walstore.engine.recovery import LogEnd, Progress, Situation
from walstore.engine.segment import FrameReader, Identity, Segment
from walstore.engine.survey import Files, Link
from walstore.errors import CorruptionError
from walstore.format import layout
from walstore.format.filenames import SegmentName
from walstore.format.frame import Frame, find_frames, frame_bytes
from walstore.format.layout import HEADER_BYTES, SEGMENT_RESERVE_BYTES, FrameKind, Header, Watermark
from walstore.fs.api import File, FileSystem
from walstore.model.events import EventForm
from walstore.model.records import JobState

__all__: list[str] = []

JobFiles = Files[EventForm, JobState]
JobWalk = recovery._Walk[EventForm, JobState]


@defect("simulate", "small_worlds")
def torn_tail_not_cut_before_appending() -> None:
    """Recovery goes on behind the last whole frame, over a torn tail that it has not cleared."""

    def go_on(
        fs: FileSystem, directory: str, files: JobFiles, end: LogEnd, identity: Identity, nonce: int, length: int
    ) -> Segment:
        del directory, identity, nonce, length
        last = next(link for link in reversed(files.chain) if link.base_lsn < end.end_lsn)
        start = end.end_lsn - last.base_lsn
        file = fs.open(last.path, writable=True)
        return Segment(file, last.path, last.header, file.appender(start, last.header.length - SEGMENT_RESERVE_BYTES))

    def remove(fs: FileSystem, directory: str, files: JobFiles, end: LogEnd) -> None:
        for name in [*files.stale, *(link.name for link in files.chain if link.base_lsn >= end.end_lsn)]:
            fs.unlink(f"{directory}/{name}")
        fs.sync_directory(directory)

    swap(opening, "reframe", go_on)
    swap(opening, "remove_leftovers", remove)


@defect("simulate", "small_worlds")
def reframing_skipped() -> None:
    """Recovery trusts what reads back well, though that may be the page cache of a failed sync (fsyncgate)."""
    recover = recovery.recover

    def trusting(files: JobFiles, codec: object, boot_id: bytes, progress: Progress | None = None) -> LogEnd:
        end = recover(files, codec, boot_id, progress)  # type: ignore[arg-type]
        end.watermark_lsn = end.end_lsn
        return end

    swap(opening, "recover", trusting)


@defect("simulate", "small_worlds")
def torn_tail_copied_into_the_new_segment() -> None:
    """Recovery writes a torn tail anew together with the whole frames before it."""
    events_above = repair._events_above

    def and_torn(chain: list[Link], end: LogEnd) -> Iterator[bytes]:
        yield from events_above(chain, end)
        for link, start, stop in end.torn:
            for frame in find_frames(link.file.read(start, stop - start), link.header.nonce):
                if frame.kind is FrameKind.EVENTS:
                    yield frame.payload

    swap(repair, "_events_above", and_torn)


@defect("small_worlds", "damage", "simulate")
def torn_tail_not_kept() -> None:
    """What recovery cuts off is gone, instead of being kept beside the log."""
    swap(opening, "keep_torn_tail", lambda _fs, _directory, _end, _epoch: None)


@defect("simulate")
def torn_tail_named_before_its_sync() -> None:
    """The file of a torn tail has its name before its bytes are on the device, while the log is cut durably."""

    def create(
        fs: FileSystem,
        directory: str,
        name: str,
        temporary: str,
        fill: Callable[[File], None],
        before_naming: Callable[[], None] = lambda: None,
    ) -> File:
        if temporary in fs.list_directory(directory):
            fs.unlink(f"{directory}/{temporary}")
        file = fs.create(f"{directory}/{temporary}")
        fill(file)
        before_naming()
        fs.rename(f"{directory}/{temporary}", f"{directory}/{name}")
        fs.sync_directory(directory)
        return file

    swap(repair, "create_atomically", create)


@defect("simulate", "small_worlds", "damage")
def cut_in_a_reader() -> None:
    """A reader cuts what it takes for the rest of the log, while a writer appends there."""
    read_once = opening._read_once

    def cutting(
        environment: Environment,
        directory: str,
        plug: Plug[EventForm, JobState],
        progress: Progress | None,
        names: list[str],
    ) -> tuple[JobFiles, int, Situation, int, int] | None:
        found = read_once(environment, directory, plug, progress, names)
        if found is not None and found[2] is not Situation.CLEAN:
            last = found[0].chain[-1]
            file = environment.fs.open(last.path, writable=True)
            file.truncate(max(HEADER_BYTES, found[1] - last.base_lsn))
            file.close()
        return found

    swap(opening, "_read_once", cutting)


@defect("damage", "salvage")
def watermark_ignored() -> None:
    """Damage of what was on the device is taken for a torn tail and cut."""

    def unmarked(self: JobWalk, link: Link, offset: int, frame: Frame) -> Watermark:
        del self, link, offset
        return Watermark(0, clean=Watermark.decode(frame.payload).clean)

    swap(recovery._Walk, "_watermark", unmarked)


@defect("damage", "simulate")
def recovery_past_a_hole() -> None:
    """Reading skips a damaged place and goes on at the next frame that verifies (RocksDB, if asked to)."""
    frames = FrameReader.__iter__

    def skip(self: FrameReader) -> Iterator[tuple[int, Frame]]:
        while True:
            self.trouble = None
            yield from frames(self)
            if self.trouble is None:
                return
            rest = self._file.read(self.position, self._end - self.position)
            found = next(find_frames(rest, self._seed), None)
            if found is None:
                return
            self.position += found.end - frame_bytes(len(found.payload))

    swap(FrameReader, "__iter__", skip)


@defect("damage", "small_worlds")
def zeros_end_the_log_wherever_they_are() -> None:
    """The first zeros are taken for the end of the log, whatever follows them (etcd)."""
    is_zero = segments.is_zero
    swap(recovery, "is_zero", lambda file, start, end: is_zero(file, start, min(start + 8, end)))


@defect("damage", "small_worlds")
def gap_accepted() -> None:
    """A segment that is missing in the middle is not noticed."""
    check_joints = survey._check_joints

    def lenient(chain: list[Link]) -> None:
        for link, successor in pairwise(chain):
            # What comes behind the gap is read as if it were near.
            link.end = min(link.length, successor.base_lsn - link.base_lsn)
        check_joints(chain[-1:])

    swap(survey, "_check_joints", lenient)


@defect("damage", "small_worlds")
def missing_last_segment_accepted() -> None:
    """A log whose last file is missing is taken for a shorter log."""
    check_joints = survey._check_joints

    def lenient(chain: list[Link]) -> None:
        try:
            check_joints(chain)
        except CorruptionError as error:
            if "the segment that followed it is missing" not in str(error):
                raise

    swap(survey, "_check_joints", lenient)


@defect("simulate", "damage", "small_worlds")
def lost_log_created_anew() -> None:
    """A store whose log is gone opens as a new one, empty and healthy (uni-db)."""
    real = survey.survey

    def optimistic(
        fs: FileSystem, directory: str, plug: Plug[EventForm, JobState], *, created: bool
    ) -> JobFiles | None:
        del created
        return real(fs, directory, plug, created=False)

    swap(opening, "survey", optimistic)


@defect("simulate", "small_worlds")
def stale_epoch_accepted() -> None:
    """Segments that a later recovery has superseded still count (Kafka, before leader epochs)."""

    def choose(segments: dict[str, SegmentName], floor_lsn: int, files: JobFiles) -> list[tuple[str, SegmentName]]:
        chosen: list[tuple[str, SegmentName]] = []
        for name, parsed in sorted(segments.items(), key=lambda item: (item[1].base_lsn, item[1].epoch)):
            if parsed.base_lsn < floor_lsn or (chosen and chosen[-1][1].base_lsn == parsed.base_lsn):
                files.stale.append(name)
            else:
                chosen.append((name, parsed))
        return chosen

    swap(survey, "choose_segments", choose)


@defect("simulate", "small_worlds")
def epoch_not_advanced() -> None:
    """A recovery writes under the epoch of the opening before it."""
    identity = opening._Opening._identity

    def same(self: opening._Opening[EventForm, JobState], store_id: bytes, epoch: int) -> Identity:
        return identity(self, store_id, max(epoch - 1, 1))

    swap(opening._Opening, "_identity", same)


@defect("simulate", "small_worlds")
def boot_id_ignored() -> None:
    """A hole that a power loss left is taken for damage, since nobody asks whether the kernel is still the same."""
    judge = recovery.judge

    def same(*, damaged: bool, below_watermark: bool, clean: bool, same_boot: bool, frames_behind: bool) -> Situation:
        del same_boot
        return judge(
            damaged=damaged, below_watermark=below_watermark, clean=clean, same_boot=True, frames_behind=frames_behind
        )

    swap(recovery, "judge", same)


@defect("damage", "small_worlds")
def hole_without_a_power_loss_accepted() -> None:
    """A hole is cut as a torn tail, though the kernel that held its bytes has never stopped."""
    judge = recovery.judge

    def other(*, damaged: bool, below_watermark: bool, clean: bool, same_boot: bool, frames_behind: bool) -> Situation:
        del same_boot
        return judge(
            damaged=damaged, below_watermark=below_watermark, clean=clean, same_boot=False, frames_behind=frames_behind
        )

    swap(recovery, "judge", other)


@defect("damage", "salvage")
def header_checksum_ignored() -> None:
    """The checksum of a header is not compared, so a damaged nonce makes a whole segment look torn."""
    decode = layout.Header.decode

    def lenient(data: bytes) -> Header:
        body = data[: HEADER_BYTES - 8]
        repaired = body + xxh3_64_intdigest(body).to_bytes(8, "big")
        return decode(repaired if len(data) >= HEADER_BYTES else data)

    swap(Header, "decode", staticmethod(lenient))
