"""Lets system calls of a real writing process fail, by strace: one at a time, or one kind from some call on for good.

``python -m fuzz.syscalls --seconds 600``. The writer must meet documented errors only and take each by its word: what
was acknowledged must be found afterwards, and what was refused must not. Everything follows from the seed, but for the
timing of the store's own threads.
"""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from fuzz.faulted import FaultedWriter, faulted_plan
from fuzz.harness import Deadline, Tally, main
from fuzz.lives import Board, Plan
from fuzz.past import Past, read_store
from fuzz.tools import UnavailableError, tool
from fuzz.writer import fork, wait

__all__ = ["run"]

_FULL: Final = ("EIO", "ENOSPC", "EDQUOT", "EINTR")
_FAULTS: Final = {
    "fdatasync": _FULL,
    "fsync": _FULL,
    "fallocate": _FULL,
    "pwrite64": _FULL,
    "openat": ("EIO", "ENOSPC", "EMFILE", "EACCES", "EINTR"),
    "?rename,?renameat,?renameat2": _FULL,
    "?unlink,?unlinkat": ("EIO", "EACCES", "EINTR"),
    "?mkdir,?mkdirat": ("EIO", "ENOSPC"),
    "ftruncate": ("EIO", "EINTR"),
    "pread64": ("EIO", "EINTR"),
    "getdents64": ("EIO",),
    "?fstat,?newfstatat,?statx": ("EIO",),
    "flock": ("EIO", "ENOLCK", "EINTR"),
    "close": ("EIO", "EINTR"),
}
"""The calls that a store makes, by strace's names on any architecture, and how each may fail.

Not ``mmap``: the interpreter has its memory from it as well, and waits for ever for a thread that got none.
"""
_CALLS_MAX: Final = 60


def run(seconds: float, seed: int) -> Tally:
    """Let system calls fail for some seconds. The store is kept where one lost something."""
    tally, deadline = Tally("syscalls"), Deadline(seconds)
    root = Path(tempfile.mkdtemp(prefix="walstore-syscalls-"))
    try:
        victim = _Victim(root, seed)
        while not deadline.passed() and not tally.failures:
            fault = _fault(random.Random(f"syscalls {seed} {tally.runs}"))
            trouble = victim.live(tally.runs, fault)
            tally.runs += 1
            tally.points += 1
            if trouble:
                tally.failures.append(
                    f"seed {seed}, life {tally.runs - 1}, fault {fault}: {trouble}. The store is kept: {root}"
                )
    except UnavailableError as error:
        tally.skipped = str(error)
    finally:
        if not tally.failures:
            shutil.rmtree(root)
    tally.seconds = deadline.elapsed()
    return tally


class _Victim:
    """A store, and the lives that write to it."""

    def __init__(self, root: Path, seed: int) -> None:
        self._directory = root / "store"
        self._complaint = root / "complaint.txt"
        self._board = Board(root / "board")
        self._past = Past()
        self._seed = seed

    def live(self, number: int, fault: str) -> str:
        """Let a writer live that meets a fault, and return what is wrong then; "" if nothing."""
        plan = faulted_plan(str(self._seed), number)
        self._board.reset()
        waiting, start = os.pipe()
        writer = FaultedWriter(self._directory, plan, self._board, waiting)
        child = fork(writer, self._past.jobs(), self._complaint)
        try:
            # Attached to the child and not started with it: else the start of an interpreter would meet the fault.
            with _strace(child, fault):
                os.write(start, b"!")
                end = wait(child)
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            os.close(waiting)
            os.close(start)
        return self._judge(plan, end)

    def _judge(self, plan: Plan, end: str) -> str:
        if self._complaint.exists():
            return f"a writer failed: {self._complaint.read_text(encoding='utf-8')}"
        if end:
            return end
        self._past.add([plan], self._board)
        try:
            found = read_store(self._directory)
        except Exception as error:  # noqa: BLE001  # Whatever a reader raises here is what this harness looks for.
            return f"reading raised {type(error).__name__}: {error}"
        return self._past.check(found, power=False)


def _fault(choice: random.Random) -> str:
    """Return what is to fail in the lives that come, as strace wants to be told."""
    calls = choice.choice(list(_FAULTS))
    error = choice.choice(_FAULTS[calls])
    # An interrupted call is repeated by the interpreter, for ever if need be.
    for_good = error != errno.errorcode[errno.EINTR] and choice.random() < 0.3
    number = int(_CALLS_MAX ** choice.random())
    return f"{calls}:error={error}:when={number}{'+' if for_good else ''}"


@contextmanager
def _strace(process: int, fault: str) -> Iterator[None]:
    """Let the system calls of a process, and of each of its threads, fail. Raises ``UnavailableError``."""
    options = ["-f", "-o", "/dev/null", "-e", f"trace={fault.partition(':')[0]}", "-e", "signal=none"]
    command = [tool("strace"), *options, "-e", f"inject={fault}", "-p", str(process)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as strace:
        assert strace.stderr is not None
        told = strace.stderr.readline()
        if not told.endswith("attached\n"):
            raise UnavailableError(f"strace can't be used here: {told.strip()}")
        try:
            yield
        finally:
            # It would wait for a process that hangs.
            strace.terminate()


if __name__ == "__main__":
    main(run, __doc__ or "")
