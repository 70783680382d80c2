"""Damages random stores in several places at once, salvages them, and compares with the fold of what is intact.

``python -m fuzz.salvage --seconds 600``. Each seed gives one store, and many damages to it. What comes out must be what
the naive model makes of the frames of which no byte has changed; every other frame must be named by a gap; and the new
store must open and hold what came out.
"""

from __future__ import annotations

import random
import traceback
from collections.abc import Callable
from typing import Final

from fuzz.harness import Deadline, Tally, main
from tests.crash.salvaging import Layout, check_salvage
from tests.crash.worlds import DIRECTORY, LEVELS, World, contents, random_script
from walstore.engine.salvage import salvage
from walstore.format.layout import HEADER_BYTES
from walstore.model.records import record_of
from walstore.model.reducer import settled
from walstore.wal import JOBS, WalPersistence

__all__ = ["run"]

_DAMAGED_COPIES: Final = 40
_NEW: Final = "/data/new"
_SPAN_MAX_BYTES: Final = 700


def run(seconds: float, seed: int) -> Tally:
    """Damage and salvage stores for some seconds."""
    tally, deadline = Tally("salvage"), Deadline(seconds)
    while not deadline.passed() and not tally.failures:
        store_seed = seed + tally.runs
        try:
            world = _store(store_seed)
            layout = Layout(contents(world.fs))
        except Exception:  # noqa: BLE001  # Whatever it was, it is a failure and not the end of the harness.
            tally.failures.append(f"seed {store_seed}, making the store: {traceback.format_exc()}")
            break
        for number in range(_DAMAGED_COPIES):
            choice = random.Random(f"salvage {store_seed} {number}")
            done: list[str] = []
            try:
                _check(world, layout, choice, done)
            except Exception:  # noqa: BLE001  # As above.
                tally.failures.append(f"seed {store_seed}, damage {number} ({done}): {traceback.format_exc()}")
                break
            tally.points += 1
        tally.runs += 1
    tally.seconds = deadline.elapsed()
    return tally


def _store(seed: int) -> World:
    """Return the world of a store at rest: closed, or left by a process that died, under this kernel or another one."""
    choice = random.Random(f"salvage {seed}")
    world = World(seed)
    for _ in range(choice.randrange(1, 4)):
        world.recover(choice.choice(LEVELS))
        world.run(random_script(choice, choice.randrange(5, 60)))
        if choice.random() < 0.5:
            world.close()
        else:
            world = world.after_process_crash(choice.getrandbits(32))
    if choice.random() < 0.3:
        world.fs._boot_id = bytes(16)
    return world


def _check(intact: World, layout: Layout, choice: random.Random, done: list[str]) -> None:
    world = intact.fork(intact.fs.clone())
    for _ in range(choice.choice((1, 1, 2, 3, 5, 9))):
        done += [_damage(world, choice)]
    found = check_salvage(world, layout)
    if found is None or choice.random() < 0.8:
        return
    salvage(world.environment(), DIRECTORY, _NEW, JOBS, 1024)
    jobs = [record_of(job, settled(state)) for job, state in sorted(found.states.items())]
    with WalPersistence(_NEW, environment=world.environment()) as store:
        assert list(store.iter_jobs()) == jobs


def _damage(world: World, choice: random.Random) -> str:
    """Damage one file in one way; returns what was done."""
    names = sorted(set(world.fs.list_directory(DIRECTORY)) - {"LOCK"})
    if not names:
        return "nothing left"
    name = choice.choice(names)
    if choice.random() < 0.1:
        del world.fs._directory(DIRECTORY).entries[name]
        return f"{name} removed"
    data = world.fs._file(f"{DIRECTORY}/{name}").data
    if not data:
        return f"{name} is empty"
    used = len(data.rstrip(b"\0")) or len(data)
    start = choice.randrange(used) if choice.random() < 0.9 else choice.randrange(len(data))
    stop = min(start + choice.randrange(1, _SPAN_MAX_BYTES), len(data))
    if choice.random() < 0.1 and start >= HEADER_BYTES:
        # A device that mixes up its files. Not their headers: a whole copy of a file still verifies, and so does a
        # frame at another place of its own file.
        other = choice.choice(names)
        data[start:stop] = contents(world.fs)[other][start:stop].ljust(stop - start, b"\0")
        return f"{name} from {start} to {stop} as in {other}"
    kind = choice.choice(list(_KINDS))
    _KINDS[kind](data, start, stop, choice)
    return f"{name} {kind} from {start} to {stop}"


def _flip(data: bytearray, start: int, _: int, choice: random.Random) -> None:
    data[start] ^= 1 << choice.randrange(8)


def _zero(data: bytearray, start: int, stop: int, _: random.Random) -> None:
    data[start:stop] = bytes(stop - start)


def _scribble(data: bytearray, start: int, stop: int, choice: random.Random) -> None:
    data[start:stop] = choice.randbytes(stop - start)


def _cut(data: bytearray, start: int, _: int, __: random.Random) -> None:
    del data[start:]


def _lengthen(data: bytearray, start: int, stop: int, choice: random.Random) -> None:
    data.extend(choice.choice((bytes(stop - start), choice.randbytes(stop - start))))


_KINDS: Final[dict[str, Callable[[bytearray, int, int, random.Random], None]]] = {
    "flipped": _flip,
    "zeroed": _zero,
    "scribbled": _scribble,
    "cut": _cut,
    "lengthened": _lengthen,
}


if __name__ == "__main__":
    main(run, __doc__ or "")
