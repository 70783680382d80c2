"""A writer whose life is ended from outside: the child of the harnesses with real processes."""

from __future__ import annotations

import ctypes
import os
import random
import signal
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final, NoReturn

from fuzz.harness import Deadline
from fuzz.lives import Board, Plan, Unit, operations
from walstore.engine.environment import Environment, Worker
from walstore.errors import StorageError, StoreLockedError
from walstore.fs.os_process import start_worker
from walstore.model.events import Cancelled, Event, Finished, Restored, Scheduled, Started
from walstore.testing.model import Jobs, apply, jobs_of
from walstore.wal import WalPersistence, os_environment

__all__ = ["Writer", "fork", "wait"]

_LIBC: Final = ctypes.CDLL(None)
_PR_SET_PDEATHSIG: Final = 1
_FAILED: Final = 1
_HANGS_S: Final = 60.0
_POLL_S: Final = 0.0005
_WORKER_LIVES_S: Final = 0.3


class _Clock(threading.local):
    """The clock of a store that several threads record into: each has its own time."""

    now_ns = 0

    def __call__(self) -> int:
        return self.now_ns


def _start(choice: random.Random, function: str, task: Mapping[str, str | int]) -> Worker:
    """Start a worker, and kill half of them at any point of their lives."""
    assert start_worker is not None
    worker = start_worker(function, task)
    if choice.random() < 0.5:
        killer = threading.Timer(choice.random() * _WORKER_LIVES_S, worker.kill)
        killer.daemon = True
        killer.start()
    return worker


class Writer:
    """One life: opens the store, records into its lanes, closes the store."""

    def __init__(self, directory: Path, plan: Plan, board: Board, environment: Environment | None = None) -> None:
        self._directory = directory
        self._plan = plan
        self._board = board
        environment = environment or os_environment()
        choice = random.Random(f"workers {plan.seed}")
        self._environment = replace(environment, start_worker=partial(_start, choice) if plan.workers else None)
        self._clock = _Clock()

    def live(self, expected: Jobs | None, on_error: Callable[[], NoReturn]) -> None:
        """Do what the plan says. ``expected`` is what the store must hold when it is opened, where that is known.

        ``on_error`` is called in any thread whose lane raises.
        """
        store = self._open()
        found = jobs_of(store)
        assert expected is None or found == expected, f"opened with {found}, and a reader had found {expected}"
        self._name_files(store)
        self._board.open()
        self._record_lanes(store, found, on_error)
        store.close()
        self._board.sync(self._plan.lanes[0], self._acknowledged())

    def _record_lanes(self, store: WalPersistence, found: Jobs, on_error: Callable[[], NoReturn]) -> None:
        def run(lane: int) -> None:
            try:
                self._record(store, lane, _jobs_of_lane(found, lane))
            except BaseException:  # noqa: BLE001  # Told at once: the process may be killed before it is joined.
                on_error()

        threads = [threading.Thread(target=run, args=(lane,), daemon=True) for lane in self._plan.lanes[1:]]
        for thread in threads:
            thread.start()
        run(self._plan.lanes[0])
        for thread in threads:
            thread.join()

    def _open(self) -> WalPersistence:
        while True:
            try:
                return WalPersistence(
                    self._directory,
                    durability=self._plan.level,
                    options=self._plan.options,
                    clock=self._clock,
                    environment=self._environment,
                )
            except StoreLockedError:
                if not self._plan.waits:
                    raise

    def _record(self, store: WalPersistence, lane: int, jobs: Jobs) -> None:
        board, units, unseen = self._board, 0, list[Event]()
        stops_after = self._plan.stops_after if lane == self._plan.lanes[0] else None
        for number, (name, unit) in enumerate(operations(self._plan, lane)):
            if unit:
                units += 1
                unseen += unit
                board.attempt(lane, units)
                self._record_unit(store, name, unit)
                board.acknowledge(lane, units)
            elif name in {"load", "iterate"}:
                for event in unseen:
                    apply(jobs, event)
                unseen.clear()
                self._compare(store, lane, name, jobs)
            else:
                self._sync(store, lane, name)
            self._name_files(store)
            if number == stops_after:
                os.kill(os.getpid(), signal.SIGSTOP)

    def _compare(self, store: WalPersistence, lane: int, name: str, jobs: Jobs) -> None:
        records = store.load_all() if name == "load" else store.iter_jobs()
        mine = _jobs_of_lane({str(record.id): record for record in records}, lane)
        assert mine == jobs, f"{name} shows {mine}, and {jobs} was recorded"

    def _sync(self, store: WalPersistence, lane: int, name: str) -> None:
        acknowledged = self._acknowledged()
        if name == "sync":
            store.sync()
        else:
            try:
                store.flush_checkpoint(compact=name == "compact")
            except StorageError as error:
                # The one error that this harness brings about. Everything was synced before the worker was started.
                if not self._plan.workers or "ended before it was done" not in str(error):
                    raise
        self._board.sync(lane, acknowledged)

    def _acknowledged(self) -> list[int]:
        # Without those of a rival, whose buffer nobody else can sync.
        units = self._board.acknowledged()
        return [count if lane in self._plan.lanes else 0 for lane, count in enumerate(units)]

    def _name_files(self, store: WalPersistence) -> None:
        if store._store is not None:
            log = store._store.log
            # In this order: what was live before another segment follows uncut has its name on the device.
            live, uncut = log.live, log._uncut[:1]
            self._board.name((uncut or [live])[0].base_lsn, store._store._compactor.snapshot_lsn)

    def _record_unit(self, store: WalPersistence, name: str, unit: Unit) -> None:
        if name == "many":
            store.record_many(unit)
            return
        if name == "restore":
            store.restore([event.record for event in unit if isinstance(event, Restored)])
            return
        match unit[0]:
            case Scheduled(job, schedule, int(at_ns)):
                self._clock.now_ns = at_ns
                store.record_scheduled(job, schedule)
            case Started(job, at):
                store.record_started(job, at)
            case Finished(job, at, success):
                store.record_finished(job, at, success)
            case Cancelled(job):
                store.cancel(job)
            case event:
                raise TypeError(f"not an event of a lane: {event!r}")


