"""``SchedulerHost``: jobs run when they are due, each transition is recorded, and every setting does what it says."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest

from tests.scheduler.machine import SECOND_NS, Machine, PlainPersistence, until
from walstore import Cron, Durability, Manual, Once, Periodic, SchedulerJobStatus
from walstore.model.names import Instant, JobId
from walstore.scheduler import CircuitBreaker, JobPolicy, JobRun, SchedulerHost
from walstore.testing.model import NOW_NS

PENDING, RUNNING, IDLE, FAILED, _ = SchedulerJobStatus
EVERY_SECOND = Periodic(every_ns=SECOND_NS)

each_level = pytest.mark.parametrize("level", Durability)


class Log:
    """Providers that note their runs."""

    def __init__(self) -> None:
        self.runs: list[JobRun] = []
        self.fails = 0

    async def on_loop(self, run: JobRun) -> None:
        self.runs.append(run)
        if self.fails:
            self.fails -= 1
            raise ValueError("as the test wants it")

    def on_thread(self, run: JobRun) -> None:
        assert threading.current_thread() is not threading.main_thread()
        self.runs.append(run)
        if self.fails:
            self.fails -= 1
            raise ValueError("as the test wants it")

    def of(self, job: str) -> list[JobRun]:
        return [run for run in self.runs if str(run.id) == job]


@pytest.fixture
def machine() -> Machine:
    return Machine()


@pytest.fixture
def log() -> Log:
    return Log()


@each_level
@pytest.mark.parametrize("wrap", [lambda store: store, PlainPersistence], ids=["batches", "plain"])
def test_jobs_run_when_they_are_due(level: Durability, wrap: Callable[..., PlainPersistence], log: Log) -> None:
    machine = Machine(level=level, wrap=wrap)
    machine.register("a.periodic", log.on_loop)
    machine.register("a.cron", log.on_thread)
    machine.register("a.once", log.on_thread)
    machine.register("a.manual", log.on_loop)

    async def life(host: SchedulerHost) -> None:
        control = host.control
        assert await control.add_scheduled_job("a.periodic", EVERY_SECOND)
        assert await control.add_scheduled_job("a.cron", Cron("*/2 * * * * *"))
        assert await control.add_scheduled_job("a.once", Once(at_ns=NOW_NS + 3 * SECOND_NS))
        assert await control.add_scheduled_job("a.manual", Manual())
        machine.check(host)
        await machine.pass_time(host, 6 * SECOND_NS)

    machine.live(life)
    seconds = {job: [run.started_at_ns - NOW_NS for run in log.of(job)] for job in machine._providers}
    assert seconds == {
        "a.periodic": [number * SECOND_NS for number in range(1, 7)],
        "a.cron": [2 * SECOND_NS, 4 * SECOND_NS, 6 * SECOND_NS],
        "a.once": [3 * SECOND_NS],
        "a.manual": [SECOND_NS // 10],
    }
    assert [run.fire_at_ns for run in log.of("a.periodic")] == [run.started_at_ns for run in log.of("a.periodic")]
    assert log.of("a.manual")[0].fire_at_ns == NOW_NS


def test_a_run_is_recorded_before_it_starts(machine: Machine) -> None:
    seen = []

    async def provider(run: JobRun) -> None:
        seen.append((run, machine.recorded()[str(run.id)]))

    machine.register("a.b", provider)

    async def life(host: SchedulerHost) -> None:
        await host.control.add_scheduled_job("a.b", Manual())
        await machine.pass_time(host, SECOND_NS)

    machine.live(life)
    ((run, record),) = seen
    assert (record.status, record.last_started_at_ns) == (RUNNING, run.started_at_ns)


def test_what_is_due_at_once_is_recorded_at_once(log: Log) -> None:
    machine = Machine(level=Durability.POWER)
    for number in range(500):
        machine.register(f"a.{number}", log.on_loop)

    async def life(host: SchedulerHost) -> None:
        await asyncio.gather(*(host.control.add_scheduled_job(f"a.{n}", Manual()) for n in range(500)))
        syncs = machine.store.stats().syncs
        assert host.tick() == 500
        await host.idle()
        assert len(log.runs) == 500
        assert machine.store.stats().syncs - syncs <= 6, "some for 500 starts, and some for 500 ends"

    machine.live(life)


def test_the_event_loop_goes_on_while_the_persistence_is_busy(log: Log) -> None:
    goes_on = threading.Event()

    class Slow(PlainPersistence):
        def record_started(self, id: JobId, started_at: Instant) -> None:
            super().record_started(id, started_at)
            assert goes_on.wait(30.0), "the event loop stood still"

    machine = Machine(wrap=Slow)
    machine.register("a.b", log.on_loop)

    async def life(host: SchedulerHost) -> None:
        await host.control.add_scheduled_job("a.b", Manual())
        host.tick()
        for _ in range(10):
            await asyncio.sleep(0)
        assert log.runs == [], "it is not recorded yet"
        goes_on.set()
        await host.idle()
        assert len(log.runs) == 1

    machine.live(life)


@pytest.mark.parametrize("kind", ["on_loop", "on_thread"])
def test_a_failed_run_is_tried_again(machine: Machine, log: Log, kind: str) -> None:
    machine.register("a.b", getattr(log, kind), JobPolicy(attempts=3, retry_delay_ns=SECOND_NS, retry_factor=2))
    log.fails = 3

    async def life(host: SchedulerHost) -> None:
        await host.control.add_scheduled_job("a.b", Manual())
        host.tick()
        await host.idle()
        await machine.pass_time(host, 20 * SECOND_NS)
        assert [(run.started_at_ns - NOW_NS, run.failures) for run in log.runs] == [
            (0, 0),
            (SECOND_NS, 1),
            (3 * SECOND_NS, 2),
        ]
        assert machine.recorded()["a.b"].status is FAILED
        await host.control.add_scheduled_job("a.b", Manual())
        await machine.pass_time(host, SECOND_NS)
        assert machine.recorded()["a.b"].status is IDLE
        assert log.runs[-1].failures == 3

    machine.live(life)


def test_a_retry_is_due_after_a_restart_as_before(machine: Machine, log: Log) -> None:
    machine.register("a.b", log.on_loop, JobPolicy(attempts=2, retry_delay_ns=5 * SECOND_NS))
    log.fails = 1

    async def first(host: SchedulerHost) -> None:
        await host.control.add_scheduled_job("a.b", Manual())
        host.tick()
        await host.idle()

    async def second(host: SchedulerHost) -> None:
        assert host.orphaned == ()
        await machine.pass_time(host, 5 * SECOND_NS)

    machine.live(first)
    machine.clock.advance(2 * SECOND_NS)
    machine.live(second)
    assert [run.started_at_ns - NOW_NS for run in log.runs] == [0, 5 * SECOND_NS]


def test_a_job_that_fails_all_the_time_is_left_alone_for_a_while(machine: Machine, log: Log) -> None:
    machine.register("a.b", log.on_loop)
    machine.breaker = lambda: CircuitBreaker(failures_max=3, cooldown_ns=30 * SECOND_NS)
    log.fails = 4

    async def first(host: SchedulerHost) -> None:
        await host.control.add_scheduled_job("a.b", EVERY_SECOND)
        await machine.pass_time(host, 5 * SECOND_NS)

    async def second(host: SchedulerHost) -> None:
        await machine.pass_time(host, 62 * SECOND_NS)

    machine.live(first)
    machine.live(second)
    # Three failures; one run after 30 seconds, which fails; one after 30 more, which succeeds and closes the circuit.
    starts = [1, 2, 3, 33, 63, 64, 65, 66, 67]
    assert [run.started_at_ns - NOW_NS for run in log.runs] == [second * SECOND_NS for second in starts]


def test_the_circuit_keeps_a_retry_a_retry(machine: Machine, log: Log) -> None:
    machine.register("a.b", log.on_loop, JobPolicy(attempts=9, retry_delay_ns=SECOND_NS))
    machine.breaker = lambda: CircuitBreaker(failures_max=2, cooldown_ns=10 * SECOND_NS)
    log.fails = 2

    async def life(host: SchedulerHost) -> None:
        await host.control.add_scheduled_job("a.b", Manual())
        host.tick()
        await host.idle()
        await machine.pass_time(host, 10 * SECOND_NS)
        assert machine.recorded()["a.b"].status is FAILED
        await machine.pass_time(host, 2 * SECOND_NS)

    machine.live(life)
    assert [run.started_at_ns - NOW_NS for run in log.runs] == [0, SECOND_NS, 11 * SECOND_NS]


@pytest.mark.parametrize("heeds", [True, False])
def test_a_coroutine_that_takes_too_long_is_cancelled(machine: Machine, heeds: bool) -> None:
    there = asyncio.Event()
    ended = []

    async def provider(run: JobRun) -> None:
        try:
            there.set()
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.append(run.cancel.is_cancelled)
            if heeds:
                raise

    machine.register("a.b", provider, JobPolicy(timeout_ns=3 * SECOND_NS))

    async def life(host: SchedulerHost) -> None:
        await host.control.add_scheduled_job("a.b", EVERY_SECOND)
        machine.clock.advance(SECOND_NS)
        assert host.tick() == 1
        await there.wait()
        assert machine.recorded()["a.b"].status is RUNNING
        machine.clock.advance(3 * SECOND_NS - 1)
        host.tick()
        for _ in range(10):
            await asyncio.sleep(0)
        assert ended == []
        machine.clock.advance(1)
        host.tick()
        await host.idle()
        assert ended == [True]
        record = machine.recorded()["a.b"]
        assert (record.status, record.consecutive_failures) == (PENDING, 1)
        token = host._scheduler.cancel_token_for("a.b")
        assert token is not None
        assert not token.is_cancelled, "the next run has one of its own"

    machine.live(life)


def test_a_thread_that_takes_too_long_is_told_and_waited_for(machine: Machine) -> None:
    there, told, may_end = threading.Event(), threading.Event(), threading.Event()

    def provider(run: JobRun) -> None:
        there.set()
        run.cancel.wait(30.0)
        told.set()
        may_end.wait(30.0)

    machine.register("a.b", provider, JobPolicy(timeout_ns=SECOND_NS, attempts=2))

    async def life(host: SchedulerHost) -> None:
        await host.control.add_scheduled_job("a.b", Manual())
        assert host.tick() == 1
        await until(there.is_set)
        machine.clock.advance(SECOND_NS)
        host.tick()
        await until(told.is_set)
        assert machine.recorded()["a.b"].status is RUNNING, "its thread is still at it: nothing may run beside it"
        may_end.set()
        await host.idle()
        assert machine.recorded()["a.b"].status is FAILED

    machine.live(life)


class Gate:
    """A provider whose runs all wait until they are let go; knows how many were there at once, at most."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()
        self.running = 0
        self.most = 0
        self.ran = 0

    async def __call__(self, _: JobRun) -> None:
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await self.opened.wait()
        finally:
            self.running -= 1
            self.ran += 1


