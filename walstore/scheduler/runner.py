"""``Runner``: the life of each run, from the moment when its job is due to the record of how it ended."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Any, Final
from weakref import WeakValueDictionary

from walstore.model.events import Finished, Restored, Scheduled, Started
from walstore.model.records import SchedulerJobRecord
from walstore.model.schedule import Manual
from walstore.scheduler.breaker import CircuitBreaker
from walstore.scheduler.clock import Clock
from walstore.scheduler.policy import Misfire, making_up, was_cut_off
from walstore.scheduler.recorder import Recorder
from walstore.scheduler.registry import JobRun, Registry
from walstore.scheduler.run import Run, call
from walstore.scheduler.scheduler import Scheduler
from walstore.scheduler.workers import Workers

__all__ = ["Runner"]

_log: Final = logging.getLogger("walstore.scheduler")
_STALE_MIN: Final = 64
"""Fewer timeouts of runs that have ended are not worth cleaning up."""


class Runner:
    """Runs what is due. Everything but the synchronous providers happens in the event loop's thread."""

    def __init__(
        self,
        scheduler: Scheduler,
        recorder: Recorder,
        registry: Registry,
        breaker: CircuitBreaker,
        clock: Clock,
        threads: int,
        on_error: Callable[[BaseException], None],
    ) -> None:
        self.scheduler = scheduler
        self.recorder = recorder
        self.registry = registry
        self.breaker = breaker
        self.clock = clock
        self.up_since_ns = 0
        """No fire from here on was missed."""
        self.unserved: set[str] = set()
        """Jobs that were due, and that nobody serves."""
        self.idle = asyncio.Event()
        self.idle.set()
        self._on_error = on_error
        self._workers = Workers()
        self._threads = asyncio.Semaphore(threads)
        self._runs: set[Run] = set()
        self._begun: dict[str, Run] = {}
        self._transitions: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._last: dict[str, Run] = {}
        """The latest run of each job that has one."""
        self._deadlines: list[tuple[int, int, Run]] = []
        self._numbers = count()
        self._made_up: dict[str, int] = {}
        """How many missed fires of a job were made up for since the start."""
        self._is_closing = False

    def transition(self, job: str) -> asyncio.Lock:
        """Return the lock under which a transition of a job is recorded and then made: one at a time, in one order."""
        lock = self._transitions.get(job)
        if lock is None:
            # It exists for as long as somebody holds it or waits for it.
            lock = self._transitions[job] = asyncio.Lock()
        return lock

    def begun(self, job: str) -> Run | None:
        """Return the run of a job that has begun and has not ended."""
        return self._begun.get(job)

    def dispatch(self, record: SchedulerJobRecord) -> bool:
        """Begin to run a job that is due, as soon as there is room. Returns False where it is put off instead."""
        job = str(record.id)
        registration = self.registry.find(job)
        if registration is None:
            if job not in self.unserved:
                self.unserved.add(job)
                _log.warning("%s is due and nobody serves it: register a provider", job)
            self.scheduler.defer(job, None)
            return False
        if not self.breaker.allows(job, self.clock.now_ns()):
            self.scheduler.defer(job, self.breaker.half_opens_at_ns(job))
            return False
        token = self.scheduler.cancel_token_for(job)
        assert token is not None
        run = Run(record, registration, token, self.transition(job), self._last.get(job))
        self._runs.add(run)
        self._last[job] = run
        self.idle.clear()
        run.task = asyncio.create_task(self._live(run, job))
        run.task.add_done_callback(partial(self._end_task, run, job))
        return True

    def __len__(self) -> int:
        """Return how many runs there are: under way, and waiting for their turn."""
        return len(self._runs)

    def serve_again(self) -> None:
        """Let jobs that nobody served be due, if somebody serves them now."""
        for job in [job for job in self.unserved if self.registry.find(job) is not None]:
            self.unserved.discard(job)
            self.scheduler.defer(job, 0)

    def expire(self) -> None:
        """Tell runs to stop that have run into their timeout."""
        now_ns = self.clock.monotonic_ns()
        while self._deadlines and self._deadlines[0][0] <= now_ns:
            run = heappop(self._deadlines)[2]
            if run.is_executing:
                run.has_timed_out = True
                self.stop(run)

    def forget(self, job: str) -> None:
        """Forget a job that was cancelled, and tell its run to stop."""
        self.breaker.forget(job)
        self.unserved.discard(job)
        self._made_up.pop(job, None)
        run = self._begun.get(job)
        if run is not None:
            self.stop(run)

    def report(self, task: asyncio.Task[Any]) -> None:
        """Tell the host of what has gone wrong in a task that nobody waits for."""
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._on_error(error)

    def stop(self, run: Run) -> None:
        """Tell a run to stop: by its token, and a coroutine by the cancellation of its task as well."""
        run.token.cancel()
        if run.is_executing and run.registration.is_async and run.task is not None:
            run.task.cancel()

    def close(self) -> None:
        """Let nothing begin any more. What has begun runs on."""
        self._is_closing = True
        for run in self._runs:
            if not run.has_begun and run.task is not None:
                run.task.cancel()

    def cut_off(self) -> None:
        """Tell all runs to stop, and record nothing of them any more: the next start finds them as orphans."""
        for run in self._runs:
            run.is_cut_off = True
            run.token.cancel()
            # Runs on threads are waited for no longer. The end of one that has ended is being recorded.
            if run.is_executing and run.task is not None:
                run.task.cancel()

    def release(self) -> None:
        """Let the threads end, once no run needs one any more."""
        self._workers.close()

    async def _live(self, run: Run, job: str) -> None:
        threads = nullcontext() if run.registration.is_async else self._threads
        if run.after is not None and run.after.task is not None:
            # A run of a job that was cancelled may still be there when the job is added again.
            await asyncio.wait({run.after.task})
            run.after = None
        async with run.registration.slots, threads:
            context = await self._begin(run, job)
            if context is None:
                return
            success = await self._execute(run, context)
        if not run.is_cut_off:
            await self._end(run, job, success=success)

    async def _begin(self, run: Run, job: str) -> JobRun | None:
        async with run.transition:
            if self._is_closing or self.scheduler.cancel_token_for(job) is not run.token:
                return None
            run.has_begun = True
            started_ns = self.clock.now_ns()
            await self.recorder.record(Started(job, started_ns))
            self.scheduler.mark_started(job, started_ns)
            self._begun[job] = run
        record = run.record
        return JobRun(
            id=record.id,
            fire_at_ns=record.next_fire_at_ns,
            started_at_ns=started_ns,
            failures=record.consecutive_failures,
            is_rerun=was_cut_off(record),
            cancel=run.token,
        )

    async def _execute(self, run: Run, context: JobRun) -> bool:
        """Call the provider. Returns whether it succeeded."""
        # The grace period may have come to its end while the start was recorded.
        if run.token.is_cancelled:
            return False
        error: BaseException | None = None
        timeout_ns = run.registration.policy.timeout_ns
        if timeout_ns is not None:
            self._expect(run, timeout_ns)
        run.is_executing = True
        try:
            provider = run.registration.provider
            if run.registration.is_async:
                await provider(context)  # type: ignore[misc]  # It is a coroutine function.
            else:
                error = await self._workers.run(partial(call, provider, context))
        except asyncio.CancelledError as cancelled:
            task = asyncio.current_task()
            assert task is not None
            # If it was not this host that told the run to stop, its whole task is to end, as when a loop is closed.
            if task.cancelling() and not run.token.is_cancelled:
                run.is_cut_off = True
                raise
            error = cancelled
        except Exception as raised:  # noqa: BLE001  # Whatever a job raises, it has failed.
            error = raised
        finally:
            run.is_executing = False
        if run.has_timed_out:
            _log.error("%s did not end within its timeout of %s ns", context.id, timeout_ns)
        elif error is not None and not (run.token.is_cancelled and isinstance(error, asyncio.CancelledError)):
            _log.error("%s failed", context.id, exc_info=error)
        return error is None and not run.has_timed_out

    def _expect(self, run: Run, timeout_ns: int) -> None:
        """Let ``expire`` look after a run."""
        heappush(self._deadlines, (self.clock.monotonic_ns() + timeout_ns, next(self._numbers), run))
        # Runs that have ended long before their timeout must not fill the memory.
        if len(self._deadlines) > 2 * len(self._runs) + _STALE_MIN:
            self._deadlines = [entry for entry in self._deadlines if entry[2] in self._runs]
            heapify(self._deadlines)

    async def _end(self, run: Run, job: str, *, success: bool) -> None:
        async with run.transition:
            # Neither the end of a run whose job was cancelled is recorded, nor is it that of a job added since.
            if self.scheduler.cancel_token_for(job) is not run.token:
                return
            self._begun.pop(job, None)
            finished_ns = self.clock.now_ns()
            finished = Finished(job, finished_ns, success)
            after = self._making_up(run, job, finished_ns, success=success)
            if run.is_rearmed:
                again = Scheduled(job, Manual(), finished_ns)
                await self.recorder.record(finished, again)
                self.scheduler.mark_finished(job, finished_ns, success)
                self.scheduler.add_scheduled_job(job, again.schedule, finished_ns)
            elif after is not None:
                await self.recorder.record(finished, Restored(after))
                self.scheduler.restore(after)
            else:
                await self.recorder.record(finished)
                self.scheduler.mark_finished(job, finished_ns, success)
            if success:
                self.breaker.succeeded(job)
            else:
                self.breaker.failed(job, finished_ns)
                self.plan_retry(job)

    def _making_up(self, run: Run, job: str, at_ns: int, *, success: bool) -> SchedulerJobRecord | None:
        """Return the record after the run where a further fire that was missed is to be made up for."""
        policy = run.registration.policy
        made_up = self._made_up.get(job, 1)
        record = self.scheduler.get(job) if policy.misfire is Misfire.EACH else None
        if record is None or made_up >= policy.misfire_runs_max:
            return None
        after = making_up(record, run.record.next_fire_at_ns, at_ns, self.up_since_ns, policy, success=success)
        if after is not None:
            self._made_up[job] = made_up + 1
        return after

    def plan_retry(self, job: str) -> None:
        """Let a job whose last run failed be due again, if it has attempts left."""
        record = self.scheduler.get(job)
        retry_ns = None if record is None else self.registry.policy_of(job).retry_at_ns(record)
        if retry_ns is not None:
            self.scheduler.retry_at(job, retry_ns)

    def _end_task(self, run: Run, job: str, task: asyncio.Task[None]) -> None:
        self._runs.discard(run)
        if self._begun.get(job) is run:
            del self._begun[job]
        if self._last.get(job) is run:
            del self._last[job]
        if not self._runs:
            self.idle.set()
        self.report(task)
