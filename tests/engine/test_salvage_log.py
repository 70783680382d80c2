"""What salvage tells of a log: every gap with its place in the file and in the log, on stores that are put together."""

from __future__ import annotations

from dataclasses import replace

import pytest

from walstore.engine.salvage import gather
from walstore.engine.scan import Gap
from walstore.engine.segment import Identity, create_segment
from walstore.engine.snapshot import write_snapshot
from walstore.errors import CorruptionError
from walstore.format.codec import JobCodec
from walstore.format.filenames import segment_name, snapshot_name
from walstore.format.frame import encode_frame
from walstore.format.layout import HEADER_BYTES, FileKind, FrameKind, Header, Watermark
from walstore.model.records import JobState
from walstore.testing.sim_fs import SimFileSystem
from walstore.wal import JOBS

pytestmark = pytest.mark.mutation

IDENTITY = Identity(b"s" * 16, JOBS.codec.id, JOBS.reducer.id, b"b" * 16, 1)
SEED = 7
LENGTH = 1024
STATE: JobState = (0, None, None, None, 0, (0,))


def frame_of(job: str) -> bytes:
    return encode_frame(FrameKind.EVENTS, JobCodec().encode_events([(2, f"job.{job}", 1)]), SEED)


FRAME_BYTES = len(frame_of("a"))


class Store:
    """A directory of files that are put together one by one."""

    def __init__(self) -> None:
        self.fs = SimFileSystem()
        self.fs.make_directory("/jobs")

    def segment(
        self,
        lsn: int,
        jobs: str,
        *,
        epoch: int = 1,
        length: int = LENGTH,
        cut: int | None = None,
        follows_lsn: int | None = None,
        identity: Identity = IDENTITY,
    ) -> str:
        """Add a segment with one event for each letter of ``jobs``, cut to ``cut`` bytes; return its name."""
        header = replace(identity, epoch=epoch).header(FileKind.SEGMENT, lsn, length, SEED, follows_lsn=follows_lsn)
        segment = create_segment(self.fs, "/jobs", header)
        for job in jobs:
            segment.appender.write(frame_of(job))
        if cut is not None:
            segment.seal()
            segment.file.truncate(cut)
        segment.file.close()
        return segment_name(lsn, epoch)

    def snapshot(self, lsn: int, jobs: str) -> str:
        """Add a snapshot with one record for each letter of ``jobs``; return its name."""
        name = snapshot_name(lsn)
        file = self.fs.create(f"/jobs/{name}")
        records = [(f"job.{job}", STATE) for job in jobs]
        write_snapshot(file, IDENTITY.header(FileKind.SNAPSHOT, lsn, 0, SEED), JobCodec(), [records])
        file.close()
        return name

    def write(self, name: str, offset: int, data: bytes) -> None:
        file = self.fs.open(f"/jobs/{name}", writable=True)
        file.write(offset, data)
        file.close()

    def salvaged(self) -> tuple[str, list[Gap]]:
        """Return the letters of the jobs that come out, and the gaps."""
        found = gather(self.fs, "/jobs", JOBS)
        return "".join(sorted(key[-1] for key in found.states)), found.gaps


def end_of(jobs: str) -> int:
    """Return where the frames end in a segment with these events."""
    return HEADER_BYTES + len(jobs) * FRAME_BYTES


def lost(name: str | None, what: str, offset: int | None, length: int | None, from_lsn: int, to_lsn: int | None) -> Gap:
    """Return a gap that loses events."""
    path = "/jobs" if name is None else f"/jobs/{name}"
    return Gap(path=path, what=what, loses="events", offset=offset, length=length, from_lsn=from_lsn, to_lsn=to_lsn)


def noted(name: str, what: str, offset: int = 0, length: int = 0) -> Gap:
    """Return a gap that loses nothing."""
    return Gap(path=f"/jobs/{name}", what=what, loses="nothing", offset=offset, length=length)


MISSING = "a part of the log is missing"
SECOND_LSN = end_of("ab")


def two_segments(*, cut: int | None = SECOND_LSN, epoch: int = 1) -> tuple[Store, str, str]:
    store = Store()
    first = store.segment(0, "ab", cut=cut)
    return store, first, store.segment(SECOND_LSN, "cd", epoch=epoch, follows_lsn=0)


