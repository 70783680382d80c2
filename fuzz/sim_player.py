"""Performs the scripts of the simulation on one simulated machine, and checks after each step what has to hold.

Whatever is raised out of a step that is not documented to be raised there is a failure, ``CorruptionError`` above all.
Errors of the device are documented only where the script ordered them.
"""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final, get_args

from fuzz.sim_damage import check_damage
from fuzz.sim_readers import Readers
from fuzz.sim_script import SHAPES, Script, Step, unit
from tests.crash.worlds import DIRECTORY, Operation, World, jobs_of
from walstore.errors import StorageError, StorePoisonedError
from walstore.format.filenames import is_temporary, parse_segment, parse_snapshot
from walstore.format.layout import HEADER_BYTES, Header
from walstore.options import Durability
from walstore.testing import sim_fs
from walstore.testing.sim_fs import SimCrash, SimFileSystem
from walstore.wal import WalPersistence

__all__ = ["Player"]

_SEGMENTS_MAX: Final = 20
"""An opening that finds more than 16 old ones compacts, and then there are its own and what work has added."""


class Player:
    """A machine with one store, over any number of lives."""

    def __init__(self, world: World | None = None, seen: Counter[str] | None = None) -> None:
        self.world = World(0) if world is None else world
        self.points = 0
        """Crashes, and damages, after each of which the outcome was checked."""
        self.seen: Counter[str] = Counter() if seen is None else seen
        """How often an opening found which situation, and which error was raised where it may be."""
        self.position = 0
        """The step that is being performed."""
        self.calls_before = 0
        """The calls that the world had counted when that step began."""
        self.has_failed = False
        """Whether the device has failed in this life."""
        self._probe: Callable[[str], object] | None = None
        self._is_dead = False
        self._was_crashed = False
        self._is_poisoned = False
        self._is_troubled = False
        self._readers = Readers(self._expected)
        self._meanwhile: list[tuple[str, int, int]] = []
        self._deadly = (0, "")
        self._may_interrupt = False

    def fork(self, fs: SimFileSystem) -> Player:
        """Return a player whose machine has the same past, up to a crash that is yet to come, on a copy of its disk."""
        return Player(self.world.fork(fs, 0), self.seen)

    def play(self, script: Script) -> None:
        """Perform the steps. Those that make no sense are skipped, so that a script with a step less is one as well."""
        for self.position, step in enumerate(script):
            if self._is_dead and step[0] != "crash":
                continue
            self.calls_before = self.world.fs.calls
            try:
                self._perform(step)
            except SimCrash:
                self._is_dead = True
                self.world.drop()

    def _perform(self, step: Step) -> None:
        fs = self.world.fs
        match step:
            case ("world", seed, shape):
                self._move(World(int(seed)))
                self.world.options = SHAPES[int(shape)]
            case ("open", level):
                self._open(Durability(level))
            case ("event" | "restore" | "many", number, *count):
                self._work(Operation(step[0], unit(step[0], int(number), *map(int, count))))
            case ("read",):
                self._readers.read(self.world, keep=False)
            case ("hold",):
                self._readers.read(self.world, keep=True)
            case ("look",):
                self._readers.look(self.world)
            case ("stream",):
                history = self.world.history
                self._readers.begin(self.world, history.power_floor if self._is_poisoned else len(history.states) - 1)
            case ("drain",):
                self._readers.end()
                if self.world.store is None:
                    self._check_closed()
            case ("meanwhile", place, nth, number):
                self._meanwhile.append((place, int(nth), int(number)))
                self._watch()
            case ("fault", call, code, nth, times, *lost):
                (operation,) = (each for each in get_args(sim_fs.Operation) if each == call)
                fs.fail(operation, getattr(errno, code), nth=int(nth), times=int(times), lost=bool(lost))
                self._is_troubled = True
            case ("space", room):
                fs.capacity_bytes = int(room)
                self._is_troubled = True
            case ("calm",):
                self._calm()
            case ("die", nth):
                fs.crash_after(int(nth))
            case ("die", nth, call):
                self._deadly = (int(nth), call)
                self._watch()
            case ("crash", kind, seed):
                self._crash(kind, int(seed))
            case ("damage", kind, seed):
                if self.world.store is None:
                    self.points += check_damage(self.world, kind, int(seed))
            case (name,):
                self._work(Operation(name))
            case _:
                raise ValueError(f"no such step: {' '.join(step)}")

    # The writer.

    def _open(self, level: Durability) -> None:
        fs = self.world.fs
        if self.world.store is not None:
            return
        # Whatever faults have left behind, an opening without any puts into order.
        self._is_troubled = bool(fs._faults) or fs.capacity_bytes is not None
        try:
            self.world.recover(level)
        except (StorageError, StorePoisonedError) as error:
            self._expect(error)
            if self.world.store is None:
                return
            # It is open, and only looking at it has failed.
            self._calm()
            self.world.recover(level)
        assert self.world.store is not None
        self.seen[self.world.store.recovery.situation.name] += 1
        self.points += self._was_crashed
        self._was_crashed = False
        self._check_files(ready_max=0)

    def _work(self, operation: Operation) -> None:
        """Perform an operation, unless there is no store open, and check that nothing is promised after a poisoning."""
        world, was_poisoned = self.world, self._is_poisoned
        if world.store is None:
            return
        if was_poisoned and operation.name in {"load", "iterate"}:
            self._look_poisoned(world.store)
            return
        units = len(world.history.states)
        # Nobody may record any more while the store is being closed; and one interruption is not interrupted itself.
        self._may_interrupt = not self._may_interrupt and operation.name != "close"
        try:
            world.perform(operation)
        except StorePoisonedError as error:
            self._expect(error)
            self._is_poisoned = True
            if was_poisoned and operation.unit:
                world.history.withdraw()
        except StorageError as error:
            self._expect(error)
            if operation.unit:
                # What raises has recorded nothing, and nothing comes in between before it has.
                world.history.withdraw()
                assert len(world.history.states) == units, "a call that raised let another one record in between"
        else:
            assert not was_poisoned or operation.name == "tick", f"{operation.name} succeeded after a failed sync"
        finally:
            self._may_interrupt = False
        if world.store is None:
            self._is_poisoned = False
            self._check_closed()
        else:
            self._is_poisoned |= world.store._store is not None and world.store._store._commit.failure is not None
            if operation.name == "compact" and not self._is_troubled:
                self._check_files(ready_max=1)

    def _look_poisoned(self, store: WalPersistence) -> None:
        with self._expected():
            shown = jobs_of(store)
            assert shown in self.world.history.allowed(self.world.history.power_floor), "a poisoned store shows a loss"
            assert [str(job.id) for job in store.iter_jobs()] == sorted(shown)

    def _check_files(self, ready_max: int) -> None:
        """Check that no unfinished work lies around but the next segment, and that what is there has a bound."""
        if self._is_troubled or self._readers.is_streaming:
            return
        names = self.world.fs.list_directory(DIRECTORY)
        left = [name for name in names if is_temporary(name)]
        ready = [name for name in left if name.startswith("next-")]
        assert len(left) == len(ready) <= ready_max, f"left behind: {left}"
        segments = sorted(name for name in names if parse_segment(name))
        assert len(segments) <= _SEGMENTS_MAX, f"{len(segments)} segments: {segments}"
        for name in segments[:-1]:
            data = self.world.fs._file(f"{DIRECTORY}/{name}").data
            is_cut = len(data) < Header.decode(bytes(data[:HEADER_BYTES])).length
            assert is_cut, f"{name} was not cut, so that nothing tells of the segment that follows it"
        snapshots = [name for name in names if parse_snapshot(name) is not None]
        assert len(snapshots) <= 1, f"covered snapshots are still there: {snapshots}"

    def _check_closed(self) -> None:
        if not self._readers.is_streaming:
            assert not self.world.fs.open_paths, f"still open after close: {self.world.fs.open_paths}"

    # What the script does to the machine.

    def watch(self, probe: Callable[[str], object]) -> None:
        """Let ``probe`` be called before each call to the file system that counts, with its name."""
        self._probe = probe
        self._watch()

    def leave(self) -> None:
        """Give up the machine as it is, without the warning that its store was never closed."""
        self.world.drop()
        self.world.fs._end("left")
        self._move(self.world)

    def _watch(self) -> None:
        fs = self.world.fs
        fs.before_call = self._before_call if self._probe is not None or self._meanwhile or self._deadly[0] else None
        fs.after_sync = partial(self._interrupt, "after") if self._meanwhile else None

    def _before_call(self, step: tuple[str, str]) -> None:
        if self._probe is not None:
            self._probe(step[0])
        nth, call = self._deadly
        if nth and step[0] == call:
            self._deadly = (nth - 1, call)
            if nth == 1:
                self.world.fs.crash_after(1)
        self._interrupt("before", step)

    def _interrupt(self, place: str, step: tuple[str, str]) -> None:
        """Let another thread record, if it is to do so here: before or after a sync of a segment that has its name."""
        if not self._meanwhile or self._meanwhile[0][0] != place or not self._may_interrupt or step[0] != "sync":
            return
        name = step[1].removeprefix(f"{DIRECTORY}/").removesuffix(".tmp")
        if not parse_segment(name) or name not in self.world.fs.list_directory(DIRECTORY):
            return
        _, nth, number = self._meanwhile.pop(0)
        if nth > 1:
            self._meanwhile.insert(0, (place, nth - 1, number))
        else:
            self._work(Operation("event", unit("event", number)))

    def _calm(self) -> None:
        self.world.fs.heal()
        self.world.fs.capacity_bytes = None

    def _crash(self, kind: str, seed: int) -> None:
        world = self.world
        self._move(world.after_power_loss(seed) if kind == "power" else world.after_process_crash(seed))
        self._was_crashed = True
        self._is_troubled = self.world.fs.capacity_bytes is not None

    def _move(self, world: World) -> None:
        """Go on in another world. What was open in the old one is gone."""
        self._readers.leave()
        self._meanwhile.clear()
        self._deadly = (0, "")
        self._is_dead = self._is_poisoned = self.has_failed = False
        self.world = world
        self._watch()

    @contextmanager
    def _expected(self) -> Iterator[None]:
        """Let an error of the device pass that the script ordered."""
        try:
            yield
        except StorageError as error:
            self._expect(error)

    def _expect(self, error: Exception) -> None:
        """Raise the error again unless the script ordered one like it."""
        if not self._is_troubled:
            raise error
        self.seen[type(error).__name__] += 1
        self.has_failed = True
