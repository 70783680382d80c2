"""``SchedulerControl``: the handle that callers get, and its twin for threads."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from walstore.model.events import Cancelled, Scheduled
from walstore.model.names import JobId, id_of
from walstore.model.records import SchedulerJobRecord, SchedulerJobStatus
from walstore.model.schedule import KINDS, Manual, Schedule
from walstore.persistence import SchedulerPersistence
from walstore.scheduler.runner import Runner

__all__ = ["BlockingControl", "SchedulerControl", "changes"]

T = TypeVar("T")
Records = list[SchedulerJobRecord]


class SchedulerControl:
    """Adds, cancels and lists the jobs of a host. Belongs to the event loop of the host; threads use ``blocking``.

    A call returns when the persistence has recorded what it did, and raises what the persistence raises, having
    changed nothing. A caller that is cancelled while it waits does not stop what it asked for.
    """

    def __init__(self, runner: Runner, persistence: SchedulerPersistence) -> None:
        self._runner = runner
        self._persistence = persistence
        self._loop: asyncio.AbstractEventLoop | None = None
        self._operations: set[asyncio.Task[Any]] = set()

    async def add_scheduled_job(self, id: JobId, schedule: Schedule, *, replace: bool = False) -> bool:
        """Add a job, or give a known one another schedule. Returns whether anything was changed.

        Applications add their jobs at each start, so a schedule that is equal to the known one changes nothing, unless
        ``replace``. ``Manual`` always arms the job: it runs as soon as there is room, and once more if it is running.

        Raises ``TypeError`` or ``ValueError`` for a wrong argument, and where no provider serves the job.
        """
        job = id_of(id)
        if not isinstance(schedule, KINDS):
            raise TypeError(f"a schedule is Once, Periodic, Cron or Manual, not {schedule!r}")
        if self._runner.registry.find(job) is None:
            raise ValueError(f"nobody serves {job}: register a provider for it, then add it")
        return await self._see_through(self._add(job, schedule, replace=replace))

    async def cancel(self, id: JobId) -> bool:
        """Forget a job for ever, and tell its run to stop. Returns whether there was such a job."""
        return await self._see_through(self._cancel(id_of(id)))

    def list(self) -> Records:
        """Return the records of all jobs, in no particular order."""
        self._require_start()
        return self._runner.scheduler.list()

    def get(self, id: JobId) -> SchedulerJobRecord | None:
        """Return the record of a job, or None where it is unknown."""
        self._require_start()
        return self._runner.scheduler.get(id)

    async def flush_checkpoint(self) -> None:
        """Return when all that was recorded before is on durable storage."""
        await self._see_through(self._runner.recorder.call(self._persistence.flush_checkpoint))

    @property
    def blocking(self) -> BlockingControl:
        """The same for threads, such as those that synchronous providers run on."""
        return BlockingControl(self, self._require_start())

    def _open(self) -> None:
        """Accept calls from now on; the host has restored all jobs."""
        self._loop = asyncio.get_running_loop()

    async def _close(self) -> None:
        """Accept no more calls, and wait for those that are under way."""
        self._loop = None
        if self._operations:
            await asyncio.wait(self._operations)

    def _require_start(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            raise RuntimeError("the host is not running: call start or run first, and nothing once it has stopped")
        return self._loop

    async def _see_through(self, operation: Coroutine[Any, Any, T]) -> T:
        """Wait for an operation that goes on even if the waiting is cancelled: it may be recorded already."""
        try:
            self._require_start()
        except RuntimeError:
            operation.close()
            raise
        task = asyncio.create_task(operation)
        self._operations.add(task)
        task.add_done_callback(self._operations.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            # Nobody is left who would be told of an error, so it is the host's.
            task.add_done_callback(self._runner.report)
            raise

    async def _add(self, job: str, schedule: Schedule, *, replace: bool) -> bool:
        runner = self._runner
        async with runner.transition(job):
            run = runner.begun(job)
            if not changes(runner.scheduler.get(job), schedule, has_begun=run is not None, replace=replace):
                return False
            at_ns = runner.clock.now_ns()
            await runner.recorder.record(Scheduled(job, schedule, at_ns))
            runner.scheduler.add_scheduled_job(job, schedule, at_ns)
            # It may have ended meanwhile, and wait for its turn to be recorded.
            if run is not None:
                run.is_rearmed = isinstance(schedule, Manual)
            return True

    async def _cancel(self, job: str) -> bool:
        runner = self._runner
        async with runner.transition(job):
            if job not in runner.scheduler:
                return False
            await runner.recorder.record(Cancelled(job))
            runner.scheduler.cancel(job)
            runner.forget(job)
            return True


class BlockingControl:
    """A ``SchedulerControl`` for threads other than that of the host's event loop, where it would wait for itself."""

    def __init__(self, control: SchedulerControl, loop: asyncio.AbstractEventLoop) -> None:
        self._control = control
        self._loop = loop

    def add_scheduled_job(self, id: JobId, schedule: Schedule, *, replace: bool = False) -> bool:
        """Add a job, or give a known one another schedule (see ``SchedulerControl``)."""
        return self._wait(self._control.add_scheduled_job(id, schedule, replace=replace))

    def cancel(self, id: JobId) -> bool:
        """Forget a job for ever, and tell its run to stop. Returns whether there was such a job."""
        return self._wait(self._control.cancel(id))

    def list(self) -> Records:
        """Return the records of all jobs, in no particular order."""
        return self._wait(self._list())

    def flush_checkpoint(self) -> None:
        """Return when all that was recorded before is on durable storage."""
        self._wait(self._control.flush_checkpoint())

    async def _list(self) -> Records:
        return self._control.list()

    def _wait(self, operation: Coroutine[Any, Any, T]) -> T:
        if _is_in_loop():
            operation.close()
            raise RuntimeError("this call would hold up the event loop: use SchedulerControl, and await it")
        try:
            future = asyncio.run_coroutine_threadsafe(operation, self._loop)
        except RuntimeError:
            operation.close()
            raise
        return future.result()


def _is_in_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def changes(known: SchedulerJobRecord | None, schedule: Schedule, *, has_begun: bool, replace: bool) -> bool:
    """Return whether adding a job with a schedule is to be recorded. ``has_begun``: a run of it is under way."""
    if known is None or replace or known.schedule != schedule:
        return True
    if not isinstance(schedule, Manual):
        return False
    # One that is due, and has not begun, is armed.
    return has_begun or known.status is not SchedulerJobStatus.RUNNING
