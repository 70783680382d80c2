"""The writer's part of recovery: nothing that only reads back well is trusted, and nothing is cut that is not kept."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from walstore.engine.environment import EventT, StateT
from walstore.engine.recovery import LogEnd
from walstore.engine.segment import FrameReader, Identity, Segment, create_segment, segment_length
from walstore.engine.survey import Files, Link
from walstore.errors import CorruptionError
from walstore.format.filenames import temporary_name, torn_name
from walstore.format.frame import encode_frame, frame_bytes
from walstore.format.layout import HEADER_BYTES, FileKind, FrameKind, Watermark
from walstore.fs.api import File, FileSystem
from walstore.fs.atomic import create_atomically

__all__ = ["keep_torn_tail", "reframe", "remove_leftovers"]

_COPY_BYTES: Final = 256 * 1024


def keep_torn_tail(fs: FileSystem, directory: str, end: LogEnd, epoch: int) -> str | None:
    """Copy the torn tail to a file beside the log and return its path; None where there is none."""
    if not end.torn_bytes:
        return None

    def fill(file: File) -> None:
        position = 0
        for link, start, stop in end.torn:
            for offset in range(start, stop, _COPY_BYTES):
                piece = link.file.read(offset, min(_COPY_BYTES, stop - offset))
                file.write(position, piece)
                position += len(piece)

    name = torn_name(end.end_lsn, epoch)
    create_atomically(fs, directory, name, temporary_name(name), fill).close()
    return f"{directory}/{name}"


def reframe(
    fs: FileSystem,
    directory: str,
    files: Files[EventT, StateT],
    end: LogEnd,
    identity: Identity,
    nonce: int,
    length: int,
) -> Segment:
    """Write all events above the watermark into a new segment that begins there, durably, and return it.

    They read back well, but that may be nothing but the page cache of a sync that failed, which the next sync would not
    write again. Frames that are written anew are.
    """

    def fill(file: File) -> int:
        position = HEADER_BYTES
        for payload in _events_above(files.chain, end):
            frame = encode_frame(FrameKind.EVENTS, payload, nonce)
            file.write(position, frame)
            position += len(frame)
        # True once the segment has its name, since it is synced before.
        mark = Watermark(end.watermark_lsn + position).encode()
        file.write(position, encode_frame(FrameKind.WATERMARK, mark, nonce))
        return position + frame_bytes(len(mark))

    needed = end.end_lsn - end.watermark_lsn + frame_bytes(len(Watermark(0).encode()))
    header = identity.header(FileKind.SEGMENT, end.watermark_lsn, segment_length(length, needed), nonce)
    return create_segment(fs, directory, header, fill)


def remove_leftovers(fs: FileSystem, directory: str, files: Files[EventT, StateT], end: LogEnd) -> None:
    """Remove the files that count no more, and cut what is left of the log where it ended.

    Not at the watermark, where the new segment takes over: a reader may be on its way through what lies between. Being
    shorter than its header says is what tells of a successor, so a segment that is so already stays as it is.
    """
    gone = list(files.stale)
    for link in files.chain:
        if link.base_lsn >= end.watermark_lsn:
            gone.append(link.name)
        elif link.length == link.header.length:
            _cut(fs, link, min(link.end, end.end_lsn - link.base_lsn))
    for name in gone:
        fs.unlink(f"{directory}/{name}")
    if gone:
        fs.sync_directory(directory)


def _cut(fs: FileSystem, link: Link, end: int) -> None:
    file = fs.open(link.path, writable=True)
    try:
        file.truncate(end)
        file.sync()
    finally:
        file.close()


def _events_above(chain: list[Link], end: LogEnd) -> Iterator[bytes]:
    for link in chain:
        start = max(HEADER_BYTES, end.watermark_lsn - link.base_lsn)
        stop = min(link.end, end.end_lsn - link.base_lsn)
        if start >= stop:
            continue
        reader = FrameReader(link.file, link.header.nonce, start, stop)
        for _, frame in reader:
            if frame.kind is FrameKind.EVENTS:
                yield frame.payload
        if reader.trouble is not None:
            # It verified a moment ago, or the watermark does not point at the start of a frame.
            raise CorruptionError(
                f"the log can't be read again above its watermark ({reader.trouble})",
                path=link.path,
                offset=reader.position,
                lsn=link.base_lsn + reader.position,
            )
