"""Reading one file of a damaged store, from its header to its end, across whatever does not verify. Changes nothing."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final, Literal, NamedTuple

from walstore.engine.environment import Codec, EventT, Plug, StateT
from walstore.engine.segment import read_header
from walstore.errors import CorruptionError
from walstore.format.frame import BadFrameError, Frame, decode_frame, find_frames, frame_bytes
from walstore.format.index import Trailer
from walstore.format.layout import HEADER_BYTES, FileKind, FrameKind, Header
from walstore.fs.api import File, FileSystem

__all__ = ["Gap", "Part", "Piece", "open_part", "pieces", "read_snapshot"]

_SECTOR_BYTES: Final = 4096
_UNREAD_WHAT: Final = "the device can't read it"
_UNREAD: Final = b"\xff" * _SECTOR_BYTES
"""Stands for what the device does not give: no frame begins with it, and it is not taken for the end of the log."""


Loses = Literal["events", "records", "nothing"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """A place where bytes do not verify or are missing. None stands for what is not known.

    ``offset`` and ``length`` are in the file at ``path``, which is the directory where a whole file is missing;
    ``from_lsn`` and ``to_lsn`` in the log. Records that a snapshot lost lie between ``after_key`` and ``before_key``.
    """

    path: str
    what: str
    loses: Loses
    offset: int | None = None
    length: int | None = None
    from_lsn: int | None = None
    to_lsn: int | None = None
    after_key: str | None = None
    before_key: str | None = None
    is_damage: bool = True
    """False in a torn tail: what a crash leaves, of which nothing had been promised."""


@dataclass(slots=True)
class Part:
    """A segment or a snapshot. ``lsn`` and ``epoch`` are those of the name where the header can't be used."""

    name: str
    path: str
    lsn: int
    epoch: int
    length: int = 0
    header: Header | None = None
    trouble: str = ""
    """Why the header can't be used."""
    named: tuple[int, int] = (0, 0)
    """The LSN and the epoch of the name."""

    def gap(self, what: str, start: int, stop: int | None, loses: Loses) -> Gap:
        """Return a gap from ``start`` to ``stop`` in this file."""
        return Gap(
            path=self.path,
            what=what,
            loses=loses,
            offset=start,
            length=None if stop is None else stop - start,
            from_lsn=self.lsn + start if loses == "events" else None,
            to_lsn=self.lsn + stop if loses == "events" and stop is not None else None,
        )


class Piece(NamedTuple):
    """A stretch of a file: a frame that verifies, or what lies before the next one, or before the end."""

    start: int
    stop: int
    frame: Frame | None
    what: str
    """Why there is no frame."""
    last: int
    """The offset behind the last byte that is not zero."""
    is_tail: bool
    is_unread: bool
    """Whether the device does not give it."""


def open_part(
    fs: FileSystem, directory: str, name: str, kind: FileKind, lsn: int, epoch: int, plug: Plug[EventT, StateT]
) -> Part:
    """Read the header of a file. Raises ``NewerFormatError`` and ``StoreNotFoundError`` (of another codec)."""
    part = Part(name, f"{directory}/{name}", lsn, epoch, named=(lsn, epoch))
    try:
        file = fs.open(part.path)
        try:
            part.length = file.size()
            header = read_header(file, part.path, kind, plug.codec.id, plug.reducer.id).named(lsn)
        finally:
            file.close()
    except CorruptionError as error:
        part.trouble = error.what
    except OSError as error:
        part.trouble = _unread(error)
    else:
        part.header = header
        part.lsn = header.lsn
        # The name of a snapshot has no epoch.
        part.epoch = header.epoch if kind is FileKind.SEGMENT else epoch
    return part


