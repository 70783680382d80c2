"""Many threads on one store, with rotations, compactions, failing syncs, a full disk, signals, forks and crashes.

On a simulated disk the machine is looked at in the middle of it all: a copy of the disk is what a crash at that moment
leaves. On the real one there are the mapping, the lock, the forks, and the signals: a handler would wait for the lock
around the simulated disk, which the call that it interrupted holds. Each thread counts runs of jobs of its own, so what
is found tells how many of its calls are there, whether one is missing in between or there twice, and whether half of
one is.
"""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from fuzz.harness import Deadline, Tally, main
from fuzz.workers import KEEPING, OPTIONS, Crew, Worker
from walstore.engine.environment import Environment
from walstore.errors import FencedError, ForkedProcessError, StoreLockedError, StorePoisonedError
from walstore.fs.api import Appender, File
from walstore.fs.os_append import PwriteAppender
from walstore.options import Durability
from walstore.testing.sim_file import SimAppender, SimFile
from walstore.testing.sim_fs import SimFileSystem
from walstore.wal import WalPersistence

__all__ = ["run"]

_DIRECTORY: Final = "/data/store"
_MEMORY: Final = "/dev/shm"
_LOOKS: Final = 5
"""Crashes that are looked at in each life on the simulated disk."""
_SWITCH_S: Final = 2e-5
"""How long a thread may run before another has its turn: short, so that they meet in the middle of things."""


class _FileSystem(SimFileSystem):
    """A simulated file system that takes its time, and where mapping may not be safe."""

    def __init__(self, seed: int, *, mapped: bool, latency_s: float) -> None:
        super().__init__(seed)
        self.mapped = mapped
        self._latency_s = latency_s

    def create(self, path: str) -> File:
        with self._mutex:
            super().create(path).close()
            return _File(self, path, self._file(path), writable=True)

    def linger(self) -> None:
        """Give the other threads a turn, now a short one and now a long one."""
        time.sleep(self._latency_s * random.choice([0, 0, 1, 4]))


class _File(SimFile):
    def sync(self) -> None:
        # As with a device, what comes while a sync is under way may have come before it took effect or after.
        assert isinstance(self._world, _FileSystem)
        self._world.linger()
        super().sync()
        self._world.linger()

    def appender(self, start: int, end: int) -> Appender:
        assert isinstance(self._world, _FileSystem)
        if not self._world.mapped:
            return PwriteAppender(self, start, end)
        super().appender(start, end)
        self._appenders[-1] = _Appender(self._world, self._path, self._node, start, end)
        return self._appenders[-1]


class _Appender(SimAppender):
    def seal(self) -> int:
        # As on a mapping, where sealing is two calls, and a write may come in between.
        assert isinstance(self._world, _FileSystem)
        end = self.tell()
        self._world.linger()
        super().seal()
        return end


def _environment(fs: SimFileSystem, *, threads: bool) -> Environment:
    return Environment(
        fs=fs,
        random_bytes=os.urandom,
        monotonic_ns=time.monotonic_ns,
        wall_ns=time.time_ns,
        holder=lambda: {"host": "sim", "pid": 1},
        threads=threads,
    )


class _SimulatedLife:
    """One store on a simulated disk."""

    def __init__(self, choice: random.Random, tally: Tally) -> None:
        self._choice = choice
        self._tally = tally
        latency_s = choice.choice([0.0, 1e-4, 5e-4])
        self._fills_up = choice.random() < 0.3
        # A full disk is met by a write only where there is no mapping.
        mapped = choice.random() < (0.3 if self._fills_up else 0.8)
        self._fs = _FileSystem(choice.getrandbits(32), mapped=mapped, latency_s=latency_s)
        self._fs.make_directory("/data")
        self._fs.sync_directory("/")

    def live(self) -> None:
        choice, fs = self._choice, self._fs
        level = choice.choice(list(Durability))
        store = WalPersistence(
            _DIRECTORY,
            durability=level,
            options=choice.choice([OPTIONS, KEEPING]),
            environment=_environment(fs, threads=True),
        )
        crew = Crew(store, level, choice, choice.choice([8, 8, 12, 16, 32]))
        try:
            # Several, since most syncs are those of a file that has no name yet, whose failure is harmless.
            for _ in range(choice.choice([0, 4])):
                fs.fail("sync", errno.EIO, nth=choice.randrange(1, 60), lost=choice.random() < 0.7)
            for _ in range(_LOOKS):
                self._fill_up()
                crew.proceed(choice.randrange(20, 200))
                self._look(crew.workers)
            fs.capacity_bytes = None
            fs._faults[:] = [fault for fault in fs._faults if fault.operation == "sync"]
            self._end(crew)
        finally:
            # A store that hangs, or that has hung others, would hang the end of the process.
            store._finalizer.detach()

    def _fill_up(self) -> None:
        """Let the disk be full, and a write fail half-way; or let there be space again."""
        if self._fills_up:
            with self._fs._mutex:
                used = self._fs._root.size_bytes()
            self._fs.capacity_bytes = self._choice.choice([None, used, used + 1500])
            # Twice in a row: then what the first has written can't be taken back either.
            nth, times = self._choice.randrange(1, 20), self._choice.choice([1, 2])
            self._fs.fail("write", errno.ENOSPC, nth=nth, times=times, path_contains=".wal")

    def _look(self, workers: list[Worker]) -> None:
        """Check what a crash at this moment would leave."""
        power = self._choice.random() < 0.7
        floors = [worker.durable if power else worker.kept for worker in workers]
        twin = self._fs.clone()
        ceilings = [len(worker.kinds) for worker in workers]
        crashed = twin.power_loss(self._choice) if power else twin
        self._recover("after a power loss" if power else "after a kill", crashed, workers, floors, ceilings)

    def _end(self, crew: Crew) -> None:
        """Close the store, sometimes while the threads are at work, and check what is left."""
        workers = crew.workers
        closes_early = self._choice.random() < 0.3
        if not closes_early:
            crew.stop()
        poisoned = False
        try:
            crew.close()
        except StorePoisonedError:
            poisoned = True
        crew.join()
        if poisoned:
            where, floors, fs = "poisoned", [worker.durable for worker in workers], self._fs.power_loss(self._choice)
        elif closes_early:
            where, floors, fs = "closed at work", [worker.kept for worker in workers], self._fs.clone()
        else:
            where, floors, fs = "closed", [len(worker.kinds) for worker in workers], self._fs.clone()
        self._recover(where, fs, workers, floors, [len(worker.kinds) for worker in workers])

    def _recover(
        self, where: str, fs: SimFileSystem, workers: list[Worker], floors: list[int], ceilings: list[int]
    ) -> None:
        self._tally.points += 1
        fs.capacity_bytes = None
        with WalPersistence(_DIRECTORY, options=OPTIONS, environment=_environment(fs, threads=False)) as store:
            jobs = {str(job.id): job for job in store.load_all()}
        for worker, floor, ceiling in zip(workers, floors, ceilings, strict=True):
            worker.check(where, jobs, floor, ceiling)


