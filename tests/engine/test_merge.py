"""Folding the log onto the snapshot in bounded memory: the same as all at once, and in pieces of about equal weight."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import pytest

from tests.crash.worlds import OPTIONS, World
from walstore import Periodic, Scheduled, Started, WalPersistence
from walstore.engine.merge import MemorySpill, Spill, merged

pytestmark = pytest.mark.mutation

BYTES_PER_BYTE = 16
"""About how many bytes a record takes in memory for each that it has on disk."""
JOBS = 2500


class Watched:
    """A spill that counts what it is given, and notes which partition is folded next."""

    def __init__(self, inner: Spill) -> None:
        self._inner = inner
        self.payload_bytes: Counter[int] = Counter()
        self.begun: list[int] = []

    def append(self, partition: int, payload: bytes) -> None:
        self.payload_bytes[partition] += len(payload)
        self._inner.append(partition, payload)

    def read(self, partition: int) -> Iterator[bytes]:
        self.begun.append(partition)
        return self._inner.read(partition)

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


def test_a_large_snapshot_is_divided_however_short_the_log_is() -> None:
    with filled(snapshot=True) as store:
        store.flush_checkpoint(compact=True)
        assert store._store is not None
        with closing(store._store.view()) as view:
            spill = Watched(MemorySpill())
            assert len(list(merged(view, 8192 * BYTES_PER_BYTE, spill))) == JOBS
        # Never within a frame of its records, of which there are 512.
        assert len(spill.begun) == -(-JOBS // 512)
        assert not spill.payload_bytes


@pytest.mark.parametrize("snapshot", [True, False], ids=["snapshot", "log"])
@pytest.mark.parametrize("limit_bytes", [1 << 11, 1 << 13, 1 << 15, 1 << 24])
def test_whatever_the_memory_the_outcome_is_the_same_and_the_partitions_follow_it(
    limit_bytes: int, snapshot: bool
) -> None:
    with filled(snapshot=snapshot) as store:
        assert store._store is not None
        expected = sorted((str(record.id), record.last_started_at_ns) for record in store.load_all())
        assert len(expected) == JOBS
        with closing(store._store.view()) as view:
            total_bytes = view.log_bytes + (view.snapshot.length if view.snapshot is not None else 0)
            spill = Watched(MemorySpill())
            held: Counter[int] = Counter()
            found = []
            for key, state in merged(view, limit_bytes * BYTES_PER_BYTE, spill):
                held[len(spill.begun)] += 1
                found.append((key, state[2]))
        assert found == expected
        if total_bytes <= limit_bytes:
            assert not spill.begun
            return
        assert spill.begun == list(range(len(spill.begun)))
        assert 0.5 * total_bytes < limit_bytes * len(spill.begun) < 2 * total_bytes
        assert max(spill.payload_bytes.values()) < 1.1 * limit_bytes
        assert max(held.values()) < 3 * JOBS * limit_bytes / total_bytes
