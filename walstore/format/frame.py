"""Framing: bytes in, frames or "need more" out. Knows no files and no payloads."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from xxhash import xxh3_64_digest

from walstore.format.layout import (
    ALIGNMENT_BYTES,
    CHECKSUM_BYTES,
    FRAME_HEADER,
    FRAME_HEADER_BYTES,
    FRAME_MAGIC,
    PAYLOAD_BYTES_MAX,
    FrameKind,
)

__all__ = [
    "BadFrameError",
    "Frame",
    "NeedMore",
    "decode_frame",
    "decode_frames",
    "encode_frame",
    "find_frames",
    "frame_body",
    "frame_bytes",
    "seal_body",
]

_MAGIC_OFFSET = 12
_PADDING = tuple(b"\0" * (-length % ALIGNMENT_BYTES) for length in range(ALIGNMENT_BYTES))
_KINDS = {int(kind): kind for kind in FrameKind}
_KIND_BYTES = {kind: FRAME_MAGIC + bytes((kind, 0)) for kind in FrameKind}
_KINDS_BY_BYTES = {encoded: kind for kind, encoded in _KIND_BYTES.items()}
_FRAME_START = struct.Struct(">8sI4s")
_PAYLOAD_OFFSET = FRAME_HEADER_BYTES - CHECKSUM_BYTES


class BadFrameError(ValueError):
    """The bytes are no frame; the message says why."""


class Frame(NamedTuple):
    """A frame that verified. ``end`` is the offset in the given bytes where the next one begins."""

    kind: FrameKind
    payload: bytes
    end: int


class NeedMore(NamedTuple):
    """The bytes end within a frame: at least ``size`` bytes from the frame's start are needed."""

    size: int


def frame_bytes(payload_bytes: int) -> int:
    """Return how many bytes a frame with a payload of this length takes."""
    return FRAME_HEADER_BYTES + payload_bytes + -payload_bytes % ALIGNMENT_BYTES


def encode_frame(kind: FrameKind, payload: bytes, seed: int) -> bytes:
    """Return the bytes of a frame. The payload must not be longer than ``PAYLOAD_BYTES_MAX``."""
    return seal_body(frame_body(kind, payload), seed)


def frame_body(kind: FrameKind, payload: bytes) -> bytes:
    """Return all of a frame but its checksum, which is the only part that depends on where the frame goes."""
    length = len(payload)
    return length.to_bytes(4, "big") + _KIND_BYTES[kind] + payload + _PADDING[length % ALIGNMENT_BYTES]


def seal_body(body: bytes, seed: int) -> bytes:
    """Return the frame with this body, for a file with this seed."""
    return xxh3_64_digest(body, seed) + body


def decode_frame(data: bytes, offset: int, seed: int, room: int) -> Frame | NeedMore:
    """Return the frame at ``offset``, or how many bytes it takes.

    ``room`` is how many bytes from ``offset`` a frame may take at most, known from the length of the file: nothing
    beyond it is ever asked for. Raises ``BadFrameError`` when the bytes are no frame.
    """
    if room < FRAME_HEADER_BYTES:
        raise BadFrameError(f"no frame fits in the {room} bytes left")
    if len(data) - offset < FRAME_HEADER_BYTES:
        return NeedMore(FRAME_HEADER_BYTES)
    checksum, length, magic, kind, zero = FRAME_HEADER.unpack_from(data, offset)
    if magic != FRAME_MAGIC or zero:
        raise BadFrameError("no frame begins here")
    size = frame_bytes(length)
    if length > PAYLOAD_BYTES_MAX or size > room:
        raise BadFrameError(f"a frame of {length} bytes does not fit in the {room} bytes left")
    end = offset + size
    if len(data) < end:
        return NeedMore(size)
    body = data[offset + CHECKSUM_BYTES : end]
    if xxh3_64_digest(body, seed) != checksum:
        raise BadFrameError("the checksum of the frame does not match")
    known = _KINDS.get(kind)
    if known is None:
        raise BadFrameError(f"a frame of the unknown kind {kind}")
    return Frame(known, body[_PAYLOAD_OFFSET : _PAYLOAD_OFFSET + length], end)


def decode_frames(data: bytes, offset: int, seed: int) -> list[Frame]:
    """Return the frames that follow each other from ``offset`` on, up to the first place that is not a whole frame.

    What is there instead is told by ``decode_frame``. For logs of short frames this is much faster.
    """
    frames: list[Frame] = []
    unpack, kinds, new = _FRAME_START.unpack_from, _KINDS_BY_BYTES, tuple.__new__
    last = len(data) - FRAME_HEADER_BYTES
    while offset <= last:
        checksum, length, kind_bytes = unpack(data, offset)
        end = offset + FRAME_HEADER_BYTES + length + -length % ALIGNMENT_BYTES
        kind = kinds.get(kind_bytes)
        if kind is None or end > len(data) or length > PAYLOAD_BYTES_MAX:
            break
        body = data[offset + CHECKSUM_BYTES : end]
        if xxh3_64_digest(body, seed) != checksum:
            break
        # The constructor of a named tuple is a Python function, and takes as long as all the rest.
        frames.append(new(Frame, (kind, body[_PAYLOAD_OFFSET : _PAYLOAD_OFFSET + length], end)))
        offset = end
    return frames


def find_frames(data: bytes, seed: int) -> Iterator[Frame]:
    """Yield every frame in ``data`` that verifies, at any aligned offset: what lies behind a damaged place.

    ``data`` must begin at a multiple of 8 in its file.
    """
    position = data.find(FRAME_MAGIC)
    while position >= 0:
        start = position - _MAGIC_OFFSET
        following = position + 1
        if start >= 0 and start % ALIGNMENT_BYTES == 0:
            try:
                frame = decode_frame(data, start, seed, len(data) - start)
            except BadFrameError:
                frame = None
            if isinstance(frame, Frame):
                yield frame
                following = frame.end
        position = data.find(FRAME_MAGIC, following)
