"""``SchedulerHost``: an asyncio driver that runs jobs and reports every transition to a persistence."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Final

from walstore.model.events import Finished
from walstore.model.names import JobId, QName
from walstore.model.records import SchedulerJobRecord, SchedulerJobStatus
from walstore.persistence import BatchPersistence, SchedulerPersistence
from walstore.scheduler.breaker import CircuitBreaker
from walstore.scheduler.clock import Clock, SystemClock
from walstore.scheduler.control import SchedulerControl
from walstore.scheduler.policy import JobPolicy, after_downtime
from walstore.scheduler.recorder import Recorder
from walstore.scheduler.registry import Provider, Registry
from walstore.scheduler.runner import Runner
from walstore.scheduler.scheduler import Scheduler

__all__ = ["SchedulerHost"]

_LAST_WORDS_NS: Final = 1_000_000_000
"""How long runs that were told to stop at the end of the grace period are waited for."""
_BATCH_EVENTS: Final = 512


class SchedulerHost:
    """Runs jobs when they are due, and reports every transition to a persistence before it counts.

    Register providers, ``start`` or ``run`` the host, add jobs with ``control``, and end it with ``stop``. A host
    lives once. It does not close the persistence, which gets its calls from one thread of the host's, one at a time;
    nobody else may record into it meanwhile.

    A run is recorded as started before it starts, and as finished after it has ended. So runs are *at least once*: one
    that a crash cuts off is found by the next start (``orphaned``) and, by default, run again.

    An error of the persistence is never passed over. In a call of ``control`` its caller gets it. Otherwise the host
    has lost track: it stops as if by ``stop``, and ``run`` raises the error.
    """

    def __init__(
        self,
        persistence: SchedulerPersistence,
        *,
        policy: JobPolicy | None = None,
        clock: Clock | None = None,
        breaker: CircuitBreaker | None = None,
        threads: int = 32,
        runs_max: int = 10_000,
        tick_ns: int = 100_000_000,
        grace_ns: int = 10_000_000_000,
    ) -> None:
        """Make a host. ``policy`` is for jobs that are registered without one, and for those that nobody serves.

        ``threads`` bounds how many synchronous providers run at once; ``runs_max``, how many runs there are in all,
        those that wait for their turn among them: what else is due waits for a later tick. Due jobs are looked for
        every ``tick_ns``. ``grace_ns`` is how long runs may go on once the host is told to stop; then they are told to
        stop as well, and are orphans to the next start.
        """
        for name, value in (("threads", threads), ("runs_max", runs_max), ("tick_ns", tick_ns), ("grace_ns", grace_ns)):
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"{name} must be an integer, not {value!r}")
            if value < (name != "grace_ns"):
                raise ValueError(f"{name} must be at least {int(name != 'grace_ns')}, not {value}")
        self._persistence = persistence
        self._clock = clock if clock is not None else SystemClock()
        self._runs_max = runs_max
        self._tick_ns = tick_ns
        self._grace_ns = grace_ns
        self._scheduler = Scheduler()
        self._recorder = Recorder(persistence)
        self._registry = Registry(policy if policy is not None else JobPolicy())
        self._runner = Runner(
            self._scheduler,
            self._recorder,
            self._registry,
            breaker if breaker is not None else CircuitBreaker(),
            self._clock,
            threads,
            self._fail,
        )
        self._control = SchedulerControl(self._runner, persistence)
        self._orphaned: tuple[SchedulerJobRecord, ...] = ()
        self._has_started = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ending = asyncio.Event()
        self._error: BaseException | None = None

    # Providers.

    def register(self, id: JobId, provider: Provider, policy: JobPolicy | None = None) -> None:
        """Let ``provider`` run the job ``id``: a coroutine function on the event loop, another function on a thread.

        Register before ``start``, so that the policy is known when jobs are restored. Later registrations count from
        the next run on.
        """
        self._registry.register(id, provider, policy)
        self._runner.serve_again()

    def register_namespace(self, namespace: str, provider: Provider, policy: JobPolicy | None = None) -> None:
        """Let ``provider`` run all jobs of a namespace that are not registered by themselves: ``a.b`` has ``a.b.c``."""
        self._registry.register_namespace(namespace, provider, policy)
        self._runner.serve_again()

    # Life.

    async def start(self) -> None:
        """Restore all jobs; nothing is run before ``run`` or ``tick``.

        Raises what the persistence raises: a host that can't read its jobs does not start.
        """
        if self._has_started:
            raise RuntimeError("a host lives once: make another one")
        self._has_started = True
        self._loop = asyncio.get_running_loop()
        try:
            await self._restore(await self._recorder.call(self._persistence.load_all))
        except BaseException:
            await self._recorder.close()
            raise
        self._scheduler.resume()
        self._control._open()

    async def run(self) -> None:
        """Start, unless that was done, and run jobs until ``stop``; then wait for runs, within the grace period.

        Raises what ``start`` raises, and the error of the persistence that has ended the host, if one has. When it is
        cancelled, it ends as by ``stop``.
        """
        if not self._has_started:
            await self.start()
        try:
            while not self._ending.is_set():
                self.tick()
                await self._clock.wait(self._ending, self._tick_ns)
        finally:
            await self.shut_down()
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """Let ``run`` end. Any thread may call it, and a signal handler; again and afterwards it does nothing."""
        if self._loop is None:
            self._ending.set()
            return
        # A loop that is closed has nothing left to end.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._ending.set)

    def tick(self) -> int:
        """Begin to run what is due now, and return how many jobs that was.

        ``run`` does so all the time; a simulation calls it instead.
        """
        self._runner.expire()
        room = self._runs_max - len(self._runner)
        return sum(map(self._runner.dispatch, self._scheduler.tick_at(self._clock.now_ns(), room)))

    async def idle(self) -> None:
        """Return when no run is under way or waiting, and all that ended is recorded. Raises as ``run`` does."""
        await self._runner.idle.wait()
        if self._error is not None:
            raise self._error

    async def shut_down(self) -> None:
        """Wait for runs, within the grace period, and let nothing begin any more. ``run`` does so at its end.

        For whoever drives the host with ``tick``; afterwards ``control`` takes no more calls.
        """
        self._scheduler.pause()
        self._runner.close()
        if not await self._clock.wait(self._runner.idle, self._grace_ns):
            self._runner.cut_off()
            await self._clock.wait(self._runner.idle, _LAST_WORDS_NS)
        self._runner.release()
        await self._control._close()
        await self._recorder.close()

    # Looking.

    @property
    def control(self) -> SchedulerControl:
        """The handle to add, cancel and list jobs."""
        return self._control

    @property
    def orphaned(self) -> tuple[SchedulerJobRecord, ...]:
        """The runs that the last crash or shutdown cut off, as ``start`` found them.

        ``last_started_at_ns`` tells a run from an earlier one of its job.
        """
        return self._orphaned

    @property
    def unserved(self) -> frozenset[QName]:
        """Jobs that were due and that no provider serves. They stay as they are, due as soon as one is registered."""
        return frozenset(map(QName.parse, self._runner.unserved))

    # Inside.

    async def _restore(self, records: Sequence[SchedulerJobRecord]) -> None:
        scheduler, policy_of = self._scheduler, self._registry.policy_of
        now_ns = self._clock.now_ns()
        self._runner.up_since_ns = now_ns
        self._orphaned = tuple(record for record in records if record.status is SchedulerJobStatus.RUNNING)
        given_up = [record.id for record in self._orphaned if not policy_of(str(record.id)).rerun_orphans]
        for record in records:
            scheduler.restore(after_downtime(record, now_ns, policy_of(str(record.id))))
        for begin in range(0, len(given_up), _BATCH_EVENTS):
            batch = given_up[begin : begin + _BATCH_EVENTS]
            await self._recorder.record(*(Finished(job, now_ns, False) for job in batch))
            for job in batch:
                scheduler.mark_finished(job, now_ns, False)
        scheduler.requeue_orphaned_runs()
        await self._record_restored(records, set(given_up))
        for record in scheduler.list():
            self._runner.breaker.restore(record)
            self._runner.plan_retry(str(record.id))

    async def _record_restored(self, records: Sequence[SchedulerJobRecord], recorded: set[QName]) -> None:
        """Record what has become of requeued and skipped jobs, so that no later start finds the same run once more.

        A plain persistence has no call for that. There the same jobs are found, and treated alike, at each start until
        they have run.
        """
        if not isinstance(self._persistence, BatchPersistence):
            return
        now = [(record, self._scheduler.get(record.id)) for record in records if record.id not in recorded]
        changed = [restored for record, restored in now if restored is not None and restored != record]
        if changed:
            await self._recorder.call(partial(self._persistence.restore, changed))

    def _fail(self, error: BaseException) -> None:
        """End the host because of an error. The first one is told."""
        if self._error is None:
            self._error = error
        self._ending.set()
