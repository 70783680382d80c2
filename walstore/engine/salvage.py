"""Salvage: all that still verifies in a damaged store, and where the rest was. Changes nothing.

One rule decides: a frame counts if its checksum holds under the seed of its file, wherever damage lies before or behind
it. So a file whose header does not verify is lost whole: the seed of its frames was in it.
"""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Final, Generic

from walstore.engine.environment import Environment, EventT, Plug, StateT
from walstore.engine.founding import check_vacant, found_store
from walstore.engine.opening import describe_holder, find_directory
from walstore.engine.recovery import Situation, judge
from walstore.engine.scan import Gap, Part, open_part, pieces, read_snapshot
from walstore.engine.survey import Files, choose_segments
from walstore.errors import CorruptionError, StorageError, StoreLockedError, StoreNotFoundError, storage_errors
from walstore.format.filenames import LOCK_NAME, SegmentName, parse_segment, parse_snapshot
from walstore.format.frame import Frame
from walstore.format.layout import HEADER_BYTES, FileKind, FrameKind, Header, Watermark
from walstore.fs.api import FileSystem

__all__ = ["Salvaged", "gather", "salvage"]

_PROGRESS_EVERY: Final = 50_000

Progress = Callable[[str], None]
"""Told what is being done."""


@dataclass(slots=True)
class Salvaged(Generic[StateT]):
    """What was had of a store: the states, unsettled, and the gaps."""

    states: dict[str, StateT] = field(default_factory=dict)
    gaps: list[Gap] = field(default_factory=list)
    records: int = 0
    """Records of snapshots that verified."""
    events: int = 0
    """Events of the log that verified."""

    @property
    def is_damaged(self) -> bool:
        """Whether it is a store that opening refuses."""
        return any(gap.is_damage for gap in self.gaps)


def salvage(
    environment: Environment,
    source: str,
    target: str,
    plug: Plug[EventT, StateT],
    segment_bytes: int,
    progress: Progress = lambda _: None,
) -> Salvaged[StateT]:
    """Make a new store at ``target`` of what verifies at ``source``, which is not changed; the paths are absolute.

    Raises what ``gather`` and ``found_store`` raise. ``target`` must be empty or not be there, outside ``source``.
    """
    if f"{target}/".startswith(f"{source}/"):
        raise StorageError(f"{target} lies in {source}, which must not be changed: give another path", errno.EINVAL)
    environment.fs.check(target)
    check_vacant(environment.fs, target)
    found = gather(environment.fs, source, plug, progress)

    def records() -> Iterator[tuple[str, StateT]]:
        for number, key in enumerate(sorted(found.states)):
            if number % _PROGRESS_EVERY == _PROGRESS_EVERY - 1:
                progress(f"writing: {number:,} of {len(found.states):,} records")
            yield key, plug.reducer.settled(found.states[key])

    found_store(environment, target, plug, records(), segment_bytes)
    return found


def gather(
    fs: FileSystem, directory: str, plug: Plug[EventT, StateT], progress: Progress = lambda _: None
) -> Salvaged[StateT]:
    """Return what verifies in a store that nobody has open for writing. Writes nothing, not even ``LOCK``.

    Takes the memory of the states and of the longest file. Raises ``CorruptionError`` where nothing verifies,
    ``StoreNotFoundError``, ``StoreLockedError``, ``NewerFormatError``, and ``StorageError``, though not for what the
    device can't read: that is a gap.
    """
    with storage_errors(f"reading the store {directory}"):
        has_lock = LOCK_NAME in find_directory(fs, directory, create=False)
        # Held against a writer that would come meanwhile. Without a LOCK there is nothing to hold.
        lock = fs.lock_shared(f"{directory}/{LOCK_NAME}") if has_lock else None
        if has_lock and lock is None:
            raise StoreLockedError(
                f"{directory} is open for writing in {describe_holder(fs, directory)}. Close it there before salvaging "
                "what it holds."
            )
        try:
            was_created = lock is not None and bool(lock.read())
            found = _Salvage(fs, directory, plug, progress).run(was_created=was_created)
        finally:
            if lock is not None:
                lock.release()
    if found.is_damaged and not found.records and not found.events:
        raise CorruptionError("not one record or event in the store verifies: there is nothing to keep", path=directory)
    return found


