"""Exhaustive small worlds: every short sequence of operations, a crash at every call, every state that it may leave.

The tree of sequences is walked from the shortest on. Of each sequence only the last operation is crashed, at each of
its calls to the file system and after it: the calls before are the last ones of shorter sequences. At each of these
moments the process dies, and the power fails with every outcome that ``disk_states`` lists. What a recovery finds
depends on the disk alone, so each distinct disk is recovered once; what it must find is checked at every moment at
which it may arise. A recovered store must go on. For short sequences the recovery itself is crashed in the same way.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Final

from fuzz.disk_states import Disk, DiskStates, disk_of, power_losses, tree_of
from fuzz.harness import Deadline, Tally, main
from fuzz.sequences import ALPHABET, Found, Moment, disk_under, frozen, moments, small_world
from tests.crash.worlds import LEVELS, World, jobs_of
from walstore.engine.recovery import Situation
from walstore.errors import StoreNotFoundError
from walstore.options import Durability
from walstore.testing.sim_fs import SimFileSystem

__all__ = ["Counts", "Explorer", "FoundError", "replay", "run"]

_AFTERWARDS: Final = 2
"""The seed of the checksums' seeds: no recovery uses those of the store that it finds, which have another."""


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


class Explorer:
    """Checks sequences, and remembers every disk that was recovered."""

    def __init__(self) -> None:
        self.counts = Counts()
        self._outcomes: dict[bytes, Found] = {}
        self._recrashed: set[bytes] = set()

    def check(self, level: Durability, sequence: Sequence[str]) -> None:
        """Crash the last operation of a sequence, or the creation of the store where there is none.

        Raises ``FoundError``.
        """
        self.counts.sequences += 1
        for moment in moments(level, sequence):
            self.counts.moments += 1
            self._check_moment(moment, f"{_name(level, sequence)}, {moment.where}", level)

    def check_recoveries(self, level: Durability, sequence: Sequence[str]) -> None:
        """Do the same, and crash each recovery from each of these crashes as well. Raises ``FoundError``."""
        self.counts.sequences += 1
        for moment in moments(level, sequence, copies=True):
            where = f"{_name(level, sequence)}, {moment.where}"
            assert moment.copy is not None
            self._crash_again(disk_under(moment.copy, moment.boot), moment.power, f"{where}, process", level)
            for number, (key, state) in enumerate(moment.lost):
                if bytes([moment.boot]) + key not in self._recrashed:
                    self._recrashed.add(bytes([moment.boot]) + key)
                    place = f"{where}, power loss {number}"
                    self._crash_again(disk_under(tree_of(state), moment.boot + 1), None, place, level)

    def _check_moment(self, moment: Moment, where: str, level: Durability) -> None:
        self._check_state(moment.boot, moment.live, moment.process, f"{where}, process", level)
        for number, state in enumerate(moment.lost):
            self._check_state(moment.boot + 1, state, moment.power, f"{where}, power loss {number}", level)
        self.counts.bounded += moment.lost.bounded

    def _check_state(
        self, boot: int, state: tuple[bytes, Disk], allowed: frozenset[Found], where: str, level: Durability
    ) -> None:
        self.counts.enumerated += 1
        key = bytes([boot]) + state[0]
        found = self._outcomes.get(key)
        if found is None:
            self.counts.distinct += 1
            found = self._outcomes[key] = self._recover(disk_under(tree_of(state[1]), boot), where, level)
        if found not in allowed:
            expected = " or ".join(sorted(map(_brief, allowed)))
            raise FoundError(f"{where}: found {_brief(found)} where there must be {expected}")

    def _recover(self, fs: SimFileSystem, where: str, level: Durability) -> Found:
        """Read a disk, recover it, check that both see the same and that the store goes on; return what it held."""
        world = small_world(fs, _AFTERWARDS)
        try:
            read = _read(world)
            assert not fs.calls, f"a reader wrote: {fs.trace}"
            found = _open(world, level)
            assert world.store is not None
            assert read in {None, found}, f"a reader saw {read}, the writer {found}"
            assert (read is None) == (world.store.recovery.situation is Situation.CREATED), world.store.recovery
            self.counts.situations[world.store.recovery.situation] += 1
            world.store.record_started("after.crash", 1)
            world.store.sync()
            expected = frozen(jobs_of(world.store))
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

    def _crash_again(self, fs: SimFileSystem, allowed: frozenset[Found] | None, where: str, level: Durability) -> None:
        """Crash the recovery of a disk at each of its calls, and at its end.

        ``allowed`` is what a power loss may leave of the page cache of a dead process, until a recovery has returned
        with it; None says that all of the disk is durable and can only be found again.
        """
        world = small_world(fs, _AFTERWARDS)
        root, boot = fs._root, fs.boot_id()[0]
        seen: list[tuple[str, tuple[bytes, Disk], DiskStates]] = []
        fs.before_call = lambda step: seen.append((f"{step[0]} {step[1]}", disk_of(root), power_losses(root)))
        try:
            found = frozenset({_open(world, level)})
        except Exception as error:
            raise FoundError(f"{where}: {error!r}") from error
        world.drop()
        until = found if allowed is None else allowed
        for number, (step, live, lost) in enumerate(seen, 1):
            moment = Moment(f"again before call {number}, {step}", boot, live, lost, found, until, None)
            self._check_moment(moment, f"{where}, {moment.where}", level)
        end = Moment("again at the end", boot, disk_of(root), power_losses(root), found, found, None)
        self._check_moment(end, f"{where}, {end.where}", level)
        self.counts.moments_again += len(seen) + 1


