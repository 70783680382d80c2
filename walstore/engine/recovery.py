"""Recovery: where the log ends, and what that end means, by a table. Changes nothing; see ``repair`` for the writer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, Generic

from walstore.engine.environment import Codec, EventT, StateT
from walstore.engine.segment import FrameReader, is_zero, last_nonzero
from walstore.engine.survey import Files, Link
from walstore.errors import CorruptionError
from walstore.format.frame import Frame, find_frames
from walstore.format.layout import HEADER_BYTES, FrameKind, Watermark

__all__ = ["LogEnd", "RecoveryReport", "Situation", "judge", "recover"]

_PROGRESS_EVERY_BYTES: Final = 16 * 1024 * 1024

Progress = Callable[[int, int], None]
"""Told how many bytes are done, and of how many."""


class Situation(Enum):
    """What an opening found."""

    CREATED = "created"
    """There was no store; it was created."""
    CLEAN = "clean"
    """The last writer had closed the store."""
    UNCLEAN = "unclean"
    """The last writer ended without closing; every byte of the log is accounted for."""
    TORN = "torn"
    """The last writer ended without closing, and the log ends in a torn tail: damage above the last watermark."""
    DAMAGED_BELOW_WATERMARK = "damaged below the watermark"
    """Refused: bytes that had been on the device are damaged."""
    DAMAGED_AFTER_CLOSE = "damaged after a clean close"
    """Refused: there is something behind the end of a log that was closed."""
    HOLE_WITHOUT_POWER_LOSS = "a hole without a power loss"
    """Refused: frames follow a damaged place, though the kernel that held its bytes has not stopped since."""

    @property
    def is_corruption(self) -> bool:
        """Whether a store in this situation is refused."""
        return self in _REFUSED


_REFUSED: Final = frozenset(
    {Situation.DAMAGED_BELOW_WATERMARK, Situation.DAMAGED_AFTER_CLOSE, Situation.HOLE_WITHOUT_POWER_LOSS}
)


def judge(*, damaged: bool, below_watermark: bool, clean: bool, same_boot: bool, frames_behind: bool) -> Situation:
    """The recovery table.

    ``damaged``: the frames end at a place that is neither the end of the file nor followed by zeros only;
    ``below_watermark``: that place is below the highest watermark; ``clean``: the last frame before the end is the mark
    of a clean close; ``same_boot``: the kernel is the one that the segment was written under; ``frames_behind``: a
    frame that verifies follows the damaged place.
    """
    match damaged, below_watermark, clean, same_boot and frames_behind:
        case (False, _, True, _):
            return Situation.CLEAN
        case (False, _, False, _):
            return Situation.UNCLEAN
        case (True, True, _, _):
            return Situation.DAMAGED_BELOW_WATERMARK
        case (True, False, True, _):
            return Situation.DAMAGED_AFTER_CLOSE
        case (True, False, False, True):
            return Situation.HOLE_WITHOUT_POWER_LOSS
        case _:
            return Situation.TORN


@dataclass(frozen=True, slots=True)
class RecoveryReport:
    """What an opening found and did."""

    situation: Situation
    events_replayed: int
    """Events in the log above the snapshot."""
    torn_bytes: int
    """Bytes of the torn tail."""
    kept_at: str | None
    """The file in which a writer keeps the torn tail."""
    duration_ns: int


@dataclass(slots=True)
class LogEnd:
    """Where the log ends and what was found on the way."""

    watermark_lsn: int
    end_lsn: int
    clean: bool = False
    events: int = 0
    situation: Situation = Situation.UNCLEAN
    torn_bytes: int = 0
    torn: list[tuple[Link, int, int]] = field(default_factory=list)
    """The stretches of the torn tail: segment, from offset, to offset."""
    trouble: str = ""


def recover(
    files: Files[EventT, StateT], codec: Codec[EventT, StateT], boot_id: bytes, progress: Progress | None = None
) -> LogEnd:
    """Read the whole snapshot and the whole log, and judge the end.

    Raises ``CorruptionError`` in the situations that are refused. The writer may append meanwhile: what it has half
    written is not taken for damage.
    """
    if files.snapshot is not None:
        files.snapshot.check()
    return _Walk(files, codec, boot_id, progress).run()


class _Walk(Generic[EventT, StateT]):
    """One walk along the chain of segments."""

    def __init__(
        self,
        files: Files[EventT, StateT],
        codec: Codec[EventT, StateT],
        boot_id: bytes,
        progress: Progress | None,
    ) -> None:
        self._chain = files.chain
        self._codec = codec
        self._boot_id = boot_id
        self._progress = progress
        self._total_bytes = sum(link.end for link in files.chain)
        self._done_bytes = 0
        self._reported_bytes = 0
        self._end = LogEnd(files.floor_lsn, files.floor_lsn)

    def run(self) -> LogEnd:
        for number, link in enumerate(self._chain):
            reader = self._read(link, HEADER_BYTES)
            while reader.trouble is not None:
                is_last = number == len(self._chain) - 1
                # What lies behind is looked at first and the place itself again after it: a live writer fills the log
                # from the front, so whoever sees its later frames sees the earlier ones as well.
                ended = is_last and is_zero(link.file, reader.position, link.end)
                behind = [] if ended else self._behind(number, reader.position)
                again = self._read(link, reader.position)
                if again.position == reader.position:
                    return self._conclude(number, reader, behind, damaged=not ended)
                reader = again
            self._done_bytes += link.end
        last = self._chain[-1]
        return self._conclude(len(self._chain) - 1, self._read(last, last.end), [], damaged=False)

    def _read(self, link: Link, start: int) -> FrameReader:
        """Take in the frames of a segment from an offset, up to its end or to the first trouble."""
        reader = FrameReader(link.file, link.header.nonce, start, link.end)
        # Names of this function, since a log of single events has millions of frames.
        end, count_events, progress = self._end, self._codec.count_events, self._progress
        events, clean = end.events, end.clean
        for offset, frame in reader:
            clean = False
            if frame[0] is FrameKind.EVENTS:
                try:
                    events += count_events(frame[1])
                except ValueError as error:
                    what = f"a frame that verifies holds something else than events ({error})"
                    raise _corrupt(what, link, offset) from error
            elif frame.kind is FrameKind.WATERMARK:
                mark = self._watermark(link, offset, frame)
                clean = mark.clean
                end.watermark_lsn = max(end.watermark_lsn, mark.lsn)
            else:
                raise _corrupt(f"a frame of the kind {frame.kind.name} does not belong into the log", link, offset)
            if progress is not None:
                self._report(progress, self._done_bytes + offset)
        end.events, end.clean, end.end_lsn = events, clean, link.base_lsn + reader.position
        return reader

    def _watermark(self, link: Link, offset: int, frame: Frame) -> Watermark:
        try:
            mark = Watermark.decode(frame.payload)
        except ValueError as error:
            raise _corrupt(f"a frame that verifies holds no watermark ({error})", link, offset) from error
        if mark.lsn > link.base_lsn + offset:
            raise _corrupt(f"a watermark names LSN {mark.lsn}, which is ahead of itself", link, offset)
        return mark

    def _behind(self, number: int, offset: int) -> list[int]:
        """Return, for each frame behind a damaged place, the watermark that it carries, or 0."""
        found = []
        for link, start in _rest(self._chain, number, offset):
            for frame in find_frames(link.file.read(start, link.end - start), link.header.nonce):
                is_mark = frame.kind is FrameKind.WATERMARK
                found.append(self._watermark(link, start + frame.end, frame).lsn if is_mark else 0)
        return found

    def _conclude(self, number: int, reader: FrameReader, behind: list[int], *, damaged: bool) -> LogEnd:
        end, link = self._end, self._chain[number]
        end.watermark_lsn = max(end.watermark_lsn, *behind, 0)
        end.situation = judge(
            damaged=damaged,
            below_watermark=end.end_lsn < end.watermark_lsn,
            clean=end.clean,
            same_boot=link.header.boot_id == self._boot_id,
            frames_behind=bool(behind),
        )
        end.trouble = reader.trouble or ""
        if end.situation.is_corruption:
            raise _corrupt(f"{end.situation.value} ({reader.trouble})", link, reader.position)
        if end.end_lsn < end.watermark_lsn:
            raise _corrupt(f"the log ends below its watermark {end.watermark_lsn}", link, reader.position)
        if any(0 < end.watermark_lsn - link.base_lsn < HEADER_BYTES for link in self._chain):
            # The writer's segment would begin there, and nothing could be appended to the store any more.
            raise _corrupt(f"the watermark {end.watermark_lsn} points into a header", link, reader.position)
        if damaged:
            for torn, start in _rest(self._chain, number, reader.position):
                stop = last_nonzero(torn.file, start, torn.end)
                end.torn.append((torn, start, stop))
                end.torn_bytes += stop - start
        return end

    def _report(self, progress: Progress, done_bytes: int) -> None:
        if done_bytes - self._reported_bytes >= _PROGRESS_EVERY_BYTES:
            self._reported_bytes = done_bytes
            progress(done_bytes, self._total_bytes)


def _rest(chain: list[Link], number: int, offset: int) -> list[tuple[Link, int]]:
    """Return the segments from one on, each with the offset from which it counts."""
    return [(link, offset if link is chain[number] else HEADER_BYTES) for link in chain[number:]]


def _corrupt(what: str, link: Link, offset: int) -> CorruptionError:
    return CorruptionError(what, path=link.path, offset=offset, lsn=link.base_lsn + offset)
