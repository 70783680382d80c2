"""One damage to the files of a store at rest, and what has to come of it.

What is below the last watermark that is left on the device was on the device: damage to it is refused, always. Above
it a log may be cut at the damage, and says so. Where nothing is damaged that counts, nothing may be missing.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final

from tests.crash.worlds import DIRECTORY, World, contents, jobs_of
from walstore.engine.recovery import Situation
from walstore.engine.survey import Files, survey
from walstore.engine.view import View
from walstore.errors import CorruptionError, StoreNotFoundError
from walstore.format.filenames import LOCK_NAME
from walstore.format.frame import find_frames, frame_bytes
from walstore.format.layout import HEADER_BYTES, FrameKind, Watermark
from walstore.model.events import EventForm
from walstore.model.records import JobState, record_of
from walstore.model.reducer import settled
from walstore.testing.model import Jobs
from walstore.wal import JOBS

__all__ = ["check_damage"]

_SECTOR_BYTES: Final = 512
_REFUSED: Final = -1
"""In place of the number of units that must be there: the store must be refused."""


@dataclass(frozen=True, slots=True)
class _Damage:
    """What happens to a file: the bytes from ``start`` to ``end`` change, or all from ``start`` on is gone."""

    name: str
    start: int
    end: int
    content: bytes | None


def check_damage(world: World, kind: str, seed: int) -> bool:
    """Damage a copy of the disk and open it, for reading or for writing; returns whether there was anything to damage.

    Raises ``AssertionError`` where it opens and must not, or shows what it must not.
    """
    choice = random.Random(f"damage {seed}")
    intact = world.fork(world.fs.clone(choice), seed)
    intact.fs.capacity_bytes = None
    if "store" not in intact.fs.list_directory("/data"):
        return False
    try:
        found = jobs_of(intact.read())
    except StoreNotFoundError:
        return False
    damage = _draw(contents(intact.fs), kind, choice)
    if damage is None:
        return False
    least = _units_left(intact, damage, found)
    twin = intact.fork(intact.fs.clone(choice), seed)
    path = f"{DIRECTORY}/{damage.name}"
    if damage.content is None:
        twin.fs.unlink(path)
    else:
        twin.fs._file(path).data[:] = damage.content
    what = f"{kind} of {damage.name}, {damage.start} to {damage.end}"
    try:
        store = twin.open() if choice.random() < 0.5 else twin.read()
        shown, situation = jobs_of(store), store.recovery.situation
    except CorruptionError:
        return True
    except StoreNotFoundError:
        shown, situation = {}, Situation.CREATED
    finally:
        twin.drop()
    assert least != _REFUSED, f"{what}: damage below the watermark was not refused"
    assert shown in intact.history.allowed(least), f"{what}: {intact.history.describe(shown, least)}"
    # Of a flipped bit a trace is left. Zeros up to the end of the log are its end, and where nothing yet told of a file
    # that is gone, nothing is missing.
    is_told = situation in {Situation.TORN, Situation.CREATED}
    assert shown == found or kind != "flip" or is_told, f"{what}: a shorter log, {situation}"
    return True


def _draw(files: dict[str, bytes], kind: str, choice: random.Random) -> _Damage | None:
    """Draw a damage of a kind; None where it would change nothing."""
    name = choice.choice(sorted(files))
    content = files[name]
    if kind == "lose":
        return _Damage(name, 0, len(content), None)
    if not content:
        return None
    used = len(content.rstrip(b"\0")) if choice.random() < 0.7 else 0
    place = choice.randrange(used or len(content))
    if kind == "cut":
        return _Damage(name, place, len(content), content[:place])
    data = bytearray(content)
    if kind == "flip":
        data[place] ^= 1 << choice.randrange(8)
    else:
        start = place - place % _SECTOR_BYTES
        data[start : start + _SECTOR_BYTES] = bytes(len(data[start : start + _SECTOR_BYTES]))
    changed = [offset for offset, (old, new) in enumerate(zip(content, data, strict=True)) if old != new]
    return _Damage(name, changed[0], changed[-1] + 1, bytes(data)) if changed else None


def _units_left(world: World, damage: _Damage, found: Jobs) -> int:
    """Return how many units must be there in spite of the damage, or that the store must be refused."""
    states = world.history.states
    assert found in states, world.history.describe(found, 0)
    everything = len(states) - 1 - states[::-1].index(found)
    files = survey(world.fs, DIRECTORY, JOBS, created=True)
    assert files is not None
    try:
        is_gone = damage.content is None
        if files.snapshot is not None and files.snapshot.path == f"{DIRECTORY}/{damage.name}":
            # What it covers may not have been removed yet.
            return everything if is_gone and files.stale else _REFUSED
        number = next((number for number, link in enumerate(files.chain) if link.name == damage.name), None)
        if number is None or damage.start >= files.chain[number].end:
            return everything
        if is_gone and not contents(world.fs).get(LOCK_NAME):
            # No opening has come far enough to take an event, so there is nothing to prove that there was a log.
            return everything
        before = files.chain[number - 1] if number else None
        if is_gone and (files.stale or (before is not None and before.length == before.header.length)):
            # Nobody can tell that it was there: what it follows on has not been cut, or was not removed yet.
            return states.index(_state_at(files, _watermark(files, damage)))
        # A file that is cut, or gone, is told by the lengths; all others by what watermarks are left.
        is_shorter = is_gone or (damage.content is not None and len(damage.content) < damage.end)
        left_lsn = _watermark(files, None if is_shorter else damage)
        if (damage.start < HEADER_BYTES and not is_gone) or files.chain[number].base_lsn + damage.start < left_lsn:
            return _REFUSED
        return everything if is_shorter else states.index(_state_at(files, left_lsn))
    finally:
        files.close()


def _state_at(files: Files[EventForm, JobState], lsn: int) -> Jobs:
    return {job: record_of(job, settled(state)) for job, state in View(files, lsn, JOBS).fold().items()}


def _watermark(files: Files[EventForm, JobState], damage: _Damage | None) -> int:
    """Return the highest watermark in the log but for the damaged bytes."""
    highest = files.floor_lsn
    for link in files.chain:
        data = link.file.read(HEADER_BYTES, link.end - HEADER_BYTES)
        for frame in find_frames(data, link.header.nonce):
            end = HEADER_BYTES + frame.end
            start = end - frame_bytes(len(frame.payload))
            is_hit = damage is not None and link.name == damage.name and start < damage.end and damage.start < end
            if frame.kind is FrameKind.WATERMARK and not is_hit:
                highest = max(highest, Watermark.decode(frame.payload).lsn)
    return highest
