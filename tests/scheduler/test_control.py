"""``SchedulerControl``: adding again, arming, cancelling, while jobs wait, start, run and end."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable
from typing import Any

import pytest

from tests.scheduler.machine import SECOND_NS, Machine, PlainPersistence, until
from walstore import Cron, Durability, Manual, Once, Periodic, QName, SchedulerJobStatus, SchedulerPersistence
from walstore.model.names import Instant, JobId
from walstore.scheduler import JobPolicy, JobRun, SchedulerHost
from walstore.testing.model import NOW_NS

PENDING, RUNNING, IDLE, FAILED, _ = SchedulerJobStatus
EVERY_SECOND = Periodic(every_ns=SECOND_NS)

each_persistence = pytest.mark.parametrize("wrap", [lambda store: store, PlainPersistence], ids=["batches", "plain"])


class Door:
    """A provider whose runs wait until the door is opened. A run on a thread heeds nothing else."""

    def __init__(self) -> None:
        self.opened = threading.Event()
        self.entered: list[JobRun] = []
        self.left: list[JobRun] = []
        self.told: list[JobRun] = []

    def on_thread(self, run: JobRun) -> None:
        self.entered.append(run)
        self.opened.wait(30.0)
        self.left.append(run)

    async def on_loop(self, run: JobRun) -> None:
        self.entered.append(run)
        try:
            await until(self.opened.is_set)
        except asyncio.CancelledError:
            self.told.append(run)
            raise
        self.left.append(run)


@pytest.fixture
def door() -> Door:
    return Door()


@pytest.fixture
def machine() -> Machine:
    return Machine()


def test_an_equal_schedule_changes_nothing(machine: Machine, door: Door) -> None:
    door.opened.set()
    machine.register("a.b", door.on_loop)
    machine.register("a.c", door.on_loop)
    once = Once(at_ns=NOW_NS + SECOND_NS)

    async def life(host: SchedulerHost) -> None:
        assert await host.control.add_scheduled_job("a.b", EVERY_SECOND)
        assert await host.control.add_scheduled_job(QName("a", "c"), once)
        await machine.pass_time(host, 2 * SECOND_NS)
        events, before = machine.store.stats().events, machine.recorded()
        assert not await host.control.add_scheduled_job("a.b", Periodic(every_ns=SECOND_NS))
        assert not await host.control.add_scheduled_job("a.c", once), "a finished Once would run again"
        assert machine.store.stats().events == events
        assert machine.recorded() == before
        assert await host.control.add_scheduled_job("a.b", EVERY_SECOND, replace=True)
        assert machine.recorded()["a.b"].next_fire_at_ns == machine.clock.now_ns() + SECOND_NS
        assert await host.control.add_scheduled_job("a.c", Cron("* * * * * *"))
        machine.check(host)

    machine.live(life)


def test_a_periodic_does_not_starve_under_frequent_restarts(machine: Machine, door: Door) -> None:
    door.opened.set()
    machine.register("a.b", door.on_loop)

    async def life(host: SchedulerHost) -> None:
        await host.control.add_scheduled_job("a.b", Periodic(every_ns=10 * SECOND_NS))
        await machine.pass_time(host, 3 * SECOND_NS)

    for _ in range(10):
        machine.live(life)
    assert len(door.left) == 3


@each_persistence
@pytest.mark.parametrize("kind", ["on_loop", "on_thread"])
def test_manual_arms_again(wrap: Callable[..., Any], kind: str, door: Door) -> None:
    machine = Machine(wrap=wrap)
    machine.register("a.b", getattr(door, kind))

    async def life(host: SchedulerHost) -> None:
        control = host.control
        assert await control.add_scheduled_job("a.b", Manual())
        host.tick()
        await until(lambda: door.entered)
        assert await control.add_scheduled_job("a.b", Manual())
        assert await control.add_scheduled_job("a.b", Manual())
        door.opened.set()
        await host.idle()
        machine.check(host)
        host.tick()
        await host.idle()
        assert host.tick() == 0
        assert len(door.left) == 2, "once more, since it was armed while it ran"
        assert await control.add_scheduled_job("a.b", Manual())
        host.tick()
        await host.idle()
        assert len(door.left) == 3
        assert machine.recorded()["a.b"].status is IDLE
        machine.check(host)

    machine.live(life)


def test_a_job_that_waits_for_its_turn_is_armed(machine: Machine, door: Door) -> None:
    async def life(host: SchedulerHost) -> None:
        host.register_namespace("a", door.on_loop, JobPolicy(concurrency=1))
        await host.control.add_scheduled_job("a.b", Manual())
        await host.control.add_scheduled_job("a.c", Manual())
        host.tick()
        await until(lambda: door.entered)
        assert not await host.control.add_scheduled_job("a.c", Manual())
        door.opened.set()
        await host.idle()
        assert host.tick() == 0
        assert len(door.left) == 2
        machine.check(host)

    machine.live(life)


def test_another_schedule_takes_the_place_of_an_arming(machine: Machine, door: Door) -> None:
    machine.register("a.b", door.on_loop)

    async def life(host: SchedulerHost) -> None:
        await host.control.add_scheduled_job("a.b", Manual())
        host.tick()
        await until(lambda: door.entered)
        await host.control.add_scheduled_job("a.b", Manual())
        await host.control.add_scheduled_job("a.b", Once(at_ns=NOW_NS + SECOND_NS))
        door.opened.set()
        await host.idle()
        machine.check(host)
        record = machine.recorded()["a.b"]
        assert (record.status, record.next_fire_at_ns) == (PENDING, NOW_NS + SECOND_NS)

    machine.live(life)


def test_a_cancelled_job_that_waits_never_runs(machine: Machine, door: Door) -> None:
    async def life(host: SchedulerHost) -> None:
        host.register_namespace("a", door.on_loop, JobPolicy(concurrency=1))
        for job, schedule in (("a.b", Manual()), ("a.c", Manual()), ("a.d", EVERY_SECOND)):
            await host.control.add_scheduled_job(job, schedule)
        assert await host.control.cancel("a.d")
        assert not await host.control.cancel("a.d")
        assert host.tick() == 2
        await until(lambda: door.entered)
        assert await host.control.cancel(QName("a", "c")), "due, and not begun yet"
        door.opened.set()
        await host.idle()
        await machine.pass_time(host, 2 * SECOND_NS)
        assert [str(run.id) for run in door.entered] == ["a.b"]
        assert list(machine.recorded()) == ["a.b"]

    machine.live(life)


@pytest.mark.parametrize("kind", ["on_loop", "on_thread"])
def test_a_run_of_a_cancelled_job_is_told_and_not_recorded(machine: Machine, door: Door, kind: str) -> None:
    machine.register("a.b", getattr(door, kind))

    async def life(host: SchedulerHost) -> None:
        await host.control.add_scheduled_job("a.b", EVERY_SECOND)
        machine.clock.advance(SECOND_NS)
        host.tick()
        await until(lambda: door.entered)
        assert await host.control.cancel("a.b")
        assert door.entered[0].cancel.is_cancelled
        assert machine.recorded() == {}
        door.opened.set()
        await host.idle()
        assert len(door.told) == (kind == "on_loop")
        assert machine.recorded() == {}
        machine.check(host)

    machine.live(life)


def test_a_job_added_again_waits_for_its_cancelled_run(machine: Machine, door: Door) -> None:
    machine.register("a.b", door.on_thread)

    async def life(host: SchedulerHost) -> None:
        await host.control.add_scheduled_job("a.b", Manual())
        host.tick()
        await until(lambda: door.entered)
        await host.control.cancel("a.b")
        once = Once(at_ns=machine.clock.now_ns())
        assert await host.control.add_scheduled_job("a.b", once)
        assert host.tick() == 1
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(door.entered) == 1, "the old run is still there"
        assert machine.recorded()["a.b"].status is PENDING
        door.opened.set()
        await host.idle()
        assert len(door.entered) == 2, "the end of the old run is not the end of the new job's"
        record = machine.recorded()["a.b"]
        assert (record.status, record.schedule) == (IDLE, once)

    machine.live(life)


class Gated(PlainPersistence):
    """A persistence whose calls wait until they are let through, one by one, as the test has it."""

    def __init__(self, store: SchedulerPersistence) -> None:
        super().__init__(store)
        self.calls: list[str] = []
        self.may_go = threading.Semaphore(0)
        self.is_open = False

    def _pass(self, call: str) -> None:
        self.calls.append(call)
        if not self.is_open:
            assert self.may_go.acquire(timeout=30.0)

    def record_started(self, id: JobId, started_at: Instant) -> None:
        self._pass("started")
        super().record_started(id, started_at)

    def record_finished(self, id: JobId, finished_at: Instant, success: bool) -> None:
        self._pass("finished")
        super().record_finished(id, finished_at, success)

    def cancel(self, id: JobId) -> None:
        self._pass("cancel")
        super().cancel(id)


@pytest.mark.parametrize("during", ["started", "cancel"])
def test_cancelling_and_starting_are_in_one_order(during: str, door: Door) -> None:
    door.opened.set()
    persistence: list[Gated] = []

    def gated(store: SchedulerPersistence) -> Gated:
        persistence.append(Gated(store))
        return persistence[-1]

    machine = Machine(wrap=gated)
    machine.register("a.b", door.on_loop)

    async def life(host: SchedulerHost) -> None:
        (gate,) = persistence
        await host.control.add_scheduled_job("a.b", Manual())
        if during == "started":
            host.tick()
            await until(lambda: gate.calls == ["started"])
            cancelling = asyncio.create_task(host.control.cancel("a.b"))
        else:
            cancelling = asyncio.create_task(host.control.cancel("a.b"))
            await until(lambda: gate.calls == ["cancel"])
            host.tick()
        for _ in range(20):
            await asyncio.sleep(0)
        assert gate.calls == [during], "the other one waits"
        gate.is_open = True
        gate.may_go.release()
        assert await cancelling
        await host.idle()
        assert gate.calls == (["started", "cancel"] if during == "started" else ["cancel"])
        assert machine.recorded() == {}

    machine.live(life)


def test_a_caller_that_is_interrupted_does_not_stop_what_it_asked_for(door: Door) -> None:
    persistence: list[Gated] = []

    def gated(store: SchedulerPersistence) -> Gated:
        persistence.append(Gated(store))
        return persistence[-1]

    machine = Machine(wrap=gated)
    machine.register("a.b", door.on_loop)

    async def life(host: SchedulerHost) -> None:
        (gate,) = persistence
        await host.control.add_scheduled_job("a.b", EVERY_SECOND)
        cancelling = asyncio.create_task(host.control.cancel("a.b"))
        await until(lambda: gate.calls == ["cancel"])
        cancelling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelling
        gate.may_go.release()
        await until(lambda: not host.control.list())
        machine.check(host)

    machine.live(life)


@each_persistence
@pytest.mark.parametrize("seed", range(6))
def test_whatever_order_calls_come_in(wrap: Callable[..., Any], seed: int) -> None:
    """Callers add and cancel at random while jobs run; what was cancelled last is gone, the others are there."""
    machine = Machine(wrap=wrap, level=random.Random(seed).choice(list(Durability)))
    choice = random.Random(seed)
    jobs = [f"a.{number}" for number in range(6)]
    running: set[str] = set()
    schedules = [Manual(), EVERY_SECOND, Cron("* * * * * *"), Once(at_ns=NOW_NS + 3 * SECOND_NS)]

    async def provider(run: JobRun) -> None:
        assert str(run.id) not in running, "a job never runs twice at the same time"
        running.add(str(run.id))
        try:
            for _ in range(choice.randrange(8)):
                await asyncio.sleep(0)
            if choice.random() < 0.3:
                raise ValueError("as the test wants it")
        finally:
            running.discard(str(run.id))

    for job in jobs:
        machine.register(job, provider, JobPolicy(attempts=2, retry_delay_ns=SECOND_NS, rerun_orphans=seed % 2 == 0))
    there: set[str] = set()

    async def caller(host: SchedulerHost, job: str) -> None:
        for _ in range(12):
            if choice.random() < 0.4:
                assert await host.control.cancel(job) == (job in there)
                there.discard(job)
            else:
                await host.control.add_scheduled_job(job, choice.choice(schedules), replace=choice.random() < 0.3)
                there.add(job)
            for _ in range(choice.randrange(6)):
                await asyncio.sleep(0)

    async def life(host: SchedulerHost) -> None:
        if machine.level is not Durability.BUFFERED:
            assert {str(record.id) for record in host.control.list()} == there
        there.clear()
        there.update(str(record.id) for record in host.control.list())
        callers = [asyncio.create_task(caller(host, job)) for job in jobs]
        while not all(task.done() for task in callers):
            machine.clock.advance(choice.randrange(SECOND_NS))
            host.tick()
            await asyncio.sleep(0)
        await asyncio.gather(*callers)
        await host.idle()
        assert {str(record.id) for record in host.control.list()} == there
        if wrap is not PlainPersistence:
            # A plain one has no call for a run that was cut off and is to be run again.
            machine.check(host)
        machine.clock.advance(SECOND_NS)
        host.tick()
        # In the middle of runs.
        for _ in range(choice.randrange(4)):
            await asyncio.sleep(0)
        await host.control.flush_checkpoint()

    for _ in range(4):
        running.clear()
        machine.live(life, power=choice.random() < 0.5)


def test_threads_have_calls_of_their_own(machine: Machine) -> None:
    found: list[Any] = []

    def parent(_: JobRun) -> None:
        control = control_of[0].blocking
        found.append(control.add_scheduled_job("a.child", Manual()))
        found.append(control.add_scheduled_job("a.other", EVERY_SECOND))
        found.append(control.cancel("a.other"))
        found.append(sorted(str(record.id) for record in control.list()))
        control.flush_checkpoint()

    async def child(run: JobRun) -> None:
        found.append(str(run.id))

    control_of: list[Any] = []
    machine.register("a.parent", parent)
    machine.register("a.child", child)
    machine.register("a.other", child)

    async def life(host: SchedulerHost) -> None:
        control_of.append(host.control)
        await host.control.add_scheduled_job("a.parent", Manual())
        await machine.pass_time(host, SECOND_NS)
        assert found == [True, True, True, ["a.child", "a.parent"], "a.child"]
        with pytest.raises(RuntimeError, match="await it"):
            host.control.blocking.cancel("a.child")

    machine.live(life)


def test_wrong_arguments_are_refused(machine: Machine, door: Door) -> None:
    machine.register("a.b", door.on_loop)

    async def life(host: SchedulerHost) -> None:
        with pytest.raises(ValueError, match="no dot"):
            await host.control.add_scheduled_job("nodot", Manual())
        with pytest.raises(TypeError, match="a schedule is"):
            await host.control.add_scheduled_job("a.b", 3600)  # type: ignore[arg-type]  # It is wrong.
        with pytest.raises(ValueError, match="no dot"):
            await host.control.cancel("nodot")
        assert machine.recorded() == {}

    machine.live(life)


def test_a_checkpoint_covers_what_was_recorded(machine: Machine, door: Door) -> None:
    machine.register("a.b", door.on_loop)

    async def first(host: SchedulerHost) -> None:
        await host.control.add_scheduled_job("a.b", EVERY_SECOND)
        await host.control.flush_checkpoint()

    async def second(host: SchedulerHost) -> None:
        assert [str(record.id) for record in host.control.list()] == ["a.b"]
        assert host.control.get("a.b") == host.control.list()[0]
        assert host.control.get("a.c") is None

    machine.live(first, power=True)
    machine.live(second)
