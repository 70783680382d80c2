"""How a host ends: when it is told to, within the grace period; and when its persistence fails, with the error."""

from __future__ import annotations

import asyncio
import errno
import threading
from collections.abc import Awaitable, Callable

import pytest

from tests.scheduler.machine import HANGS_S, SECOND_NS, Machine, PlainPersistence, until
from walstore import Durability, Manual, Once, Periodic, SchedulerJobStatus, SchedulerPersistenceError
from walstore.errors import StorageFullError, StorePoisonedError
from walstore.model.names import Instant, JobId
from walstore.scheduler import JobPolicy, JobRun, SchedulerHost
from walstore.testing.model import NOW_NS

PENDING, RUNNING, IDLE, FAILED, _ = SchedulerJobStatus
EVERY_SECOND = Periodic(every_ns=SECOND_NS)


@pytest.fixture
def machine() -> Machine:
    return Machine()


class Job:
    """Runs until it is let go; heeds a cancellation, but takes a moment for it."""

    def __init__(self) -> None:
        self.may_end = threading.Event()
        self.runs: list[JobRun] = []
        self.ended = 0

    async def on_loop(self, run: JobRun) -> None:
        self.runs.append(run)
        try:
            await until(self.may_end.is_set)
        finally:
            await asyncio.sleep(0)
            self.ended += 1

    def on_thread(self, run: JobRun) -> None:
        self.runs.append(run)
        self.may_end.wait(30.0)
        self.ended += 1


Life = Callable[[SchedulerHost, "asyncio.Task[None]"], Awaitable[None]]


def run(machine: Machine, life: Life) -> None:
    """Let a host run by itself while ``life`` goes on, and then end; raises what it raises."""

    async def main() -> None:
        host = machine.host()
        await host.start()
        running = asyncio.create_task(host.run())
        await asyncio.wait_for(life(host, running), HANGS_S)
        await asyncio.wait_for(running, HANGS_S)

    asyncio.run(main())


