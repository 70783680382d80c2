"""A segment that is sealed: what still gets in, and the reserve behind its end."""

from __future__ import annotations

import errno

import pytest

from walstore.engine.segment import FrameReader, Identity, Segment, create_segment, is_zero, last_nonzero
from walstore.format.frame import encode_frame
from walstore.format.layout import HEADER_BYTES, SEGMENT_RESERVE_BYTES, FileKind, FrameKind
from walstore.testing.sim_fs import SimFileSystem

pytestmark = pytest.mark.mutation

SEED = 7
LENGTH = 4096
IDENTITY = Identity(b"s" * 16, "codec", "reducer", b"b" * 16, 1)


def frame_of(payload: bytes) -> bytes:
    return encode_frame(FrameKind.EVENTS, payload, SEED)


LEFT = frame_of(b"of sixteen bytes")
"""No padding: up to its last byte it is no frame, whatever was there."""


@pytest.fixture
def segment() -> Segment:
    fs = SimFileSystem()
    fs.make_directory("/log")
    return create_segment(fs, "/log", IDENTITY.header(FileKind.SEGMENT, HEADER_BYTES, LENGTH, SEED))


def frames(segment: Segment) -> list[bytes]:
    """Return the frames of the whole file, in which nothing but zeros may follow them."""
    reader = FrameReader(segment.file, SEED, HEADER_BYTES, segment.file.size())
    payloads = [frame.payload for _, frame in reader]
    assert last_nonzero(segment.file, HEADER_BYTES, segment.file.size()) <= reader.position
    return payloads


def test_a_sealed_segment_takes_no_frame_and_ends_where_its_frames_end(segment: Segment) -> None:
    segment.appender.write(frame_of(b"one"))
    segment.seal()
    with pytest.raises(ValueError, match=r"full|sealed|fit"):
        segment.appender.write(frame_of(b"two"))
    assert segment.end == HEADER_BYTES + len(frame_of(b"one"))
    segment.seal()
    assert frames(segment) == [b"one"]


def test_an_empty_segment_ends_behind_its_header(segment: Segment) -> None:
    segment.seal()
    assert segment.end == HEADER_BYTES
    segment.write_behind_seal(frame_of(b"mark"))
    assert frames(segment) == [b"mark"]


@pytest.mark.parametrize("late", [1, 2])
def test_a_write_that_raced_with_the_seal_is_part_of_the_segment(segment: Segment, late: int) -> None:
    segment.appender.write(frame_of(b"one"))
    position = segment.appender.tell()
    segment.block()
    for _ in range(late):
        segment.file.write(position, frame_of(b"late"))
        position += len(frame_of(b"late"))
    segment.seal()
    assert segment.end == position
    segment.write_behind_seal(frame_of(b"mark"))
    assert frames(segment) == [b"one", *[b"late"] * late, b"mark"]
    assert segment.end == position + len(frame_of(b"mark"))


@pytest.mark.parametrize("mark", [b"m", b"a mark that is longer"])
@pytest.mark.parametrize("left", range(1, len(LEFT)))
def test_what_a_write_left_half_way_gives_way_to_the_mark(segment: Segment, left: int, mark: bytes) -> None:
    segment.appender.write(frame_of(b"one"))
    position = segment.appender.tell()
    segment.block()
    segment.file.write(position, LEFT[:left])
    segment.seal()
    assert segment.end == position
    segment.write_behind_seal(frame_of(mark))
    assert frames(segment) == [b"one", mark]
    assert segment.file.size() == LENGTH


def test_the_reserve_holds_marks_up_to_its_last_byte_and_says_when_it_is_used_up(segment: Segment) -> None:
    room_bytes = LENGTH - SEGMENT_RESERVE_BYTES - HEADER_BYTES
    segment.appender.write(frame_of(bytes([1]) * (room_bytes - len(frame_of(b"")))))
    segment.seal()
    assert segment.end == LENGTH - SEGMENT_RESERVE_BYTES
    size = len(frame_of(b"sixteen bytes ok"))
    marks = 0
    while segment.end + size <= LENGTH:
        segment.write_behind_seal(frame_of(b"sixteen bytes ok"))
        marks += 1
    rest = LENGTH - segment.end
    assert len(frames(segment)) == 1 + marks
    with pytest.raises(OSError, match="The reserve of the segment is used up") as caught:
        segment.write_behind_seal(frame_of(bytes([1]) * (rest + 1)))
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, segment.path)
    assert len(frames(segment)) == 1 + marks
    assert segment.file.size() == LENGTH


def test_a_mark_that_just_fits_fits(segment: Segment) -> None:
    segment.seal()
    segment.end = LENGTH - len(frame_of(b"mark"))
    segment.write_behind_seal(frame_of(b"mark"))
    assert (segment.end, segment.file.size()) == (LENGTH, LENGTH)


@pytest.mark.parametrize("left", range(1, len(LEFT)))
def test_a_file_that_ends_within_a_frame_says_so(segment: Segment, left: int) -> None:
    segment.appender.write(frame_of(b"one"))
    position = segment.appender.tell()
    segment.seal()
    segment.file.truncate(position)
    segment.file.write(position, LEFT[:left])
    # A reader that was told a length that the file has no more, and one that knows better.
    for end, trouble in ((LENGTH, "the file ends within a frame"), (position + left, f" in the {left} bytes left")):
        reader = FrameReader(segment.file, SEED, HEADER_BYTES, end)
        assert [frame.payload for _, frame in reader] == [b"one"]
        assert reader.position == position
        assert trouble in str(reader.trouble)


def test_only_zeros_are_zero(segment: Segment) -> None:
    start, end = LENGTH - 64, LENGTH
    for value in range(256):
        for offset in (start, start + 1, end - 1):
            segment.file.write(start, bytes(end - start))
            segment.file.write(offset, bytes([value]))
            assert last_nonzero(segment.file, start, end) == (offset + 1 if value else start)
            assert is_zero(segment.file, start, end) == (value == 0)