class _RealLife:
    """One store on the real disk."""

    def __init__(self, choice: random.Random, tally: Tally) -> None:
        self._choice = choice
        self._tally = tally
        # In memory a rotation takes no time, so there are a hundred times as many.
        in_memory = choice.random() < 0.7 and Path(_MEMORY).is_dir()
        self._root = Path(tempfile.mkdtemp(prefix="walstore-threads-", dir=_MEMORY if in_memory else None))
        self._calls = choice.randrange(500, 5000) if in_memory else choice.randrange(50, 500)
        self._path = self._root / "store"

    def live(self) -> None:
        choice = self._choice
        level = choice.choice(list(Durability))
        store = WalPersistence(self._path, durability=level, options=OPTIONS)
        try:
            crew = Crew(store, level, choice, choice.choice([8, 16, 32]))
            crew.proceed(self._calls)
            crew.interrupt(60)
            if choice.random() < 0.5:
                self._fork(store)
            self._open_twice()
            crew.proceed(self._calls)
            crew.stop()
            if choice.random() < 0.3:
                self._move(store)
            crew.close()
        finally:
            store._finalizer.detach()
        with WalPersistence(self._path, options=OPTIONS) as again:
            jobs = {str(job.id): job for job in again.load_all()}
        for worker in crew.workers:
            worker.check("closed", jobs, len(worker.kinds), len(worker.kinds))
        self._tally.points += 1

    def remove(self) -> None:
        shutil.rmtree(self._root)

    def _fork(self, store: WalPersistence) -> None:
        """Fork, and check that the child can't use the store."""
        self._tally.points += 1
        child = os.fork()
        if not child:
            outcome = 1
            try:
                signal.signal(signal.SIGALRM, signal.SIG_DFL)
                signal.alarm(10)
                with suppress(ForkedProcessError):
                    store.record_started("forked.child", 1)
                    outcome = 2
                outcome -= 1
            finally:
                os._exit(outcome)
        status = os.waitpid(child, 0)[1]
        assert status == 0, f"a forked child could use the store, or hung or failed (wait status {status})"

    def _open_twice(self) -> None:
        """Check that nobody else gets the lock."""
        self._tally.points += 1
        with suppress(StoreLockedError):
            WalPersistence(self._path, options=OPTIONS).close()
            raise AssertionError("the store could be opened twice for writing")

    def _move(self, store: WalPersistence) -> None:
        """Move the directory away and back, and check that the writer tells it in between."""
        self._tally.points += 1
        moved = self._path.with_name("moved")
        self._path.rename(moved)
        try:
            with suppress(FencedError):
                store.record_started("moved.away", 1)
                store.sync()
                raise AssertionError("the directory was moved away under the store, and a sync told nothing of it")
        finally:
            moved.rename(self._path)


def _live(choice: random.Random, tally: Tally) -> None:
    if choice.random() < 0.6:
        _SimulatedLife(choice, tally).live()
        return
    life = _RealLife(choice, tally)
    try:
        life.live()
    finally:
        life.remove()


def run(seconds: float, seed: int) -> Tally:
    """Let one store after another live under many threads. The schedule of the threads is not drawn from the seed."""
    tally = Tally("threads")
    deadline = Deadline(seconds)
    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH_S)
    try:
        while not deadline.passed() and not tally.failures:
            name = f"threads {seed} {tally.runs}"
            try:
                _live(random.Random(name), tally)
            except Exception as error:  # noqa: BLE001  # Whatever the engine raises here is a finding.
                tally.failures.append(f"life {name!r}: {type(error).__name__}: {error}"[:600])
            tally.runs += 1
    finally:
        sys.setswitchinterval(interval_s)
        tally.seconds = deadline.elapsed()
    return tally


if __name__ == "__main__":
    main(run, __doc__ or "")