def test_a_namespace_shares_a_provider_and_its_limit(machine: Machine, log: Log) -> None:
    gate = Gate()

    async def life(host: SchedulerHost) -> None:
        host.register_namespace("a.many", gate, JobPolicy(concurrency=3))
        host.register("a.many.own", log.on_loop)
        for number in range(10):
            await host.control.add_scheduled_job(f"a.many.{number}", Manual())
        await host.control.add_scheduled_job("a.many.own", Manual())
        with pytest.raises(ValueError, match=r"nobody serves a\.b"):
            await host.control.add_scheduled_job("a.b", Manual())
        with pytest.raises(ValueError, match="nobody serves"):
            await host.control.add_scheduled_job("a.many.more.c", Manual())
        assert host.tick() == 11
        await until(lambda: gate.running == 3 and log.runs)
        statuses = [record.status for record in machine.recorded().values()]
        assert statuses.count(PENDING) == 7, "those that wait for their turn are not recorded as started"
        gate.opened.set()
        await host.idle()
        assert (gate.most, gate.ran) == (3, 10)
        machine.check(host)

    machine.live(life)


def test_only_so_many_runs(machine: Machine) -> None:
    gate = Gate()
    machine.runs_max = 4

    async def life(host: SchedulerHost) -> None:
        host.register_namespace("a", gate, JobPolicy(concurrency=2))
        for number in range(10):
            await host.control.add_scheduled_job(f"a.{number}", Manual())
        assert host.tick() == 4
        await until(lambda: gate.running == 2)
        assert host.tick() == 0, "two run, and two wait for their turn"
        gate.opened.set()
        await host.idle()
        for number in (4, 2, 0):
            assert host.tick() == number
            await host.idle()
        assert gate.ran == 10

    machine.live(life)


