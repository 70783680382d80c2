"""What a start makes of what it finds: orphaned runs, missed fires, and a store that can't be read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.scheduler.machine import SECOND_NS, Machine, PlainPersistence, ids, until
from walstore import (
    Cron,
    Manual,
    Once,
    Periodic,
    QName,
    Schedule,
    SchedulerJobRecord,
    SchedulerJobStatus,
    WalPersistence,
)
from walstore.errors import CorruptionError, StoreClosedError
from walstore.model.names import JobId
from walstore.scheduler import JobPolicy, JobRun, Misfire, SchedulerHost
from walstore.testing.model import NOW_NS
from walstore.testing.strategies import records

PENDING, RUNNING, IDLE, FAILED, _ = SchedulerJobStatus
EVERY = Periodic(every_ns=10 * SECOND_NS)

each_persistence = pytest.mark.parametrize("wrap", [lambda store: store, PlainPersistence], ids=["batches", "plain"])


class Job:
    """A provider that hangs as long as it is told to, and notes its runs."""

    def __init__(self) -> None:
        self.hangs = True
        self.runs: list[JobRun] = []

    def has_run(self, times: int) -> bool:
        return len(self.runs) == times

    async def __call__(self, run: JobRun) -> None:
        self.runs.append(run)
        if self.hangs:
            await asyncio.Event().wait()


def cut_off(machine: Machine, job: Job, *schedules: tuple[str, Schedule]) -> None:
    """Let a host die in the middle of the first run of each job, at that of the last one."""

    async def life(host: SchedulerHost) -> None:
        for name, schedule in schedules:
            await host.control.add_scheduled_job(name, schedule)
        while len(job.runs) < len(schedules):
            machine.clock.advance(SECOND_NS)
            started = host.tick() + len(job.runs)
            await until(partial(job.has_run, started))

    machine.live(life)


ALL_KINDS: list[tuple[str, Schedule]] = [
    ("a.manual", Manual()),
    ("a.once", Once(at_ns=NOW_NS + 5 * SECOND_NS)),
    ("a.periodic", EVERY),
    ("a.cron", Cron("0 * * * * *")),
]


@each_persistence
def test_a_run_that_was_cut_off_is_found_and_run_again(wrap: Callable[..., Any]) -> None:
    machine, job = Machine(wrap=wrap), Job()
    for name, _schedule in ALL_KINDS:
        machine.register(name, job)
    cut_off(machine, job, *ALL_KINDS)
    begun = {str(run.id): run.started_at_ns for run in job.runs}
    job.runs.clear()
    job.hangs = False

    async def life(host: SchedulerHost) -> None:
        assert {str(record.id): record.last_started_at_ns for record in host.orphaned} == begun
        assert all(record.status is PENDING for record in host.control.list())
        for name, schedule in ALL_KINDS[1:]:
            assert not await host.control.add_scheduled_job(name, schedule), "nor does adding them again change that"
        host.tick()
        await host.idle()
        machine.check(host)
        assert sorted(str(run.id) for run in job.runs) == sorted(begun)
        assert all(run.is_rerun and run.failures == 0 for run in job.runs)
        await machine.pass_time(host, 10 * SECOND_NS)
        assert [run.is_rerun for run in job.runs[4:]] == [False]

    machine.live(life)

    async def next_life(host: SchedulerHost) -> None:
        assert host.orphaned == ()

    machine.live(next_life)


def test_no_run_is_found_twice() -> None:
    """Not even where the start that found it was followed by a crash before it could be run again."""
    machine, job = Machine(), Job()
    machine.register("a.b", job)
    cut_off(machine, job, ("a.b", EVERY))
    found: list[SchedulerJobRecord] = []

    async def life(host: SchedulerHost) -> None:
        found.extend(host.orphaned)

    for _ in range(3):
        machine.live(life)
    assert len(found) == 1
    job.hangs = False

    async def last_life(host: SchedulerHost) -> None:
        host.tick()
        await host.idle()

    machine.live(last_life)
    assert [run.is_rerun for run in job.runs] == [False, True]


@each_persistence
def test_a_run_that_is_not_run_again_has_failed(wrap: Callable[..., Any]) -> None:
    machine, job = Machine(wrap=wrap), Job()
    policy = JobPolicy(rerun_orphans=False)
    for name, _schedule in ALL_KINDS:
        machine.register(name, job, policy)
    machine.register("a.tried", job, replace(policy, attempts=2, retry_delay_ns=7 * SECOND_NS))
    cut_off(machine, job, *ALL_KINDS, ("a.tried", Manual()))
    job.runs.clear()
    job.hangs = False
    at_ns = machine.clock.now_ns()

    async def life(host: SchedulerHost) -> None:
        assert len(host.orphaned) == 5
        machine.check(host)
        for record in host.control.list():
            assert (record.last_finished_at_ns, record.consecutive_failures) == (at_ns, 1)
        found = {str(record.id): (record.status, record.next_fire_at_ns) for record in host.control.list()}
        assert found["a.manual"][0] is found["a.once"][0] is found["a.tried"][0] is FAILED
        assert found["a.periodic"] == (PENDING, at_ns + 10 * SECOND_NS)
        assert found["a.cron"] == (PENDING, NOW_NS + 120 * SECOND_NS)
        await machine.pass_time(host, 7 * SECOND_NS)
        assert [(str(run.id), run.is_rerun) for run in job.runs] == [("a.tried", False)]

    async def next_life(host: SchedulerHost) -> None:
        assert host.orphaned == ()
        assert {record.consecutive_failures for record in host.control.list()} == {0, 1}

    machine.live(life)
    machine.live(next_life)


@each_persistence
@pytest.mark.parametrize("misfire", Misfire)
def test_fires_that_were_missed(wrap: Callable[..., Any], misfire: Misfire) -> None:
    machine, job = Machine(wrap=wrap), Job()
    job.hangs = False
    for name, _schedule in ALL_KINDS:
        machine.register(name, job, JobPolicy(misfire=misfire))

    async def first(host: SchedulerHost) -> None:
        for name, schedule in ALL_KINDS:
            await host.control.add_scheduled_job(name, schedule)

    async def second(host: SchedulerHost) -> None:
        assert host.orphaned == ()
        for _ in range(20):
            host.tick()
            await host.idle()

    machine.live(first)
    machine.clock.advance(205 * SECOND_NS)
    machine.live(second)
    fires = {name: [run.fire_at_ns for run in job.runs if str(run.id) == name] for name, _schedule in ALL_KINDS}
    seconds = {name: [((fire or 0) - NOW_NS) // SECOND_NS for fire in found] for name, found in fires.items()}
    assert (
        seconds
        == {
            Misfire.RUN_ONCE: {"a.manual": [0], "a.once": [5], "a.periodic": [10], "a.cron": [60]},
            Misfire.SKIP: {"a.manual": [0], "a.once": [], "a.periodic": [], "a.cron": []},
            Misfire.EACH: {
                "a.manual": [0],
                "a.once": [5],
                "a.periodic": list(range(10, 201, 10)),
                "a.cron": [60, 120, 180],
            },
        }[misfire]
    )

    async def third(host: SchedulerHost) -> None:
        assert host.orphaned == ()
        now_ns = machine.clock.now_ns()
        found = {str(record.id): record.next_fire_at_ns for record in host.control.list()}
        periodic_ns = NOW_NS + 210 * SECOND_NS if misfire is Misfire.SKIP else now_ns + 10 * SECOND_NS
        cron_ns = NOW_NS + 240 * SECOND_NS
        assert found == {"a.manual": None, "a.once": None, "a.periodic": periodic_ns, "a.cron": cron_ns}
        assert host.tick() == 0

    machine.live(third)


def test_missed_fires_are_made_up_for_up_to_a_bound_and_over_crashes() -> None:
    machine, job = Machine(), Job()
    job.hangs = False
    machine.register("a.b", job, JobPolicy(misfire=Misfire.EACH, misfire_runs_max=4))

    async def first(host: SchedulerHost) -> None:
        await host.control.add_scheduled_job("a.b", EVERY)

    async def second(host: SchedulerHost) -> None:
        for _ in range(2):
            host.tick()
            await host.idle()
            machine.check(host)

    async def third(host: SchedulerHost) -> None:
        for _ in range(20):
            host.tick()
            await host.idle()
        machine.check(host)

    machine.live(first)
    machine.clock.advance(205 * SECOND_NS)
    machine.live(second)
    machine.live(third)
    assert [((run.fire_at_ns or 0) - NOW_NS) // SECOND_NS for run in job.runs] == [10, 20, 30, 40, 50, 60]


def test_a_run_that_was_cut_off_is_owed_at_any_policy() -> None:
    machine, job = Machine(), Job()
    machine.register("a.b", job, JobPolicy(misfire=Misfire.SKIP))
    cut_off(machine, job, ("a.b", EVERY))
    machine.clock.advance(100 * SECOND_NS)

    async def found_and_lost(host: SchedulerHost) -> None:
        assert len(host.orphaned) == 1

    async def run(host: SchedulerHost) -> None:
        assert host.tick() == 1
        await host.idle()

    machine.live(found_and_lost)
    job.hangs = False
    machine.live(run)
    assert [run.is_rerun for run in job.runs] == [False, True]


@settings(max_examples=40)
@given(
    st.lists(records(), max_size=8, unique_by=lambda record: record.id),
    st.booleans(),
    st.sampled_from(Misfire),
    st.booleans(),
)
def test_everything_is_restored(found: list[SchedulerJobRecord], plain: bool, misfire: Misfire, reruns: bool) -> None:
    scheduled = []

    class Watched(PlainPersistence):
        def record_scheduled(self, id: JobId, schedule: Schedule) -> None:
            scheduled.append((id, schedule))

    machine = Machine(wrap=Watched if plain else lambda store: store)
    for record in found:
        machine.register(str(record.id), Job(), JobPolicy(misfire=misfire, rerun_orphans=reruns))
    machine.world.open().restore(found)

    async def life(host: SchedulerHost) -> None:
        listed = {record.id: record for record in host.control.list()}
        assert set(listed) == {record.id for record in found}
        assert set(host.orphaned) == {record for record in found if record.status is RUNNING}
        for record in found:
            now = listed[record.id]
            if record.status is RUNNING and not reruns:
                assert now.last_finished_at_ns == machine.clock.now_ns()
                assert now.status is not RUNNING
                continue
            if record.status is RUNNING:
                record = replace(record, status=PENDING)  # noqa: PLW2901  # What it is after the start.
            if misfire is Misfire.SKIP and now != record:
                assert record.status is PENDING
                record = replace(record, status=now.status, next_fire_at_ns=now.next_fire_at_ns)  # noqa: PLW2901
            assert now == record
        if not plain:
            machine.check(host)
        assert scheduled == [], "restoring never goes through record_scheduled"

    machine.die()
    machine.live(life)


# A store that can't be read.


def test_a_store_that_can_not_be_read_stops_the_start(tmp_path: Path) -> None:
    async def main() -> None:
        with WalPersistence(tmp_path / "store") as store:
            for number in range(100):
                store.record_scheduled(f"a.{number}", EVERY)
            store.flush_checkpoint(compact=True)
            (snapshot,) = (tmp_path / "store").glob("*.snap")
            damaged = bytearray(snapshot.read_bytes())
            damaged[len(damaged) // 2] ^= 1
            snapshot.write_bytes(damaged)
            host = SchedulerHost(store)
            with pytest.raises(CorruptionError):
                await host.run()
            with pytest.raises(RuntimeError, match="not running"):
                host.control.list()
            with pytest.raises(RuntimeError, match="lives once"):
                await host.start()

    asyncio.run(main())


def test_nothing_can_be_asked_of_a_host_that_has_not_started() -> None:
    machine = Machine()
    machine.register("a.b", Job())

    async def main() -> None:
        host = machine.host()
        control = host.control
        assert host.tick() == 0
        with pytest.raises(RuntimeError, match="call start or run first"):
            await control.add_scheduled_job("a.b", Manual())
        with pytest.raises(RuntimeError, match="call start or run first"):
            await control.cancel("a.b")
        with pytest.raises(RuntimeError, match="call start or run first"):
            await control.flush_checkpoint()
        assert machine.recorded() == {}
        machine.store.close()
        with pytest.raises(StoreClosedError):
            await host.start()

    asyncio.run(main())


def test_a_record_of_a_job_that_was_never_scheduled() -> None:
    """A run that was recorded for an unknown job makes one, without a next fire: it is due at once."""
    machine, job = Machine(), Job()
    job.hangs = False
    machine.world.open().record_started(QName.parse("a.b"), NOW_NS)
    machine.die()
    machine.register("a.b", job)

    async def life(host: SchedulerHost) -> None:
        assert ids(host.orphaned) == ["a.b"]
        host.tick()
        await host.idle()
        assert [(run.fire_at_ns, run.is_rerun) for run in job.runs] == [(None, True)]

    machine.live(life)