@pytest.mark.parametrize("cut", [SECOND_LSN, None])
def test_a_whole_log_has_no_gap_whether_it_is_cut_yet_or_not(cut: int | None) -> None:
    store, _, _ = two_segments(cut=cut)
    assert store.salvaged() == ("abcd", [])


@pytest.mark.parametrize("length", [HEADER_BYTES, HEADER_BYTES + 1, end_of("c"), end_of("cd"), LENGTH - 8, LENGTH + 8])
def test_a_last_segment_of_another_length_than_it_was_made_with_had_a_successor_or_lost_its_end(length: int) -> None:
    store, _, last = two_segments()
    file = store.fs.open(f"/jobs/{last}", writable=True)
    file.allocate(max(length, LENGTH))
    file.truncate(length)
    jobs, gaps = store.salvaged()
    assert jobs == "abcd"[: 2 + (length >= end_of("c")) + (length >= end_of("cd"))]
    assert lost(last, MISSING, length, None, SECOND_LSN + length, None) in gaps
    frames_end = max(end for end in (HEADER_BYTES, end_of("c"), end_of("cd")) if end <= length)
    assert [(gap.offset, gap.is_damage) for gap in gaps if gap.what != MISSING] == (
        [(frames_end, False)] if frames_end < length else []
    )


def test_what_is_missing_between_two_segments_is_told_by_where_the_second_begins() -> None:
    store = Store()
    first = store.segment(0, "ab", cut=end_of("ab"))
    store.segment(end_of("ab") + 3 * FRAME_BYTES, "c")
    gap = lost(first, MISSING, end_of("ab"), 3 * FRAME_BYTES, end_of("ab"), end_of("ab") + 3 * FRAME_BYTES)
    assert store.salvaged() == ("abc", [gap])


def test_what_is_missing_before_the_first_segment_is_told_of_the_directory() -> None:
    store = Store()
    store.segment(SECOND_LSN, "c")
    assert store.salvaged() == ("c", [lost(None, MISSING, None, SECOND_LSN, 0, SECOND_LSN)])


def test_what_a_snapshot_covers_is_not_missing() -> None:
    store = Store()
    store.snapshot(SECOND_LSN, "ab")
    store.segment(SECOND_LSN, "c")
    assert store.salvaged() == ("abc", [])
    store = Store()
    store.snapshot(SECOND_LSN, "ab")
    assert store.salvaged() == ("ab", [lost(None, MISSING, None, None, SECOND_LSN, None)])
    store = Store()
    store.snapshot(SECOND_LSN, "ab")
    store.segment(SECOND_LSN + 8, "c")
    assert store.salvaged() == ("abc", [lost(None, MISSING, None, 8, SECOND_LSN, SECOND_LSN + 8)])


@pytest.mark.parametrize("number", [0, 1])
def test_a_segment_whose_header_does_not_verify_is_lost_up_to_the_next_one(number: int) -> None:
    store, *names = two_segments()
    store.write(names[number], 0, b"?")
    jobs, gaps = store.salvaged()
    assert jobs == "cdab"[2 * number :][:2]
    gap = gaps[0]
    assert gap.what
    lsn, length, to_lsn = (0, SECOND_LSN, SECOND_LSN) if number == 0 else (SECOND_LSN, LENGTH, None)
    assert gap == lost(names[number], gap.what, 0, length, lsn, to_lsn)
    assert len(gaps) == 1


def test_of_a_segment_that_a_later_opening_took_over_nothing_is_lost() -> None:
    store = Store()
    old = store.segment(SECOND_LSN, "xy")
    store.segment(0, "ab", cut=SECOND_LSN)
    store.segment(SECOND_LSN, "cd", epoch=2)
    assert store.salvaged() == ("abcd", [])
    store.write(old, 0, b"?")
    assert store.salvaged() == ("abcd", [])


