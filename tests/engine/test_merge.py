"""Folding the log onto the snapshot in bounded memory: the same whatever the memory, and only changes are encoded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from tests.crash.worlds import OPTIONS, World
from walstore import Cancelled, Periodic, Scheduled, Started, WalPersistence
from walstore.engine.merge import MemorySpill, Spill, merged, merged_frames
from walstore.engine.snapshot import StoredFrame

pytestmark = pytest.mark.mutation

BYTES_PER_BYTE = 16
"""About how many bytes a record takes in memory for each that it has on disk."""
JOBS = 2500


class Watched:
    """A spill that counts what it is given."""

    def __init__(self, inner: Spill) -> None:
        self._inner = inner
        self.run_bytes: Counter[int] = Counter()

    def append(self, run: int, payload: bytes) -> None:
        self.run_bytes[run] += len(payload)
        self._inner.append(run, payload)

    def read(self, run: int) -> Iterator[bytes]:
        return self._inner.read(run)

    def close(self) -> None:
        self._inner.close()


def filled(*, snapshot: bool) -> WalPersistence:
    """Return an open store of 2,000 jobs, in a snapshot or in the log, and 6,000 events more in the log."""
    world = World(1)
    world.options = replace(OPTIONS, small_store_bytes=1 << 40, segment_bytes_max=1 << 16)
    store = world.recover()
    store.record_many(Scheduled(f"job.number{number:04d}", Periodic(every_ns=7)) for number in range(2000))
    if snapshot:
        store.flush_checkpoint(compact=True)
    for at_ns in range(4):
        store.record_many(Started(f"job.number{number:04d}", at_ns + number) for number in range(0, 3000, 2))
    return store


def batches_of(store: WalPersistence, limit_bytes: int) -> list[tuple[bool, list[str]]]:
    """Return the keys of each batch, and whether the batch is a frame as it is stored."""
    assert store._store is not None
    with closing(store._store.view()) as view:
        return [
            (True, [key for key, _ in batch.decode()])
            if isinstance(batch, StoredFrame)
            else (False, [key for key, _ in batch])
            for batch in merged_frames(view, limit_bytes * BYTES_PER_BYTE, MemorySpill())
        ]


@pytest.mark.parametrize("snapshot", [True, False], ids=["snapshot", "log"])
@pytest.mark.parametrize("limit_bytes", [1 << 11, 1 << 13, 1 << 15, 1 << 24])
def test_whatever_the_memory_the_outcome_is_the_same_and_the_runs_follow_it(limit_bytes: int, snapshot: bool) -> None:
    with filled(snapshot=snapshot) as store:
        assert store._store is not None
        expected = sorted((str(record.id), record.last_started_at_ns) for record in store.load_all())
        assert len(expected) == JOBS
        spill = Watched(MemorySpill())
        with closing(store._store.view()) as view:
            log_bytes = view.log_bytes
            assert [(key, state[2]) for key, state in merged(view, limit_bytes * BYTES_PER_BYTE, spill)] == expected
        if log_bytes <= limit_bytes:
            assert not spill.run_bytes
            return
        # One frame of events, of at most 2,000 of them, is never divided.
        assert max(spill.run_bytes.values()) < limit_bytes + 80_000
        assert 0.5 * log_bytes < spill.run_bytes.total() <= log_bytes
        batches = batches_of(store, limit_bytes)
        assert [key for _, keys in batches for key in keys] == [key for key, _ in expected]
        # Each event may be a new key, so a batch holds fewer where many events are for keys that are there already.
        assert max(len(keys) for _, keys in batches) < 600 + 3 * JOBS * limit_bytes / log_bytes


def test_frames_that_no_event_touches_are_copied_and_the_others_keep_their_limits(tmp_path: Path) -> None:
    def jobs(numbers: Iterable[int]) -> list[str]:
        return [f"job.number{number:05d}" for number in numbers]

    with WalPersistence(tmp_path / "store") as store:
        store.record_many(Scheduled(job, Periodic(every_ns=7)) for job in jobs(range(0, 10_240, 2)))
        store.flush_checkpoint(compact=True)
        # The last key of the second frame, the first of the fifth, a new one before all, one that goes at the end.
        changed = [*jobs([2046, 4096]), "job.a", *jobs([10_238])]
        store.record_many([*(Started(job, 3) for job in changed), Cancelled(changed[-1])])
        batches = batches_of(store, 1 << 20)
        assert [number for number, (is_stored, _) in enumerate(batches) if is_stored] == [2, 3, 5, 6, 7, 8]
        assert [len(keys) for _, keys in batches] == [513, 512, 512, 512, 512, 512, 512, 512, 512, 511]
        expected = store.load_all()
        store.flush_checkpoint(compact=True)
        assert firsts_and_counts(store) == [(keys[0], len(keys)) for _, keys in batches]
        assert sorted(store.load_all(), key=repr) == sorted(expected, key=repr)


def test_frames_that_grow_are_divided_and_those_that_shrink_are_joined(tmp_path: Path) -> None:
    with WalPersistence(tmp_path / "store") as store:
        store.record_many(Scheduled(f"job.number{number:04d}", Periodic(every_ns=7)) for number in range(2048))
        store.flush_checkpoint(compact=True)
        store.record_many(Scheduled(f"job.number0000.{number:04d}", Periodic(every_ns=7)) for number in range(300))
        store.record_many(Cancelled(f"job.number{number:04d}") for number in range(600, 1000))
        store.flush_checkpoint(compact=True)
        expected = [
            ("job.number0000", 512),
            ("job.number0212", 300),
            ("job.number0512", 624),
            ("job.number1536", 512),
        ]
        assert firsts_and_counts(store) == expected
        store.record_many(Cancelled(f"job.number{number:04d}") for number in range(1, 2047))
        store.flush_checkpoint(compact=True)
        assert firsts_and_counts(store) == [("job.number0000", 301), ("job.number2047", 1)]


def firsts_and_counts(store: WalPersistence) -> list[tuple[str, int]]:
    assert store._store is not None
    with closing(store._store.view()) as view:
        assert view.snapshot is not None
        return [(entry.first_id, entry.records) for entry in view.snapshot.index]
