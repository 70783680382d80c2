"""Exhaustive small worlds: every short sequence of operations, a crash at every call, every state that it may leave.

The tree of sequences is walked from the shortest on. Of each sequence only the last operation is crashed, at each of
its calls to the file system and after it: the calls before are the last ones of shorter sequences. At each of these
moments the process dies, and the power fails with every outcome that ``disk_states`` lists. What a recovery finds
depends on the disk alone, so each distinct disk is recovered once; what it must find is checked at every moment at
which it may arise. A recovered store must go on. For short sequences the recovery itself is crashed in the same way.
"""

from __future__ import annotations

import copy
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import product
from typing import Final

from fuzz.disk_states import Disk, DiskStates, disk_of, power_losses, tree_of
from fuzz.harness import Deadline, Tally, main
from tests.crash.worlds import LEVELS, Operation, World, jobs_of
from walstore.engine.recovery import Situation
from walstore.model.events import Cancelled, Finished, Scheduled, Started
from walstore.model.schedule import Periodic
from walstore.options import Durability, WalOptions
from walstore.testing.model import NOW_NS, Jobs
from walstore.testing.sim_disk import DirectoryNode
from walstore.testing.sim_fs import SimFileSystem
from walstore.testing.sim_world import Step

__all__ = ["ALPHABET", "LENGTH", "Counts", "Explorer", "FoundError", "run", "walk"]

ALPHABET: Final = ("event", "many", "cancel", "sync", "flush", "compact", "tick", "reopen", "kill")
LENGTH: Final = 4
"""Operations in the longest sequences, behind the creation of the store."""
_CRASHED_AGAIN: Final = 2
"""Up to this length the recovery is crashed as well."""
_OPTIONS: Final = WalOptions(
    segment_bytes_min=1024,
    segment_bytes_max=1024,
    buffer_events=2,
    compaction_ratio=1.5,
    small_store_bytes=4096,
)
"""A second ``many`` needs a second segment."""
_JOB: Final = "a.b"
_LONG: Final = "ai.geo." + "tile" * 30
_WORLD: Final = 1
_AFTERWARDS: Final = 2
"""Seeds of the checksums' seeds: no recovery uses those of the store that it finds."""
_FIRST_BOOT: Final = 1
"""The kernel under which a sequence runs. Each power loss starts the next one."""

Found = frozenset[tuple[str, object]]
"""The jobs of a store, to be compared quickly."""


class FoundError(Exception):
    """Something is wrong with a store after a crash; the message says how to see it again."""


@dataclass(slots=True)
class Counts:
    """What was done."""

    sequences: int = 0
    moments: int = 0
    """Crashes: calls of the last operation, and its end."""
    enumerated: int = 0
    """States over all moments, of which each is held against what was acknowledged then."""
    distinct: int = 0
    """Disks that were recovered."""
    bounded: int = 0
    """Moments at which not all states were listed."""
    moments_again: int = 0
    """Crashes in recoveries."""
    situations: Counter[Situation] = field(default_factory=Counter)

    def __str__(self) -> str:
        situations = ", ".join(f"{count:,} {situation.value}" for situation, count in self.situations.most_common())
        return (
            f"{self.sequences:,} sequences, {self.moments:,} crash moments and {self.moments_again:,} in recoveries, "
            f"{self.enumerated:,} states, {self.distinct:,} distinct ones recovered ({situations}), "
            f"{self.bounded:,} moments bounded"
        )


@dataclass(slots=True)
class _Moment:
    """What may be left where the world ends before a call, or after the last one, and what must be found there."""

    where: str
    live: tuple[bytes, Disk]
    lost: DiskStates
    process: frozenset[Found]
    """What may be found where only the process dies."""
    power: frozenset[Found]
    """What may be found where the power fails."""
    copy: DirectoryNode | None


class _Watched(SimFileSystem):
    """A disk under a kernel that calls ``before`` before each counted call."""

    def __init__(self, root: DirectoryNode, boot: int) -> None:
        super().__init__()
        self._root = root
        self._boot_id = bytes([boot]) * 16
        self.before: Callable[[Step], None] | None = None

    def _begin(self, step: Step, before_error: Callable[[bool], None] | None = None) -> None:
        if self.before is not None:
            self.before(step)
        super()._begin(step, before_error)


