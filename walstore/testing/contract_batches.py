"""What ``BatchPersistence`` adds to the contract, as tests. A part of ``walstore.testing.contract``."""

from __future__ import annotations

from dataclasses import replace
from itertools import count
from pathlib import Path

from walstore.model.events import Event, Scheduled, Started
from walstore.model.names import QName
from walstore.model.records import FAILURES_MAX, SchedulerJobRecord, SchedulerJobStatus
from walstore.model.schedule import Manual, Periodic
from walstore.persistence import BatchPersistence, SchedulerPersistence
from walstore.testing.contract_hooks import ContractHooks
from walstore.testing.model import NOW_NS, Jobs, ManualClock, apply, jobs_of

try:
    import pytest
    from hypothesis import given, settings
    from hypothesis import strategies as st

    from walstore.testing.strategies import events
except ImportError as missing:
    raise ImportError(f"{missing}: walstore.testing.contract needs it, pip install 'walstore[test]'") from missing

__all__ = ["BatchContract"]

JOB, T = "ai.geo.tile", NOW_NS + 1


class BatchContract(ContractHooks):
    """What a persistence that is a ``BatchPersistence`` must do; skipped for others."""

    def test_batches_are_the_same_calls(self, tmp_path: Path, clock: ManualClock) -> None:
        """Events that are recorded as batches have the effect of the same calls one by one."""
        numbers = count()

        @settings(max_examples=self.examples, deadline=None)
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
