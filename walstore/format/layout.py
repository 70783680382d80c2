"""The constants of the format and the header that every file begins with. ``docs/format.md`` is the specification."""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Final

from xxhash import xxh3_64_intdigest

__all__ = [
    "ALIGNMENT_BYTES",
    "CHECKSUM_BYTES",
    "FORMAT_VERSION",
    "FRAME_HEADER",
    "FRAME_HEADER_BYTES",
    "FRAME_MAGIC",
    "HEADER_BYTES",
    "PAYLOAD_BYTES_MAX",
    "SEGMENT_RESERVE_BYTES",
    "BadHeaderError",
    "FileKind",
    "FrameKind",
    "Header",
    "NewerVersionError",
    "Watermark",
]

FORMAT_VERSION: Final = 1

HEADER: Final = struct.Struct(">8sHHHH16s8s8sQQQQ16sQ")
HEADER_BYTES: Final = HEADER.size
_VERSION: Final = struct.Struct(">8sHH")
_MAGIC: Final = b"WALSTORE"

FRAME_HEADER: Final = struct.Struct(">8sI2sBB")
FRAME_HEADER_BYTES: Final = FRAME_HEADER.size
FRAME_MAGIC: Final = b"wl"
CHECKSUM_BYTES: Final = 8
ALIGNMENT_BYTES: Final = 8
PAYLOAD_BYTES_MAX: Final = 1 << 24
_NUMBER_MAX: Final = 2**63 - 1
"""The highest LSN, epoch and length: what follows the last one that a header may hold still has 64 bits."""

SEGMENT_RESERVE_BYTES: Final = 256
"""Kept free at the end of every segment: a full one must not look like the last, and watermarks must always fit."""

_FOLLOWS: Final = 1
_WATERMARK: Final = struct.Struct(">QQ")
_CLEAN: Final = 1


class BadHeaderError(ValueError):
    """The bytes are no header of a store's file."""


class NewerVersionError(ValueError):
    """The header is that of a newer format, whose number is ``version``."""

    def __init__(self, version: int) -> None:
        super().__init__(f"format version {version}")
        self.version = version


class FileKind(IntEnum):
    """What a file holds."""

    SEGMENT = 1
    SNAPSHOT = 2


class FrameKind(IntEnum):
    """What a frame holds."""

    EVENTS = 1
    WATERMARK = 2
    RECORDS = 3
    INDEX = 4
    TRAILER = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """The header of a segment or a snapshot.

    That of a segment which was made ready before it was known where it begins says where the one before it begins
    instead (``follows_lsn``); its own LSN is in the name of its file.
    """

    kind: FileKind
    store_id: bytes
    codec_id: str
    reducer_id: str
    lsn: int
    epoch: int
    length: int
    nonce: int
    boot_id: bytes
    follows_lsn: int | None = None

    def encode(self) -> bytes:
        """Return the bytes of the header."""
        body = HEADER.pack(
            _MAGIC,
            FORMAT_VERSION,
            FORMAT_VERSION ^ 0xFFFF,
            self.kind,
            0 if self.follows_lsn is None else _FOLLOWS,
            self.store_id,
            self.codec_id.encode("ascii"),
            self.reducer_id.encode("ascii"),
            self.lsn if self.follows_lsn is None else self.follows_lsn,
            self.epoch,
            self.length,
            self.nonce,
            self.boot_id,
            0,
        )[:-8]
        return body + xxh3_64_intdigest(body).to_bytes(8, "big")

    def named(self, lsn: int) -> Header:
        """Return the header with the LSN that the name of its file says, where it leaves that to the name."""
        return self if self.follows_lsn is None else replace(self, lsn=lsn)

    @classmethod
    def decode(cls, data: bytes) -> Header:
        """Read a header. Raises ``NewerVersionError``, or ``BadHeaderError`` that says what is wrong.

        Where it leaves its LSN to the name of the file, ``lsn`` is that of the segment before: see ``named``.
        """
        if len(data) < _VERSION.size:
            raise BadHeaderError("the header is cut short")
        magic, version, inverted = _VERSION.unpack_from(data)
        if magic != _MAGIC:
            raise BadHeaderError("the file does not begin with the magic of a store's file")
        if version ^ inverted != 0xFFFF:
            raise BadHeaderError("the format version is damaged")
        if version > FORMAT_VERSION:
            raise NewerVersionError(version)
        if len(data) < HEADER_BYTES:
            raise BadHeaderError("the header is cut short")
        _, _, _, kind, flags, store_id, codec, reducer, lsn, epoch, length, nonce, boot_id, checksum = (
            HEADER.unpack_from(data)
        )
        if xxh3_64_intdigest(data[: HEADER_BYTES - 8]) != checksum:
            raise BadHeaderError("the checksum of the header does not match")
        # The checksum holds, so what follows can only be wrong in a header that was made by hand.
        kinds = (FileKind.SEGMENT, FileKind.SNAPSHOT)
        known_flags = _FOLLOWS if kind == FileKind.SEGMENT else 0
        if version == 0 or flags & ~known_flags or kind not in kinds or max(lsn, epoch, length) > _NUMBER_MAX:
            raise BadHeaderError("the header holds values that no release has written")
        try:
            codec_id, reducer_id = (name.rstrip(b"\0").decode("ascii") for name in (codec, reducer))
        except UnicodeDecodeError as error:
            raise BadHeaderError("the codec or reducer id is not ASCII") from error
        return cls(
            kind=FileKind(kind),
            store_id=store_id,
            codec_id=codec_id,
            reducer_id=reducer_id,
            lsn=lsn,
            epoch=epoch,
            length=length,
            nonce=nonce,
            boot_id=boot_id,
            follows_lsn=lsn if flags & _FOLLOWS else None,
        )


@dataclass(frozen=True, slots=True)
class Watermark:
    """The payload of a watermark frame: the log was on the device up to ``lsn``; ``clean`` marks a clean close."""

    lsn: int
    clean: bool = False

    def encode(self) -> bytes:
        """Return the payload."""
        return _WATERMARK.pack(self.lsn, _CLEAN if self.clean else 0)

    @classmethod
    def decode(cls, payload: bytes) -> Watermark:
        """Read a payload. Raises ``ValueError`` when it is none."""
        if len(payload) != _WATERMARK.size:
            raise ValueError("a watermark has 16 bytes")
        lsn, flags = _WATERMARK.unpack(payload)
        if flags & ~_CLEAN:
            raise ValueError(f"a watermark has flags that this release does not know: {flags:#x}")
        return cls(lsn, clean=bool(flags & _CLEAN))