class Explorer:
    """Checks sequences, and remembers every disk that was recovered."""

    def __init__(self, *, crashed_again: int = _CRASHED_AGAIN) -> None:
        self.counts = Counts()
        self._crashed_again = crashed_again
        self._outcomes: dict[bytes, Found] = {}
        self._recrashed: set[bytes] = set()

    def check(self, level: Durability, sequence: tuple[str, ...]) -> None:
        """Crash the last operation of a sequence, or the creation of the store where there is none.

        Raises ``FoundError``.
        """
        self.counts.sequences += 1
        again = len(sequence) <= self._crashed_again
        for moment in _moments(level, sequence, copies=again):
            self.counts.moments += 1
            where = f"{level.value}: {' '.join(('create', *sequence))}, {moment.where}"
            self._check_moment(moment, _FIRST_BOOT, where, level)
            if moment.copy is None:
                continue
            self._crash_again(moment.copy, _FIRST_BOOT, moment.power, f"{where}, process", level)
            for number, (key, state) in enumerate(moment.lost):
                if key not in self._recrashed:
                    self._recrashed.add(key)
                    place = f"{where}, power loss {number}"
                    self._crash_again(tree_of(state), _FIRST_BOOT + 1, moment.power, place, level)

    def _check_moment(self, moment: _Moment, boot: int, where: str, level: Durability) -> None:
        self._check_state(boot, moment.live, moment.process, f"{where}, process", level)
        for number, state in enumerate(moment.lost):
            self._check_state(boot + 1, state, moment.power, f"{where}, power loss {number}", level)
        self.counts.bounded += moment.lost.bounded

    def _check_state(
        self, boot: int, state: tuple[bytes, Disk], allowed: frozenset[Found], where: str, level: Durability
    ) -> None:
        self.counts.enumerated += 1
        key = bytes([boot]) + state[0]
        found = self._outcomes.get(key)
        if found is None:
            self.counts.distinct += 1
            found = self._outcomes[key] = self._recover(_Watched(tree_of(state[1]), boot), where, level)
        if found not in allowed:
            raise FoundError(f"{where}: found {sorted(found)}, allowed are {[sorted(jobs) for jobs in allowed]}")

    def _recover(self, fs: _Watched, where: str, level: Durability) -> Found:
        """Recover a disk, check that the store goes on, and return what it held."""
        world = _world(fs, _AFTERWARDS)
        try:
            found = _open(world, level)
            assert world.store is not None
            self.counts.situations[world.store.recovery.situation] += 1
            world.store.record_started("after.crash", 1)
            world.store.sync()
            expected = _frozen(jobs_of(world.store))
            assert len(expected - found) == 1, f"{found} became {expected}"
            world.store.close()
            world.drop()
            again = _open(world, level)
            assert again == expected, f"{expected} became {again}"
            assert world.store.recovery.situation is Situation.CLEAN, world.store.recovery
        except Exception as error:
            raise FoundError(f"{where}: {error!r}") from error
        finally:
            world.drop()
        return found

    def _crash_again(
        self, root: DirectoryNode, boot: int, allowed: frozenset[Found], where: str, level: Durability
    ) -> None:
        """Crash the recovery of a disk at each of its calls, and at its end."""
        fs = _Watched(root, boot)
        world = _world(fs, _AFTERWARDS)
        seen: list[tuple[str, tuple[bytes, Disk], DiskStates]] = []
        fs.before = lambda step: seen.append((f"{step[0]} {step[1]}", disk_of(root), power_losses(root)))
        try:
            found = frozenset({_open(world, level)})
        except Exception as error:
            raise FoundError(f"{where}: {error!r}") from error
        world.drop()
        # What a power loss left is durable, and can only be found again. The page cache of a dead process may go, until
        # a recovery has returned with it.
        until = allowed if boot == _FIRST_BOOT else found
        for number, (step, live, lost) in enumerate(seen, 1):
            self._check_moment(
                _Moment("", live, lost, found, until, None), boot, f"{where}, again before call {number}, {step}", level
            )
        self._check_moment(
            _Moment("", disk_of(root), power_losses(root), found, found, None),
            boot,
            f"{where}, again at the end",
            level,
        )
        self.counts.moments_again += len(seen) + 1