class _Salvage(Generic[EventT, StateT]):
    """One reading of all files of a store."""

    def __init__(self, fs: FileSystem, directory: str, plug: Plug[EventT, StateT], progress: Progress) -> None:
        self._fs = fs
        self._directory = directory
        self._plug = plug
        self._progress = progress
        self._found: Salvaged[StateT] = Salvaged()
        self._covered_lsn = 0
        """Where the newest snapshot, whole or not, takes over from the log."""
        self._watermark_lsn = 0
        self._frames = 0
        self._clean = False
        self._in_frames: list[tuple[Gap, bool, bool, int]] = []
        """Gaps inside segments: after a clean mark or not, of this boot or not, and how many frames came before."""

    def run(self, *, was_created: bool) -> Salvaged[StateT]:
        names = self._fs.list_directory(self._directory)
        snapshots = [
            self._open(name, FileKind.SNAPSHOT, lsn, 0) for name in names if (lsn := parse_snapshot(name)) is not None
        ]
        segments = [self._open(name, FileKind.SEGMENT, *parsed) for name in names if (parsed := parse_segment(name))]
        if not snapshots and not segments and not was_created:
            raise StoreNotFoundError(
                f"{self._directory} holds a store whose creation was never finished: there is nothing in it"
            )
        _leave_out_foreign(snapshots + segments)
        for part in snapshots + segments:
            if part.named != (part.lsn, part.epoch):
                what = f"the header says LSN {part.lsn}, the name another; the header counts"
                self._found.gaps.append(part.gap(what, 0, 0, "nothing"))
        snapshots.sort(key=lambda part: part.lsn, reverse=True)
        floor_lsn, partial = self._take_snapshots(snapshots)
        self._take_log(segments, floor_lsn, partial)
        for _, records in partial:
            self._found.states.update(records)
        self._judge()
        return self._found

    def _open(self, name: str, kind: FileKind, lsn: int, epoch: int) -> Part:
        return open_part(self._fs, self._directory, name, kind, lsn, epoch, self._plug)

    def _take_snapshots(self, snapshots: list[Part]) -> tuple[int, list[tuple[int, dict[str, StateT]]]]:
        """Take the newest snapshot whose records are all there; returns its LSN, and what newer ones hold, in order."""
        self._covered_lsn = snapshots[0].lsn if snapshots else 0
        self._watermark_lsn = self._covered_lsn
        partial: list[tuple[int, dict[str, StateT]]] = []
        for part in snapshots:
            if part.header is None:
                self._found.gaps.append(part.gap(part.trouble, 0, part.length, "records"))
                continue
            self._progress(f"reading {part.path}")
            records, gaps, is_whole = read_snapshot(self._fs, part, self._plug.codec)
            self._found.gaps += gaps
            self._found.records += len(records)
            if is_whole:
                self._found.states.update(records)
                return part.lsn, partial[::-1]
            partial.append((part.lsn, records))
        return 0, partial[::-1]

    def _take_log(self, segments: list[Part], floor_lsn: int, partial: list[tuple[int, dict[str, StateT]]]) -> None:
        """Fold the segments above a snapshot, and the records of damaged snapshots where they belong in between."""
        usable = {part.name: part for part in segments if part.header is not None}
        names = {name: SegmentName(part.lsn, part.epoch) for name, part in usable.items()}
        unused: Files[EventT, StateT] = Files()
        chain = [usable[name] for name, _ in choose_segments(names, floor_lsn, unused)]
        # A segment that can't be read takes nothing over from another one: what it took is not to be had.
        for part in segments:
            superseded = any(other.epoch > part.epoch and other.lsn <= part.lsn for other in usable.values())
            if part.header is None and part.lsn >= floor_lsn and not superseded:
                chain.append(part)
        chain.sort(key=lambda part: (part.lsn, part.epoch))
        if not chain or chain[0].lsn > self._covered_lsn:
            self._miss(self._covered_lsn, chain[0].lsn if chain else None)
        for part, successor in zip(chain, [*chain[1:], None], strict=False):
            while partial and partial[0][0] <= part.lsn:
                self._found.states.update(partial.pop(0)[1])
            end_lsn = successor.lsn if successor is not None else None
            if part.header is None:
                gap = replace(part.gap(part.trouble, 0, part.length, "events"), to_lsn=end_lsn)
                self._found.gaps.append(gap)
                continue
            self._take_segment(part, end_lsn, is_taken_over=successor is not None and successor.header is not None)
            self._check_end(part, part.header, successor)

    def _take_segment(self, part: Part, next_lsn: int | None, *, is_taken_over: bool) -> None:
        """Fold the frames of a segment: up to the base of the next one where that can be read, else all that it has."""
        self._progress(f"reading {part.path}")
        assert part.header is not None
        is_of_this_boot = part.header.boot_id == self._fs.boot_id()
        next_offset = next_lsn - part.lsn if next_lsn is not None else 0
        for piece in pieces(self._fs, part, next_offset if is_taken_over else None):
            what, stop = piece.what, piece.stop
            if piece.frame is not None:
                try:
                    self._take_frame(part.lsn + piece.start, piece.frame)
                    continue
                except ValueError as error:
                    what = f"a frame that verifies holds what it should not ({error})"
            elif piece.is_tail and not is_taken_over and part.length == part.header.length:
                # Zeros up to the full length are the end of the log; a shorter segment had a successor. But where there
                # is a next one that can't be read, its name says how far the log went at least.
                stop = max(piece.last, min(next_offset, piece.stop))
                if stop <= piece.start:
                    continue
            gap = part.gap(what, piece.start, stop, "events")
            if piece.is_unread:
                # No crash leaves that, so it is damage wherever it is.
                self._found.gaps.append(gap)
            else:
                self._in_frames.append((gap, self._clean, is_of_this_boot, self._frames))

    def _take_frame(self, lsn: int, frame: Frame) -> None:
        match frame.kind:
            case FrameKind.EVENTS:
                events = self._plug.codec.decode_events(frame.payload)
                self._plug.reducer.fold(self._found.states, events)
                self._found.events += len(events)
                self._clean = False
            case FrameKind.WATERMARK:
                mark = Watermark.decode(frame.payload)
                if mark.lsn > lsn:
                    raise ValueError(f"a watermark names LSN {mark.lsn}, which is ahead of itself")
                self._watermark_lsn = max(self._watermark_lsn, mark.lsn)
                self._clean = mark.clean
            case kind:
                raise ValueError(f"a frame of the kind {kind.name} does not belong into the log")
        self._frames += 1

    def _check_end(self, part: Part, header: Header, successor: Part | None) -> None:
        """Compare the length of a segment with where the next one begins, as ``survey`` does."""
        end_lsn = part.lsn + part.length
        if successor is None:
            if part.length != header.length:
                self._miss(end_lsn, None, part)
            return
        if end_lsn < successor.lsn:
            self._miss(end_lsn, successor.lsn, part)
        elif successor.header is not None:
            if successor.header.follows_lsn not in {None, part.lsn}:
                what = f"it was made to follow the segment at LSN {successor.header.follows_lsn}, not {part.name}"
                self._found.gaps.append(successor.gap(what, 0, 0, "nothing"))
            end = successor.lsn - part.lsn
            is_uncut = successor.epoch > part.epoch and part.length < header.length
            if end < HEADER_BYTES or not (is_uncut or part.length in {end, header.length}):
                what = (
                    f"the length is neither {end}, where {successor.name} begins, nor {header.length}, as it was made"
                )
                self._found.gaps.append(part.gap(what, end, part.length, "nothing"))

    def _miss(self, from_lsn: int, to_lsn: int | None, part: Part | None = None) -> None:
        """Note that no segment holds a part of the log, unless a snapshot was to cover it."""
        from_lsn = max(from_lsn, self._covered_lsn)
        if to_lsn is None or to_lsn > from_lsn:
            self._found.gaps.append(
                Gap(
                    path=part.path if part is not None else self._directory,
                    what="a part of the log is missing",
                    loses="events",
                    offset=part.length if part is not None else None,
                    length=None if to_lsn is None else to_lsn - from_lsn,
                    from_lsn=from_lsn,
                    to_lsn=to_lsn,
                )
            )

    def _judge(self) -> None:
        """Tell torn tails from damage by the table of recovery."""
        for gap, is_after_close, is_of_this_boot, frames_before in self._in_frames:
            assert gap.from_lsn is not None
            situation = judge(
                damaged=True,
                below_watermark=gap.from_lsn < self._watermark_lsn,
                clean=is_after_close,
                same_boot=is_of_this_boot,
                frames_behind=frames_before < self._frames,
            )
            self._found.gaps.append(replace(gap, is_damage=situation is not Situation.TORN))
        self._found.gaps.sort(key=lambda gap: (gap.from_lsn is not None, gap.from_lsn or 0))


def _leave_out_foreign(parts: list[Part]) -> None:
    """Let the files of another store count as unreadable. The store is the one that most files are of."""
    stores = Counter(part.header.store_id for part in parts if part.header is not None)
    for part in parts:
        if part.header is not None and part.header.store_id != stores.most_common(1)[0][0]:
            part.header, part.trouble = None, "the file belongs to another store"
            part.lsn, part.epoch = part.named
