"""The file of a snapshot: what is checked of it, and what is told of one that is damaged."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from walstore.engine.scan import open_part, read_snapshot
from walstore.engine.segment import Identity
from walstore.engine.snapshot import Snapshot, StoredFrame, check_ends, write_snapshot
from walstore.errors import CorruptionError
from walstore.format.codec import JobCodec
from walstore.format.filenames import snapshot_name
from walstore.format.frame import encode_frame, frame_bytes
from walstore.format.index import IndexEntry, Trailer
from walstore.format.layout import HEADER_BYTES, FileKind, FrameKind
from walstore.fs.api import File
from walstore.model.events import EventForm
from walstore.model.records import JobState
from walstore.testing.sim_fs import SimFileSystem
from walstore.wal import JOBS

pytestmark = pytest.mark.mutation

LSN = 4096
IDENTITY = Identity(b"s" * 16, JOBS.codec.id, JOBS.reducer.id, b"b" * 16, 1)
HEADER = IDENTITY.header(FileKind.SNAPSHOT, LSN, 0, 7)
NAME = snapshot_name(LSN)
PATH = f"/jobs/{NAME}"
STATE: JobState = (0, None, None, None, 0, (0,))
TRAILER_BYTES = frame_bytes(len(Trailer(0, 0, 0).encode()))

Keys = Sequence[str]
Told = tuple[int | None, int | None, str, str | None, str | None]
"""Of a gap: where it is, how long, what it loses, and between which keys."""
FRAMES: list[Keys] = [["job.a", "job.b"], ["job.c", "job.d", "job.e"], ["job.f"]]


class SnapshotFile:
    """A snapshot of these frames, each with the keys that are given, whether they are in order or not."""

    def __init__(self, frames: Sequence[Keys] = FRAMES, index: Sequence[tuple[str, int]] | None = None) -> None:
        self.fs = SimFileSystem()
        self.fs.make_directory("/jobs")
        self.file: File = self.fs.create(PATH)
        batches: list[StoredFrame[JobState]] = []
        for keys, (first_id, count) in zip(frames, index or [(keys[0], len(keys)) for keys in frames], strict=True):
            payload = JobCodec().encode_records([(key, STATE) for key in keys])
            batches.append(StoredFrame(IndexEntry(first_id, 0, count), payload, list))
        self.trailer = write_snapshot(self.file, HEADER, JobCodec(), batches)
        self.length = self.file.size()
        self.content = self.file.read(0, self.length)
        entries = self.open().index
        self.starts = [entry.offset for entry in entries]
        self.stops = [*self.starts[1:], self.trailer.index_offset]

    def open(self) -> Snapshot[EventForm, JobState]:
        return Snapshot(self.file, PATH, JobCodec(), JOBS.reducer.id)

    def set(self, content: bytes | bytearray) -> None:
        self.file.truncate(0)
        self.file.write(0, bytes(content))

    def flip(self, offset: int, bit: int = 0) -> None:
        content = bytearray(self.content)
        content[offset] ^= 1 << bit
        self.set(content)


def test_ends_that_were_written_well_are_taken() -> None:
    snapshot = SnapshotFile()
    assert check_ends(snapshot.file, HEADER) == snapshot.length


def test_no_bit_of_the_ends_may_differ() -> None:
    snapshot = SnapshotFile()
    for offset in [*range(HEADER_BYTES), *range(snapshot.trailer.index_offset, snapshot.length)]:
        for bit in range(8):
            snapshot.flip(offset, bit)
            with pytest.raises(ValueError, match=r"header|trailer|index"):
                check_ends(snapshot.file, HEADER)


def test_the_ends_of_a_snapshot_of_another_length_are_refused() -> None:
    snapshot = SnapshotFile()
    for content in [
        *(snapshot.content[:length] for length in range(snapshot.length)),
        snapshot.content + bytes(8),
        snapshot.content + snapshot.content[-TRAILER_BYTES:],
    ]:
        snapshot.set(content)
        with pytest.raises(ValueError, match=r"header|trailer|index"):
            check_ends(snapshot.file, HEADER)


def test_frames_read_back() -> None:
    snapshot = SnapshotFile().open()
    snapshot.check()
    assert [[key for key, _ in snapshot.frame_records(entry)] for entry in snapshot.index] == FRAMES


@pytest.mark.parametrize(
    ("frames", "index", "wrong"),
    [
        # Out of order within a frame, the same twice, and reaching up to the next frame or beyond.
        ([["job.b", "job.a"], ["job.c"]], None, 0),
        ([["job.a", "job.a"], ["job.c"]], None, 0),
        ([["job.a", "job.c"], ["job.c"], ["job.d"]], None, 0),
        ([["job.a", "job.d"], ["job.c"], ["job.e"]], None, 0),
        ([["job.a"], ["job.b", "job.d"], ["job.c", "job.e"]], None, 1),
        ([["job.a"], ["job.c", "job.b"]], None, 1),
        # Not what the index says.
        ([["job.a", "job.b"], ["job.c"]], [("job.a", 1), ("job.c", 1)], 0),
        ([["job.a"], ["job.c"]], [("job.a", 1), ("job.c", 2)], 1),
        ([["job.a", "job.b"], ["job.c"]], [("job.A", 2), ("job.c", 1)], 0),
        ([["job.a"], ["job.c"]], [("job.a", 1), ("job.b", 1)], 1),
    ],
)
def test_a_frame_that_is_not_as_the_index_says_or_not_in_order_is_refused(
    frames: Sequence[Keys], index: Sequence[tuple[str, int]] | None, wrong: int
) -> None:
    snapshot = SnapshotFile(frames, index).open()
    for number, entry in enumerate(snapshot.index):
        if number != wrong:
            assert len(snapshot.frame_records(entry)) == len(frames[number])
            continue
        with pytest.raises(CorruptionError, match="not those that the index says, in order") as caught:
            snapshot.frame_records(entry)
        assert (caught.value.path, caught.value.offset) == (PATH, entry.offset)


def test_something_else_where_the_index_says_records_is_refused() -> None:
    snapshot = SnapshotFile()
    size = snapshot.stops[1] - snapshot.starts[1] - frame_bytes(0)
    content = bytearray(snapshot.content)
    content[snapshot.starts[1] : snapshot.stops[1]] = encode_frame(FrameKind.EVENTS, b"x" * size, HEADER.nonce)
    snapshot.set(content)
    opened = snapshot.open()
    for entry in opened.index:
        if entry.offset != snapshot.starts[1]:
            assert opened.frame_records(entry)
            continue
        what = r"the snapshot does not verify \(the index does not fit the frames of the snapshot\)"
        with pytest.raises(CorruptionError, match=what) as caught:
            opened.frame_records(entry)
        assert caught.value.offset == entry.offset


def gaps_of(snapshot: SnapshotFile) -> tuple[list[str], list[Told], bool]:
    """Return the keys that verify, what is told of each gap, and whether these are all keys."""
    part = open_part(snapshot.fs, "/jobs", NAME, FileKind.SNAPSHOT, LSN, 0, JOBS)
    assert part.trouble == ""
    records, gaps, is_whole = read_snapshot(snapshot.fs, part, JobCodec())
    assert all(gap.path == PATH and gap.what and gap.from_lsn is gap.to_lsn is None and gap.is_damage for gap in gaps)
    told: list[Told] = [(gap.offset, gap.length, gap.loses, gap.after_key, gap.before_key) for gap in gaps]
    return list(records), told, is_whole


def test_a_whole_snapshot_has_no_gap() -> None:
    assert gaps_of(SnapshotFile()) == ([key for keys in FRAMES for key in keys], [], True)


@pytest.mark.parametrize("first", range(len(FRAMES)))
@pytest.mark.parametrize("count", [1, 2, 3])
def test_damaged_frames_are_told_with_the_keys_around_them(first: int, count: int) -> None:
    snapshot = SnapshotFile()
    last = min(first + count, len(FRAMES)) - 1
    content = bytearray(snapshot.content)
    for start in snapshot.starts[first : last + 1]:
        content[start] ^= 1
    snapshot.set(content)
    start, stop = snapshot.starts[first], snapshot.stops[last]
    after = FRAMES[first - 1][-1] if first else None
    before = FRAMES[last + 1][0] if last + 1 < len(FRAMES) else None
    left = [key for number, keys in enumerate(FRAMES) if not first <= number <= last for key in keys]
    assert gaps_of(snapshot) == (left, [(start, stop - start, "records", after, before)], False)


def test_each_of_two_gaps_is_told_with_the_keys_around_it() -> None:
    snapshot = SnapshotFile()
    content = bytearray(snapshot.content)
    content[snapshot.starts[0]] ^= 1
    content[snapshot.starts[2]] ^= 1
    snapshot.set(content)
    sizes = [stop - start for start, stop in zip(snapshot.starts, snapshot.stops, strict=True)]
    told: list[Told] = [
        (snapshot.starts[0], sizes[0], "records", None, "job.c"),
        (snapshot.starts[2], sizes[2], "records", "job.e", None),
    ]
    assert gaps_of(snapshot) == (FRAMES[1], told, False)


def test_a_frame_that_verifies_and_holds_something_else_is_a_gap() -> None:
    snapshot = SnapshotFile([["job.a"], ["job.b"], ["job.c"]])
    content = bytearray(snapshot.content)
    content[snapshot.starts[1] : snapshot.stops[1]] = encode_frame(
        FrameKind.EVENTS, JobCodec().encode_events([(4, "job.b")] * 2), HEADER.nonce
    )
    snapshot.set(content)
    (records, (told,), _), length = gaps_of(snapshot), len(content) - snapshot.length
    assert records == ["job.a", "job.c"]
    assert told == (snapshot.starts[1], snapshot.stops[1] + length - snapshot.starts[1], "records", "job.a", "job.c")
    part = open_part(snapshot.fs, "/jobs", NAME, FileKind.SNAPSHOT, LSN, 0, JOBS)
    (gap,) = read_snapshot(snapshot.fs, part, JobCodec())[1]
    assert gap.what == (
        "a frame that verifies holds what it should not (a frame of the kind EVENTS does not belong into a snapshot)"
    )


def test_damage_of_the_index_loses_no_record_and_that_of_the_trailer_may() -> None:
    snapshot = SnapshotFile()
    keys, index_offset = [key for keys in FRAMES for key in keys], snapshot.trailer.index_offset
    index_bytes = snapshot.length - TRAILER_BYTES - index_offset
    snapshot.flip(index_offset)
    assert gaps_of(snapshot) == (keys, [(index_offset, index_bytes, "nothing", None, None)], True)
    # The index says where the records end, and the trailer does where there is no index.
    snapshot.flip(snapshot.length - TRAILER_BYTES)
    assert gaps_of(snapshot) == (keys, [(snapshot.length - TRAILER_BYTES, None, "nothing", None, None)], True)
    content = bytearray(snapshot.content)
    content[index_offset] ^= 1
    content[snapshot.length - TRAILER_BYTES] ^= 1
    snapshot.set(content)
    assert gaps_of(snapshot) == (keys, [(index_offset, None, "records", "job.f", None)], False)


def test_a_snapshot_that_is_cut_short_tells_from_where() -> None:
    snapshot = SnapshotFile()
    for length in range(HEADER_BYTES, snapshot.length):
        snapshot.set(snapshot.content[:length])
        whole = [number for number, stop in enumerate(snapshot.stops) if stop <= length]
        keys = [key for number in whole for key in FRAMES[number]]
        ends = [HEADER_BYTES, *(snapshot.stops[number] for number in whole), snapshot.length - TRAILER_BYTES]
        end = max(end for end in ends if end <= length)
        is_whole = length >= snapshot.length - TRAILER_BYTES
        told = (end, None, "nothing", None) if is_whole else (end, None, "records", keys[-1] if keys else None)
        assert gaps_of(snapshot) == (keys, [(*told, None)], is_whole), length
