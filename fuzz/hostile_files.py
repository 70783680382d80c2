"""The files of a store as one string of bytes, and mutations of them that keep their checksums right.

Whatever is changed at random in a file of a store fails its first checksum, and no fuzzer would get behind it. So files
are taken apart into header and frames, changed, and put together with the checksums that fit.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

import msgpack

from walstore.format.codec import JobCodec
from walstore.format.filenames import parse_segment, parse_snapshot, segment_name, snapshot_name
from walstore.format.frame import BadFrameError, Frame, decode_frame, encode_frame
from walstore.format.index import IndexEntry, Trailer, encode_index
from walstore.format.layout import (
    HEADER_BYTES,
    BadHeaderError,
    FileKind,
    FrameKind,
    Header,
    NewerVersionError,
    Watermark,
)

__all__ = ["BOOT_ID", "MutateBytes", "join_files", "mutate_files", "mutate_payload", "mutate_snapshot", "split_files"]

BOOT_ID: Final = b"\xb0" * 16
"""The kernel that is running, so that inputs can be of its time or of another's."""

MutateBytes = Callable[[bytes], bytes]
"""Changes bytes at random: what the fuzzer brings, or a plain one."""

_NUMBERS: Final = [0, 1, 2, 7, 8, 96, 103, 104, 112, 128, 255, 1024, 2**31, 2**32 - 1, 2**32, 2**62, 2**63 - 1, 2**63]
_VALUES: Final[list[object]] = [
    *[
        None,
        True,
        False,
        -1,
        0.0,
        1.5,
        "",
        "x",
        "a.b",
        "a.",
        "é.\U0001f701",
        "x" * 1025,
        "@hourly",
        "0 0 0 29 2 1",
        b"x",
    ],
    *[[], [0], [[0]], [1, 5], [2, 1], [3, "@yearly"], [3, "?"], [4, 1], {}, {"a": 1}, msgpack.Timestamp(1), *_NUMBERS],
]
_NAME_BYTES_MAX: Final = 255


@dataclass(slots=True)
class _Draft:
    """A file taken apart. ``rest`` is what follows the frames."""

    header: Header
    frames: list[tuple[FrameKind, bytes]]
    rest: bytes

    def encode(self) -> bytes:
        """Return the bytes of the file."""
        frames = (encode_frame(kind, payload, self.header.nonce) for kind, payload in self.frames)
        return b"".join([self.header.encode(), *frames, self.rest])


def join_files(files: dict[str, bytes]) -> bytes:
    """Return files by their names as one string."""
    pieces = []
    for name, content in files.items():
        encoded = name.encode()[:_NAME_BYTES_MAX]
        pieces += [bytes([len(encoded)]), encoded, len(content).to_bytes(2, "big"), content]
    return b"".join(pieces)


def split_files(data: bytes) -> dict[str, bytes]:
    """Return the files in any bytes, as far as there are any."""
    files = {}
    while data:
        name, data = data[1 : 1 + data[0]].decode("utf-8", "replace"), data[1 + data[0] :]
        length, data = int.from_bytes(data[:2], "big"), data[2:]
        if name not in {"", ".", ".."} and not {"/", "\0"} & set(name):
            files[name] = data[:length]
        data = data[length:]
    return files


def mutate_files(data: bytes, choice: random.Random, mutate: MutateBytes) -> bytes:
    """Return a store that is a little different."""
    files = split_files(data)
    if not files:
        return mutate(data)
    for _ in range(choice.choice((1, 1, 2, 4))):
        name = choice.choice(list(files))
        what = choice.random()
        if what < 0.1:
            files[_other_name(name, files, choice)] = files[name] if choice.random() < 0.5 else files.pop(name)
        elif what < 0.15 and len(files) > 1:
            del files[name]
        else:
            changed = _mutate_file(files[name], choice, mutate, _known_lsns(files))
            # A name and a header that contradict each other end the reading at once: mostly they go together.
            files[_fitting_name(name, changed) if choice.random() < 0.9 else name] = changed
    return join_files(files)


def mutate_snapshot(data: bytes, choice: random.Random, mutate: MutateBytes) -> bytes:
    """Return a snapshot that is a little different."""
    return _mutate_file(data, choice, mutate, list(_NUMBERS))


def mutate_payload(payload: bytes, choice: random.Random, mutate: MutateBytes) -> bytes:
    """Return a payload that is a little different: one value in its msgpack, or any byte."""
    if choice.random() < 0.5:
        return mutate(payload)
    try:
        content = msgpack.unpackb(payload, strict_map_key=False)
        return msgpack.packb(_replace_value(content, choice))
    except (ValueError, TypeError, OverflowError, msgpack.UnpackException, RecursionError):
        return mutate(payload)


def _replace_value(content: object, choice: random.Random) -> object:
    if not isinstance(content, list) or not content or choice.random() < 0.1:
        if isinstance(content, int) and choice.random() < 0.5:
            return content + choice.choice((-8, -1, 1, 8))
        return choice.choice(_VALUES)
    place = choice.randrange(len(content))
    match choice.randrange(8):
        case 0:
            return [*content[:place], *content[place + 1 :]]
        case 1:
            return [*content[:place], content[place], *content[place:]]
        case 2:
            return [content[place], *content[:place], *content[place + 1 :]]
        case _:
            return [*content[:place], _replace_value(content[place], choice), *content[place + 1 :]]


