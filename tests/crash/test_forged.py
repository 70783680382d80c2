"""Files whose checksums hold and whose content is wrong: what a bug of another release, or a hand, could have made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.crash.worlds import DIRECTORY, World, contents, jobs_of
from walstore.engine.segment import FrameReader
from walstore.errors import CorruptionError, StoreNotFoundError
from walstore.format.codec import JobCodec
from walstore.format.filenames import parse_segment, parse_snapshot, segment_name, snapshot_name
from walstore.format.frame import encode_frame, frame_bytes
from walstore.format.index import IndexEntry, Trailer, encode_index
from walstore.format.layout import HEADER_BYTES, FileKind, FrameKind, Header, Watermark
from walstore.model.events import Event, Started
from walstore.testing.model import NOW_NS

pytestmark = pytest.mark.mutation

Frames = list[tuple[FrameKind, bytes]]
_JOBS = 1300


def _store() -> World:
    """Return the world of a closed store: a snapshot of many jobs in some frames, and a segment with some events."""
    world = World(1)
    store = world.recover()
    events: list[Event] = [Started(f"job.n{number:04}", NOW_NS + number) for number in range(_JOBS)]
    store.record_many(events)
    store.flush_checkpoint(compact=True)
    store.record_many(events[:3])
    store.close()
    world.drop()
    return world


def _the(world: World, kind: FileKind) -> str:
    parse = parse_segment if kind is FileKind.SEGMENT else parse_snapshot
    (name,) = (name for name in contents(world.fs) if parse(name) is not None)
    return name


def _header(world: World, kind: FileKind) -> Header:
    return Header.decode(contents(world.fs)[_the(world, kind)])


def _frames(world: World, kind: FileKind) -> Frames:
    file = world.fs.open(f"{DIRECTORY}/{_the(world, kind)}")
    reader = FrameReader(file, _header(world, kind).nonce, HEADER_BYTES, file.size())
    return [(frame.kind, frame.payload) for _, frame in reader]


def _write(world: World, kind: FileKind, header: Header, frames: Frames) -> None:
    data = header.encode() + b"".join(encode_frame(kind, payload, header.nonce) for kind, payload in frames)
    node = world.fs._file(f"{DIRECTORY}/{_the(world, kind)}")
    node.data = bytearray(data.ljust(header.length, b"\0"))


def _refused(world: World, match: str) -> CorruptionError:
    """Check that reading and writing are refused with the same words, and return what was said."""
    with pytest.raises(CorruptionError, match=match) as raised, world.read() as reader:
        jobs_of(reader)
    with pytest.raises(CorruptionError, match=match), world.open() as writer:
        jobs_of(writer)
    world.drop()
    assert raised.value.path is not None
    assert raised.value.path.startswith(DIRECTORY)
    return raised.value


def test_what_is_not_forged_is_read() -> None:
    world = _store()
    for kind in FileKind:
        _write(world, kind, _header(world, kind), _frames(world, kind))
    assert len(jobs_of(world.read())) == _JOBS
    assert [kind for kind, _ in _frames(world, FileKind.SNAPSHOT)].count(FrameKind.RECORDS) > 1


def _log_frame(kind: FrameKind, payload: bytes) -> Callable[[World], None]:
    def forge(world: World) -> None:
        frames = _frames(world, FileKind.SEGMENT)
        _write(world, FileKind.SEGMENT, _header(world, FileKind.SEGMENT), [frames[0], (kind, payload), *frames[1:]])

    return forge


@pytest.mark.parametrize(
    ("forge", "match"),
    [
        (_log_frame(FrameKind.EVENTS, b"\x93"), "something else than events"),
        (_log_frame(FrameKind.EVENTS, b"\xc0"), "something else than events"),
        (_log_frame(FrameKind.RECORDS, b"\x90"), "kind RECORDS does not belong into the log"),
        (_log_frame(FrameKind.WATERMARK, bytes(8)), "holds no watermark"),
        (_log_frame(FrameKind.WATERMARK, bytes(15) + b"\xff"), "holds no watermark"),
        (_log_frame(FrameKind.WATERMARK, Watermark(2**40).encode()), "ahead of itself"),
    ],
)
def test_a_frame_of_the_log(forge: Callable[[World], None], match: str) -> None:
    world = _store()
    offset = HEADER_BYTES + frame_bytes(len(_frames(world, FileKind.SEGMENT)[0][1]))
    forge(world)
    error = _refused(world, match)
    assert error.offset == offset
    assert error.lsn == _header(world, FileKind.SEGMENT).lsn + offset


def _parts(world: World) -> tuple[Frames, list[IndexEntry], Trailer]:
    frames = _frames(world, FileKind.SNAPSHOT)
    records = [frame for frame in frames if frame[0] is FrameKind.RECORDS]
    entries, offset = [], HEADER_BYTES
    for _, payload in records:
        content = JobCodec().decode_records(payload)
        entries.append(IndexEntry(content[0][0], offset, len(content)))
        offset += frame_bytes(len(payload))
    trailer = Trailer.decode(frames[-1][1])
    assert trailer == Trailer(offset, _JOBS, len(records))
    return records, entries, trailer


def _snapshot(world: World, records: Frames, index: bytes, trailer: bytes) -> None:
    header = _header(world, FileKind.SNAPSHOT)
    _write(world, FileKind.SNAPSHOT, header, [*records, (FrameKind.INDEX, index), (FrameKind.TRAILER, trailer)])


def test_the_trailer_of_a_snapshot() -> None:
    world = _store()
    records, entries, trailer = _parts(world)
    index = encode_index(entries)
    _snapshot(world, records, index, trailer.encode())
    assert len(jobs_of(world.read())) == _JOBS
    for forged, match in [
        (trailer._replace(index_offset=2**40), "points outside"),
        (trailer._replace(index_offset=HEADER_BYTES - 8), "points outside"),
        (trailer._replace(records=_JOBS - 1), "does not fit the trailer"),
        (trailer._replace(frames=trailer.frames - 1), "does not fit the trailer"),
        # Before the index lies the last frame of records.
        (trailer._replace(index_offset=entries[-1].offset), "index of the snapshot is damaged"),
    ]:
        _snapshot(world, records, index, forged.encode())
        _refused(world, match)
    _write(world, FileKind.SNAPSHOT, _header(world, FileKind.SNAPSHOT), [*records, (FrameKind.INDEX, index)])
    _refused(world, "does not verify")
    # As long as a trailer, and of the right kind, or not.
    for kind, payload, match in [
        (FrameKind.EVENTS, trailer.encode(), "does not end with a trailer"),
        (FrameKind.TRAILER, trailer.encode()[:-1], "a trailer has 24 bytes"),
    ]:
        _write(
            world,
            FileKind.SNAPSHOT,
            _header(world, FileKind.SNAPSHOT),
            [*records, (FrameKind.INDEX, index), (kind, payload)],
        )
        _refused(world, match)


def test_the_index_of_a_snapshot() -> None:
    world = _store()
    records, entries, trailer = _parts(world)
    first, second, *rest = entries
    for forged in [
        [second, first, *rest],
        [first._replace(records=second.records), second._replace(first_id=first.first_id), *rest],
        [first, first, *rest],
        [first._replace(offset=HEADER_BYTES - 8), second, *rest],
        [*entries[:-1], entries[-1]._replace(offset=trailer.index_offset)],
        entries[:-1],
    ]:
        _snapshot(world, records, encode_index(forged), trailer.encode())
        _refused(world, "does not fit the trailer")
    for payload, match in [
        (b"\xc1", "not the msgpack of this format"),
        (b"\xc0", "not the msgpack of this format"),
        (b"\x91\x93\x01\x02\x03", "not an entry"),
        (b"\x91\x92\xa1a\x01", "not an entry"),
    ]:
        _snapshot(world, records, payload, trailer.encode())
        _refused(world, match)


def test_records_that_are_not_those_that_the_index_says() -> None:
    world = _store()
    records, entries, trailer = _parts(world)
    codec = JobCodec()
    content = codec.decode_records(records[1][1])
    index = encode_index(entries)
    # All as long as what they replace, so that the offsets fit.
    for forged in ([*reversed(content)], [content[0], *content[:-1]], [("job.n0000", content[0][1]), *content[1:]]):
        payload = codec.encode_records(forged)
        assert len(payload) == len(records[1][1])
        _snapshot(world, [records[0], (FrameKind.RECORDS, payload), *records[2:]], index, trailer.encode())
        _refused(world, "the records of a frame are not those that the index says")
    for kind, payload in [(FrameKind.EVENTS, records[1][1]), (FrameKind.RECORDS, bytes(len(records[1][1])))]:
        _snapshot(world, [records[0], (kind, payload), *records[2:]], index, trailer.encode())
        _refused(world, "does not verify")


@pytest.mark.parametrize("kind", list(FileKind))
def test_a_header(kind: FileKind) -> None:
    world = _store()
    header, frames = _header(world, kind), _frames(world, kind)
    other = next(other for other in FileKind if other is not kind)
    for forged, match in [
        (replace(header, kind=other), f"a {other.name.lower()} under the name of a {kind.name.lower()}"),
        (replace(header, lsn=header.lsn + 8), "the header says LSN"),
        (replace(header, store_id=bytes(16)), "belongs to another store"),
    ]:
        _write(world, kind, forged, frames)
        _refused(world, match)
    for stranger in (replace(header, codec_id="blobs"), replace(header, reducer_id="blobs")):
        _write(world, kind, stranger, frames)
        with pytest.raises(StoreNotFoundError, match="'blobs'"):
            world.read()


def test_a_file_under_another_name() -> None:
    world = _store()
    lsn = _header(world, FileKind.SNAPSHOT).lsn
    segment, snapshot = _the(world, FileKind.SEGMENT), _the(world, FileKind.SNAPSHOT)
    for name, renamed, match in [
        (segment, segment_name(lsn, 99), "the header says"),
        (segment, segment_name(lsn + 8, 2), "a part of the log is missing"),
        (snapshot, snapshot_name(lsn + 8), "the header says"),
        (snapshot, snapshot_name(lsn - 8), "the header says"),
    ]:
        world.fs.rename(f"{DIRECTORY}/{name}", f"{DIRECTORY}/{renamed}")
        _refused(world, match)
        world.fs.rename(f"{DIRECTORY}/{renamed}", f"{DIRECTORY}/{name}")
    assert len(jobs_of(world.read())) == _JOBS
