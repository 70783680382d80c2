"""The contract of a persistence as a suite of tests: whoever writes a backend gives a factory and runs it with pytest.

::

    # test_my_backend.py
    import pytest

    pytest.register_assert_rewrite("walstore.testing.contract")  # Before the import: shows values when a test fails.
    from walstore.testing.contract import PersistenceContract


    class TestMyPersistence(PersistenceContract):
        def open(self, path, clock):
            return MyPersistence(path, clock=clock)

``open`` is all that is required. Override ``reopen`` where opening again takes more than closing and opening, and
``crash`` where what survives a crash can be shown; without it the tests of that are skipped. What ``BatchPersistence``
adds is tested where the persistence has it. A persistence that keeps nothing, as ``MemoryPersistence``, does not pass.

The module needs pytest and hypothesis: ``pip install 'walstore[test]'``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from itertools import count
from pathlib import Path

from walstore.errors import SchedulerPersistenceError
from walstore.model.events import Cancelled, Event, Finished, Scheduled, Started
from walstore.model.names import JobId, QName
from walstore.model.records import FAILURES_MAX, SchedulerJobRecord, SchedulerJobStatus
from walstore.model.schedule import Manual, Periodic
from walstore.persistence import BatchPersistence, SchedulerPersistence
from walstore.testing.model import NOW_NS, TABLE, WRONG, Jobs, ManualClock, apply, jobs_of, perform

try:
    import pytest
    from hypothesis import given, settings
    from hypothesis import strategies as st

    from walstore.testing.strategies import events
except ImportError as missing:
    raise ImportError(f"{missing}: walstore.testing.contract needs it, pip install 'walstore[test]'") from missing

__all__ = ["PersistenceContract"]

JOB, T = "ai.geo.tile", NOW_NS + 1
NAMES: list[JobId] = ["a.b.c", "A.b.c", "größe.日本.🜁", " . ", "a." + "é" * 511, QName("ns", "a.b")]
_ID_CHARACTERS = 60


class PersistenceContract:
    """What every persistence must do. A subclass gives ``open``; see the module for an example."""

    def open(self, path: Path, clock: Callable[[], int]) -> SchedulerPersistence:
        """Return the persistence that lives at ``path``, new or with what was recorded there before.

        The parent of ``path`` exists. ``clock`` gives the instant of ``record_scheduled``.
        """
        raise NotImplementedError

    def reopen(self, store: SchedulerPersistence, path: Path, clock: Callable[[], int]) -> SchedulerPersistence:
        """Close ``store``, which lives at ``path``, and return another one in its place."""
        store.close()
        return self.open(path, clock)

    def crash(self, store: SchedulerPersistence, path: Path) -> Path | None:  # noqa: ARG002
        """Return where ``open`` finds what a crash at this moment would leave of ``store``, which goes on.

        None, as by default, where that can't be shown.
        """
        return None

    @pytest.fixture
    def clock(self) -> ManualClock:
        """Give the clock of the test's stores."""
        return ManualClock()

    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        """Give the place of the test's store."""
        return tmp_path / "store"

    @pytest.fixture
    def store(self, path: Path, clock: ManualClock) -> Iterator[SchedulerPersistence]:
        """Give a new store."""
        with self.open(path, clock) as store:
            yield store

    @pytest.fixture
    def batch(self, store: SchedulerPersistence) -> BatchPersistence:
        """Give the new store again, where it has what ``BatchPersistence`` adds."""
        if not isinstance(store, BatchPersistence):
            pytest.skip("not a BatchPersistence")
        return store

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

        @settings(max_examples=25, deadline=None)
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

    def test_batches_are_the_same_calls(self, tmp_path: Path, clock: ManualClock) -> None:
        """Events that are recorded as batches have the effect of the same calls one by one."""
        numbers = count()

        @settings(max_examples=15, deadline=None)
        @given(st.lists(st.lists(events(), max_size=6), max_size=4))
        def check(batches: list[list[Event]]) -> None:
            path, jobs = tmp_path / str(next(numbers)), Jobs()
            store = self.open(path, clock)
            if not isinstance(store, BatchPersistence):
                store.close()
                pytest.skip("not a BatchPersistence")
            for batch in batches:
                store.record_many(iter(batch))
                for event in batch:
                    apply(jobs, event)
                assert jobs_of(store) == jobs
                assert [str(job.id) for job in store.iter_jobs()] == sorted(jobs)
            with self.reopen(store, path, clock) as again:
                assert jobs_of(again) == jobs

        check()

    def test_batches_of_other_things(self, store: SchedulerPersistence, batch: BatchPersistence) -> None:
        """A batch may be empty, takes nothing but events, and a ``Scheduled`` without an instant is of the clock's."""
        batch.record_many([])
        with pytest.raises(TypeError):
            batch.record_many([Started(JOB, T), "no event"])  # type: ignore[list-item]
        batch.record_many([Scheduled("a.b", Periodic(every_ns=7))])
        assert {job: record.next_fire_at_ns for job, record in jobs_of(store).items()} == {"a.b": NOW_NS + 7}

    def test_restore(
        self, store: SchedulerPersistence, batch: BatchPersistence, path: Path, clock: ManualClock
    ) -> None:
        """Whole records replace what was there, others stay, and failures stop counting at 2^32 - 1."""
        job = SchedulerJobRecord(
            QName.parse(JOB), SchedulerJobStatus.FAILED_RETRYING, T, None, T, FAILURES_MAX - 1, Manual()
        )
        store.record_started(JOB, T + 1)
        store.record_started("a.b", T)
        batch.restore(replace(job, id=QName.parse(name)) for name in (JOB, "b.c"))
        for failures in (FAILURES_MAX, FAILURES_MAX):
            store.record_finished(JOB, T + 2, False)
            assert jobs_of(store)[JOB].consecutive_failures == failures
        expected = {
            JOB: replace(job, last_finished_at_ns=T + 2, consecutive_failures=FAILURES_MAX),
            "a.b": SchedulerJobRecord(QName.parse("a.b"), SchedulerJobStatus.RUNNING, None, T, None, 0, Manual()),
            "b.c": replace(job, id=QName.parse("b.c")),
        }
        assert jobs_of(store) == expected
        with self.reopen(store, path, clock) as again:
            assert jobs_of(again) == expected
        with pytest.raises(ValueError, match="Cancelled"):
            batch.restore([replace(job, status=SchedulerJobStatus.CANCELLED)])

    def test_iter_jobs(self, store: SchedulerPersistence, batch: BatchPersistence) -> None:
        """Streaming gives what ``load_all`` gives, in the order of the ids, as it was when it began."""
        for name in ["b.a", "a.z", "B.a", "ä.a", "😀.a", "ﬀ.a"]:
            store.record_started(name, T)
        stream = batch.iter_jobs()
        first = next(stream)
        expected = jobs_of(store)
        store.cancel("b.a")
        store.record_started("c.a", T)
        assert [first, *stream] == [expected[job] for job in sorted(expected)]
