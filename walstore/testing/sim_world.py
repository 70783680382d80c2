"""What all parts of a simulated file system share: the count of its calls, the crash and the faults to come."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

from walstore.testing.sim_disk import DirectoryNode

__all__ = ["Operation", "SimCrash", "SimWorld", "Step", "os_error"]

Operation = Literal[
    "allocate",
    "append",
    "create",
    "list_directory",
    "lock",
    "lock_read",
    "lock_shared",
    "lock_write",
    "make_directory",
    "open",
    "read",
    "read_small",
    "rename",
    "size",
    "sync",
    "sync_directory",
    "truncate",
    "unlink",
    "write",
]
Step = tuple[Operation, str]


class SimCrash(BaseException):
    """The simulated machine or process is gone. Not an ``Exception``, so that no handler takes it for an error."""


def os_error(code: int, path: str) -> OSError:
    """Return the error that the operating system raises for ``code``, of the right subclass."""
    return OSError(code, os.strerror(code), path)


@dataclass(slots=True)
class _Fault:
    operation: Operation
    error: int
    skips: int
    path_contains: str
    times: int
    lost: bool


class SimWorld:
    """The state behind ``SimFileSystem`` and its handles. Every method may be called by any thread.

    ``trace`` lists each counted call as (operation, path), the one that crashed last; ``capacity_bytes`` bounds the
    sum of the lengths of all files (None: no bound), the space of an unlinked file being free at once.
    ``before_call``, when set, is called before each counted call takes effect: there the world may be cloned to see
    what a crash at this call would leave, or somebody else may make calls. ``after_sync`` is called when a sync of a
    file has taken effect and has not returned: what is written from there on is not on the device.
    """

    def __init__(self, seed: int) -> None:
        self.trace: list[Step] = []
        self.capacity_bytes: int | None = None
        self.before_call: Callable[[Step], object] | None = None
        self.after_sync: Callable[[Step], object] | None = None
        self._random = random.Random(seed)  # noqa: S311 - the point is that it can be repeated.
        self._root = DirectoryNode()
        self._mutex = threading.RLock()
        self._ended_by: str | None = None
        self._crash_at: int | None = None
        self._faults: list[_Fault] = []
        self._handles: dict[object, str] = {}

    @property
    def calls(self) -> int:
        """The number of calls so far that change or sync something, failed ones included."""
        return len(self.trace)

    @property
    def open_paths(self) -> list[str]:
        """The paths under which the files and locks were opened that are not closed (or released) yet, sorted."""
        return sorted(self._handles.values())

    def crash_after(self, n: int) -> None:
        """Let the ``n``-th counted call from now raise ``SimCrash`` before it takes effect, and all later calls too.

        Raises ``ValueError`` when ``n`` is less than 1.
        """
        if n < 1:
            raise ValueError(f"crash_after({n}): the next call is number 1")
        with self._mutex:
            self._crash_at = len(self.trace) + n

    def fail(
        self,
        operation: Operation,
        error: int,
        *,
        nth: int = 1,
        path_contains: str = "",
        times: int = 1,
        lost: bool = False,
    ) -> None:
        """Let the ``nth`` matching call from now, and the ``times - 1`` after it, raise ``OSError(error)``.

        A call matches by its operation and a part of its path (of a rename: ``source -> target``). It has no effect,
        but a failed ``write`` leaves a part of its data, drawn from the seed. ``lost``, for ``sync`` only: the file's
        dirty bytes count as clean from then on without being durable, reads still show them, and later syncs
        succeed, as on Linux. Raises ``ValueError`` for a fault that could never fire.
        """
        if operation not in get_args(Operation):
            raise ValueError(f"fail({operation!r}): no such operation; there are {', '.join(get_args(Operation))}")
        if nth < 1 or times < 1:
            raise ValueError(f"fail(nth={nth}, times={times}): both count from 1")
        if lost and operation != "sync":
            raise ValueError(f"fail({operation!r}, lost=True): only a sync loses bytes")
        with self._mutex:
            self._faults.append(_Fault(operation, error, nth - 1, path_contains, times, lost))

    def heal(self) -> bool:
        """Forget the faults that have not happened yet; returns whether there were any."""
        with self._mutex:
            waiting = bool(self._faults)
            self._faults.clear()
            return waiting

    def _begin(self, step: Step, before_error: Callable[[bool], None] | None = None) -> None:
        """Count a call, and raise what was ordered for it. ``before_error`` gets the fault's ``lost``."""
        self._require_alive()
        if self.before_call is not None:
            self.before_call(step)
            self._require_alive()
        self.trace.append(step)
        if len(self.trace) == self._crash_at:
            self._end(f"crash at call {self._crash_at}, {step[0]} {step[1]}")
            self._require_alive()
        if self._faults:
            self._inject(step, before_error)

    def _look(self, step: Step) -> None:
        """Raise what was ordered for a call that changes nothing and is not counted."""
        self._require_alive()
        if self._faults:
            self._inject(step, None)

    def _require_alive(self) -> None:
        if self._ended_by is not None:
            raise SimCrash(f"this simulated world has ended: {self._ended_by}")

    def _end(self, reason: str) -> None:
        if self._ended_by is None:
            self._ended_by = reason

    def _free_bytes(self) -> int | None:
        return None if self.capacity_bytes is None else self.capacity_bytes - self._root.size_bytes()

    def _inject(self, step: Step, before_error: Callable[[bool], None] | None) -> None:
        operation, path = step
        due: _Fault | None = None
        for fault in self._faults:
            if fault.operation != operation or fault.path_contains not in path:
                continue
            if fault.skips:
                fault.skips -= 1
            elif due is None:
                due = fault
        if due is None:
            return
        due.times -= 1
        if not due.times:
            self._faults.remove(due)
        if before_error is not None:
            before_error(due.lost)
        raise os_error(due.error, path)
