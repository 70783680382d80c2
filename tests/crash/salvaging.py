"""What must come out of a damaged store: the fold, by the naive model, of the frames of which no byte has changed.

Frames are found by the lengths in the undamaged files and compared byte by byte, so no checksum is asked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

from tests.crash.worlds import DIRECTORY, World, contents
from walstore.engine.salvage import Salvaged, gather
from walstore.errors import CorruptionError, NewerFormatError
from walstore.format.codec import JobCodec
from walstore.format.filenames import parse_segment, parse_snapshot
from walstore.format.layout import HEADER_BYTES, Header
from walstore.model.events import event_of
from walstore.model.records import JobState, record_of
from walstore.model.reducer import settled
from walstore.testing.model import Jobs, apply
from walstore.wal import JOBS

__all__ = ["Expected", "Layout", "check_salvage"]

_EVENTS: Final = 1
_RECORDS: Final = 3


class _Frame(NamedTuple):
    name: str
    start: int
    stop: int
    kind: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Expected:
    """What must come out, and the frames that are gone."""

    jobs: Jobs
    items: int
    """Frames of events and of records that are intact."""
    lost: list[_Frame]
    is_newer: bool
    """Whether a header was made to look like that of a newer release."""


class Layout:
    """The frames of an undamaged store, all of whose files are in use."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self._files = {name: data for name, data in files.items() if name != "LOCK"}
        self._frames = {name: list(_frames_of(name, data)) for name, data in self._files.items()}
        self._bases = {name: parsed.base_lsn for name in self._files if (parsed := parse_segment(name))}
        epochs = {name: parsed.epoch for name in self._files if (parsed := parse_segment(name))}
        self._chain = sorted(self._bases, key=lambda name: (self._bases[name], epochs[name]))
        self._snapshots = [name for name in self._files if parse_snapshot(name) is not None]
        assert len(self._snapshots) <= 1
        assert [epochs[name] for name in self._chain] == sorted(epochs.values())

    def lsn(self, frame: _Frame) -> int:
        """Return the LSN of a frame of the log."""
        return self._bases[frame.name] + frame.start

    def expected(self, files: dict[str, bytes]) -> Expected:
        """Say what must come out of the store when its files have become these."""

        def is_whole(name: str, start: int, stop: int) -> bool:
            return files.get(name, b"")[start:stop] == self._files[name][start:stop]

        usable = {name for name in self._files if is_whole(name, 0, HEADER_BYTES)}
        jobs: Jobs = {}
        items, lost = 0, []
        for frame in (frame for name in self._snapshots for frame in self._frames[name]):
            if frame.name not in usable or not is_whole(*frame[:3]):
                lost.append(frame)
            elif frame.kind == _RECORDS:
                items += 1
                jobs |= {key: record_of(key, state) for key, state in JobCodec().decode_records(frame.payload)}
        for number, name in enumerate(self._chain):
            for frame in self._frames[name]:
                if self.lsn(frame) >= self._limit(number, usable, files):
                    continue
                if name not in usable or not is_whole(*frame[:3]):
                    # What another segment had taken over was there a second time.
                    if self.lsn(frame) < self._limit(number, set(self._files), self._files):
                        lost.append(frame)
                elif frame.kind == _EVENTS:
                    items += 1
                    for event in JobCodec().decode_events(frame.payload):
                        apply(jobs, event_of(event))
        return Expected(jobs, items, lost, any(map(_looks_newer, files.values())))

    def _limit(self, number: int, usable: set[str], files: dict[str, bytes]) -> float:
        """Return the LSN up to which a segment counts: a segment that can't be read takes nothing over."""
        for name in self._chain[number + 1 :]:
            if name in usable:
                return self._bases[name]
            if name in files:
                break
        return float("inf")

    def is_cut_off(self, frame: _Frame, files: dict[str, bytes]) -> bool:
        """Whether a frame was made zeros with all that followed it: then the log just ends before it.

        Or went with the last segment before the one that goes before it had been cut, so that nothing tells of it.
        """
        last = self._chain[-1]
        if last not in files and len(self._chain) > 1 and self._is_uncut(self._chain[-2]):
            if frame.name == last:
                return True
            last = self._chain[-2]
        data = files.get(last, b"")
        return frame.name == last and len(data) >= len(self._files[last]) and not data[frame.start :].strip(b"\0")

    def _is_uncut(self, name: str) -> bool:
        data = self._files[name]
        return len(data) == Header.decode(data[:HEADER_BYTES]).length


def check_salvage(world: World, layout: Layout) -> Salvaged[JobState] | None:
    """Read what verifies in the store of a world, and compare with what must; None where nothing does."""
    files = contents(world.fs)
    expected = layout.expected(files)
    refused = _is_refused(world)
    try:
        found = gather(world.fs, DIRECTORY, JOBS)
    except CorruptionError:
        assert expected.items == 0
        assert refused
        return None
    except NewerFormatError:
        assert expected.is_newer
        return None
    finally:
        assert contents(world.fs) == files
    assert {key: record_of(key, settled(state)) for key, state in found.states.items()} == expected.jobs
    # What is damage for an opening is damage here, and the other way round.
    assert found.is_damaged == refused
    for frame in expected.lost:
        assert layout.is_cut_off(frame, files) or _is_told(frame, layout, found, files), (frame, found.gaps)
    return found


def _is_told(frame: _Frame, layout: Layout, found: Salvaged[JobState], files: dict[str, bytes]) -> bool:
    if parse_segment(frame.name):
        start, stop = layout.lsn(frame), layout.lsn(frame) + frame.stop - frame.start
        if frame.name not in files:
            # Where a missing segment began is not known: it may have taken over from the end of the one before it.
            return any(gap.loses == "events" and (gap.to_lsn is None or gap.to_lsn >= stop) for gap in found.gaps)
        return any(
            gap.from_lsn is not None and gap.from_lsn < stop and (gap.to_lsn is None or gap.to_lsn > start)
            for gap in found.gaps
        )
    if frame.name not in files:
        return any(gap.path == DIRECTORY and gap.from_lsn == 0 for gap in found.gaps)
    return any(
        gap.path == f"{DIRECTORY}/{frame.name}"
        and gap.offset is not None
        and gap.offset < frame.stop
        and (gap.length is None or gap.offset == 0 or gap.offset + gap.length > frame.start)
        for gap in found.gaps
    )


def _is_refused(world: World) -> bool:
    try:
        world.read().close()
    except (CorruptionError, NewerFormatError):
        return True
    return False


def _frames_of(name: str, data: bytes) -> list[_Frame]:
    frames, start = [], HEADER_BYTES
    while data[start + 12 : start + 14] == b"wl":
        length = int.from_bytes(data[start + 8 : start + 12], "big")
        stop = start + 16 + length + -length % 8
        frames.append(_Frame(name, start, stop, data[start + 14], data[start + 16 : start + 16 + length]))
        start = stop
    return frames


def _looks_newer(data: bytes) -> bool:
    version, inverted = int.from_bytes(data[8:10], "big"), int.from_bytes(data[10:12], "big")
    return data[:8] == b"WALSTORE" and version ^ inverted == 0xFFFF and version > 1
