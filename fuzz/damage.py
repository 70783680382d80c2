"""Every small damage to a small store: what was there is read, or an earlier state that may be, or it is refused.

Stores of each durability, closed and not, are damaged in one place at a time: every bit flipped, every file cut at
every length, words and sectors zeroed, files deleted, exchanged, given a second name, and lengthened; and all deleted
but the lock. A reader may then find exactly what was there; or, where the log shows as torn, an earlier state that no
acknowledgement on the device forbids; or it refuses the store as corrupt. Anything else is a failure, but for one: a
zeroed sector may take the end of the log with it, the marks that would tell among it, and leave what a log that ended
before would look like.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import combinations, product
from typing import Final

from fuzz.harness import Deadline, Tally, main
from fuzz.stores import STORES
from tests.crash.worlds import DIRECTORY, LEVELS, World, contents, jobs_of
from walstore.engine.recovery import Situation
from walstore.errors import CorruptionError
from walstore.format.filenames import LOCK_NAME, parse_segment, parse_snapshot, segment_name
from walstore.testing.sim_disk import SECTOR_BYTES, FileNode

__all__ = [
    "DAMAGES",
    "EXACT",
    "PREFIX",
    "REFUSED",
    "STORES",
    "Damage",
    "Outcomes",
    "look",
    "node_of",
    "run",
    "tally_of",
]

EXACT: Final = "exact"
PREFIX: Final = "earlier prefix"
REFUSED: Final = "refused"
UNNOTICED: Final = "unnoticed"
_END: Final = "end of the log"
_WORD_BYTES: Final = 8
_GARBAGE: Final = (b"\0", bytes(_WORD_BYTES), bytes(SECTOR_BYTES), b"x", b"garbage!", b"garbage!" * 64)

_KINDS: Final = list(product(LEVELS, STORES))

Outcomes = Counter[tuple[str, str]]
"""How often a damage to a kind of file had an outcome."""
Damage = Callable[[World], Iterator[tuple[str, str]]]
"""Does one damage after the other to a world, and undoes it. Yields the kind of file and what was done."""


def node_of(world: World, name: str) -> FileNode:
    """Return the file of a store behind a name."""
    return world.fs._file(f"{DIRECTORY}/{name}")


def look(world: World, *, end_is_gone: bool = False) -> str:
    """Open the store read-only, which judges as a writer does, and say what comes of it; anything else fails."""
    try:
        reader = world.read()
        found = jobs_of(reader)
    except CorruptionError:
        return REFUSED
    reader.close()
    history = world.history
    if found == history.states[-1]:
        return EXACT
    # The marks that would forbid an earlier state may be gone with the end of the log.
    floor = 0 if end_is_gone else history.power_floor
    assert found in history.allowed(floor), history.describe(found, floor)
    if reader.recovery.situation is Situation.TORN:
        return PREFIX
    assert end_is_gone, "a shorter log has to say so"
    return UNNOTICED


def _kind(name: str) -> str:
    if parse_segment(name):
        return "segment"
    return "snapshot" if parse_snapshot(name) is not None else name.split("-", maxsplit=1)[0]


@contextmanager
def _content(world: World, name: str, data: bytes) -> Iterator[None]:
    """Give a file another content for a while."""
    node = node_of(world, name)
    before = node.data
    node.data = bytearray(data)
    yield
    node.data = before


def _flip_every_bit(world: World) -> Iterator[tuple[str, str]]:
    for name, content in contents(world.fs).items():
        data = node_of(world, name).data
        for position in range(len(content)):
            for bit in range(8):
                data[position] ^= 1 << bit
                yield _kind(name), f"bit {bit} of byte {position} of {name} flipped"
                data[position] ^= 1 << bit
        assert bytes(data) == content


def _cut_everywhere(world: World) -> Iterator[tuple[str, str]]:
    for name, content in contents(world.fs).items():
        for length in range(len(content)):
            with _content(world, name, content[:length]):
                yield _kind(name), f"{name} cut to {length} bytes"


def _zero(world: World, size: int) -> Iterator[tuple[str, str]]:
    last = max(name for name in contents(world.fs) if parse_segment(name))
    for name, content in contents(world.fs).items():
        for start in range(0, len(content), size):
            zeros = bytes(len(content[start : start + size]))
            if content[start : start + size] != zeros:
                takes_end = size == SECTOR_BYTES and name == last and not any(content[start + size :])
                kind = _END if takes_end else _kind(name)
                with _content(world, name, content[:start] + zeros + content[start + size :]):
                    yield kind, f"{len(zeros)} bytes of {name} zeroed from {start} on"


def _zero_each_word(world: World) -> Iterator[tuple[str, str]]:
    return _zero(world, _WORD_BYTES)


def _zero_each_sector(world: World) -> Iterator[tuple[str, str]]:
    return _zero(world, SECTOR_BYTES)


def _delete_each(world: World) -> Iterator[tuple[str, str]]:
    entries = world.fs._directory(DIRECTORY).entries
    for name in list(entries):
        node = entries.pop(name)
        yield _kind(name), f"{name} deleted"
        entries[name] = node


def _delete_all_but_the_lock(world: World) -> Iterator[tuple[str, str]]:
    entries = world.fs._directory(DIRECTORY).entries
    before = dict(entries)
    for name in before.keys() - {LOCK_NAME}:
        del entries[name]
    yield "everything", f"all deleted but {LOCK_NAME}"
    entries.update(before)


def _swap_each_two(world: World) -> Iterator[tuple[str, str]]:
    for (one, first), (other, second) in combinations(contents(world.fs).items(), 2):
        with _content(world, one, second), _content(world, other, first):
            yield " and ".join(sorted((_kind(one), _kind(other)))), f"{one} and {other} exchanged"


def _second_name_for_each_segment(world: World) -> Iterator[tuple[str, str]]:
    """Each segment again where the next one could begin, and as that of the next opening."""
    entries = world.fs._directory(DIRECTORY).entries
    for name in list(entries):
        parsed = parse_segment(name)
        if parsed is None:
            continue
        base_lsn, epoch = parsed
        end_lsn = base_lsn + node_of(world, name).size_bytes()
        for second in (
            segment_name(end_lsn, epoch),
            segment_name(base_lsn, epoch + 1),
            segment_name(end_lsn, epoch + 1),
        ):
            if second not in entries:
                entries[second] = entries[name]
                yield "segment", f"{name} is there as {second} as well"
                del entries[second]


def _append_to_each(world: World) -> Iterator[tuple[str, str]]:
    for name, content in contents(world.fs).items():
        for garbage in (*_GARBAGE, content[-SECTOR_BYTES:]):
            with _content(world, name, content + garbage):
                yield _kind(name), f"{len(garbage)} bytes appended to {name}: {garbage[:_WORD_BYTES]!r}..."


DAMAGES: Final[dict[str, Damage]] = {
    "file deleted": _delete_each,
    "all deleted": _delete_all_but_the_lock,
    "files exchanged": _swap_each_two,
    "segment twice": _second_name_for_each_segment,
    "bytes appended": _append_to_each,
    "sector zeroed": _zero_each_sector,
    "word zeroed": _zero_each_word,
    "file cut": _cut_everywhere,
    "bit flipped": _flip_every_bit,
}


def tally_of(world: World, damage: Damage, deadline: Deadline | None = None) -> Outcomes:
    """Return how many damages of one kind had which outcome. Raises ``AssertionError`` for one that none may have."""
    outcomes: Outcomes = Counter()
    for kind, what in damage(world):
        if deadline is not None and deadline.passed():
            break
        try:
            outcomes[kind, look(world, end_is_gone=kind == _END)] += 1
        except Exception as error:
            raise AssertionError(f"{what}: {error!r}") from error
    return outcomes


def _table(rows: dict[tuple[str, str, str], Outcomes]) -> str:
    """Return the outcomes of each damage to each kind of store, over all kinds of file."""
    lines = [f"{'damage':<17}{'level':<10}{'store':<11}{EXACT:>9}{PREFIX:>16}{REFUSED:>9}{UNNOTICED:>11}"]
    for (damage, level, store), outcomes in sorted(rows.items()):
        sums: Counter[str] = Counter()
        for (_, outcome), count in outcomes.items():
            sums[outcome] += count
        counts = f"{sums[EXACT]:>9,}{sums[PREFIX]:>16,}{sums[REFUSED]:>9,}{sums[UNNOTICED]:>11,}"
        lines.append(f"{damage:<17}{level:<10}{store:<11}{counts}")
    return "\n".join(lines)


def run(seconds: float, seed: int) -> Tally:
    """Do every damage to every store, then to stores with other ids and checksums, until the time is over.

    The seed decides on the first of these stores, and on the order in which they get the same damage.
    """
    deadline = Deadline(seconds)
    choice = random.Random(seed)
    tally = Tally("damage")
    rows: dict[tuple[str, str, str], Outcomes] = {}
    try:
        while not deadline.passed():
            for damage_name, damage in DAMAGES.items():
                for level, store_name in choice.sample(_KINDS, len(_KINDS)):
                    if deadline.passed():
                        break
                    what = f"{level.value} store, {store_name}, seed {seed}"
                    outcomes = tally_of(STORES[store_name](level, seed), damage, deadline)
                    rows.setdefault((damage_name, level.value, store_name), Counter()).update(outcomes)
                    tally.runs += 1
                    tally.points += outcomes.total()
            seed += 1
    except AssertionError as error:
        tally.failures.append(f"{what}: {error}")
    tally.seconds = deadline.elapsed()
    print(_table(rows))
    return tally


if __name__ == "__main__":
    main(run, "Every small damage to a small store, closed and not, at each durability.")
