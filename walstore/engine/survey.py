"""Which files of a directory make up the store, and whether they hang together. Changes nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Generic

from walstore.engine.environment import EventT, Plug, StateT
from walstore.engine.segment import read_header
from walstore.engine.snapshot import Snapshot
from walstore.errors import CorruptionError
from walstore.format.filenames import LOCK_NAME, SegmentName, is_temporary, is_torn, parse_segment, parse_snapshot
from walstore.format.layout import HEADER_BYTES, FileKind, Header
from walstore.fs.api import File, FileSystem

__all__ = ["Files", "Link", "choose_segments", "covered_names", "is_store", "survey"]


@dataclass(slots=True)
class Link:
    """A segment of the log's chain, open for reading. ``end`` is the offset where the next one takes over."""

    name: str
    path: str
    header: Header
    file: File
    length: int
    end: int

    @property
    def base_lsn(self) -> int:
        """The LSN of the first byte of the segment."""
        return self.header.lsn

    @property
    def end_lsn(self) -> int:
        """The LSN where the next segment takes over, or of the end of the file."""
        return self.header.lsn + self.end


@dataclass(slots=True)
class Files(Generic[EventT, StateT]):
    """The files that count, open for reading, and the names of those that do not count any more."""

    snapshot: Snapshot[EventT, StateT] | None = None
    chain: list[Link] = field(default_factory=list)
    stale: list[str] = field(default_factory=list)
    """Superseded and covered segments, covered snapshots."""
    temporary: list[str] = field(default_factory=list)

    @property
    def floor_lsn(self) -> int:
        """The LSN up to which the snapshot covers the log; 0 without one."""
        return self.snapshot.lsn if self.snapshot is not None else 0

    def close(self) -> None:
        """Close all files."""
        if self.snapshot is not None:
            self.snapshot.close()
        for link in self.chain:
            link.file.close()


def is_store(names: list[str]) -> bool:
    """Whether a directory with these names is a store, if perhaps one that was never finished.

    Other programs have a ``LOCK`` too, so without a segment or a snapshot nothing foreign may lie beside it. It need
    not be there: a power loss may keep the unfinished first segment and lose the lock file.
    """
    if any(parse_segment(name) or parse_snapshot(name) is not None for name in names):
        return True
    return bool(names) and all(name == LOCK_NAME or is_temporary(name) or is_torn(name) for name in names)


def survey(
    fs: FileSystem, directory: str, plug: Plug[EventT, StateT], *, created: bool
) -> Files[EventT, StateT] | None:
    """Find the newest snapshot and the chain of segments from its LSN on, and check that they fit together.

    ``created`` says that the store was once created whole, so that its log can't be missing. Returns None where there
    is nothing yet. Raises ``CorruptionError`` (naming both sides of a gap), ``NewerFormatError`` and
    ``StoreNotFoundError``; ``OSError`` passes through, ``FileNotFoundError`` among them when a file vanished between
    the listing and the opening, which happens to readers only.
    """
    names = fs.list_directory(directory)
    segments, snapshots = _parse(names)
    files: Files[EventT, StateT] = Files(temporary=[name for name in names if is_temporary(name)])
    if not segments:
        if created or snapshots:
            raise CorruptionError(
                "the log of the store is missing: there is no segment in the directory", path=directory
            )
        return None if not files.temporary else files
    try:
        floor_lsn = _open_snapshot(fs, directory, plug, snapshots, files)
        chosen = choose_segments(segments, floor_lsn, files)
        _check_start(directory, floor_lsn, chosen, files)
        for name, parsed in chosen:
            files.chain.append(_open_segment(fs, directory, name, parsed, plug))
        _check_identity(files)
        _check_joints(files.chain)
    except BaseException:
        files.close()
        raise
    return files


def _open_snapshot(
    fs: FileSystem,
    directory: str,
    plug: Plug[EventT, StateT],
    snapshots: dict[str, int],
    files: Files[EventT, StateT],
) -> int:
    if not snapshots:
        return 0
    newest = max(snapshots, key=snapshots.__getitem__)
    files.stale += [name for name in snapshots if name != newest]
    path = f"{directory}/{newest}"
    file = fs.open(path)
    try:
        files.snapshot = Snapshot(file, path, plug.codec, plug.reducer.id)
    except BaseException:
        file.close()
        raise
    if files.snapshot.lsn != snapshots[newest]:
        raise CorruptionError(f"the header says LSN {files.snapshot.lsn}, the name another", path=path, offset=0)
    return files.snapshot.lsn


