"""One file of the log: creating it, reading its frames, sealing it."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from walstore.errors import CorruptionError, NewerFormatError, StoreNotFoundError
from walstore.format.filenames import segment_name, temporary_name
from walstore.format.frame import BadFrameError, Frame, NeedMore, decode_frame, decode_frames
from walstore.format.layout import (
    ALIGNMENT_BYTES,
    FRAME_HEADER_BYTES,
    HEADER_BYTES,
    SEGMENT_RESERVE_BYTES,
    BadHeaderError,
    FileKind,
    Header,
    NewerVersionError,
)
from walstore.fs.api import Appender, File, FileSystem
from walstore.fs.atomic import create_atomically

__all__ = [
    "FrameReader",
    "Identity",
    "Segment",
    "create_segment",
    "is_zero",
    "last_nonzero",
    "read_header",
    "segment_length",
]

_CHUNK_BYTES: Final = 256 * 1024


@dataclass(frozen=True, slots=True)
class Identity:
    """What the headers of all files of one opening have in common."""

    store_id: bytes
    codec_id: str
    reducer_id: str
    boot_id: bytes
    epoch: int

    def header(self, kind: FileKind, lsn: int, length: int, nonce: int, *, follows_lsn: int | None = None) -> Header:
        """Return the header of a new file."""
        return Header(
            kind=kind,
            store_id=self.store_id,
            codec_id=self.codec_id,
            reducer_id=self.reducer_id,
            lsn=lsn,
            epoch=self.epoch,
            length=length,
            nonce=nonce,
            boot_id=self.boot_id,
            follows_lsn=follows_lsn,
        )


class Segment:
    """The segment that is being written."""

    def __init__(self, file: File, path: str, header: Header, appender: Appender) -> None:
        self.file = file
        self.path = path
        self.base_lsn = header.lsn
        self.seed = header.nonce
        self.appender = appender
        self.sealing = False
        self._sealed_from = 0
        self.end = 0
        """Where its frames end; only known once ``seal`` has returned."""

    def block(self) -> None:
        """Let no further write succeed. Any thread may call this, again as well."""
        if not self.sealing:
            # Set before the position moves, so that nobody takes the moved position for the end of the log.
            self.sealing = True
            self._sealed_from = self.appender.seal()

    def seal(self) -> None:
        """Let no further write succeed, and find out where the frames end. For the keeper; repeating it is fine.

        Raises ``OSError`` when the file can't be read; it can be called again then.
        """
        if self.end:
            return
        self.block()
        if is_zero(self.file, self._sealed_from, self._sealed_from + FRAME_HEADER_BYTES):
            # As nearly always. Every caller waits for this, and taking frames apart takes a third of a rotation.
            self.end = self._sealed_from
            return
        reader = FrameReader(self.file, self.seed, self._sealed_from, self.file.size())
        for _ in reader:
            """A write that raced with the seal lies behind the position that seal() saw."""
        self.end = reader.position

    def write_behind_seal(self, frame: bytes) -> None:
        """Write a frame into the reserve of a sealed segment, for which there is no successor yet. For the keeper."""
        length = self.file.size()
        if self.end + len(frame) > length:
            raise OSError(errno.ENOSPC, "The reserve of the segment is used up", self.path)
        if not is_zero(self.file, self.end, length):
            # What a write left that failed half-way; behind the end of the log it would be taken for damage.
            self.file.write(self.end, bytes(length - self.end))
        self.file.write(self.end, frame)
        self.end += len(frame)


def create_segment(
    fs: FileSystem, directory: str, header: Header, fill: Callable[[File], int] = lambda _: HEADER_BYTES
) -> Segment:
    """Create a segment durably. ``fill`` writes its first frames and returns where they end. Raises ``OSError``."""
    start = HEADER_BYTES

    def fill_file(file: File) -> None:
        nonlocal start
        file.allocate(header.length)
        file.write(0, header.encode())
        start = fill(file)

    name = segment_name(header.lsn, header.epoch)
    file = create_atomically(fs, directory, name, temporary_name(name), fill_file)
    try:
        appender = file.appender(start, header.length - SEGMENT_RESERVE_BYTES)
    except BaseException:
        # It can't be mapped. Left behind, it would overlap the segment that is created here later.
        file.close()
        fs.unlink(f"{directory}/{name}")
        fs.sync_directory(directory)
        raise
    return Segment(file, f"{directory}/{name}", header, appender)


def segment_length(wanted_bytes: int, frames_bytes: int) -> int:
    """Return the length of a segment of about ``wanted_bytes`` that has room for ``frames_bytes`` of frames."""
    length = max(wanted_bytes, HEADER_BYTES + frames_bytes + SEGMENT_RESERVE_BYTES)
    return length + -length % ALIGNMENT_BYTES


def read_header(file: File, path: str, kind: FileKind, codec_id: str, reducer_id: str) -> Header:
    """Read and check the header of a file.

    Raises ``NewerFormatError``, ``CorruptionError`` when it is damaged or of the wrong kind, and
    ``StoreNotFoundError`` when the store belongs to another codec or reducer.
    """
    try:
        header = Header.decode(file.read(0, HEADER_BYTES))
    except NewerVersionError as error:
        raise NewerFormatError(
            f"{path} has format version {error.version}, which this release can't read: open the store with the "
            "release that wrote it, or a later one"
        ) from error
    except BadHeaderError as error:
        raise CorruptionError(str(error), path=path, offset=0) from error
    if header.kind != kind:
        raise CorruptionError(
            f"a {header.kind.name.lower()} under the name of a {kind.name.lower()}", path=path, offset=0
        )
    if (header.codec_id, header.reducer_id) != (codec_id, reducer_id):
        raise StoreNotFoundError(
            f"{path} belongs to a store of {header.codec_id!r} records (reducer {header.reducer_id!r}), not of "
            f"{codec_id!r} ({reducer_id!r}): open it with what wrote it"
        )
    return header


class FrameReader:
    """Iterates over the frames of a file from ``start`` to ``end``, giving the offset of each.

    Stops at the first place that is no frame. Then ``position`` is that place and ``trouble`` says what is wrong there;
    ``trouble`` is None where the frames end exactly at ``end``. Reads in pieces: the memory follows the longest frame.
    """

    def __init__(self, file: File, seed: int, start: int, end: int) -> None:
        self._file = file
        self._seed = seed
        self._end = end
        self.position = start
        self.trouble: str | None = None

    def __iter__(self) -> Iterator[tuple[int, Frame]]:
        data, data_start, wanted = b"", self.position, _CHUNK_BYTES
        while self.position < self._end:
            for frame in decode_frames(data, self.position - data_start, self._seed):
                offset, self.position = self.position, data_start + frame.end
                yield offset, frame
            if self.position == self._end:
                return
            try:
                frame_or_more = decode_frame(data, self.position - data_start, self._seed, self._end - self.position)
            except BadFrameError as error:
                self.trouble = str(error)
                return
            if isinstance(frame_or_more, NeedMore):
                needed = frame_or_more.size
                wanted = min(max(needed, _CHUNK_BYTES), self._end - self.position)
                data_start, data = self.position, self._file.read(self.position, wanted)
                if len(data) < min(needed, wanted):
                    self.trouble = "the file ends within a frame"
                    return


def is_zero(file: File, start: int, end: int) -> bool:
    """Whether all bytes of a file from ``start`` to ``end`` are zero."""
    return last_nonzero(file, start, end) == start


def last_nonzero(file: File, start: int, end: int) -> int:
    """Return the offset behind the last byte between ``start`` and ``end`` that is not zero, or ``start``."""
    last = start
    for offset in range(start, end, _CHUNK_BYTES):
        piece = file.read(offset, min(_CHUNK_BYTES, end - offset)).rstrip(b"\0")
        if piece:
            last = offset + len(piece)
    return last