def _world(fs: _Watched, seed: int) -> World:
    world = World(seed, fs)
    world.options = _OPTIONS
    return world


def _open(world: World, level: Durability) -> Found:
    store = world.open(level)
    report = store.recovery
    assert not report.situation.is_corruption, report
    assert (report.kept_at is not None) == (report.torn_bytes > 0), report
    assert report.torn_bytes == 0 or report.situation is Situation.TORN, report
    return _frozen(jobs_of(store))


def _frozen(jobs: Jobs) -> Found:
    return frozenset(jobs.items())


def _moments(level: Durability, sequence: tuple[str, ...], *, copies: bool) -> list[_Moment]:
    """Perform a sequence and return the crashes of its last operation."""
    root = DirectoryNode({"data": DirectoryNode()})
    world = _world(_Watched(root, _FIRST_BOOT), _WORLD)
    taken: list[_Moment] = []

    def look(step: Step | None) -> None:
        history = world.history
        where = "at the end" if step is None else f"before call {len(taken) + 1}, {step[0]} {step[1]}"
        states = [_frozen(jobs) for jobs in history.states]
        process, power = (frozenset(states[floor:]) for floor in (history.process_floor, history.power_floor))
        copied = copy.deepcopy(root) if copies else None
        taken.append(_Moment(where, disk_of(root), power_losses(root), process, power, copied))

    for number, name in enumerate(operations := ("create", *sequence)):
        _perform(world, level, name, number, look if number == len(operations) - 1 else None)
    look(None)
    world.drop()
    return taken


def _perform(world: World, level: Durability, name: str, number: int, look: Callable[[Step], None] | None) -> None:
    at_ns = NOW_NS + number
    if name == "kill":
        world.drop()
        world.fs = _Watched(world.fs._root, _FIRST_BOOT)
    assert isinstance(world.fs, _Watched)
    world.fs.before = look
    match name:
        case "create" | "kill":
            world.recover(level)
        case "reopen":
            world.close()
            world.recover(level)
        case "event":
            world.perform(Operation(name, (Started(_JOB, at_ns),)))
        case "cancel":
            world.perform(Operation("event", (Cancelled(_JOB),)))
        case "many":
            schedule = Scheduled(_LONG, Periodic(every_ns=5), at_ns)
            world.perform(Operation(name, (schedule, Started(_LONG, at_ns), Finished(_JOB, at_ns, False))))
        case _:
            world.perform(Operation(name))


def walk(seed: int) -> Iterator[tuple[Durability, tuple[str, ...]]]:
    """Yield every sequence at every level, from the shortest on; in an order drawn from the seed within a length."""
    choice = random.Random(seed)
    for length in range(LENGTH + 1):
        sequences = list(product(LEVELS, product(ALPHABET, repeat=length)))
        choice.shuffle(sequences)
        yield from sequences


def run(seconds: float, seed: int) -> Tally:
    """Walk the tree of sequences until it or the time is at its end, and say how far that was."""
    deadline = Deadline(seconds)
    tally = Tally("small_worlds")
    explorer = Explorer()
    total, done = Counter[int](), Counter[int]()
    for length in range(LENGTH + 1):
        total[length] = len(LEVELS) * len(ALPHABET) ** length
    try:
        for level, sequence in walk(seed):
            if deadline.passed():
                break
            explorer.check(level, sequence)
            done[len(sequence)] += 1
    except FoundError as error:
        tally.failures.append(str(error))
    tally.runs = explorer.counts.sequences
    tally.points = explorer.counts.enumerated
    tally.seconds = deadline.elapsed()
    print("; ".join(f"length {length}: {done[length]:,} of {total[length]:,}" for length in total))
    print(explorer.counts)
    return tally


if __name__ == "__main__":
    main(run, "Every short sequence of operations, crashed everywhere, with every state that a crash may leave.")