def _mutate_file(data: bytes, choice: random.Random, mutate: MutateBytes, lsns: list[int]) -> bytes:
    draft = _take_apart(data)
    if draft is None or choice.random() < 0.15:
        return mutate(data)
    if choice.random() < 0.25:
        draft.header = _other_header(draft.header, choice, lsns)
    elif choice.random() < 0.1:
        draft.rest = choice.choice([b"", bytes(len(draft.rest)), mutate(draft.rest), draft.rest + bytes(64)])
    else:
        _mutate_frames(draft.frames, choice, mutate, lsns)
    if draft.header.kind is FileKind.SNAPSHOT:
        if choice.random() < 0.6:
            _index_anew(draft)
    elif choice.random() < 0.8:
        # Frames that grew or shrank are no reason for another length of the file.
        used = len(draft.encode()) - len(draft.rest)
        draft.rest = draft.rest.rstrip(b"\0").ljust(max(0, min(len(data), 0xFFFF) - used), b"\0")
    return draft.encode()


def _mutate_frames(
    frames: list[tuple[FrameKind, bytes]], choice: random.Random, mutate: MutateBytes, lsns: list[int]
) -> None:
    place = choice.randrange(len(frames) + 1)
    kind, payload = frames[place] if place < len(frames) else (choice.choice(list(FrameKind)), b"")
    match choice.randrange(8):
        case 0:
            frames[place : place + 1] = []
        case 1:
            frames.insert(choice.randrange(len(frames) + 1), (kind, payload))
        case 2:
            lsn = choice.choice(lsns) + choice.choice((0, 0, 0, 1, 8))
            mark = Watermark(min(lsn, 2**64 - 1), clean=choice.random() < 0.5)
            frames.insert(place, (FrameKind.WATERMARK, mark.encode()))
        case 3:
            frames[place : place + 1] = [(choice.choice(list(FrameKind)), payload)]
        case _:
            frames[place : place + 1] = [(kind, mutate_payload(payload, choice, mutate))]


def _other_header(header: Header, choice: random.Random, lsns: list[int]) -> Header:
    number = min(
        max(0, choice.choice([*lsns, header.lsn, header.length]) + choice.choice((-8, -1, 0, 0, 1, 8))), 2**64 - 1
    )
    match choice.randrange(8):
        case 0 | 1:
            return replace(header, lsn=number)
        case 2:
            return replace(header, epoch=choice.choice([header.epoch + 1, max(header.epoch, 1) - 1, number]) % 2**64)
        case 3:
            return replace(header, length=number)
        case 4:
            return replace(header, boot_id=choice.choice([BOOT_ID, bytes(16)]))
        case 5:
            return replace(header, store_id=choice.choice([header.boot_id, bytes(16)]))
        case 6:
            return replace(header, codec_id=choice.choice(["", "job/1", "job/2"]))
        case _:
            return replace(header, kind=choice.choice(list(FileKind)))


def _take_apart(data: bytes) -> _Draft | None:
    try:
        header = Header.decode(data)
    except (BadHeaderError, NewerVersionError):
        return None
    draft = _Draft(header, [], b"")
    position = HEADER_BYTES
    for frame in _frames(data, header.nonce):
        draft.frames.append((frame.kind, frame.payload))
        position = frame.end
    draft.rest = data[position:]
    return draft


def _frames(data: bytes, seed: int) -> Iterator[Frame]:
    position = HEADER_BYTES
    while True:
        try:
            frame = decode_frame(data, position, seed, len(data) - position)
        except BadFrameError:
            return
        if not isinstance(frame, Frame):
            return
        yield frame
        position = frame.end


def _index_anew(draft: _Draft) -> None:
    """Give a snapshot the index and the trailer that fit its records."""
    draft.frames = [frame for frame in draft.frames if frame[0] not in {FrameKind.INDEX, FrameKind.TRAILER}]
    entries = []
    position = HEADER_BYTES
    for kind, payload in draft.frames:
        with suppress(ValueError):
            records = JobCodec().decode_records(payload)
            entries.append(IndexEntry(records[0][0] if records else "", position, len(records)))
        position += len(encode_frame(kind, payload, 0))
    trailer = Trailer(position, sum(entry.records for entry in entries), len(entries))
    draft.frames += [(FrameKind.INDEX, encode_index(entries)), (FrameKind.TRAILER, trailer.encode())]
    draft.rest = b""


def _known_lsns(files: dict[str, bytes]) -> list[int]:
    """Return where files and frames begin and end, in the log: what a header or a watermark may well name."""
    lsns = list(_NUMBERS)
    for data in files.values():
        draft = _take_apart(data)
        if draft is not None:
            ends = [frame.end for frame in _frames(data, draft.header.nonce)]
            lsns += [min(draft.header.lsn + offset, 2**64 - 1) for offset in (0, len(data), HEADER_BYTES, *ends)]
    return lsns


def _fitting_name(name: str, data: bytes) -> str:
    draft = _take_apart(data)
    if draft is None:
        return name
    header = draft.header
    return segment_name(header.lsn, header.epoch) if header.kind is FileKind.SEGMENT else snapshot_name(header.lsn)


def _other_name(name: str, files: dict[str, bytes], choice: random.Random) -> str:
    segment, lsn = parse_segment(name), parse_snapshot(name)
    if segment is not None and choice.random() < 0.5:
        return segment_name(segment.base_lsn, segment.epoch + choice.choice((-1, 1)) & 2**64 - 1)
    if lsn is not None and choice.random() < 0.5:
        return snapshot_name(choice.choice([lsn + 8, *_known_lsns(files)]))
    return choice.choice(["LOCK", name + ".tmp", "torn-0000000000000660-00000001.bin", "x", f"{name}~", "spill-0.tmp"])