def covered_names(names: list[str], snapshot_lsn: int) -> list[str]:
    """Return the files that do not count any more beside the snapshot at an LSN, which is the newest; by name alone."""
    segments, snapshots = _parse(names)
    files: Files[object, object] = Files(stale=[name for name, lsn in snapshots.items() if lsn < snapshot_lsn])
    choose_segments(segments, snapshot_lsn, files)
    return files.stale


def _parse(names: list[str]) -> tuple[dict[str, SegmentName], dict[str, int]]:
    segments = {name: parsed for name in names if (parsed := parse_segment(name))}
    snapshots = {name: lsn for name in names if (lsn := parse_snapshot(name)) is not None}
    return segments, snapshots


def choose_segments(
    segments: dict[str, SegmentName], floor_lsn: int, files: Files[EventT, StateT]
) -> list[tuple[str, SegmentName]]:
    """Return the segments that count in order, and note the others as stale."""
    chosen: list[tuple[str, SegmentName]] = []
    highest_epoch = -1
    # From the lowest base on, and on one base from the highest epoch: whoever has a lower epoch than one that was
    # seen before is superseded by it.
    for name, parsed in sorted(segments.items(), key=lambda item: (item[1].base_lsn, -item[1].epoch)):
        if parsed.epoch < highest_epoch or parsed.base_lsn < floor_lsn or (chosen and chosen[-1][1][0] == parsed[0]):
            files.stale.append(name)
        else:
            chosen.append((name, parsed))
        highest_epoch = max(highest_epoch, parsed.epoch)
    return chosen


def _check_start(
    directory: str, floor_lsn: int, chosen: list[tuple[str, SegmentName]], files: Files[EventT, StateT]
) -> None:
    if chosen and chosen[0][1].base_lsn == floor_lsn:
        return
    before = f"the snapshot {files.snapshot.path} covers it up to LSN {floor_lsn}" if files.snapshot else "no snapshot"
    after = (
        f"the first segment {chosen[0][0]} begins at LSN {chosen[0][1].base_lsn}" if chosen else "no segment follows"
    )
    raise CorruptionError(f"a part of the log is missing: {before}, {after}", path=directory, lsn=floor_lsn)


def _open_segment(fs: FileSystem, directory: str, name: str, parsed: SegmentName, plug: Plug[EventT, StateT]) -> Link:
    path = f"{directory}/{name}"
    file = fs.open(path)
    try:
        header = read_header(file, path, FileKind.SEGMENT, plug.codec.id, plug.reducer.id).named(parsed.base_lsn)
        if (header.lsn, header.epoch) != parsed:
            raise CorruptionError(f"the header says LSN {header.lsn}, the name another", path=path, offset=0)
        length = file.size()
    except BaseException:
        file.close()
        raise
    return Link(name, path, header, file, length, length)


def _check_identity(files: Files[EventT, StateT]) -> None:
    expected = files.snapshot.header.store_id if files.snapshot is not None else files.chain[0].header.store_id
    for link in files.chain:
        if link.header.store_id != expected:
            raise CorruptionError("the segment belongs to another store", path=link.path, offset=16)


def _check_joints(chain: list[Link]) -> None:
    """Set where each segment ends, and check that each begins where the one before it ends."""
    for link, successor in pairwise(chain):
        end = successor.base_lsn - link.base_lsn
        if end > link.length:
            raise CorruptionError(
                f"a part of the log is missing: this segment ends at LSN {link.base_lsn + link.length}, and the next, "
                f"{successor.name}, begins at LSN {successor.base_lsn}",
                path=link.path,
                offset=link.length,
                lsn=link.base_lsn + link.length,
            )
        # A recovery that did not come to cutting leaves bytes behind the place where its own segment takes over.
        uncut = successor.header.epoch > link.header.epoch and link.length < link.header.length
        if end < HEADER_BYTES or not (uncut or link.length in (end, link.header.length)):
            raise CorruptionError(
                f"the length of the segment is neither {end} (where {successor.name} begins) nor "
                f"{link.header.length} (what its header says)",
                path=link.path,
                offset=link.length,
                lsn=link.base_lsn + link.length,
            )
        if successor.header.follows_lsn not in (None, link.base_lsn):
            raise CorruptionError(
                f"the segment was made to follow one at LSN {successor.header.follows_lsn}, not {link.name}",
                path=successor.path,
                offset=0,
                lsn=successor.base_lsn,
            )
        link.end = end
    last = chain[-1]
    if last.length != last.header.length:
        raise CorruptionError(
            f"the segment has {last.length} bytes where its header says {last.header.length}: it was cut, or the "
            "segment that followed it is missing",
            path=last.path,
            offset=last.length,
            lsn=last.base_lsn + last.length,
        )
