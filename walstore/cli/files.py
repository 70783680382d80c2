"""What can be said of each file of a store, one by one, whatever state the store is in. Locks and writes nothing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from walstore.engine.segment import FrameReader, is_zero
from walstore.engine.survey import Files, choose_segments
from walstore.format.filenames import LOCK_NAME, is_temporary, is_torn, parse_segment, parse_snapshot
from walstore.format.frame import Frame, find_frames
from walstore.format.layout import (
    HEADER_BYTES,
    FileKind,
    FrameKind,
    Header,
    NewerVersionError,
    Watermark,
)
from walstore.fs.api import File, FileSystem
from walstore.model.events import EventForm
from walstore.model.names import instant_ns
from walstore.model.records import JobState
from walstore.wal import JOBS

__all__ = ["Contents", "FileFacts", "Holder", "look"]


@dataclass(slots=True)
class FileFacts:
    """A segment or a snapshot. What can't be said is None; ``trouble`` is what is wrong at ``end``, if anything is."""

    name: str
    kind: FileKind
    in_use: bool
    """Whether it is a part of the store, neither superseded nor covered by a snapshot."""
    length: int | None = None
    header: Header | None = None
    items: int | None = None
    """Events of a segment, records of a snapshot, as far as the frames verify; None where they are no jobs."""
    watermark_lsn: int | None = None
    """The highest watermark, behind a damaged place as well."""
    clean: bool = False
    """Whether the last frame is the mark of a clean close."""
    end: int | None = None
    """The offset where the frames end, of themselves or at a damaged place."""
    trouble: str | None = None
    frames_behind: int = 0
    """How many frames verify behind a damaged place."""

    @property
    def end_lsn(self) -> int | None:
        """The LSN of ``end``, in a segment."""
        if self.kind is not FileKind.SEGMENT or self.header is None or self.end is None:
            return None
        return self.header.lsn + self.end


@dataclass(frozen=True, slots=True)
class Holder:
    """Who opened the store for writing last, as LOCK says."""

    host: str
    pid: int
    since_ns: int


@dataclass(slots=True)
class Contents:
    """What is in the directory."""

    snapshots: list[FileFacts] = field(default_factory=list)
    segments: list[FileFacts] = field(default_factory=list)
    others: list[tuple[str, str, int | None]] = field(default_factory=list)
    """Name, what it is, and length in bytes of all the rest."""
    holder: Holder | None = None

    @property
    def watermark_lsn(self) -> int | None:
        """The highest watermark in the segments that are in use."""
        marks = [facts.watermark_lsn for facts in self.segments if facts.in_use]
        return max((mark for mark in marks if mark is not None), default=None)


def look(fs: FileSystem, directory: str, names: Sequence[str]) -> Contents:
    """Read every file of a store as far as it goes. Raises nothing for what is wrong with one; it is in the facts."""
    contents = Contents(holder=_holder(fs, directory))
    snapshots = {name: lsn for name in names if (lsn := parse_snapshot(name)) is not None}
    newest = max(snapshots, key=snapshots.__getitem__, default=None)
    for name in sorted(snapshots):
        facts = FileFacts(name, FileKind.SNAPSHOT, name == newest)
        if _read(fs, directory, facts, None):
            contents.snapshots.append(facts)
    segments = {name: parsed for name in names if (parsed := parse_segment(name))}
    # Which segments count is the engine's to say, and it says so by the names alone.
    unused: Files[EventForm, JobState] = Files()
    chosen = choose_segments(segments, snapshots[newest] if newest is not None else 0, unused)
    ends = {name: after.base_lsn - own.base_lsn for (name, own), (_, after) in pairwise(chosen)}
    for name in sorted(segments):
        facts = FileFacts(name, FileKind.SEGMENT, name not in unused.stale)
        if _read(fs, directory, facts, ends.get(name)):
            contents.segments.append(facts)
    for name in sorted({*names} - {*snapshots} - {*segments}):
        contents.others.append((name, _what_is(name), _length(fs, f"{directory}/{name}")))
    return contents