def _jobs_of_lane(jobs: Jobs, lane: int) -> Jobs:
    return {job: record for job, record in jobs.items() if job.startswith(f"lane{lane}.")}


def fork(writer: Writer, expected: Jobs | None, complaint: Path) -> int:
    """Start a life in a forked child and return its process id. What goes wrong there is written to ``complaint``.

    Forked and not started anew: what a test has changed in this process holds in the child as well, and a life costs
    milliseconds.
    """
    child = os.fork()
    if child:
        return child

    def complain() -> NoReturn:
        complaint.write_text(traceback.format_exc(), encoding="utf-8")
        os._exit(_FAILED)

    # A writer that has stopped would else outlive a harness that is killed, and keep its file system mounted.
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    try:
        writer.live(expected, complain)
        os._exit(0)
    except BaseException:  # noqa: BLE001  # Nothing of the parent may run in here, whatever happens.
        complain()


def wait(child: int) -> str:
    """Wait until a child has stopped, all of its threads, or ended. Returns what is wrong with that; "" if nothing."""
    deadline = Deadline(_HANGS_S)
    while not deadline.passed():
        # Not reaped yet, so that the process id is no one else's until the child is ended for good.
        result = os.waitid(os.P_PID, child, os.WSTOPPED | os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if result is not None:
            ended_well = result.si_code == os.CLD_STOPPED or (result.si_code, result.si_status) == (os.CLD_EXITED, 0)
            return "" if ended_well else f"a writer ended with exit status or signal {result.si_status}"
        time.sleep(_POLL_S)
    return f"a writer was still busy after {_HANGS_S} seconds"
