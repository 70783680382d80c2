"""Stores that somebody has made by hand, with checksums that fit: refused as what they are, and not changed."""

from __future__ import annotations

import pytest

from tests.crash.worlds import DIRECTORY, World, contents, jobs_of
from walstore import WalPersistence
from walstore.cli.files import look
from walstore.engine.salvage import salvage
from walstore.errors import CorruptionError, StoreLockedError
from walstore.format.codec import JobCodec
from walstore.format.filenames import segment_name, snapshot_name
from walstore.format.frame import encode_frame
from walstore.format.index import IndexEntry, Trailer, encode_index
from walstore.format.layout import HEADER_BYTES, FileKind, FrameKind, Header, Watermark
from walstore.model.records import JobState
from walstore.wal import JOBS

NONCE = 7
STATE: JobState = (0, None, None, None, 0, (0,))
LOCKS = [
    b"[" * 4096,  # Deeper than any stack.
    b'{"since_ns": 1000000000000000000000000000, "pid": 1, "host": "x"}',  # Years that no calendar has.
    b'{"since_ns": 10000000000000000000000000000000000000000, "pid": 1, "host": "x"}',
    b'{"since_ns": NaN, "pid": 1, "host": "x"}',
    b'{"since_ns": 1e400, "pid": 1, "host": "x"}',
    b'{"since_ns": 0, "pid": Infinity, "host": "x"}',
    b'{"since_ns": 0, "pid": null, "host": []}',
    b"[0]",
    b"\xff",
    b"",
]


def header(kind: FileKind, lsn: int, length: int) -> bytes:
    return Header(
        kind=kind,
        store_id=bytes(16),
        codec_id="job/1",
        reducer_id="job/1",
        lsn=lsn,
        epoch=1,
        length=length,
        nonce=NONCE,
        boot_id=bytes(16),
    ).encode()


def segment(lsn: int, *frames: tuple[FrameKind, bytes]) -> bytes:
    encoded = b"".join(encode_frame(kind, payload, NONCE) for kind, payload in frames)
    return (header(FileKind.SEGMENT, lsn, 1024) + encoded).ljust(1024, b"\0")


def snapshot(lsn: int, *batches: list[str], counts: list[int] | None = None) -> bytes:
    """Return a snapshot with these names in its frames, of whose records the index says that there are ``counts``."""
    content, entries = header(FileKind.SNAPSHOT, lsn, 0), []
    for number, names in enumerate(batches):
        count = counts[number] if counts is not None else len(names)
        entries.append(IndexEntry(names[0] if names else "a.b", len(content), count))
        payload = JobCodec().encode_records([(name, STATE) for name in names])
        content += encode_frame(FrameKind.RECORDS, payload, NONCE)
    trailer = Trailer(len(content), sum(entry.records for entry in entries), len(entries))
    content += encode_frame(FrameKind.INDEX, encode_index(entries), NONCE)
    return content + encode_frame(FrameKind.TRAILER, trailer.encode(), NONCE)


def world_of(files: dict[str, bytes]) -> World:
    world = World(1)
    world.fs.make_directory(DIRECTORY)
    for name, content in files.items():
        file = world.fs.create(f"{DIRECTORY}/{name}")
        file.write(0, content)
        file.close()
    return world


def test_a_store_made_by_hand_is_read() -> None:
    files = {
        snapshot_name(512): snapshot(512, ["a.b", "a.c"], ["a.d"]),
        segment_name(512, 1): segment(512, (FrameKind.EVENTS, JobCodec().encode_events([(4, "a.c")]))),
    }
    world = world_of(files)
    assert list(jobs_of(world.read())) == ["a.b", "a.d"]
    with world.open() as store:
        assert list(jobs_of(store)) == ["a.b", "a.d"]


@pytest.mark.parametrize(
    "forged",
    [
        snapshot(512, []),
        snapshot(512, ["a.b"], counts=[0]),
        snapshot(512, ["a.b", "a.d"], ["a.c"]),
        snapshot(512, ["a.b", "a.c"], ["a.c"]),
        snapshot(512, ["a.c", "a.b"]),
        snapshot(512, ["a.b", "a.b"]),
    ],
    ids=["no record", "no count", "overlap", "the same in two", "no order", "the same in one"],
)
def test_a_snapshot_whose_records_are_not_in_order_is_refused(forged: bytes) -> None:
    world = world_of({snapshot_name(512): forged, segment_name(512, 1): segment(512)})
    reader = world.read()
    with pytest.raises(CorruptionError, match="records"):
        reader.load_all()
    with pytest.raises(CorruptionError, match="records"):
        list(reader.iter_jobs())


@pytest.mark.parametrize("others", [{}, {segment_name(0, 1): segment(0)}], ids=["no segment", "a covered segment"])
def test_a_snapshot_without_its_log_is_salvaged(others: dict[str, bytes]) -> None:
    world = world_of({snapshot_name(512): snapshot(512, ["a.b"], ["a.c"]), **others})
    found = salvage(world.environment(), DIRECTORY, "/data/new", JOBS, 1024)
    assert found.is_damaged
    assert (found.records, [gap.from_lsn for gap in found.gaps]) == (2, [512])
    with WalPersistence("/data/new", environment=world.environment()) as store:
        assert list(jobs_of(store)) == ["a.b", "a.c"]


@pytest.mark.parametrize("offset", [1, 8, HEADER_BYTES - 1])
def test_a_watermark_that_points_into_a_header_is_refused(offset: int) -> None:
    """The segment of the next writer would begin there, and the store could never be opened again."""
    files = {segment_name(0, 1): segment(0, (FrameKind.WATERMARK, Watermark(offset).encode()))}
    world = world_of(files)
    for opening in (world.open, world.read):
        with pytest.raises(CorruptionError, match="into a header"):
            opening()
    assert {name: content for name, content in contents(world.fs).items() if name != "LOCK"} == files


@pytest.mark.parametrize("content", LOCKS, ids=lambda content: content[:60].decode("latin-1"))
def test_whatever_the_lock_says_the_store_is_locked(content: bytes) -> None:
    world = World(1)
    world.open().record_started("a.b", 5)
    world.fs._file(f"{DIRECTORY}/LOCK").data[:] = content
    with pytest.raises(StoreLockedError, match="open for writing in"):
        WalPersistence(DIRECTORY, environment=world.environment())
    look(world.fs, DIRECTORY, world.fs.list_directory(DIRECTORY))
    world.drop()
