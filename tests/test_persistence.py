"""The abstract class of the contract, and the implementation that keeps nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from walstore import (
    BatchPersistence,
    Manual,
    MemoryPersistence,
    Periodic,
    QName,
    SchedulerJobRecord,
    SchedulerPersistence,
    WalPersistence,
)

REQUIRED = {"record_started", "record_finished", "cancel", "load_all"}
OPTIONAL = {"record_scheduled", "flush_checkpoint", "close"}


class Smallest(SchedulerPersistence):
    """As little as a backend can have."""

    closed = 0

    def record_started(self, id: QName | str, started_at: object) -> None:
        raise NotImplementedError

    def record_finished(self, id: QName | str, finished_at: object, success: bool) -> None:
        raise NotImplementedError

    def cancel(self, id: QName | str) -> None:
        raise NotImplementedError

    def load_all(self) -> list[SchedulerJobRecord]:
        raise NotImplementedError


class CountingClose(Smallest):
    def close(self) -> None:
        self.closed += 1


def test_four_methods_are_required() -> None:
    assert SchedulerPersistence.__abstractmethods__ == REQUIRED
    with pytest.raises(TypeError, match="abstract"):
        SchedulerPersistence()  # type: ignore[abstract]


@pytest.mark.parametrize("missing", sorted(REQUIRED))
def test_a_backend_that_lacks_one_of_them_can_not_be_made(missing: str) -> None:
    methods = {name: getattr(Smallest, name) for name in REQUIRED - {missing}}
    with pytest.raises(TypeError, match=missing):
        type("Incomplete", (SchedulerPersistence,), methods)()


def test_the_class_has_the_methods_of_the_contract_and_no_others() -> None:
    public = {name for name in vars(SchedulerPersistence) if not name.startswith("_")}
    assert public == REQUIRED | OPTIONAL


def test_the_others_do_nothing_by_default() -> None:
    backend = Smallest()
    backend.record_scheduled("a.b", Periodic(every_ns=1))
    backend.flush_checkpoint()
    backend.close()
    backend.close()


def test_the_context_manager_closes() -> None:
    with CountingClose() as backend:
        assert backend.closed == 0
    assert backend.closed == 1
    with pytest.raises(KeyError), backend:
        raise KeyError
    assert backend.closed == 2


def test_the_memory_persistence_keeps_nothing() -> None:
    with MemoryPersistence() as store:
        store.record_scheduled("a.b", Manual())
        store.record_started("a.b", 1)
        assert store.load_all() == []
        store.record_finished(QName("a", "b"), 2, success=False)
        store.cancel("a.b")
        store.flush_checkpoint()
        first = store.load_all()
        first.append(SchedulerJobRecord.__new__(SchedulerJobRecord))
        assert store.load_all() == []
    assert store.load_all() == []


def test_who_takes_batches(tmp_path: Path) -> None:
    assert not isinstance(MemoryPersistence(), BatchPersistence)
    assert not isinstance(Smallest(), BatchPersistence)
    with WalPersistence(tmp_path / "store") as store:
        assert isinstance(store, SchedulerPersistence)
        assert isinstance(store, BatchPersistence)
