"""Frames: bytes in, frames or "need more" out, and nothing but what was written."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from xxhash import xxh3_64_digest

from walstore.format.frame import (
    BadFrameError,
    Frame,
    NeedMore,
    decode_frame,
    decode_frames,
    encode_frame,
    find_frames,
    frame_bytes,
)
from walstore.format.layout import FRAME_HEADER_BYTES, PAYLOAD_BYTES_MAX, FrameKind

pytestmark = pytest.mark.mutation

SEED = 0xFEDCBA9876543210
# Around every length of padding.
PAYLOADS = [bytes(range(1, length + 1)) for length in range(18)]

kinds = st.sampled_from(FrameKind)
seeds = st.integers(0, 2**64 - 1)
payloads = st.binary(max_size=64) | st.lists(st.sampled_from([b"wl", b"\0", b"\1"]), max_size=40).map(b"".join)


def made_by_hand(length: int, magic: bytes, kind: int, zero: int, rest: bytes) -> bytes:
    body = struct.pack(">I2sBB", length, magic, kind, zero) + rest
    return xxh3_64_digest(body, SEED) + body


def refused(data: bytes, room: int | None = None, seed: int = SEED) -> bool:
    """Whether the bytes, which are all that there is, are taken for no frame."""
    try:
        frame = decode_frame(data, 0, seed, len(data) if room is None else room)
    except BadFrameError:
        return True
    return not isinstance(frame, Frame)


@given(kinds, payloads, seeds, st.integers(0, 4), payloads, st.integers(0, 2**40))
def test_frames_read_back(kind: FrameKind, payload: bytes, seed: int, before: int, behind: bytes, room: int) -> None:
    data = encode_frame(kind, payload, seed)
    assert len(data) == frame_bytes(len(payload))
    assert len(data) % 8 == 0
    offset = 8 * before
    found = decode_frame(bytes(offset) + data + behind, offset, seed, len(data) + room)
    assert found == Frame(kind, payload, offset + len(data))


@given(kinds, payloads, seeds)
def test_the_layout_is_that_of_the_specification(kind: FrameKind, payload: bytes, seed: int) -> None:
    body = struct.pack(">I2sBB", len(payload), b"wl", kind, 0) + payload + bytes(-len(payload) % 8)
    assert encode_frame(kind, payload, seed) == xxh3_64_digest(body, seed) + body


@pytest.mark.parametrize("payload", PAYLOADS, ids=len)
def test_every_flipped_bit_is_refused(payload: bytes) -> None:
    data = encode_frame(FrameKind.EVENTS, payload, SEED)
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        # With other data behind it as well: a longer length must not find anything to fit.
        assert refused(bytes(flipped))
        assert refused(bytes(flipped) + data)


@pytest.mark.parametrize("payload", PAYLOADS, ids=len)
def test_every_shorter_frame_needs_more_or_does_not_fit(payload: bytes) -> None:
    data = encode_frame(FrameKind.RECORDS, payload, SEED)
    for length in range(len(data)):
        wanted = FRAME_HEADER_BYTES if length < FRAME_HEADER_BYTES else len(data)
        assert decode_frame(data[:length], 0, SEED, len(data)) == NeedMore(wanted)
        with pytest.raises(BadFrameError):
            decode_frame(data[:length], 0, SEED, length)
        # Where the file ends earlier than the frame says, it does not fit, even if a buffer has more.
        with pytest.raises(BadFrameError):
            decode_frame(data, 0, SEED, length)


@pytest.mark.parametrize("step", [1, 7, 8, 1000])
def test_frames_fed_in_pieces_are_the_frames_that_were_written(step: int) -> None:
    written = [(kind, payload) for payload in PAYLOADS for kind in FrameKind]
    data = b"".join(encode_frame(kind, payload, SEED) for kind, payload in written)
    found, buffer, position, start = [], b"", 0, 0
    while start < len(data):
        frame = decode_frame(buffer, start - position, SEED, len(data) - start)
        if isinstance(frame, NeedMore):
            assert frame.size > len(buffer) - (start - position)
            end = position + len(buffer)
            buffer += data[end : end + step]
            continue
        found.append((frame.kind, frame.payload))
        start = position + frame.end
        if len(found) % 5 == 0:
            position, buffer = start, buffer[frame.end :]
    assert found == written


def test_the_seed_ties_a_frame_to_its_file() -> None:
    data = encode_frame(FrameKind.EVENTS, b"payload", SEED)
    assert all(refused(data, seed=SEED ^ 1 << bit) for bit in range(64))


@pytest.mark.parametrize("data", [bytes(16), bytes(64), b"\xff" * 64, b"wl" * 32])
def test_zeros_and_other_things_are_no_frame(data: bytes) -> None:
    with pytest.raises(BadFrameError):
        decode_frame(data, 0, 0, len(data))


@pytest.mark.parametrize(
    "data",
    [
        made_by_hand(0, b"wl", 0, 0, b""),
        made_by_hand(0, b"wl", 6, 0, b""),
        made_by_hand(0, b"wl", 255, 0, b""),
        made_by_hand(0, b"wl", 1, 1, b""),
        made_by_hand(0, b"lw", 1, 0, b""),
    ],
)
def test_values_that_no_release_writes_are_refused_even_with_a_good_checksum(data: bytes) -> None:
    with pytest.raises(BadFrameError):
        decode_frame(data, 0, SEED, len(data))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (bytes(15), "no frame fits in the 15 bytes left"),
        (bytes(16), "no frame begins here"),
        (made_by_hand(9, b"wl", 1, 0, b""), "a frame of 9 bytes does not fit in the 16 bytes left"),
        (b"x" + made_by_hand(0, b"wl", 1, 0, b"")[1:], "the checksum of the frame does not match"),
        (made_by_hand(0, b"wl", 6, 0, b""), "a frame of the unknown kind 6"),
    ],
    ids=["too short", "no magic", "too long", "damaged", "unknown"],
)
def test_the_reason_of_a_refusal_is_told(data: bytes, reason: str) -> None:
    with pytest.raises(BadFrameError, match=f"^{reason}$"):
        decode_frame(data, 0, SEED, len(data))


@pytest.mark.parametrize("length", [PAYLOAD_BYTES_MAX + 1, 2**31, 2**32 - 1])
def test_a_length_above_the_maximum_is_refused_before_anything_is_asked_for(length: int) -> None:
    with pytest.raises(BadFrameError, match=str(length)):
        decode_frame(made_by_hand(length, b"wl", 1, 0, b""), 0, SEED, 2**40)


def test_the_longest_payload_reads_back() -> None:
    assert PAYLOAD_BYTES_MAX == 16_777_216
    data = encode_frame(FrameKind.EVENTS, bytes(PAYLOAD_BYTES_MAX), SEED)
    assert decode_frame(data[:FRAME_HEADER_BYTES], 0, SEED, len(data)) == NeedMore(len(data))
    assert decode_frame(data, 0, SEED, len(data)) == Frame(FrameKind.EVENTS, bytes(PAYLOAD_BYTES_MAX), len(data))


@given(st.binary(max_size=80), seeds, st.integers(0, 100))
def test_any_bytes_give_no_frame_and_never_ask_for_more_than_there_is_room(data: bytes, seed: int, room: int) -> None:
    try:
        found = decode_frame(data, 0, seed, room)
    except BadFrameError:
        return
    assert isinstance(found, NeedMore)
    assert len(data) < found.size <= room


@given(st.lists(st.tuples(kinds, payloads, st.integers(0, 3), st.booleans()), max_size=6))
def test_frames_are_found_behind_damage(pieces: list[tuple[FrameKind, bytes, int, bool]]) -> None:
    data, expected = b"", []
    for kind, payload, gap, damaged in pieces:
        data += b"\0damaged"[: 8 * bool(gap)] * gap
        frame = encode_frame(kind, payload, SEED)
        if damaged:
            frame = frame[:8] + bytes([frame[8] ^ 0x80]) + frame[9:]
        data += frame
        if not damaged:
            expected.append(Frame(kind, payload, len(data)))
    assert list(find_frames(data, SEED)) == expected


@pytest.mark.parametrize("shift", range(8))
def test_only_aligned_frames_are_found(shift: int) -> None:
    data = bytes(shift) + encode_frame(FrameKind.EVENTS, b"payload", SEED) + bytes(8)
    assert len(list(find_frames(data, SEED))) == (shift == 0)


def test_a_frame_within_the_payload_of_another_is_part_of_that_one() -> None:
    inner = encode_frame(FrameKind.EVENTS, b"inner", SEED)
    outer = encode_frame(FrameKind.RECORDS, inner, SEED)
    assert [frame.kind for frame in find_frames(outer, SEED)] == [FrameKind.RECORDS]
    # Once the outer one is damaged, nothing tells the inner one from a frame of the log.
    assert [frame.payload for frame in find_frames(b"?" + outer[1:], SEED)] == [b"inner"]


def one_by_one(data: bytes, offset: int) -> list[Frame]:
    frames: list[Frame] = []
    while True:
        try:
            frame = decode_frame(data, offset, SEED, len(data) - offset)
        except BadFrameError:
            return frames
        if not isinstance(frame, Frame):
            return frames
        frames.append(frame)
        offset = frame.end


@given(st.lists(st.tuples(kinds, payloads), max_size=6), st.integers(0, 2), st.data())
def test_frames_are_decoded_together_as_one_by_one(
    written: list[tuple[FrameKind, bytes]], before: int, draw: st.DataObject
) -> None:
    offset = 8 * before
    data = bytearray(bytes(offset) + b"".join(encode_frame(kind, payload, SEED) for kind, payload in written))
    whole = decode_frames(bytes(data), offset, SEED)
    assert [(frame.kind, frame.payload) for frame in whole] == written
    assert whole == one_by_one(bytes(data), offset)
    if draw.draw(st.booleans()) and len(data) > offset:
        data[draw.draw(st.integers(offset, len(data) - 1))] ^= 1 << draw.draw(st.integers(0, 7))
    cut = bytes(data[: draw.draw(st.integers(0, len(data)))])
    assert decode_frames(cut, offset, SEED) == one_by_one(cut, offset)


@pytest.mark.parametrize("kind", [0, 6, 255])
def test_frames_decoded_together_end_before_an_unknown_kind(kind: int) -> None:
    frame = encode_frame(FrameKind.EVENTS, b"payload", SEED)
    data = frame + made_by_hand(7, b"wl", kind, 0, b"payload\0") + frame
    assert [found.end for found in decode_frames(data, 0, SEED)] == [len(frame)]