def _name(level: Durability, sequence: Sequence[str]) -> str:
    return f"{level.value}: {' '.join(('create', *sequence))}"


def _brief(found: Found) -> str:
    """Tell states apart: every run of a job began at another instant."""
    jobs = sorted(found, key=lambda item: item[0])
    return (
        ", ".join(f"{job[:8]} {record.status.value} {record.last_started_at_ns}" for job, record in jobs) or "nothing"
    )


def _read(world: World) -> Found | None:
    """Return what a reader sees, None where the creation of the store was never finished."""
    try:
        reader = world.read()
    except StoreNotFoundError:
        return None
    seen = frozen(jobs_of(reader))
    reader.close()
    return seen


def _open(world: World, level: Durability) -> Found:
    store = world.open(level)
    report = store.recovery
    assert not report.situation.is_corruption, report
    assert (report.kept_at is not None) == (report.torn_bytes > 0), report
    assert report.torn_bytes == 0 or report.situation is Situation.TORN, report
    return frozen(jobs_of(store))


_STEPS: Final = (
    (Explorer.check, 0),
    (Explorer.check, 1),
    (Explorer.check, 2),
    (Explorer.check_recoveries, 0),
    (Explorer.check_recoveries, 1),
    (Explorer.check, 3),
    (Explorer.check_recoveries, 2),
    (Explorer.check, 4),
)
"""What is done to all sequences of which length, behind the creation of the store; in this order, as defects that need
many operations are rare."""


def run(seconds: float, seed: int) -> Tally:
    """Walk all sequences until they or the time are at their end, and say how far that was.

    Within a step the seed decides on the order.
    """
    deadline = Deadline(seconds)
    choice = random.Random(seed)
    tally = Tally("small_worlds")
    explorer = Explorer()
    try:
        for check, length in _STEPS:
            sequences = list(product(LEVELS, product(ALPHABET, repeat=length)))
            choice.shuffle(sequences)
            done = 0
            while done < len(sequences) and not deadline.passed():
                check(explorer, *sequences[done])
                done += 1
            print(f"{check.__name__}, {length} operations: {done:,} of {len(sequences):,} sequences", flush=True)
    except FoundError as error:
        tally.failures.append(str(error))
    tally.runs = explorer.counts.sequences
    tally.points = explorer.counts.enumerated
    tally.seconds = deadline.elapsed()
    print(explorer.counts)
    return tally


def replay(failure: str) -> Tally:
    """Check the one sequence again with which the line of a failure begins, as in ``power: create event compact``."""
    deadline, tally, explorer = Deadline(float("inf")), Tally("small_worlds", runs=1), Explorer()
    level, _, names = failure.partition(",")[0].partition(":")
    sequence = names.split()[1:]
    try:
        explorer.check(Durability(level), sequence)
        explorer.check_recoveries(Durability(level), sequence)
    except FoundError as error:
        tally.failures.append(str(error))
    tally.points, tally.seconds = explorer.counts.enumerated, deadline.elapsed()
    return tally


if __name__ == "__main__":
    main(
        run, "Every short sequence of operations, crashed everywhere, with every state that a crash may leave.", replay
    )