def test_a_segment_of_an_earlier_opening_may_be_of_any_length_up_to_its_own() -> None:
    store, first, second = two_segments(cut=end_of("ab") + 8, epoch=2)
    assert store.salvaged() == ("abcd", [])
    # Of the same opening it may not, and longer than it was made it never is.
    for cut, epoch in ((end_of("ab") + 8, 1), (LENGTH + 8, 1), (LENGTH + 8, 2)):
        store, first, second = two_segments(cut=None, epoch=epoch)
        file = store.fs.open(f"/jobs/{first}", writable=True)
        file.allocate(LENGTH + 8)
        file.truncate(cut)
        what = f"the length is neither {SECOND_LSN}, where {second} begins, nor {LENGTH}, as it was made"
        gap = noted(first, what, SECOND_LSN, cut - SECOND_LSN)
        assert store.salvaged() == ("abcd", [replace(gap, from_lsn=None)])


def test_a_segment_that_begins_in_the_header_of_the_one_before_is_told() -> None:
    store = Store()
    first = store.segment(0, "")
    second = store.segment(HEADER_BYTES - 8, "c")
    what = f"the length is neither {HEADER_BYTES - 8}, where {second} begins, nor {LENGTH}, as it was made"
    gap = noted(first, what, HEADER_BYTES - 8, LENGTH - HEADER_BYTES + 8)
    assert store.salvaged() == ("c", [gap])


def test_a_segment_that_was_made_to_follow_another_one_is_told() -> None:
    store = Store()
    first = store.segment(0, "ab", cut=SECOND_LSN)
    second = store.segment(SECOND_LSN, "cd", follows_lsn=8)
    what = f"it was made to follow the segment at LSN 8, not {first}"
    assert store.salvaged() == ("abcd", [noted(second, what)])


def test_a_file_under_another_name_is_told_and_its_header_counts() -> None:
    store, first, _ = two_segments()
    other = segment_name(8, 1)
    store.fs.rename(f"/jobs/{first}", f"/jobs/{other}")
    what = "the header says LSN 0, the name another; the header counts"
    assert store.salvaged() == ("abcd", [noted(other, what)])


def test_gaps_come_in_the_order_of_the_log_behind_those_that_are_not_in_it() -> None:
    store = Store()
    first = store.segment(0, "abc", cut=end_of("abc"))
    second = store.segment(end_of("abc"), "de", cut=end_of("de"), follows_lsn=8)
    store.segment(end_of("abc") + end_of("de") + 8, "f")
    for name in (second, first):
        store.write(name, HEADER_BYTES + 8, b"\0\0\0\1")
    jobs, gaps = store.salvaged()
    assert jobs == "bcef"
    places = [(gap.path.rpartition("/")[2], gap.loses, gap.from_lsn, gap.to_lsn) for gap in gaps]
    second_lsn = end_of("abc")
    assert places == [
        (second, "nothing", None, None),
        (first, "events", HEADER_BYTES, HEADER_BYTES + FRAME_BYTES),
        (second, "events", second_lsn + HEADER_BYTES, second_lsn + HEADER_BYTES + FRAME_BYTES),
        (second, "events", second_lsn + end_of("de"), second_lsn + end_of("de") + 8),
    ]
    # No watermark is above the two frames, and a power loss may take one and leave the next.
    assert [gap.is_damage for gap in gaps] == [True, False, False, True]


def test_within_one_boot_what_has_frames_behind_it_is_damage_and_what_has_none_is_a_torn_tail() -> None:
    for damaged in range(4):
        store = Store()
        boot = replace(IDENTITY, boot_id=store.fs.boot_id())
        name = store.segment(0, "abcd", identity=boot)
        store.write(name, end_of("abcd"[:damaged]) + 8, b"\0\0\0\1")
        found = gather(store.fs, "/jobs", JOBS)
        assert found.events == 3
        assert [gap.is_damage for gap in found.gaps] == [damaged < 3]


def test_records_of_a_damaged_snapshot_come_where_they_belong_in_the_log() -> None:
    """The log above it goes on from them, and what the log had told before does not count any more."""
    store = Store()
    store.segment(0, "ab", cut=SECOND_LSN)
    store.segment(SECOND_LSN, "b")
    name = store.snapshot(SECOND_LSN, "bc")
    file = store.fs.open(f"/jobs/{name}", writable=True)
    file.truncate(file.size() - 48)
    found = gather(store.fs, "/jobs", JOBS)
    started = {key[-1]: state[2] for key, state in found.states.items()}
    assert started == {"a": 1, "b": 1, "c": None}
    assert [(gap.path, gap.loses) for gap in found.gaps] == [(f"/jobs/{name}", "records")]


