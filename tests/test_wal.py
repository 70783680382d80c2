"""What `WalPersistence` adds of its own to the engine that it wires up."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from tests.crash.worlds import World
from walstore import Durability, WalPersistence
from walstore.errors import StorageError, StoreClosedError, StorePoisonedError


def test_a_store_says_where_it_is_and_whether_it_is_open(tmp_path: Path) -> None:
    path = tmp_path / "jobs"
    with WalPersistence(path) as store:
        assert repr(store) == f"<WalPersistence {path} open>"
    assert repr(store) == f"<WalPersistence {path} closed>"
    with WalPersistence(path, read_only=True) as reader:
        assert repr(reader) == f"<WalPersistence {path} read-only>"
    assert repr(reader) == f"<WalPersistence {path} closed>"


def test_a_reader_that_was_closed_reads_no_more(tmp_path: Path) -> None:
    WalPersistence(tmp_path / "jobs").close()
    reader = WalPersistence(tmp_path / "jobs", read_only=True)
    assert reader.load_all() == []
    reader.close()
    with pytest.raises(StoreClosedError, match="open it again"):
        reader.load_all()
    with pytest.raises(StoreClosedError, match="open it again"):
        list(reader.iter_jobs())


def leave_poisoned(error: Exception | None) -> None:
    """Leave the ``with`` of a store that a sync has poisoned, by this error if there is one."""
    world = World(1)
    with world.open(Durability.PROCESS) as store:
        store.record_started("job.a", 1)
        world.fs.fail("sync", errno.EIO)
        with pytest.raises(StorePoisonedError):
            store.sync()
        if error is not None:
            raise error


def test_leaving_a_poisoned_store_raises_unless_that_was_told() -> None:
    """Nobody takes a lost event for a kept one, and the first error is not replaced by the one that follows from it."""
    with pytest.raises(StorePoisonedError):
        leave_poisoned(None)
    with pytest.raises(StorePoisonedError) as replaced:
        leave_poisoned(KeyError("job.a"))
    assert isinstance(replaced.value.__context__, KeyError)
    with pytest.raises(StorageError, match="the first") as kept:
        leave_poisoned(StorageError("the first"))
    assert kept.value.__context__ is None