def _read(fs: FileSystem, directory: str, facts: FileFacts, end: int | None) -> bool:
    """Fill in the facts of a file; its frames count up to ``end``, where another segment takes over.

    Returns False where the file is gone: a checkpoint has removed it since, so it is no part of the store any more.
    """
    try:
        file = fs.open(f"{directory}/{facts.name}")
        try:
            facts.length = file.size()
            facts.header = Header.decode(file.read(0, HEADER_BYTES))
            _read_frames(file, facts, facts.header, facts.length if end is None else min(end, facts.length))
        finally:
            file.close()
    except FileNotFoundError:
        return False
    except NewerVersionError as error:
        facts.trouble = f"format version {error.version}, which this release can't read"
    except ValueError as error:
        # A damaged header, or a watermark behind a damaged place that holds something else.
        facts.trouble = facts.trouble or str(error)
    except OSError as error:
        facts.trouble = error.strerror or str(error)
    return True


def _read_frames(file: File, facts: FileFacts, header: Header, end: int) -> None:
    position, seen, last = HEADER_BYTES, -1, None
    facts.items = 0 if header.codec_id == JOBS.codec.id else None
    while True:
        reader = FrameReader(file, header.nonce, position, end)
        for offset, frame in reader:
            try:
                _take(facts, frame)
            except ValueError as error:
                facts.end, facts.trouble = offset, f"a frame that verifies holds what it should not ({error})"
                return
            last = frame.kind
        position = facts.end = reader.position
        is_segment = facts.kind is FileKind.SEGMENT
        if reader.trouble is None or (is_segment and is_zero(file, position, end)):
            if not is_segment and last is not FrameKind.TRAILER:
                facts.trouble = "the snapshot does not end with a trailer"
            return
        if position == seen:
            facts.trouble = reader.trouble
            _look_behind(file.read(position, end - position), facts, header)
            return
        # A writer may have been in the middle of a frame, so a place that is no frame is looked at twice.
        seen = position


def _take(facts: FileFacts, frame: Frame) -> None:
    """Take a frame into the facts. Raises ``ValueError`` when it does not hold what its kind says."""
    facts.clean = False
    if frame.kind is FrameKind.WATERMARK:
        mark = Watermark.decode(frame.payload)
        facts.watermark_lsn = max(mark.lsn, facts.watermark_lsn or 0)
        facts.clean = mark.clean
    elif facts.items is not None and frame.kind is FrameKind.EVENTS:
        facts.items += len(JOBS.codec.decode_events(frame.payload))
    elif facts.items is not None and frame.kind is FrameKind.RECORDS:
        facts.items += len(JOBS.codec.decode_records(frame.payload))


def _look_behind(data: bytes, facts: FileFacts, header: Header) -> None:
    """Count the frames that verify behind a damaged place, for they tell how much of the file is hurt."""
    facts.clean = False
    for frame in find_frames(data, header.nonce):
        facts.frames_behind += 1
        if frame.kind is FrameKind.WATERMARK:
            facts.watermark_lsn = max(Watermark.decode(frame.payload).lsn, facts.watermark_lsn or 0)


def _holder(fs: FileSystem, directory: str) -> Holder | None:
    try:
        content = json.loads(fs.read_small(f"{directory}/{LOCK_NAME}"))
        since_ns = instant_ns(content["since_ns"], "since_ns")
        return Holder(str(content["host"]), int(content["pid"]), since_ns)
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        # It is empty until the store is there, and its content is for people only.
        return None


def _what_is(name: str) -> str:
    if name == LOCK_NAME:
        return "the writer's lock"
    if is_torn(name):
        return "a torn tail that a recovery cut off"
    return "a file that was never finished" if is_temporary(name) else "none of the store's"


def _length(fs: FileSystem, path: str) -> int | None:
    try:
        file = fs.open(path)
    except OSError:
        return None
    try:
        return file.size()
    finally:
        file.close()