def pieces(fs: FileSystem, part: Part, end: int | None = None) -> Iterator[Piece]:
    """Yield what lies behind the header, without a gap, up to ``end`` or the end of the file."""
    assert part.header is not None
    seed = part.header.nonce
    data, unread = _read(fs, part.path, part.length if end is None else min(end, part.length))
    position = HEADER_BYTES

    def gap(stop: int, *, is_tail: bool) -> Piece:
        last = position + len(data[position:stop].rstrip(b"\0"))
        is_unread = any(position < offset + _SECTOR_BYTES and offset < stop for offset in unread)
        if is_unread:
            what = _UNREAD_WHAT
        elif last == position:
            what = "zeros where frames were"
        else:
            what = _why_no_frame(data, position, seed)
        return Piece(position, stop, None, what, last, is_tail, is_unread)

    for frame in find_frames(data, seed):
        start = frame.end - frame_bytes(len(frame.payload))
        if start > position:
            yield gap(start, is_tail=False)
        yield Piece(start, frame.end, frame, "", frame.end, is_tail=False, is_unread=False)
        position = frame.end
    if position < len(data):
        yield gap(len(data), is_tail=True)


def read_snapshot(
    fs: FileSystem, part: Part, codec: Codec[EventT, StateT]
) -> tuple[dict[str, StateT], list[Gap], bool]:
    """Return the records of a snapshot that verify, the gaps, and whether the records are all that there were."""
    records: dict[str, StateT] = {}
    gaps: list[Gap] = []
    index_offset, last_key, end, is_ended = None, None, HEADER_BYTES, False
    for piece in pieces(fs, part):
        what, end, is_ended = piece.what, piece.stop, piece.frame is None
        if piece.frame is not None:
            try:
                match piece.frame.kind:
                    case FrameKind.RECORDS:
                        rows = codec.decode_records(piece.frame.payload)
                        gaps = [gap if gap.before_key else replace(gap, before_key=rows[0][0]) for gap in gaps]
                        records.update(rows)
                        last_key = rows[-1][0]
                    case FrameKind.INDEX:
                        index_offset = piece.start if index_offset is None else index_offset
                    case FrameKind.TRAILER:
                        index_offset, is_ended = Trailer.decode(piece.frame.payload).index_offset, True
                    case kind:
                        raise ValueError(f"a frame of the kind {kind.name} does not belong into a snapshot")
                continue
            except (ValueError, IndexError) as error:
                what = f"a frame that verifies holds what it should not ({error})"
        # How much there was behind the last frame that verifies, nobody knows.
        stop = None if piece.is_tail else piece.stop
        gaps.append(replace(part.gap(what, piece.start, stop, "records"), after_key=last_key))
    if not is_ended:
        gaps.append(replace(part.gap("the snapshot is cut short", end, None, "records"), after_key=last_key))
    # Behind the start of the index there are no records.
    for number, gap in enumerate(gaps):
        if index_offset is not None and gap.offset is not None and gap.offset >= index_offset:
            gaps[number] = replace(gap, loses="nothing", after_key=None)
    return records, gaps, all(gap.loses == "nothing" for gap in gaps)


def _read(fs: FileSystem, path: str, size: int) -> tuple[bytes, list[int]]:
    """Return the first bytes of a file, and where sectors of it can't be read."""
    file = fs.open(path)
    try:
        return file.read(0, size), []
    except OSError as error:
        _unread(error)
        return _read_by_sectors(file, size)
    finally:
        file.close()


def _read_by_sectors(file: File, size: int) -> tuple[bytes, list[int]]:
    sectors, unread = [], []
    for offset in range(0, size, _SECTOR_BYTES):
        wanted = min(_SECTOR_BYTES, size - offset)
        try:
            sectors.append(file.read(offset, wanted))
        except OSError as error:
            _unread(error)
            sectors.append(_UNREAD[:wanted])
            unread.append(offset)
    return b"".join(sectors), unread


def _unread(error: OSError) -> str:
    """Return what is wrong with a device that can't read; any other error has nothing to do with it and is raised."""
    if error.errno != errno.EIO:
        raise error
    return _UNREAD_WHAT


def _why_no_frame(data: bytes, offset: int, seed: int) -> str:
    try:
        decode_frame(data, offset, seed, len(data) - offset)
    except BadFrameError as error:
        return str(error)
    raise AssertionError("a frame that verifies is no gap")
