"""Every call of the public API in any order, against the naive model, through crashes, power losses and full disks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.crash.worlds import DIRECTORY, World, contents, jobs_of
from walstore import Durability, SchedulerJobRecord, WalPersistence
from walstore.errors import StorageFullError, StoreClosedError, StoreLockedError
from walstore.model.events import Cancelled, Event, Finished, Restored, Scheduled, Started
from walstore.model.names import INSTANT_MAX_NS
from walstore.testing.model import WRONG, Jobs
from walstore.testing.strategies import events, records

levels = st.sampled_from(Durability)
# By number, since not all that is wrong can be hashed.
wrongs = st.integers(0, len(WRONG) - 1).map(WRONG.__getitem__)
while_open = precondition(lambda machine: machine.world.store is not None)
while_closed = precondition(lambda machine: machine.world.store is None)
while_reading = precondition(lambda machine: machine.reader is not None)

LITTLE_LOG_BYTES = 512
"""Two segments without events: their headers and some watermarks."""


def on_disk(world: World) -> int:
    return sum(map(len, contents(world.fs).values()))


class PublicApi(RuleBasedStateMachine):
    @initialize(seed=st.integers(0, 2**16), level=levels)
    def create(self, seed: int, level: Durability) -> None:
        self.world = World(seed)
        self.reader: WalPersistence | None = None
        self.iterating: tuple[Iterator[SchedulerJobRecord], Jobs] | None = None
        self.recorded = 0
        self.was_full = False
        self.open(level)

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.end_iteration()
            self.world.drop()

    @property
    def store(self) -> WalPersistence:
        assert self.world.store is not None
        return self.world.store

    def record(self, unit: Sequence[Event], call: Callable[[], object]) -> None:
        """Make the call that records a unit; a full disk may refuse it, and then it has recorded nothing."""
        history = self.world.history
        history.attempt(unit)
        try:
            call()
        except StorageFullError:
            assert self.world.fs.capacity_bytes is not None
            history.withdraw()
        else:
            self.recorded += len(unit)
            if self.world.level is not Durability.BUFFERED:
                history.acknowledge(power=self.world.level is Durability.POWER)

    def secure(self, call: Callable[[], object]) -> None:
        """Make a call after which all that was recorded is on the device, unless the disk is full."""
        try:
            call()
        except StorageFullError:
            assert self.world.fs.capacity_bytes is not None
        else:
            self.world.history.acknowledge(power=True)

    def end_iteration(self) -> None:
        if self.iterating is not None:
            iterator, _ = self.iterating
            self.iterating = None
            iterator.close()  # type: ignore[attr-defined]  # It is a generator.

    def leave(self) -> None:
        """Let go of what belongs to a process that ends."""
        self.end_iteration()
        self.reader = None

    # Recording.

    @while_open
    @rule(event=events())
    def record_one(self, event: Event) -> None:
        self.world.now_ns += 1
        self.record([event], lambda: self.world._record(self.store, event))

    @while_open
    @rule(unit=st.lists(events(), max_size=12), by_clock=st.booleans())
    def record_many(self, unit: list[Event], by_clock: bool) -> None:
        self.world.now_ns += 1
        if by_clock:
            unit = [replace(event, at=None) if isinstance(event, Scheduled) else event for event in unit]
        now_ns = self.world.scheduling_ns
        dated = [replace(e, at=now_ns) if isinstance(e, Scheduled) and e.at is None else e for e in unit]
        self.record(dated, lambda: self.store.record_many(iter(unit)))

    @while_open
    @rule(restored=st.lists(records(), max_size=6))
    def restore(self, restored: list[SchedulerJobRecord]) -> None:
        self.record([Restored(record) for record in restored], lambda: self.store.restore(iter(restored)))

    @while_open
    @rule(wrong=wrongs, before=st.lists(events(), max_size=2))
    def record_what_is_wrong(self, wrong: Event, before: list[Event]) -> None:
        """Whatever is wrong with an argument, the whole call records nothing."""
        store = self.store
        with pytest.raises((TypeError, ValueError)):
            store.record_many([*before, wrong])
        with pytest.raises((TypeError, ValueError)):
            match wrong:
                case Scheduled(job, schedule, _):
                    store.record_scheduled(job, schedule)
                case Started(job, at):
                    store.record_started(job, at)
                case Finished(job, at, success):
                    store.record_finished(job, at, success)
                case Cancelled(job):
                    store.cancel(job)

    @while_open
    @rule(event=events(restored=False), record=records(), now_ns=st.sampled_from([-1, INSTANT_MAX_NS + 1]))
    def record_at_no_instant_or_no_event(self, event: Event, record: SchedulerJobRecord, now_ns: int) -> None:
        before_ns, self.world.scheduling_ns = self.world.scheduling_ns, now_ns
        try:
            with pytest.raises(ValueError, match="clock"):
                self.store.record_scheduled(record.id, record.schedule)
            with pytest.raises(ValueError, match="clock"):
                self.store.record_many([event])
        finally:
            self.world.scheduling_ns = before_ns
        with pytest.raises(TypeError):
            self.store.record_many([event, record])  # type: ignore[list-item]
        with pytest.raises(TypeError):
            self.store.restore([record, event])  # type: ignore[list-item]

    # What a caller asks for.

    @while_open
    @rule()
    def sync(self) -> None:
        self.secure(self.store.sync)
        if self.world.fs.capacity_bytes is None:
            assert self.store.stats().durable_lsn <= self.store.stats().end_lsn
            assert self.store.stats().buffered_events == 0

    @while_open
    @rule(compact=st.booleans())
    def flush_checkpoint(self, compact: bool) -> None:
        before = self.store.stats().snapshot_lsn
        self.secure(lambda: self.store.flush_checkpoint(compact=compact))
        if compact and self.world.fs.capacity_bytes is None:
            assert self.store.stats().snapshot_lsn >= before
            assert self.store.stats().log_bytes <= LITTLE_LOG_BYTES

    @while_open
    @rule()
    def wait(self) -> None:
        """Time passes, and the store does what it does by itself."""
        self.world.now_ns += self.world.options.sync_interval_ns
        assert self.store._store is not None
        self.store._store.tick()
        if self.store.stats().last_background_error is None:
            self.world.history.acknowledge(power=True)
        else:
            assert self.was_full

    @while_open
    @rule()
    def begin_to_iterate(self) -> None:
        self.end_iteration()
        jobs = self.world.history.states[-1]
        iterator = self.store.iter_jobs()
        with suppress(StorageFullError):
            first = next(iterator, None)
            assert first == (jobs[min(jobs)] if jobs else None)
            self.iterating = iterator, dict(sorted(jobs.items())[1:])

    @while_open
    @precondition(lambda machine: machine.iterating is not None)
    @rule()
    def iterate_on(self) -> None:
        """An iterator shows the store as it was when it began, whatever was recorded and compacted since."""
        assert self.iterating is not None
        (iterator, expected), self.iterating = self.iterating, None
        assert [str(record.id) for record in expected.values()] == list(expected)
        assert list(iterator) == list(expected.values())

    @while_open
    @rule()
    def open_a_second_time(self) -> None:
        with pytest.raises(StoreLockedError, match="sim"):
            WalPersistence(DIRECTORY, environment=self.world.environment())

    # Readers.

    @rule()
    def open_for_reading(self) -> None:
        self.reader = self.world.read()

    @while_reading
    @rule(event=events(restored=False))
    def read(self, event: Event) -> None:
        """A reader sees all that survives the end of the writer's process, and perhaps what came after it."""
        assert self.reader is not None
        floor = self.world.history.process_floor
        jobs = jobs_of(self.reader)
        assert jobs in self.world.history.allowed(floor), self.world.history.describe(jobs, floor)
        assert list(self.reader.iter_jobs()) == [record for _, record in sorted(jobs.items())]
        refused: Iterable[Callable[[], object]] = (
            lambda: self.world._record(self.reader, event),  # type: ignore[arg-type]
            lambda: self.reader.record_many([event]),  # type: ignore[union-attr]
            self.reader.sync,
            self.reader.flush_checkpoint,
            self.reader.stats,
        )
        for call in refused:
            with pytest.raises(StoreClosedError, match="read-only"):
                call()

    @while_reading
    @rule()
    def close_reader(self) -> None:
        assert self.reader is not None
        self.reader.close()
        with pytest.raises(StoreClosedError):
            self.reader.load_all()
        with pytest.raises(StoreClosedError):
            list(self.reader.iter_jobs())
        self.reader = None

    # Ends, and what comes after them.

    @while_closed
    @rule(level=levels)
    def open(self, level: Durability) -> None:
        try:
            store = self.world.recover(level)
        except StorageFullError:
            assert self.world.fs.capacity_bytes is not None
            return
        self.recorded = 0
        self.was_full = self.world.fs.capacity_bytes is not None
        assert (store.path, store.closed) == (Path(DIRECTORY), False)

    @while_open
    @rule()
    def close(self) -> None:
        self.end_iteration()
        store = self.store
        try:
            self.world.close()
        except StorageFullError:
            assert self.world.fs.capacity_bytes is not None
            return
        store.close()
        assert store.closed
        refused = (store.load_all, store.sync, store.stats, store.flush_checkpoint, lambda: store.cancel("a.b"))
        for call in refused:
            with pytest.raises(StoreClosedError):
                call()

    @rule()
    def process_crash(self) -> None:
        self.leave()
        self.world = self.world.after_process_crash()

    @rule(seed=st.integers(0, 2**16))
    def power_loss(self, seed: int) -> None:
        self.leave()
        self.world = self.world.after_power_loss(seed)

    @rule(free_bytes=st.integers(0, 3000))
    def fill_the_disk(self, free_bytes: int) -> None:
        self.world.fs.capacity_bytes = on_disk(self.world) + free_bytes
        self.was_full = True

    @rule()
    def empty_the_disk(self) -> None:
        self.world.fs.capacity_bytes = None

    # What holds after every step.

    @invariant()
    def all_calls_that_returned_are_seen(self) -> None:
        if self.world.store is not None:
            assert jobs_of(self.store) == self.world.history.states[-1]

    @invariant()
    def the_figures_fit(self) -> None:
        if self.world.store is None:
            return
        stats = self.store.stats()
        assert stats.events == self.recorded
        assert stats.durable_lsn <= stats.end_lsn
        assert stats.snapshot_lsn + stats.log_bytes == stats.end_lsn
        assert stats.buffered_events == 0 or self.world.level is Durability.BUFFERED
        assert stats.last_background_error is None or self.was_full


PublicApi.TestCase.settings = settings(max_examples=25, stateful_step_count=40)
TestPublicApi = PublicApi.TestCase