def test_only_so_many_threads(machine: Machine) -> None:
    lock, opened = threading.Lock(), threading.Event()
    there: list[int] = []
    most = 0

    def provider(_: JobRun) -> None:
        nonlocal most
        with lock:
            there.append(1)
            most = max(most, len(there))
        opened.wait(30.0)
        with lock:
            there.pop()

    machine.threads = 4
    for number in range(20):
        machine.register(f"a.{number}", provider)

    async def life(host: SchedulerHost) -> None:
        for number in range(20):
            await host.control.add_scheduled_job(f"a.{number}", Manual())
        host.tick()
        await until(lambda: len(there) == 4)
        opened.set()
        await host.idle()
        assert most == 4
        assert [record.status for record in host.control.list()] == [IDLE] * 20

    machine.live(life)


def test_what_nobody_serves_stays_until_somebody_does(machine: Machine, log: Log) -> None:
    machine.register("a.b", log.on_loop)

    async def first(host: SchedulerHost) -> None:
        await host.control.add_scheduled_job("a.b", Manual())

    async def second(host: SchedulerHost) -> None:
        await machine.pass_time(host, SECOND_NS)
        assert [str(job) for job in host.unserved] == ["a.b"]
        assert machine.recorded()["a.b"].status is PENDING
        host.register("a.c", log.on_loop)
        await machine.pass_time(host, SECOND_NS)
        assert log.runs == []
        host.register("a.b", log.on_loop)
        assert host.unserved == frozenset()
        await machine.pass_time(host, SECOND_NS)
        assert len(log.runs) == 1

    machine.live(first)
    machine._providers.clear()
    machine.live(second)


