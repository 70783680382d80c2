"""The contract of a persistence as a suite of tests: whoever writes a backend gives a factory and runs it with pytest.

::

    # test_my_backend.py
    import pytest

    pytest.register_assert_rewrite("walstore.testing.contract")  # Before the import: shows values when a test fails.
    from walstore.testing.contract import PersistenceContract


    class TestMyPersistence(PersistenceContract):
        def open(self, path, clock):
            return MyPersistence(path, clock=clock)

``pip install 'walstore[test]'`` brings all that it needs. The hooks:

``open(path, clock)``
    The store at ``path``, new or with what was recorded there before. All that is required. A backend that is no file
    takes the path for a name, of a schema or of a prefix.
``reopen(store, path, clock)``
    Override it where opening again takes more than closing and opening.
``crash(store, path)``
    Override it where what a crash leaves can be shown; without it the tests of that are skipped.
``examples``, ``jobs_many``
    Attributes: how many sequences hypothesis draws, and how many jobs are many.

What ``BatchPersistence`` adds is tested where the persistence has it. A persistence that keeps nothing, as
``MemoryPersistence``, does not pass.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from itertools import count
from pathlib import Path

from walstore.errors import SchedulerPersistenceError
from walstore.model.events import Cancelled, Event, Finished, Scheduled, Started
from walstore.model.names import JobId, QName
from walstore.model.records import SchedulerJobRecord, SchedulerJobStatus
from walstore.model.schedule import Manual, Periodic
from walstore.persistence import BatchPersistence, SchedulerPersistence
from walstore.testing.model import NOW_NS, TABLE, WRONG, Jobs, ManualClock, apply, jobs_of, perform

try:
    import pytest

    # The asserts of the parts show values as well.
    pytest.register_assert_rewrite("walstore.testing.contract_hooks", "walstore.testing.contract_batches")
    from hypothesis import given, settings
    from hypothesis import strategies as st

    from walstore.testing.contract_batches import BatchContract
    from walstore.testing.strategies import events
except ImportError as missing:
    raise ImportError(f"{missing}: walstore.testing.contract needs it, pip install 'walstore[test]'") from missing

__all__ = ["PersistenceContract"]

JOB, T = "ai.geo.tile", NOW_NS + 1
NAMES: list[JobId] = ["a.b.c", "A.b.c", "größe.日本.🜁", " . ", "a." + "é" * 511, QName("ns", "a.b")]
_ID_CHARACTERS = 60
_ALWAYS = Periodic(every_ns=1)


class PersistenceContract(BatchContract):
    """What every persistence must do. A subclass gives ``open``; see the module for an example."""

    @pytest.mark.parametrize("steps", ["straight", "reopening"])
    @pytest.mark.parametrize("row", TABLE)
    def test_table(self, path: Path, clock: ManualClock, row: str, steps: str) -> None:
        """Each call does to the record what the table says, before and after the store is opened again."""
        calls, expected = TABLE[row]
        store = self.open(path, clock)
        for call in calls:
            perform(store, clock, call)
            if steps == "reopening":
                store = self.reopen(store, path, clock)
        jobs = {} if expected is None else {JOB: SchedulerJobRecord(QName.parse(JOB), *expected)}
        assert jobs_of(store) == jobs
        with self.reopen(store, path, clock) as again:
            assert jobs_of(again) == jobs

    def test_the_same_calls_as_the_model(self, tmp_path: Path, clock: ManualClock) -> None:
        """Any sequence of calls gives what the model says, wherever it is flushed or opened again."""
        numbers = count()
        steps = st.lists(events(restored=False) | st.sampled_from(["flush", "reopen"]), max_size=20)

        @settings(max_examples=self.examples, deadline=None)
        @given(steps)
        def check(steps: list[Event | str]) -> None:
            path, jobs = tmp_path / str(next(numbers)), Jobs()
            store = self.open(path, clock)
            for step in steps:
                if step == "flush":
                    store.flush_checkpoint()
                elif isinstance(step, str):
                    store = self.reopen(store, path, clock)
                else:
                    perform(store, clock, step)
                    apply(jobs, step)
                assert jobs_of(store) == jobs
            with self.reopen(store, path, clock) as again:
                assert jobs_of(again) == jobs

        check()

    def test_names(self, store: SchedulerPersistence, path: Path, clock: ManualClock) -> None:
        """Names differ by case, may be any text up to the limit, and are the same wherever they are split."""
        for at_ns, name in enumerate(NAMES):
            store.record_started(name, at_ns)
        store.record_started(QName("a", "b.c"), 99)
        with self.reopen(store, path, clock) as again:
            started = {job: record.last_started_at_ns for job, record in jobs_of(again).items()}
        assert started == {str(name): at_ns for at_ns, name in enumerate(NAMES)} | {"a.b.c": 99}

    def test_aware_datetimes(self, store: SchedulerPersistence) -> None:
        """Aware datetimes of any time zone are instants, converted without rounding."""
        store.record_started(JOB, datetime(2026, 1, 1, 2, 0, 0, 1, timezone(timedelta(hours=2))))
        store.record_finished(JOB, datetime(2261, 12, 31, 23, 59, 59, 999_999, UTC), True)
        job = jobs_of(store)[JOB]
        assert (job.last_started_at_ns, job.last_finished_at_ns) == (NOW_NS + 1_000, 9_214_646_399_999_999_000)

    @pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: ascii(wrong)[:_ID_CHARACTERS])
    def test_wrong_arguments(self, store: SchedulerPersistence, clock: ManualClock, wrong: Event) -> None:
        """What is no name, no instant, no bool or no schedule is refused before anything is recorded."""
        store.record_scheduled(JOB, Manual())
        before = jobs_of(store)
        with pytest.raises((TypeError, ValueError)):
            perform(store, clock, wrong)
        if isinstance(store, BatchPersistence):
            with pytest.raises((TypeError, ValueError)):
                store.record_many([Started(JOB, T), wrong])
        assert jobs_of(store) == before

    def test_closing(self, store: SchedulerPersistence, path: Path, clock: ManualClock) -> None:
        """Closing twice is fine, and after it every other call raises and records nothing."""
        store.record_started(JOB, T)
        store.close()
        store.close()
        calls: list[Callable[[], object]] = [
            lambda: store.record_scheduled(JOB, Manual()),
            lambda: store.record_started(JOB, T + 1),
            lambda: store.record_finished(JOB, T + 1, True),
            lambda: store.cancel(JOB),
            store.load_all,
            store.flush_checkpoint,
        ]
        if isinstance(store, BatchPersistence):
            many, restore, stream = store.record_many, store.restore, store.iter_jobs
            job = SchedulerJobRecord(QName.parse(JOB), SchedulerJobStatus.IDLE, None, None, None, 0, Manual())
            calls += [lambda: many([Cancelled(JOB)]), lambda: restore([job]), store.sync, lambda: list(stream())]
        for call in calls:
            with pytest.raises(SchedulerPersistenceError):
                call()
        with self.open(path, clock) as again:
            assert {job: record.last_started_at_ns for job, record in jobs_of(again).items()} == {JOB: T}

    def test_threads(self, store: SchedulerPersistence, path: Path, clock: ManualClock) -> None:
        """Of several threads at once each sees its own calls at once, and they are kept in its order."""

        def work(thread: int) -> Jobs:
            jobs = Jobs()
            for turn in range(60):
                job = f"thread{thread}.job{turn % 3}"
                calls: list[Event] = [Scheduled(job, Periodic(every_ns=turn + 1), NOW_NS), Started(job, turn)]
                calls.append(Cancelled(job) if turn % 20 == 19 else Finished(job, turn, turn % 7 == 6))
                for call in calls:
                    perform(store, clock, call)
                    apply(jobs, call)
                if turn % 10 == 0:
                    assert jobs.items() <= jobs_of(store).items()
            return jobs

        with ThreadPoolExecutor(4) as pool:
            expected = {job: record for jobs in pool.map(work, range(4)) for job, record in jobs.items()}
        assert jobs_of(store) == expected
        with self.reopen(store, path, clock) as again:
            assert jobs_of(again) == expected

    def test_loading_while_others_record(self, store: SchedulerPersistence) -> None:
        """Each of several ``load_all`` at once shows one point of time, not before the calls that had returned."""
        jobs = [f"thread{thread}.job" for thread in range(2)]
        returned = dict.fromkeys(jobs, 0)
        for job in jobs:
            store.record_started(job, 0)

        def record(job: str) -> None:
            for turn in range(1, 150):
                store.record_started(job, turn)
                returned[job] = turn

        def load(_: int) -> None:
            for _turn in range(15):
                before = returned.copy()
                loaded = {job: record.last_started_at_ns or 0 for job, record in jobs_of(store).items()}
                assert loaded.keys() == before.keys()
                assert [job for job in jobs if loaded[job] < before[job]] == []

        with ThreadPoolExecutor(5) as pool:
            done = [*(pool.submit(record, job) for job in jobs), *(pool.submit(load, number) for number in range(3))]
            for future in done:
                future.result()
        assert {job: record.last_started_at_ns for job, record in jobs_of(store).items()} == dict.fromkeys(jobs, 149)

    def test_many_jobs(self, store: SchedulerPersistence, path: Path, clock: ManualClock) -> None:
        """The last of many jobs is treated as the first one."""
        names = [f"many.job{number}" for number in range(self.jobs_many)]
        for begin in range(0, len(names), 1_000):
            calls = [Scheduled(job, _ALWAYS, T) for job in names[begin : begin + 1_000]]
            if isinstance(store, BatchPersistence):
                store.record_many(calls)
            else:
                for call in calls:
                    perform(store, clock, call)
        store.cancel(names[0])
        store.record_started(names[-1], T)
        job = SchedulerJobRecord(QName.parse(JOB), SchedulerJobStatus.PENDING, T + 1, None, None, 0, _ALWAYS)
        expected = {name: replace(job, id=QName.parse(name)) for name in names[1:]}
        expected[names[-1]] = replace(expected[names[-1]], status=SchedulerJobStatus.RUNNING, last_started_at_ns=T)
        assert jobs_of(store) == expected
        store.flush_checkpoint()
        with self.reopen(store, path, clock) as again:
            assert jobs_of(again) == expected
            if isinstance(again, BatchPersistence):
                assert [str(record.id) for record in again.iter_jobs()] == sorted(expected)

    def test_a_crash_leaves_a_beginning(self, tmp_path: Path, clock: ManualClock) -> None:
        """What a crash leaves is what some of the calls had made, from the first one on, and none before a flush."""
        numbers = count()
        steps = st.lists(events(restored=False) | st.just("flush"), min_size=1, max_size=12)

        @settings(max_examples=self.examples, deadline=None)
        @given(steps)
        def check(steps: list[Event | str]) -> None:
            path, jobs = tmp_path / str(next(numbers)), Jobs()
            possible = [jobs.copy()]
            with self.open(path, clock) as store:
                for step in steps:
                    if isinstance(step, str):
                        store.flush_checkpoint()
                        possible = [jobs.copy()]
                    else:
                        perform(store, clock, step)
                        apply(jobs, step)
                        possible.append(jobs.copy())
                crashed = self.crash(store, path)
                if crashed is None:
                    pytest.skip("crash is not overridden")
                with self.open(crashed, clock) as again:
                    assert jobs_of(again) in possible

        check()

    @pytest.mark.parametrize("flush", ["flush_checkpoint", "sync"])
    def test_a_crash_after_a_flush(
        self, store: SchedulerPersistence, path: Path, clock: ManualClock, flush: str
    ) -> None:
        """Whatever was recorded before a flush is there after a crash; of a batch behind it, all or nothing."""
        if not hasattr(store, flush):
            pytest.skip("not a BatchPersistence")
        perform(store, clock, Scheduled(JOB, Manual(), T))
        perform(store, clock, Finished(JOB, T, False))
        getattr(store, flush)()
        before = jobs_of(store)
        if isinstance(store, BatchPersistence):
            store.record_many([Started(f"behind.job{number}", T) for number in range(100)])
        after = jobs_of(store)
        for _ in range(3):
            crashed = self.crash(store, path)
            if crashed is None:
                pytest.skip("crash is not overridden")
            with self.open(crashed, clock) as again:
                assert jobs_of(again) in (before, after)
