"""A simulated machine on which a host lives, is killed and lives again: simulated disk, simulated time, no waiting."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import ClassVar, Final

from tests.crash.worlds import World, jobs_of
from walstore import Durability, SchedulerJobRecord, SchedulerPersistence, WalOptions, WalPersistence
from walstore.model.names import Instant, JobId
from walstore.model.schedule import Schedule
from walstore.scheduler import CircuitBreaker, JobPolicy, Provider, SchedulerHost, SimulatedClock
from walstore.testing.model import NOW_NS, Jobs

__all__ = ["HANGS_S", "SECOND_NS", "Machine", "PlainPersistence", "ids", "until"]

SECOND_NS: Final = 10**9
HANGS_S: Final = 60.0
"""Nothing here takes long; whatever does hangs."""


class PlainPersistence(SchedulerPersistence):
    """A persistence with the six methods of the contract and no more."""

    def __init__(self, store: SchedulerPersistence) -> None:
        self.store = store

    def record_scheduled(self, id: JobId, schedule: Schedule) -> None:
        self.store.record_scheduled(id, schedule)

    def record_started(self, id: JobId, started_at: Instant) -> None:
        self.store.record_started(id, started_at)

    def record_finished(self, id: JobId, finished_at: Instant, success: bool) -> None:
        self.store.record_finished(id, finished_at, success)

    def cancel(self, id: JobId) -> None:
        self.store.cancel(id)

    def load_all(self) -> list[SchedulerJobRecord]:
        return self.store.load_all()

    def flush_checkpoint(self) -> None:
        self.store.flush_checkpoint()


Wrap = Callable[[WalPersistence], SchedulerPersistence]


class Machine:
    """Registrations are kept over all lives, as the code of an application is."""

    running: ClassVar[list[Machine]] = []
    """All that a test has made, so that they can be switched off when it ends."""

    def __init__(self, *, level: Durability = Durability.PROCESS, wrap: Wrap = lambda store: store) -> None:
        self.running.append(self)
        self.clock = SimulatedClock(NOW_NS)
        self.world = World(1)
        self.world.options = WalOptions(segment_bytes_min=1024)
        self.level = level
        self.threads = 32
        self.runs_max = 10_000
        self.grace_ns = 10 * SECOND_NS
        self.breaker: Callable[[], CircuitBreaker] = CircuitBreaker
        self._wrap = wrap
        self._providers: dict[str, tuple[Provider, JobPolicy | None]] = {}

    def register(self, job: str, provider: Provider, policy: JobPolicy | None = None) -> None:
        """Let a provider serve a job in the lives to come."""
        self._providers[job] = provider, policy

    def host(self) -> SchedulerHost:
        """Open the store and return a host on it, not started."""
        store = self.world.open(self.level)
        # One time for host and store, so that it can be told what each records.
        store._clock = self.clock.now_ns
        host = SchedulerHost(
            self._wrap(store),
            clock=self.clock,
            threads=self.threads,
            runs_max=self.runs_max,
            grace_ns=self.grace_ns,
            breaker=self.breaker(),
        )
        for job, (provider, policy) in self._providers.items():
            host.register(job, provider, policy)
        return host

    @property
    def store(self) -> WalPersistence:
        """The store of this life."""
        assert self.world.store is not None
        return self.world.store

    def recorded(self) -> Jobs:
        """Return what the store holds."""
        return jobs_of(self.store)

    def live(self, life: Callable[[SchedulerHost], Awaitable[None]], *, power: bool = False) -> None:
        """Start a host, let it live, and end its process without warning; or the power of the machine."""

        async def main() -> None:
            host = self.host()
            await host.start()
            await asyncio.wait_for(life(host), HANGS_S)
            self.die(power=power)

        asyncio.run(main())

    def die(self, *, power: bool = False) -> None:
        """End the process: whatever a host of this life still calls has no effect."""
        self.world = self.world.after_power_loss(7) if power else self.world.after_process_crash()

    async def pass_time(self, host: SchedulerHost, duration_ns: int, step_ns: int = SECOND_NS // 10) -> None:
        """Let time pass step by step, with a tick after each, and all that is due run to its end."""
        for _ in range(duration_ns // step_ns):
            self.clock.advance(step_ns)
            host.tick()
            await host.idle()
            self.check(host)

    def check(self, host: SchedulerHost) -> None:
        """While nothing runs, host and store know the same."""
        assert {str(record.id): record for record in host.control.list()} == self.recorded()


async def until(condition: Callable[[], object]) -> None:
    """Let the event loop go round until a condition holds."""

    async def wait() -> None:
        while not condition():  # noqa: ASYNC110  # What it waits for may happen in a thread, or on the disk.
            await asyncio.sleep(0)

    await asyncio.wait_for(wait(), HANGS_S)


def ids(records: Iterable[SchedulerJobRecord]) -> list[str]:
    """Return the ids of records, sorted."""
    return sorted(str(record.id) for record in records)