async def let_time_pass(machine: Machine, condition: Callable[[], object]) -> None:
    """Let time pass until a condition holds; the host looks for due jobs by itself."""

    def passes() -> object:
        machine.clock.advance(SECOND_NS // 20)
        return condition()

    await until(passes)


def test_a_host_runs_by_itself_until_it_is_stopped(machine: Machine) -> None:
    job = Job()
    job.may_end.set()
    machine.register("a.b", job.on_loop)

    async def life(host: SchedulerHost, running: asyncio.Task[None]) -> None:
        await host.control.add_scheduled_job("a.b", EVERY_SECOND)
        await let_time_pass(machine, lambda: len(job.runs) == 3)
        await host.idle()
        host.stop()
        await running
        for ask in (host.control.list, lambda: host.control.get("a.b")):
            with pytest.raises(RuntimeError, match="nothing once it has stopped"):
                ask()

    run(machine, life)
    assert machine.recorded()["a.b"].status is PENDING


@pytest.mark.parametrize("kind", ["on_loop", "on_thread"])
def test_runs_may_end_within_the_grace_period(machine: Machine, kind: str) -> None:
    job, late = Job(), Job()
    machine.register("a.b", getattr(job, kind))
    machine.register("a.late", late.on_loop)

    async def life(host: SchedulerHost, running: asyncio.Task[None]) -> None:
        await host.control.add_scheduled_job("a.b", Manual())
        await let_time_pass(machine, lambda: job.runs)
        host.stop()
        await until(lambda: host._scheduler.paused)
        # Jobs that run may still ask for things.
        assert await host.control.add_scheduled_job("a.late", Manual())
        machine.clock.advance(9 * SECOND_NS)
        for _ in range(10):
            await asyncio.sleep(0)
        assert not running.done()
        assert not job.runs[0].cancel.is_cancelled
        job.may_end.set()
        await running

    run(machine, life)
    assert machine.recorded()["a.b"].status is IDLE
    assert machine.recorded()["a.late"].status is PENDING
    assert late.runs == [], "nothing begins any more"


@pytest.mark.parametrize("kind", ["on_loop", "on_thread"])
@pytest.mark.parametrize("grace_ns", [0, 10 * SECOND_NS])
def test_runs_that_take_longer_are_cut_off_and_found_by_the_next_start(
    machine: Machine, kind: str, grace_ns: int
) -> None:
    job = Job()
    machine.grace_ns = grace_ns
    machine.register("a.b", getattr(job, kind))

    async def life(host: SchedulerHost, running: asyncio.Task[None]) -> None:
        await host.control.add_scheduled_job("a.b", Manual())
        await let_time_pass(machine, lambda: job.runs)
        host.stop()
        await let_time_pass(machine, running.done)

    run(machine, life)
    assert job.runs[0].cancel.is_cancelled
    assert job.ended == (kind == "on_loop"), "a thread can't be ended; it is left behind"
    assert machine.recorded()["a.b"].status is RUNNING
    job.may_end.set()

    async def next_life(host: SchedulerHost) -> None:
        assert len(host.orphaned) == 1
        host.tick()
        await host.idle()
        assert job.runs[1].is_rerun

    machine.die()
    machine.live(next_life)


@pytest.mark.parametrize("kind", ["on_loop", "on_thread"])
def test_a_job_may_stop_its_host(machine: Machine, kind: str) -> None:
    hosts: list[SchedulerHost] = []

    def on_thread(_: JobRun) -> None:
        hosts[0].stop()

    async def on_loop(_: JobRun) -> None:
        hosts[0].stop()

    machine.register("a.b", on_thread if kind == "on_thread" else on_loop)

    async def life(host: SchedulerHost, running: asyncio.Task[None]) -> None:
        hosts.append(host)
        await host.control.add_scheduled_job("a.b", Manual())
        await let_time_pass(machine, running.done)

    run(machine, life)
    assert machine.recorded()["a.b"].status is IDLE
    hosts[0].stop()


def test_a_thread_that_asks_a_host_that_is_gone_is_told(machine: Machine) -> None:
    blocking = []

    async def life(host: SchedulerHost, _: asyncio.Task[None]) -> None:
        blocking.append(host.control.blocking)
        host.stop()

    run(machine, life)
    with pytest.raises(RuntimeError, match="closed"):
        blocking[0].cancel("a.b")


def test_a_host_that_is_stopped_before_it_starts_runs_nothing(machine: Machine) -> None:
    host = machine.host()
    host.stop()
    asyncio.run(host.run())


def test_what_waits_for_its_turn_is_not_begun(machine: Machine) -> None:
    job = Job()

    async def life(host: SchedulerHost, running: asyncio.Task[None]) -> None:
        host.register_namespace("a", job.on_loop, JobPolicy(concurrency=1))
        for number in range(5):
            await host.control.add_scheduled_job(f"a.{number}", Manual())
        await let_time_pass(machine, lambda: job.runs)
        host.stop()
        await until(lambda: host._scheduler.paused)
        job.may_end.set()
        await running

    run(machine, life)
    assert len(job.runs) == 1
    assert sorted(record.status.value for record in machine.recorded().values()) == ["Idle", *["Pending"] * 4]


@pytest.mark.parametrize("kind", ["on_loop", "on_thread"])
@pytest.mark.parametrize("is_in_time", [True, False])
def test_a_run_whose_start_is_being_recorded_when_the_host_ends(kind: str, is_in_time: bool) -> None:
    in_start, goes_on = threading.Event(), threading.Event()

    class Slow(PlainPersistence):
        def record_started(self, id: JobId, started_at: Instant) -> None:
            in_start.set()
            assert goes_on.wait(30.0)
            super().record_started(id, started_at)

    machine, job = Machine(wrap=Slow), Job()
    job.may_end.set()
    machine.register("a.b", getattr(job, kind))

    async def life(host: SchedulerHost, running: asyncio.Task[None]) -> None:
        await host.control.add_scheduled_job("a.b", Manual())
        await let_time_pass(machine, in_start.is_set)
        host.stop()
        await until(lambda: host._scheduler.paused)
        if not is_in_time:
            machine.clock.advance(machine.grace_ns)
            token = host._scheduler.cancel_token_for("a.b")
            assert token is not None
            await until(lambda: token.is_cancelled)
        goes_on.set()
        await running

    run(machine, life)
    assert job.ended == is_in_time
    assert machine.recorded()["a.b"].status is (IDLE if is_in_time else RUNNING)


def test_a_host_that_is_cancelled_ends_as_one_that_is_stopped(machine: Machine) -> None:
    job = Job()
    machine.register("a.b", job.on_loop)

    async def life(host: SchedulerHost, running: asyncio.Task[None]) -> None:
        await host.control.add_scheduled_job("a.b", Manual())
        await let_time_pass(machine, lambda: job.runs)
        running.cancel()
        await until(lambda: host._scheduler.paused)
        job.may_end.set()
        with pytest.raises(asyncio.CancelledError):
            await running

    with pytest.raises(asyncio.CancelledError):
        run(machine, life)
    assert machine.recorded()["a.b"].status is IDLE


def test_a_closed_loop_ends_runs_without_a_record(machine: Machine) -> None:
    """Whoever ends the event loop under a host has cut off its runs."""
    job = Job()
    machine.register("a.b", job.on_loop)

    async def main() -> None:
        host = machine.host()
        await host.start()
        await host.control.add_scheduled_job("a.b", Manual())
        host.tick()
        await until(lambda: job.runs)

    asyncio.run(main())
    assert job.ended == 1
    assert machine.recorded()["a.b"].status is RUNNING


# Errors of the persistence.


def fill(machine: Machine) -> None:
    """Leave no room for a further segment, so that one of the next events does not fit."""
    fs = machine.world.fs
    fs.capacity_bytes = 0


def test_a_caller_is_told_that_the_disk_is_full(machine: Machine) -> None:
    job = Job()
    job.may_end.set()
    machine.register("a.b", job.on_loop)

    async def life(host: SchedulerHost, running: asyncio.Task[None]) -> None:
        added = []
        fill(machine)
        with pytest.raises(StorageFullError):
            for number in range(1000):
                schedule = Once(at_ns=NOW_NS + 1000 * SECOND_NS + number)
                await host.control.add_scheduled_job("a.b", schedule)
                added.append(schedule)
        assert host.control.list()[0].schedule == added[-1], "nothing was changed"
        machine.check(host)
        with pytest.raises(StorageFullError):
            await host.control.cancel("a.b")
        machine.check(host)
        assert len(host.control.list()) == 1
        assert not running.done(), "the caller knows: it is not the host's"
        machine.world.fs.capacity_bytes = None
        assert await host.control.cancel("a.b")
        host.stop()

    run(machine, life)


@pytest.mark.parametrize("fails_at", ["start", "end"])
def test_a_transition_that_can_not_be_recorded_ends_the_host(machine: Machine, fails_at: str) -> None:
    machine.level = Durability.POWER
    job = Job()
    machine.register("a.b", job.on_loop)

    async def life(host: SchedulerHost, running: asyncio.Task[None]) -> None:
        await host.control.add_scheduled_job("a.b", EVERY_SECOND)
        if fails_at == "start":
            machine.world.fs.fail("sync", errno.EIO, lost=True)
        else:
            await let_time_pass(machine, lambda: job.runs)
            machine.world.fs.fail("sync", errno.EIO, lost=True)
            job.may_end.set()
        await let_time_pass(machine, running.done)

    with pytest.raises(StorePoisonedError):
        run(machine, life)
    assert len(job.runs) == (fails_at == "end"), "a run that is not recorded does not start"
    machine.die()

    async def next_life(host: SchedulerHost) -> None:
        record = host.control.get("a.b")
        assert record is not None
        # Whether the transition whose sync has failed is there is known to nobody; one or the other it is.
        assert record.status is PENDING
        assert len(host.orphaned) == (record.last_finished_at_ns is None and record.last_started_at_ns is not None)

    job.may_end.set()
    machine.live(next_life)


def test_an_error_that_nobody_waits_for_is_the_hosts(machine: Machine) -> None:
    machine.level = Durability.POWER
    machine.register("a.b", Job().on_loop)

    async def life(host: SchedulerHost, running: asyncio.Task[None]) -> None:
        in_sync, goes_on = threading.Event(), threading.Event()

        def wait(_step: object) -> None:
            in_sync.set()
            goes_on.wait(30.0)

        machine.world.fs.fail("sync", errno.EIO)
        machine.world.fs.before_call = wait
        adding = asyncio.create_task(host.control.add_scheduled_job("a.b", EVERY_SECOND))
        await until(in_sync.is_set)
        adding.cancel()
        with pytest.raises(asyncio.CancelledError):
            await adding
        machine.world.fs.before_call = None
        goes_on.set()
        await let_time_pass(machine, running.done)

    with pytest.raises(SchedulerPersistenceError):
        run(machine, life)


def test_idle_raises_too(machine: Machine) -> None:
    machine.level = Durability.POWER
    machine.register("a.b", Job().on_loop)

    async def life(host: SchedulerHost) -> None:
        await host.control.add_scheduled_job("a.b", Manual())
        machine.world.fs.fail("sync", errno.EIO)
        host.tick()
        with pytest.raises(StorePoisonedError):
            await host.idle()

    machine.live(life)


def test_a_start_that_fails_half_way_is_an_error(machine: Machine) -> None:
    """What it made of the orphaned runs could not be recorded."""
    machine.level = Durability.POWER
    job = Job()
    machine.register("a.b", job.on_loop)

    async def first(host: SchedulerHost) -> None:
        await host.control.add_scheduled_job("a.b", Manual())
        host.tick()
        await until(lambda: job.runs)

    async def second() -> None:
        host = machine.host()
        machine.world.fs.fail("sync", errno.EIO)
        with pytest.raises(StorePoisonedError):
            await host.run()

    machine.live(first)
    asyncio.run(second())


def test_a_thread_that_is_left_behind_ends_in_peace(machine: Machine) -> None:
    job = Job()
    machine.grace_ns = 0
    machine.register("a.b", job.on_thread)
    before = set(threading.enumerate())

    async def life(host: SchedulerHost, running: asyncio.Task[None]) -> None:
        await host.control.add_scheduled_job("a.b", Manual())
        await let_time_pass(machine, lambda: job.runs)
        host.stop()
        await let_time_pass(machine, running.done)

    run(machine, life)
    (thread,) = {thread for thread in set(threading.enumerate()) - before if thread.name.startswith("walstore-job")}
    assert thread.daemon, "a process may end while it runs"
    job.may_end.set()
    thread.join(30.0)
    assert not thread.is_alive()
    assert job.ended == 1


def test_the_threads_of_a_host_end_with_it(machine: Machine) -> None:
    job = Job()
    job.may_end.set()
    for number in range(5):
        machine.register(f"a.{number}", job.on_thread)
    before = set(threading.enumerate())

    async def main() -> None:
        host = machine.host()
        await host.start()
        for number in range(5):
            await host.control.add_scheduled_job(f"a.{number}", Manual())
        host.tick()
        await host.idle()
        await host.shut_down()

    asyncio.run(main())
    for thread in set(threading.enumerate()) - before:
        thread.join(30.0)
        assert not thread.is_alive()
    assert job.ended == 5
