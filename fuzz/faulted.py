"""A writer that goes on after errors of the operating system, as far as they are documented: see ``fuzz.syscalls``."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final, NoReturn, TypeVar

from fuzz.lives import LANES, Board, Plan, Unit, operations, plan_of
from fuzz.writer import Writer
from walstore.errors import StorageError, StorePoisonedError
from walstore.model.events import Event
from walstore.testing.model import Jobs, apply, jobs_of
from walstore.wal import WalPersistence

__all__ = ["FaultedWriter", "faulted_plan"]

T = TypeVar("T")
_ATTEMPTS: Final = 3
_OPERATIONS_MAX: Final = 80


def faulted_plan(seed: str, number: int) -> Plan:
    """Return the plan of a life among faults."""
    plan = plan_of(seed, number, range(LANES))
    return replace(plan, operations=min(plan.operations, _OPERATIONS_MAX))


class FaultedWriter(Writer):
    """Repeats what was refused, and takes each error by its word on what was recorded."""

    def __init__(self, directory: Path, plan: Plan, board: Board, start: int) -> None:
        """Take ``start``, a descriptor: when a byte can be read from it, life begins."""
        super().__init__(directory, plan, board)
        self._start = start

    def live(self, expected: Jobs | None, on_error: Callable[[], NoReturn]) -> None:
        """Do what the plan says, as far as the operating system lets it."""
        os.read(self._start, 1)
        store = _attempt(self._open)
        if store is None:
            return
        self._board.open()
        found = _attempt(lambda: jobs_of(store))
        if found is not None:
            assert found == expected, f"opened with {found}, and a reader had found {expected}"
            self._record_lanes(store, found, on_error)
        self._close(store)

    def _record(self, store: WalPersistence, lane: int, jobs: Jobs) -> None:
        units, unseen = 0, list[Event]()
        for name, unit in operations(self._plan, lane):
            try:
                if unit:
                    if not self._insist(store, lane, units + 1, name, unit):
                        return
                    units += 1
                    unseen += unit
                elif name in {"load", "iterate"}:
                    for event in unseen:
                        apply(jobs, event)
                    unseen.clear()
                    self._compare(store, lane, name, jobs)
                else:
                    self._sync(store, lane, name)
            except StorePoisonedError:
                # Whether the last unit is there is unknown, and from now on reading shows only what is durable.
                return
            except StorageError:
                """It did not do what it was asked, and that is all."""

    def _compare(self, store: WalPersistence, lane: int, name: str, jobs: Jobs) -> None:
        try:
            super()._compare(store, lane, name, jobs)
        except AssertionError:
            # A sync may have failed in another thread: from then on reading shows only what is durable.
            assert store._store is not None
            if store._store._commit.failure is None:
                raise

    def _insist(self, store: WalPersistence, lane: int, units: int, name: str, unit: Unit) -> bool:
        """Record a unit, again where it was refused. Returns whether it was recorded."""
        for _ in range(_ATTEMPTS):
            self._board.attempt(lane, units)
            try:
                self._record_unit(store, name, unit)
            except StorageError:
                # It says that nothing was recorded, so this must not be found.
                self._board.attempt(lane, units - 1)
            else:
                self._board.acknowledge(lane, units)
                return True
        return False

    def _close(self, store: WalPersistence) -> None:
        for _ in range(_ATTEMPTS):
            try:
                store.close()
            except (StorageError, StorePoisonedError):
                if store.closed:
                    return
            else:
                self._board.sync(self._plan.lanes[0], self._acknowledged())
                return
        # The device stays full: the process ends with events in the buffer, and without the warning that says so.
        store._finalizer.detach()


def _attempt(work: Callable[[], T]) -> T | None:
    for _ in range(_ATTEMPTS):
        try:
            return work()
        except (StorageError, StorePoisonedError):
            """Documented, and worth another try."""
    return None
