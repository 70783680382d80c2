"""What is done with bytes that were made to do harm, and what must hold: the documented errors, and bounded memory."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from typing import Final

from xxhash import xxh3_64_digest

from fuzz.hostile_files import BOOT_ID, MutateBytes, mutate_files, mutate_payload, mutate_snapshot, split_files
from walstore.cli.files import look
from walstore.engine.environment import Environment
from walstore.engine.recovery import Situation
from walstore.engine.salvage import salvage
from walstore.engine.snapshot import Snapshot
from walstore.errors import CorruptionError, SchedulerPersistenceError
from walstore.format import filenames
from walstore.format.codec import JobCodec
from walstore.format.frame import BadFrameError, Frame, decode_frame, encode_frame, find_frames
from walstore.format.index import Trailer, decode_index, encode_index
from walstore.format.layout import HEADER_BYTES, BadHeaderError, FrameKind, Header, NewerVersionError, Watermark
from walstore.model.events import event_of
from walstore.model.records import JobState, SchedulerJobRecord, record_of
from walstore.model.reducer import JobReducer, fold, settled
from walstore.options import WalOptions
from walstore.testing.sim_fs import SimFileSystem
from walstore.wal import JOBS, WalPersistence

__all__ = ["TARGETS", "Mutator", "Target", "bounded", "make_store"]

Target = Callable[[bytes], None]
Mutator = Callable[[bytes, random.Random, MutateBytes], bytes]

_BYTES_PER_BYTE_MAX: Final = 256
_BYTES_MAX: Final = 8 * 1024 * 1024
_DIRECTORY: Final = "/store"
_TARGET: Final = "/salvaged"
_SEED: Final = 0x0102030405060708
_CODEC: Final = JobCodec()


@contextmanager
def bounded(size_bytes: int) -> Iterator[None]:
    """Check that the block takes no more memory than an input of this size may take."""
    tracemalloc.start()
    try:
        yield
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes <= _BYTES_PER_BYTE_MAX * size_bytes + _BYTES_MAX, f"{peak_bytes} bytes for {size_bytes}"


def frames(data: bytes) -> None:
    """Read frames: from the bytes as they are, and from a frame of which they are the payload."""
    position = 0
    while position < len(data):
        try:
            frame = decode_frame(data, position, _SEED, len(data) - position)
        except BadFrameError:
            break
        assert isinstance(frame, Frame)
        assert encode_frame(frame.kind, frame.payload, _SEED)[:16] == data[position : position + 16]
        position = frame.end
    list(find_frames(data, _SEED))
    framed = encode_frame(FrameKind.EVENTS, data, _SEED)
    assert decode_frame(framed, 0, _SEED, len(framed)) == Frame(FrameKind.EVENTS, data, len(framed))
    assert [frame.payload for frame in find_frames(bytes(8) + framed, _SEED)] == [data]
    payload(data)


def payload(data: bytes) -> None:
    """Decode a payload, of which the first byte says the kind, and do with it all that a store does."""
    kind, content = data[:1], data[1:]
    match kind:
        case b"e":
            with suppress(ValueError):
                _events(content)
        case b"r":
            with suppress(ValueError):
                records = _CODEC.decode_records(content)
                assert _CODEC.decode_records(_CODEC.encode_records(records)) == records
                _show(dict(records))
        case b"i":
            with suppress(ValueError):
                entries = decode_index(content)
                assert decode_index(encode_index(entries)) == entries
        case b"t":
            with suppress(ValueError):
                assert Trailer.decode(content).encode() == content
        case b"w":
            with suppress(ValueError):
                assert Watermark.decode(content).encode() == content


def _events(content: bytes) -> None:
    events = _CODEC.decode_events(content)
    assert tuple(_CODEC.decode_events(_CODEC.encode_events(events))) == tuple(events)
    states: dict[str, JobState] = {}
    # From here on nothing may be wrong with them.
    try:
        fold(states, events)
        _show(states)
    except ValueError as error:
        raise AssertionError(f"events that were taken can't be folded: {events!r}") from error
    for event in events:
        event_of(event)


def _show(states: dict[str, JobState]) -> list[SchedulerJobRecord]:
    return [record_of(job, settled(state)) for job, state in states.items()]


def headers(data: bytes) -> None:
    """Read a header, with its own checksum and with one that fits, and the name of a file."""
    for content in (data, data[:96] + xxh3_64_digest(data[:96])):
        with suppress(BadHeaderError, NewerVersionError):
            header = Header.decode(content)
            assert header.encode() == content[:HEADER_BYTES]
    name = data.decode("utf-8", "replace")
    segment, lsn = filenames.parse_segment(name), filenames.parse_snapshot(name)
    assert segment is None or filenames.segment_name(*segment) == name
    assert lsn is None or filenames.snapshot_name(lsn) == name
    assert [segment is not None, lsn is not None, filenames.is_temporary(name), filenames.is_torn(name)].count(True) < 2


def snapshot(data: bytes) -> None:
    """Read a snapshot."""
    fs = make_store({"snapshot": data})
    path = f"{_DIRECTORY}/snapshot"
    try:
        opened = Snapshot(fs.open(path), path, _CODEC, JobReducer.id)
        opened.check()
        records = [record for entry in opened.index for record in opened.frame_records(entry)]
    except SchedulerPersistenceError:
        return
    assert all(first < second for (first, _), (second, _) in pairwise(records))
    assert len(records) == opened.trailer.records
    _show(dict(records))


def store(data: bytes) -> None:
    """Open a whole store as a reader and as a writer, salvage it, and look at its files one by one."""
    files = split_files(data)
    fs = make_store(files)
    look(fs, _DIRECTORY, fs.list_directory(_DIRECTORY))
    seen = _read(fs)
    _salvage(fs.clone())
    twin = fs.clone()
    twin._boot_id = BOOT_ID
    try:
        writer = _open(twin)
    except CorruptionError:
        kept = {name: bytes(twin._file(f"{_DIRECTORY}/{name}").data) for name in twin.list_directory(_DIRECTORY)}
        changed = [name for name in files if name not in kept or kept[name] != files[name]]
        # What was never finished may be removed before the rest is looked at.
        assert all(filenames.is_temporary(name) for name in changed), f"refused, but changed {changed}"
        return
    except SchedulerPersistenceError:
        return
    try:
        jobs = list(writer.iter_jobs())
        assert seen is None or seen == jobs or writer.recovery.situation is Situation.CREATED
        writer.flush_checkpoint(compact=True)
        assert list(writer.iter_jobs()) == jobs
    except SchedulerPersistenceError:
        jobs = None
    with suppress(SchedulerPersistenceError):
        writer.close()
    writer._finalizer.detach()
    if jobs is not None:
        assert _read(twin) == jobs


def _salvage(fs: SimFileSystem) -> None:
    """Whatever is salvaged can be read."""
    try:
        salvage(_environment(fs), _DIRECTORY, _TARGET, JOBS, 1024)
    except SchedulerPersistenceError:
        return
    assert _read(fs, _TARGET) is not None


def _read(fs: SimFileSystem, directory: str = _DIRECTORY) -> list[SchedulerJobRecord] | None:
    """Return what a reader finds, the jobs in the order of their ids; None where it finds none."""
    try:
        reader = _open(fs, directory, read_only=True)
        jobs = reader.load_all()
        ordered = list(reader.iter_jobs())
    except SchedulerPersistenceError:
        return None
    assert sorted(jobs, key=lambda job: str(job.id)) == ordered
    return ordered


def _open(fs: SimFileSystem, directory: str = _DIRECTORY, *, read_only: bool = False) -> WalPersistence:
    options = WalOptions(segment_bytes_min=1024, segment_bytes_max=1024, merge_memory_bytes=4096)
    return WalPersistence(directory, read_only=read_only, options=options, environment=_environment(fs))


def _environment(fs: SimFileSystem) -> Environment:
    return Environment(
        fs=fs,
        random_bytes=random.Random(1).randbytes,
        monotonic_ns=lambda: 0,
        wall_ns=lambda: 0,
        holder=lambda: {"host": "fuzz", "pid": 1},
        threads=False,
    )


def make_store(files: dict[str, bytes]) -> SimFileSystem:
    """Return a disk on which the directory of a store holds these files."""
    fs = SimFileSystem(1)
    fs._boot_id = BOOT_ID
    fs.make_directory(_DIRECTORY)
    for name, content in files.items():
        file = fs.create(f"{_DIRECTORY}/{name}")
        file.write(0, content)
        file.close()
    return fs


def _payload_mutator(data: bytes, choice: random.Random, mutate: MutateBytes) -> bytes:
    kind = data[:1] if choice.random() < 0.95 else choice.choice([b"e", b"r", b"i", b"t", b"w"])
    return kind + mutate_payload(data[1:], choice, mutate)


TARGETS: Final[dict[str, tuple[Target, Mutator]]] = {
    "frames": (frames, _payload_mutator),
    "headers": (headers, lambda data, _, mutate: mutate(data)),
    "snapshot": (snapshot, mutate_snapshot),
    "store": (store, mutate_files),
}
"""For each target what it does with bytes, and how they are changed."""
