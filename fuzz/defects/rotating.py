"""Defects of the change from one segment to the next."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from fuzz.defects.planting import defect, swap
from walstore.engine import log, successor
from walstore.engine import segment as segments
from walstore.engine.log import Head, Log
from walstore.engine.segment import Segment
from walstore.engine.successor import Successor
from walstore.errors import storage_errors
from walstore.format.filenames import parse_segment
from walstore.format.layout import HEADER_BYTES, SEGMENT_RESERVE_BYTES, Header
from walstore.fs.api import File, FileSystem
from walstore.fs.atomic import sync_directory

__all__: list[str] = []


@defect("simulate", "small_worlds")
def finished_segment_cut_before_its_successor_exists() -> None:
    """A rotation cuts the old segment first, so a crash leaves a log that looks as if its last file were missing."""
    rotate = Log._rotate

    def cut_first(self: Log, stale: Head, frame_bytes: int) -> None:
        if self._refusal is None and self.head is stale:
            with storage_errors(f"cutting {self.live.path}"):
                self.live.seal()
                self.live.file.truncate(self.live.end)
        rotate(self, stale, frame_bytes)

    swap(Log, "_rotate", cut_first)


@defect("damage", "small_worlds")
def finished_segment_not_cut() -> None:
    """A finished segment stays at its full length, so nothing tells that a successor ever was."""

    def sync_only(self: Log) -> None:
        sync_directory(self._fs, self._directory)
        self._unsynced += self._uncut
        self._uncut.clear()

    swap(Log, "cut", sync_only)


@defect("simulate", "small_worlds")
def finished_segment_cut_before_the_name_of_its_successor_is_synced() -> None:
    """The cut, which says that there is a successor, may reach the device, and the name of that one not."""

    def cut_only(self: Log) -> None:
        for segment in self._uncut:
            segment.file.truncate(segment.end)
        self._unsynced += self._uncut
        self._uncut.clear()

    swap(Log, "cut", cut_only)


@defect("simulate", "small_worlds")
def segment_begun_behind_a_name_that_is_not_synced() -> None:
    """Two new names may wait for the directory's sync, so a power loss may take the first and leave the second."""
    start = Log._start

    def start_anyhow(self: Log, old: Segment, frame_bytes: int) -> Segment:
        uncut, self._uncut = self._uncut, []
        try:
            return start(self, old, frame_bytes)
        finally:
            self._uncut[:0] = uncut

    swap(Log, "_start", start_anyhow)


@defect("simulate", "small_worlds")
def next_segment_named_before_its_sync() -> None:
    """What was made ready ahead gets its name without having been synced, so a power loss may take its header."""

    def hasty(self: Successor, path: str, header: Header, written: bool) -> None:
        file = self._fs.create(path)
        file.allocate(header.length, written=written)
        file.write(0, header.encode())
        appender = file.appender(HEADER_BYTES, header.length - SEGMENT_RESERVE_BYTES)
        self._prepared = successor._Prepared(file, path, header, appender)

    swap(Successor, "_make", hasty)


@defect("simulate", "damage")
def segment_reused() -> None:
    """A new segment is written over the frames of an old one, which verify in it (logs that are recycled)."""
    create_segment = segments.create_segment

    def recycle(
        fs: FileSystem, directory: str, header: Header, fill: Callable[[File], int] = lambda _: HEADER_BYTES
    ) -> Segment:
        del fill
        name = min(name for name in fs.list_directory(directory) if parse_segment(name))
        file = fs.open(f"{directory}/{name}")
        old = Header.decode(file.read(0, HEADER_BYTES))
        frames = file.read(HEADER_BYTES, min(file.size(), header.length) - HEADER_BYTES)
        file.close()

        def fill_over(file: File) -> int:
            file.write(HEADER_BYTES, frames)
            return HEADER_BYTES

        return create_segment(fs, directory, replace(header, nonce=old.nonce), fill_over)

    def none_is_ready(self: Successor, follows_lsn: int, lsn: int, frame_bytes: int) -> Segment | None:
        del self, follows_lsn, lsn, frame_bytes
        return None

    swap(log, "create_segment", recycle)
    swap(Successor, "take", none_is_ready)