@pytest.mark.parametrize("exit_by", [SystemExit, KeyboardInterrupt, BaseException])
def test_whatever_a_thread_raises_is_a_failure(machine: Machine, exit_by: type[BaseException]) -> None:
    def provider(_: JobRun) -> None:
        raise exit_by

    machine.register("a.b", provider)

    async def life(host: SchedulerHost) -> None:
        await host.control.add_scheduled_job("a.b", Manual())
        await machine.pass_time(host, SECOND_NS)
        assert machine.recorded()["a.b"].status is FAILED

    machine.live(life)


def test_a_cancellation_of_its_own_is_a_failure(machine: Machine) -> None:
    async def provider(_: JobRun) -> None:
        raise asyncio.CancelledError

    machine.register("a.b", provider)

    async def life(host: SchedulerHost) -> None:
        await host.control.add_scheduled_job("a.b", Manual())
        await machine.pass_time(host, SECOND_NS)
        assert machine.recorded()["a.b"].status is FAILED

    machine.live(life)


def test_a_function_that_returns_a_coroutine_is_a_failure(
    machine: Machine, log: Log, caplog: pytest.LogCaptureFixture
) -> None:
    def provider(run: JobRun) -> object:
        return log.on_loop(run)

    machine.register("a.b", provider)

    async def life(host: SchedulerHost) -> None:
        await host.control.add_scheduled_job("a.b", Manual())
        await machine.pass_time(host, SECOND_NS)
        assert machine.recorded()["a.b"].status is FAILED
        assert log.runs == []

    machine.live(life)
    assert "async def" in caplog.text


def test_a_failure_is_logged_with_its_traceback(machine: Machine, log: Log, caplog: pytest.LogCaptureFixture) -> None:
    machine.register("a.b", log.on_loop)
    log.fails = 1

    async def life(host: SchedulerHost) -> None:
        await host.control.add_scheduled_job("a.b", Manual())
        await machine.pass_time(host, SECOND_NS)

    machine.live(life)
    (entry,) = caplog.records
    assert entry.name == "walstore.scheduler"
    assert "a.b failed" in caplog.text
    assert "as the test wants it" in caplog.text


@pytest.mark.parametrize("name", ["threads", "runs_max", "tick_ns", "grace_ns"])
@pytest.mark.parametrize("wrong", [-1, 1.5, True, None])
def test_wrong_figures_are_refused(machine: Machine, name: str, wrong: object) -> None:
    with pytest.raises((TypeError, ValueError), match=name):
        SchedulerHost(machine.world.open(), **{name: wrong})  # type: ignore[arg-type]  # It is wrong.


def test_wrong_providers_and_policies_are_refused(machine: Machine, log: Log) -> None:
    host = machine.host()
    with pytest.raises(TypeError, match="a provider is"):
        host.register("a.b", "log.on_loop")  # type: ignore[arg-type]  # It is wrong.
    with pytest.raises(TypeError, match="JobPolicy"):
        host.register("a.b", log.on_loop, {"attempts": 3})  # type: ignore[arg-type]  # It is wrong.
    for wrong in ("", "a\n"):
        with pytest.raises(ValueError, match="name"):
            host.register_namespace(wrong, log.on_loop)
    with pytest.raises(ValueError, match="name"):
        host.register("a", log.on_loop)
