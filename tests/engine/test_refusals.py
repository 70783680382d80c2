"""What is told of a store that is refused: what is wrong, in which file, where in it, and where in the log. And what
becomes of one that is not: where its torn tail goes.

The stores are made by hand, frame by frame, so that each is wrong in one respect only and every checksum fits.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Sequence
from itertools import count

import pytest

from walstore import WalPersistence
from walstore.engine.environment import Environment
from walstore.engine.recovery import Situation
from walstore.errors import CorruptionError, NewerFormatError, StoreNotFoundError
from walstore.format.codec import JobCodec
from walstore.format.filenames import segment_name, snapshot_name, torn_name
from walstore.format.frame import encode_frame, frame_bytes
from walstore.format.index import IndexEntry, Trailer, encode_index
from walstore.format.layout import HEADER_BYTES, FileKind, FrameKind, Header, Watermark
from walstore.model.records import JobState
from walstore.testing.sim_fs import SimFileSystem

pytestmark = pytest.mark.mutation

Frames = Sequence[tuple[FrameKind, bytes]]
Files = dict[str, bytes]

LENGTH = 1024
BOOT_ID = SimFileSystem(0).boot_id()
CODEC = JobCodec()
EVENT = (FrameKind.EVENTS, CODEC.encode_events([(2, "a.b", 5)]))
EVENT_BYTES = len(encode_frame(*EVENT, 0))
MARK_BYTES = len(encode_frame(FrameKind.WATERMARK, Watermark(0).encode(), 0))
STATE: JobState = (0, None, None, None, 0, (0,))
FIRST = segment_name(0, 1)


def mark(lsn: int, *, clean: bool = False) -> tuple[FrameKind, bytes]:
    return FrameKind.WATERMARK, Watermark(lsn, clean=clean).encode()


def header(
    kind: FileKind,
    lsn: int,
    *,
    epoch: int = 1,
    length: int = LENGTH,
    store: bytes = b"s" * 16,
    codec: str = "job/1",
    boot_id: bytes = BOOT_ID,
) -> Header:
    return Header(
        kind=kind,
        store_id=store,
        codec_id=codec,
        reducer_id="job/1",
        lsn=lsn,
        epoch=epoch,
        length=length,
        nonce=lsn + epoch,
        boot_id=boot_id,
    )


def written(head: Header, frames: Frames) -> bytes:
    return head.encode() + b"".join(encode_frame(kind, payload, head.nonce) for kind, payload in frames)


def segment(
    frames: Frames = (EVENT,),
    lsn: int = 0,
    *,
    size: int = LENGTH,
    epoch: int = 1,
    length: int = LENGTH,
    store: bytes = b"s" * 16,
    boot_id: bytes = BOOT_ID,
) -> Files:
    """Return a segment by its name, filled up with zeros or cut to ``size``."""
    data = written(header(FileKind.SEGMENT, lsn, epoch=epoch, length=length, store=store, boot_id=boot_id), frames)
    return {segment_name(lsn, epoch): data.ljust(size, b"\0")[:size]}


RECORDS = (FrameKind.RECORDS, CODEC.encode_records([("a.b", STATE), ("a.c", STATE)]))
MORE = (FrameKind.RECORDS, CODEC.encode_records([("b.a", STATE)]))
MORE_AT = HEADER_BYTES + len(encode_frame(*RECORDS, 0))
INDEX_AT = MORE_AT + len(encode_frame(*MORE, 0))
ENTRIES = [IndexEntry("a.b", HEADER_BYTES, 2), IndexEntry("b.a", MORE_AT, 1)]
TRAILER = (FrameKind.TRAILER, Trailer(INDEX_AT, 3, 2).encode())


def index(*entries: IndexEntry) -> tuple[FrameKind, bytes]:
    return FrameKind.INDEX, encode_index(entries or ENTRIES)


TRAILER_AT = INDEX_AT + len(encode_frame(*index(), 0))
SNAPSHOT = snapshot_name(512)


def snapshot(frames: Frames) -> Files:
    """Return a snapshot of everything below LSN 512, and the segment that begins there."""
    return {SNAPSHOT: written(header(FileKind.SNAPSHOT, 512, length=0), frames), **segment(lsn=512)}


def opened(files: Files, *, read_only: bool, fs: SimFileSystem | None = None) -> WalPersistence:
    fs = fs if fs is not None else SimFileSystem(0)
    fs.make_directory("/jobs")
    for name, content in files.items():
        file = fs.create(f"/jobs/{name}")
        file.write(0, content)
        file.close()
    before = sorted(fs.list_directory("/jobs"))
    numbers = count(1)
    environment = Environment(
        fs=fs,
        random_bytes=lambda size: next(numbers).to_bytes(size, "big"),
        monotonic_ns=lambda: 0,
        wall_ns=lambda: 0,
        holder=dict,
        threads=False,
    )
    try:
        return WalPersistence("/jobs", read_only=read_only, environment=environment)
    except Exception:
        assert [name for name in sorted(fs.list_directory("/jobs")) if name != "LOCK"] == before
        raise


def damaged(files: Files, name: str, offset: int) -> Files:
    """Return the files with one byte changed."""
    data = bytearray(files[name])
    data[offset] ^= 0x55
    return {**files, name: bytes(data)}


AFTER_EVENT = HEADER_BYTES + EVENT_BYTES

LOG: dict[str, tuple[Files, str, str, int | None, int | None]] = {
    "a damaged header": (damaged(segment(), FIRST, 20), "the checksum of the header does not match", FIRST, 0, None),
    "another kind of file": (
        {FIRST: written(header(FileKind.SNAPSHOT, 0), [])},
        "a snapshot under the name of a segment",
        FIRST,
        0,
        None,
    ),
    "another name": (
        {segment_name(8, 1): segment()[FIRST]} | segment(),
        "the header says LSN 0, the name another",
        segment_name(8, 1),
        0,
        None,
    ),
    "another epoch in the name": (
        {segment_name(0, 2): segment()[FIRST]},
        "the header says LSN 0, the name another",
        segment_name(0, 2),
        0,
        None,
    ),
    "another store": (
        segment(size=512) | segment(lsn=512, store=b"t" * 16),
        "the segment belongs to another store",
        segment_name(512, 1),
        16,
        None,
    ),
    "no beginning": (
        segment(lsn=512),
        f"a part of the log is missing: no snapshot, the first segment {segment_name(512, 1)} begins at LSN 512",
        "",
        None,
        0,
    ),
    "a gap": (
        segment(size=400) | segment(lsn=512),
        f"a part of the log is missing: this segment ends at LSN 400, and the next, {segment_name(512, 1)}, begins at",
        FIRST,
        400,
        400,
    ),
    "a successor within a segment": (
        segment(size=600) | segment(lsn=512),
        f"the length of the segment is neither 512 (where {segment_name(512, 1)} begins) nor 1024 (what its header",
        FIRST,
        600,
        600,
    ),
    "a successor within a header": (
        segment() | segment(lsn=96),
        "the length of the segment is neither 96",
        FIRST,
        LENGTH,
        LENGTH,
    ),
    "a lost last segment": (
        segment(size=512),
        "the segment has 512 bytes where its header says 1024: it was cut, or the segment that followed it is missing",
        FIRST,
        512,
        512,
    ),
    "a frame of records": (
        segment([EVENT, RECORDS]),
        "a frame of the kind RECORDS does not belong into the log",
        FIRST,
        AFTER_EVENT,
        AFTER_EVENT,
    ),
    "a frame of something else": (
        segment([EVENT, (FrameKind.EVENTS, b"\xc1")]),
        "a frame that verifies holds something else than events (the payload is not",
        FIRST,
        AFTER_EVENT,
        AFTER_EVENT,
    ),
    "no watermark": (
        segment([EVENT, (FrameKind.WATERMARK, b"short")]),
        "a frame that verifies holds no watermark (a watermark has 16 bytes)",
        FIRST,
        AFTER_EVENT,
        AFTER_EVENT,
    ),
    "a watermark ahead of itself": (
        segment([EVENT, mark(AFTER_EVENT + 1)]),
        f"a watermark names LSN {AFTER_EVENT + 1}, which is ahead of itself",
        FIRST,
        AFTER_EVENT,
        AFTER_EVENT,
    ),
    "a watermark that points into a header": (
        segment(size=AFTER_EVENT) | segment([EVENT, mark(AFTER_EVENT + HEADER_BYTES - 8)], AFTER_EVENT),
        f"the watermark {AFTER_EVENT + HEADER_BYTES - 8} points into a header",
        segment_name(AFTER_EVENT, 1),
        AFTER_EVENT + MARK_BYTES,
        2 * AFTER_EVENT + MARK_BYTES,
    ),
    "damage below a watermark": (
        damaged(segment([EVENT, EVENT, mark(AFTER_EVENT + EVENT_BYTES)]), FIRST, AFTER_EVENT),
        "damaged below the watermark (the checksum of the frame does not match)",
        FIRST,
        AFTER_EVENT,
        AFTER_EVENT,
    ),
    "damage in a later segment below a watermark": (
        damaged(
            segment(size=AFTER_EVENT) | segment([EVENT, EVENT, mark(2 * AFTER_EVENT + EVENT_BYTES)], AFTER_EVENT),
            segment_name(AFTER_EVENT, 1),
            AFTER_EVENT,
        ),
        "damaged below the watermark",
        segment_name(AFTER_EVENT, 1),
        AFTER_EVENT,
        2 * AFTER_EVENT,
    ),
    "something behind a clean close": (
        damaged(segment([EVENT, mark(AFTER_EVENT, clean=True)]), FIRST, AFTER_EVENT + MARK_BYTES),
        "damaged after a clean close (no frame begins here)",
        FIRST,
        AFTER_EVENT + MARK_BYTES,
        AFTER_EVENT + MARK_BYTES,
    ),
    "a hole without a power loss": (
        damaged(segment([EVENT, EVENT, EVENT]), FIRST, AFTER_EVENT),
        "a hole without a power loss (the checksum of the frame does not match)",
        FIRST,
        AFTER_EVENT,
        AFTER_EVENT,
    ),
}

BODY = [RECORDS, MORE]

SNAPSHOTS: dict[str, tuple[Frames, str, int]] = {
    "nothing but a header": ([], "the snapshot is cut short", HEADER_BYTES),
    "no trailer": ([*BODY, index(), mark(0)], "no frame begins here)", TRAILER_AT - 8),
    "another frame than a trailer": (
        [*BODY, index(), (FrameKind.EVENTS, bytes(24))],
        "the snapshot does not end with a trailer",
        TRAILER_AT,
    ),
    "a trailer of another length": (
        [*BODY, index(), (FrameKind.TRAILER, bytes(20))],
        "a trailer has 24 bytes",
        TRAILER_AT,
    ),
    "a trailer that points behind itself": (
        [*BODY, index(), (FrameKind.TRAILER, Trailer(TRAILER_AT + 1, 3, 2).encode())],
        "the trailer points outside the snapshot",
        TRAILER_AT,
    ),
    "a trailer that points into the header": (
        [*BODY, index(), (FrameKind.TRAILER, Trailer(HEADER_BYTES - 1, 3, 2).encode())],
        "the trailer points outside the snapshot",
        TRAILER_AT,
    ),
    "records where the index should be": (
        [*BODY, index(), (FrameKind.TRAILER, Trailer(MORE_AT, 3, 2).encode())],
        "the index of the snapshot is damaged",
        MORE_AT,
    ),
    "no index in the index": (
        [*BODY, (FrameKind.INDEX, b"\xc0"), TRAILER],
        "the payload is not the msgpack of this format",
        INDEX_AT,
    ),
    "an index of fewer frames": (
        [*BODY, index(ENTRIES[0]), (FrameKind.TRAILER, Trailer(INDEX_AT, 2, 2).encode())],
        "the index does not fit the trailer of the snapshot",
        INDEX_AT,
    ),
    "an index of fewer records": (
        [*BODY, index(), (FrameKind.TRAILER, Trailer(INDEX_AT, 4, 2).encode())],
        "the index does not fit the trailer of the snapshot",
        INDEX_AT,
    ),
    "an index out of order": (
        [*BODY, index(*(entry._replace(first_id="z.z") for entry in ENTRIES)), TRAILER],
        "the index does not fit the trailer of the snapshot",
        INDEX_AT,
    ),
    "an index that points into the header": (
        [*BODY, index(ENTRIES[0]._replace(offset=HEADER_BYTES - 1), ENTRIES[1]), TRAILER],
        "the index does not fit the trailer of the snapshot",
        INDEX_AT,
    ),
    "an index that points into itself": (
        [*BODY, index(ENTRIES[0], ENTRIES[1]._replace(offset=INDEX_AT)), TRAILER],
        "the index does not fit the trailer of the snapshot",
        INDEX_AT,
    ),
    "an index of more frames than there are": (
        [
            RECORDS,
            index(ENTRIES[0], ENTRIES[1]._replace(offset=HEADER_BYTES + 8)),
            (FrameKind.TRAILER, Trailer(MORE_AT, 3, 2).encode()),
        ],
        "the snapshot has fewer frames than its index says",
        MORE_AT,
    ),
    "an index that points between frames": (
        [*BODY, index(ENTRIES[0], ENTRIES[1]._replace(offset=MORE_AT + 8)), TRAILER],
        "the index does not fit the frames of the snapshot",
        MORE_AT,
    ),
    "events among the records": (
        [RECORDS, (FrameKind.EVENTS, MORE[1]), index(), TRAILER],
        "the index does not fit the frames of the snapshot",
        MORE_AT,
    ),
}


@pytest.mark.parametrize("read_only", [True, False], ids=["reader", "writer"])
@pytest.mark.parametrize("wrong", LOG)
def test_a_log_that_is_wrong_is_refused_with_the_place(wrong: str, read_only: bool) -> None:
    files, what, name, offset, lsn = LOG[wrong]
    with pytest.raises(CorruptionError, match="^" + re.escape(what)) as caught:
        opened(files, read_only=read_only)
    error = caught.value
    assert (error.path, error.offset, error.lsn) == (f"/jobs/{name}".rstrip("/"), offset, lsn)


@pytest.mark.parametrize("read_only", [True, False], ids=["reader", "writer"])
@pytest.mark.parametrize("wrong", SNAPSHOTS)
def test_a_snapshot_that_is_wrong_is_refused_with_the_place(wrong: str, read_only: bool) -> None:
    frames, what, offset = SNAPSHOTS[wrong]
    with pytest.raises(CorruptionError, match="^" + re.escape(f"the snapshot does not verify ({what}")) as caught:
        opened(snapshot(frames), read_only=read_only)
    error = caught.value
    assert (error.path, error.offset, error.lsn) == (f"/jobs/{SNAPSHOT}", offset, None)


# Records are decoded when they are read, not when the store is opened.
UNREADABLE: dict[str, tuple[bytes, str]] = {
    "no records": (b"\xc0", "the payload is not the msgpack of this format"),
    "fewer records": (CODEC.encode_records([("b.a", STATE), ("b.b", STATE)]), "not those that the index says"),
    "another first id": (CODEC.encode_records([("b.b", STATE)]), "not those that the index says"),
}


@pytest.mark.parametrize("wrong", UNREADABLE)
def test_records_that_are_wrong_are_refused_when_they_are_read(wrong: str) -> None:
    payload, what = UNREADABLE[wrong]
    end = MORE_AT + len(encode_frame(FrameKind.RECORDS, payload, 0))
    trailer = FrameKind.TRAILER, Trailer(end, 3, 2).encode()
    store = opened(snapshot([RECORDS, (FrameKind.RECORDS, payload), index(), trailer]), read_only=True)
    with store, pytest.raises(CorruptionError, match=re.escape(what)) as caught:
        store.load_all()
    assert (caught.value.path, caught.value.offset) == (f"/jobs/{SNAPSHOT}", MORE_AT)


@pytest.mark.parametrize(
    ("files", "what", "lsn"),
    [
        (
            {SNAPSHOT: snapshot([*BODY, index(), TRAILER])[SNAPSHOT]} | segment(lsn=1024),
            f"a part of the log is missing: the snapshot /jobs/{SNAPSHOT} covers it up to LSN 512, the first segment",
            512,
        ),
        (
            {SNAPSHOT: snapshot([*BODY, index(), TRAILER])[SNAPSHOT]} | segment(),
            f"a part of the log is missing: the snapshot /jobs/{SNAPSHOT} covers it up to LSN 512, no segment follows",
            512,
        ),
        (
            {SNAPSHOT: snapshot([*BODY, index(), TRAILER])[SNAPSHOT]},
            "the log of the store is missing: there is no segment in the directory",
            None,
        ),
    ],
    ids=["later", "earlier", "none"],
)
def test_a_snapshot_without_its_log_is_refused(files: Files, what: str, lsn: int | None) -> None:
    with pytest.raises(CorruptionError, match="^" + re.escape(what)) as caught:
        opened(files, read_only=True)
    assert (caught.value.path, caught.value.offset, caught.value.lsn) == ("/jobs", None, lsn)


def test_a_snapshot_under_another_name_is_refused() -> None:
    files = snapshot([*BODY, index(), TRAILER])
    files[snapshot_name(520)] = files.pop(SNAPSHOT)
    with pytest.raises(CorruptionError, match=r"^the header says LSN 512, the name another") as caught:
        opened(files, read_only=True)
    assert (caught.value.path, caught.value.offset) == (f"/jobs/{snapshot_name(520)}", 0)


def test_a_watermark_that_points_into_a_frame_is_refused_by_whoever_has_to_write_the_log_anew() -> None:
    files = segment([EVENT, EVENT, mark(AFTER_EVENT + 8)])
    what = "the log can't be read again above its watermark (no frame begins here)"
    with pytest.raises(CorruptionError, match="^" + re.escape(what)) as caught:
        opened(files, read_only=False)
    error = caught.value
    assert (error.path, error.offset, error.lsn) == (f"/jobs/{FIRST}", AFTER_EVENT + 8, AFTER_EVENT + 8)


@pytest.mark.parametrize("verifies", [False, True])
def test_a_log_that_changes_under_an_open_store_is_refused_with_the_place(verifies: bool) -> None:
    fs = SimFileSystem(0)
    with opened(segment([]), read_only=False, fs=fs) as store:
        (name,) = (name for name in fs.list_directory("/jobs") if name.endswith(".wal"))
        file = fs.open(f"/jobs/{name}", writable=True)
        head = Header.decode(file.read(0, HEADER_BYTES))
        store.record_started("a.b", 1)
        lsn = store.stats().end_lsn
        store.record_started("a.b", 2)
        payload_bytes = store.stats().end_lsn - lsn - frame_bytes(0)
        frame = encode_frame(FrameKind.EVENTS, b"\xc1" * payload_bytes, head.nonce)
        file.write(lsn - head.lsn, frame if verifies else b"?")
        with pytest.raises(CorruptionError) as caught:
            store.load_all()
        assert (caught.value.path, caught.value.offset, caught.value.lsn) == (f"/jobs/{name}", lsn - head.lsn, lsn)


def test_a_good_snapshot_made_by_hand_is_read() -> None:
    with opened(snapshot([*BODY, index(), TRAILER]), read_only=True) as store:
        assert sorted(str(record.id) for record in store.load_all()) == ["a.b", "a.c", "b.a"]
        assert [str(record.id) for record in store.iter_jobs()] == ["a.b", "a.c", "b.a"]


def test_a_log_that_fills_its_last_segment_to_the_brim_is_read() -> None:
    length = HEADER_BYTES + 5 * EVENT_BYTES
    for read_only in (True, False):
        with opened(segment([EVENT] * 5, size=length, length=length), read_only=read_only) as store:
            report = store.recovery
            assert (report.situation, report.events_replayed, report.torn_bytes) == (Situation.UNCLEAN, 5, 0)
            assert len(store.load_all()) == 1


def test_a_torn_tail_is_cut_and_kept_beside_the_log() -> None:
    other_boot, base = b"another boot id.", HEADER_BYTES + 6 * EVENT_BYTES
    files = segment([EVENT] * 6, size=base, boot_id=other_boot)
    files |= segment([EVENT] * 6, base, size=base, boot_id=other_boot)
    files |= segment([EVENT] * 9, 2 * base, boot_id=other_boot)
    # The last frame of the first segment is damaged, so all of the others goes with it.
    files = damaged(files, FIRST, base - 1)
    end = base - EVENT_BYTES
    torn = files[FIRST][end:] + files[segment_name(base, 1)][HEADER_BYTES:].rstrip(b"\0")
    torn += files[segment_name(2 * base, 1)][HEADER_BYTES:].rstrip(b"\0")
    fs = SimFileSystem(0)
    with opened(files, read_only=False, fs=fs) as store:
        report = store.recovery
        assert (report.situation, report.events_replayed, report.torn_bytes) == (Situation.TORN, 5, len(torn))
        assert report.kept_at == f"/jobs/{torn_name(end, 2)}"
        assert bytes(fs._file(report.kept_at).data) == torn
        # What is left of the log is that of this opening, which began where nothing was known to be synced.
        assert sorted(fs.list_directory("/jobs")) == ["LOCK", segment_name(0, 2), torn_name(end, 2)]
        assert len(store.load_all()) == 1
    with opened(files, read_only=True) as reader:
        report = reader.recovery
        assert (report.situation, report.events_replayed, report.torn_bytes) == (Situation.TORN, 5, len(torn))
        assert report.kept_at is None


def test_a_segment_with_a_torn_tail_above_its_watermark_is_cut_at_the_end_of_the_log() -> None:
    base = HEADER_BYTES + EVENT_BYTES
    second, fs = segment_name(base, 1), SimFileSystem(0)
    files = segment(size=base) | segment([mark(base), EVENT, EVENT], base, boot_id=b"another boot id.")
    files = damaged(files, second, HEADER_BYTES + MARK_BYTES + 2 * EVENT_BYTES - 1)
    with opened(files, read_only=False, fs=fs) as store:
        assert store.recovery.events_replayed == 2
        assert len(store.load_all()) == 1
        assert bytes(fs._file(f"/jobs/{FIRST}").data) == files[FIRST]
        # What began at the watermark was written anew.
        assert second not in fs.list_directory("/jobs")
        assert segment_name(base, 2) in fs.list_directory("/jobs")


def test_a_segment_with_a_watermark_within_it_stays_up_to_the_end_of_the_log() -> None:
    base = HEADER_BYTES + EVENT_BYTES
    second, fs = segment_name(base, 1), SimFileSystem(0)
    marked = base + HEADER_BYTES + EVENT_BYTES
    files = segment(size=base) | segment([EVENT, mark(marked), EVENT, EVENT], base, boot_id=b"another boot id.")
    end = HEADER_BYTES + MARK_BYTES + 2 * EVENT_BYTES
    files = damaged(files, second, end + EVENT_BYTES - 1)
    with opened(files, read_only=False, fs=fs) as store:
        assert store.recovery.events_replayed == 3
        assert bytes(fs._file(f"/jobs/{second}").data) == files[second][:end]
        assert segment_name(marked, 2) in fs.list_directory("/jobs")


def _newer() -> Files:
    data = segment()[FIRST]
    return {FIRST: data[:8] + struct.pack(">HH", 7, 7 ^ 0xFFFF) + data[12:]}


def _of_another_codec() -> Files:
    return {FIRST: written(header(FileKind.SEGMENT, 0, codec="other/1"), []).ljust(LENGTH, b"\0")}


@pytest.mark.parametrize(
    ("files", "error", "what"),
    [
        (_newer, NewerFormatError, f"/jobs/{FIRST} has format version 7, which this release can't read"),
        (
            _of_another_codec,
            StoreNotFoundError,
            f"/jobs/{FIRST} belongs to a store of 'other/1' records (reducer 'job/1'), not of 'job/1' ('job/1')",
        ),
    ],
    ids=["newer", "codec"],
)
def test_a_store_that_nothing_is_wrong_with_is_not_called_damaged(
    files: Callable[[], Files], error: type[Exception], what: str
) -> None:
    for read_only in (True, False):
        with pytest.raises(error, match="^" + re.escape(what)):
            opened(files(), read_only=read_only)
