"""Cuts the power of real file systems under a writing process, over and over, on one and the same store. Needs root.

``python -m fuzz.powercut --seconds 600``. The writer is stopped, its file system is shut down without flushing (see
``fuzz.disks``), and what is there after the journal was replayed must be the fold of a prefix of what was recorded and
hold all that was synced, or acknowledged at ``POWER``. The files in use then must have their names. Unlike a kill this
finds a sync that is missing, also one of a directory. Everything but the timing follows from the seed.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Final

from fuzz.disks import Disk, private_mounts
from fuzz.harness import Deadline, Tally, main
from fuzz.lives import LANES, Board, Plan, plan_of
from fuzz.past import Past, read_store
from fuzz.tools import UnavailableError
from fuzz.writer import Writer, fork, wait
from walstore.engine.environment import Environment
from walstore.format.filenames import parse_segment, parse_snapshot
from walstore.fs.os_fs import OsFileSystem
from walstore.options import Durability
from walstore.wal import os_environment

__all__ = ["run", "run_ext4", "run_xfs"]

_KINDS: Final = ("ext4", "xfs")


def run(seconds: float, seed: int) -> Tally:
    """Cut the power of each kind of file system for its share of the seconds."""
    tally = Tally("powercut")
    for kind in _KINDS:
        part = _run(kind, seconds / len(_KINDS), seed)
        tally.runs += part.runs
        tally.points += part.points
        tally.seconds += part.seconds
        tally.failures += part.failures
        tally.skipped = part.skipped if not tally.runs else ""
    return tally


def run_ext4(seconds: float, seed: int) -> Tally:
    """Cut the power of an ext4."""
    return _run("ext4", seconds, seed)


def run_xfs(seconds: float, seed: int) -> Tally:
    """Cut the power of an xfs."""
    return _run("xfs", seconds, seed)


def _run(kind: str, seconds: float, seed: int) -> Tally:
    tally, deadline = Tally(f"powercut-{kind}"), Deadline(seconds)
    root = Path(tempfile.mkdtemp(prefix=f"walstore-powercut-{kind}-"))
    try:
        with private_mounts(), Disk(root, kind) as disk:
            victim = _Victim(disk, root, seed)
            while not deadline.passed() and not tally.failures:
                trouble, is_cut = victim.live_and_die(tally.runs)
                tally.runs += 1
                tally.points += is_cut
                if trouble:
                    if disk.path.joinpath("store").exists():
                        shutil.copytree(disk.path / "store", root / "store")
                    tally.failures.append(
                        f"{kind}, seed {seed}, life {tally.runs - 1}, cut {tally.points}: {trouble}. "
                        f"The store is kept, and the file system: {root}"
                    )
    except UnavailableError as error:
        if tally.runs:
            tally.failures.append(f"{kind}, seed {seed}, life {tally.runs}: {error}. The file system is kept: {root}")
        else:
            tally.skipped = str(error)
    finally:
        if not tally.failures:
            shutil.rmtree(root)
    tally.seconds = deadline.elapsed()
    return tally


class _BootedFileSystem(OsFileSystem):
    """The file system of a machine that was started so many times."""

    def __init__(self, boot: int) -> None:
        super().__init__()
        self._boot = boot

    def boot_id(self) -> bytes:
        """Return an id of this start of the machine."""
        return self._boot.to_bytes(16, "big")


class _Victim:
    """A store on a disk, and its writers."""

    def __init__(self, disk: Disk, root: Path, seed: int) -> None:
        self._disk = disk
        self._directory = disk.path / "store"
        self._complaint = root / "complaint.txt"
        self._board = Board(root / "board")
        self._past = Past()
        self._seed = seed
        self._boots = 1

    def live_and_die(self, number: int) -> tuple[str, bool]:
        """Let a writer live, and end it. Returns what is wrong then ("" if nothing), and whether the power was cut."""
        choice = random.Random(f"powercut {self._seed} {number}")
        # Between two cuts come a few kills, so that a cut also hits what a recovery was built on in the page cache.
        cuts = choice.random() < 0.75
        plan = self._plan(choice, number)
        self._board.reset()
        writer = Writer(self._directory, plan, self._board, self._environment())
        child = fork(writer, self._past.jobs(), self._complaint)
        try:
            if plan.stops_after is None:
                time.sleep(0.0005 * 100 ** choice.random())
                os.kill(child, signal.SIGSTOP)
            end = wait(child)
            if cuts:
                if choice.random() < 0.3:
                    self._disk.write_back_some(self._directory, choice)
                self._disk.stop()
        finally:
            _end(child)
        if cuts:
            self._disk.unmount()
            self._disk.mount()
            self._boots += 1
        return self._judge(plan, end, cuts=cuts), cuts

    def _plan(self, choice: random.Random, number: int) -> Plan:
        plan = plan_of(str(self._seed), number, range(LANES))
        return replace(
            plan,
            level=choice.choice([*Durability, Durability.POWER, Durability.POWER]),
            syncs=choice.choice([2, 20, 100]),
            # What was acknowledged a moment ago is what a missing sync loses: later ones of other files may cover it.
            stops_after=choice.randrange(40) if choice.random() < 0.8 else None,
        )

    def _environment(self) -> Environment:
        return replace(os_environment(), fs=_BootedFileSystem(self._boots))

    def _judge(self, plan: Plan, end: str, *, cuts: bool) -> str:
        if self._complaint.exists():
            return f"a writer failed: {self._complaint.read_text(encoding='utf-8')}"
        if end:
            return end
        self._past.add([plan], self._board)
        try:
            found = read_store(self._directory, self._environment())
        except Exception as error:  # noqa: BLE001  # Whatever a reader raises here is what this harness looks for.
            return f"reading raised {type(error).__name__}: {error}"
        return self._past.check(found, power=cuts) or self._missing_names()

    def _missing_names(self) -> str:
        """Return which file has lost its name, though it was in use; "" if none.

        Events are acknowledged in a segment, and files removed for the sake of a snapshot, only once its directory was
        synced. That a later sync often covers the name as well is luck of the file system's journal.
        """
        segment_lsn, snapshot_lsn = self._board.named()
        names = [path.name for path in self._directory.iterdir()] if self._board.opened else []
        segments = [name.base_lsn for name in map(parse_segment, names) if name is not None]
        snapshots = [lsn for lsn in map(parse_snapshot, names) if lsn is not None]
        if max(segments, default=0) < segment_lsn:
            return f"the segment at LSN {segment_lsn} was in use and is gone: {sorted(names)}"
        if max(snapshots, default=0) < snapshot_lsn:
            return f"the snapshot of LSN {snapshot_lsn} was in use and is gone: {sorted(names)}"
        return ""


def _end(child: int) -> None:
    """Kill a child that has stopped or ended, and wait for it."""
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


if __name__ == "__main__":
    main(run, __doc__ or "")