@pytest.mark.parametrize("whole", [False, True])
def test_of_two_damaged_snapshots_the_newer_one_counts_and_what_the_older_one_alone_has(whole: bool) -> None:
    """Whether there is a whole one below them or not."""
    store = Store()
    if whole:
        store.snapshot(HEADER_BYTES, "ax")
        store.segment(HEADER_BYTES, "", cut=HEADER_BYTES)
    names = [store.snapshot(SECOND_LSN, "ab"), store.snapshot(2 * SECOND_LSN, "bc")]
    store.segment(2 * SECOND_LSN, "d")
    newer: JobState = (0, 5, None, None, 0, (1, 5))
    file = store.fs.open(f"/jobs/{names[1]}", writable=True)
    file.truncate(0)
    header = IDENTITY.header(FileKind.SNAPSHOT, 2 * SECOND_LSN, 0, SEED)
    write_snapshot(file, header, JobCodec(), [[("job.b", newer), ("job.c", newer)]])
    for name in names:
        damaged = store.fs.open(f"/jobs/{name}", writable=True)
        damaged.truncate(damaged.size() - 48)
    found = gather(store.fs, "/jobs", JOBS)
    assert {key: found.states[key] for key in ("job.a", "job.b", "job.c")} == {
        "job.a": STATE,
        "job.b": newer,
        "job.c": newer,
    }
    assert ("job.x" in found.states) == whole
    assert found.records == 4 + 2 * whole
    assert sorted(gap.path for gap in found.gaps if gap.loses == "records") == [f"/jobs/{name}" for name in names]


def test_a_snapshot_whose_header_does_not_verify_is_lost_whole() -> None:
    store = Store()
    name = store.snapshot(SECOND_LSN, "ab")
    store.segment(SECOND_LSN, "c")
    store.write(name, 0, b"?")
    length = store.fs.open(f"/jobs/{name}").size()
    jobs, gaps = store.salvaged()
    assert jobs == "c"
    assert [(gap.path, gap.loses, gap.offset, gap.length) for gap in gaps] == [(f"/jobs/{name}", "records", 0, length)]


def test_zeros_where_a_frame_was_are_called_that() -> None:
    store = Store()
    name = store.segment(0, "abc")
    store.write(name, end_of("a"), bytes(FRAME_BYTES))
    jobs, (gap,) = store.salvaged()
    assert jobs == "ac"
    assert (gap.what, gap.offset, gap.length) == ("zeros where frames were", end_of("a"), FRAME_BYTES)


def test_a_frame_that_verifies_and_holds_something_else_is_a_gap() -> None:
    records = JobCodec().encode_records([("job.x", STATE)])
    for kind, payload, what in (
        (FrameKind.RECORDS, records, "a frame of the kind RECORDS does not belong into the log"),
        (FrameKind.EVENTS, records, "not an event"),
        (FrameKind.WATERMARK, b"short", "a watermark has 16 bytes"),
        (FrameKind.WATERMARK, Watermark(1 << 20).encode(), "a watermark names LSN 1048576, which is ahead of itself"),
    ):
        store = Store()
        name = store.segment(0, "a")
        frame = encode_frame(kind, payload, SEED)
        store.write(name, end_of("a"), frame + frame_of("b"))
        jobs, (gap,) = store.salvaged()
        assert jobs == "ab"
        assert what in gap.what
        assert "a frame that verifies holds what it should not (" in gap.what
        assert (gap.offset, gap.length) == (end_of("a"), len(frame))


def test_nothing_that_verifies_is_no_store_to_keep() -> None:
    store = Store()
    name = store.segment(0, "a")
    header = Header.decode(store.fs.open(f"/jobs/{name}").read(0, HEADER_BYTES))
    assert header.length == LENGTH
    store.write(name, 0, b"?")
    with pytest.raises(CorruptionError, match="nothing to keep"):
        store.salvaged()
