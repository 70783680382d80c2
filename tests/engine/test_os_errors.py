"""Calls to the operating system that hardly ever fail, failing: on real files, through the whole store."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import pytest

from walstore import Durability, WalPersistence
from walstore.errors import StorageError, StorePoisonedError

pytestmark = pytest.mark.mutation

NOW_NS = 1_767_225_600_000_000_000


def jobs(path: Path) -> set[str]:
    with WalPersistence(path) as store:
        return {str(record.id) for record in store.load_all()}


def test_an_event_that_could_not_be_synced_is_not_said_to_be_unrecorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is in the log already: whoever was told that it is not would record it twice."""
    path = tmp_path / "store"
    store = WalPersistence(path, durability=Durability.POWER)
    store.record_started("a.synced", NOW_NS)
    real_stat = os.stat

    def stat(target: str) -> os.stat_result:
        if str(target).endswith("/LOCK"):
            raise PermissionError(errno.EACCES, "Permission denied", target)
        return real_stat(target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", stat)
        with pytest.raises(StorePoisonedError, match="Permission denied"):
            store.record_started("a.unknown", NOW_NS)
    with pytest.raises(StorePoisonedError):
        store.record_started("a.refused", NOW_NS)
    with pytest.raises(StorePoisonedError):
        store.close()
    assert {"a.synced"} <= jobs(path) <= {"a.synced", "a.unknown"}


def test_closing_a_file_tells_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that has to be on the device was synced, and Linux gives the descriptor back whatever it reports."""
    path = tmp_path / "store"
    real_close = os.close

    def close(descriptor: int) -> None:
        real_close(descriptor)
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "close", close)
        for number in range(3):
            with WalPersistence(path) as store:
                store.record_started(f"a.job{number}", NOW_NS)
                store.flush_checkpoint(compact=True)
                store.record_started(f"a.late{number}", NOW_NS)
    assert jobs(path) == {f"a.{kind}{number}" for kind in ("job", "late") for number in range(3)}


def test_a_lock_that_can_not_be_unlocked_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "store"
    store = WalPersistence(path)
    store.record_started("a.job", NOW_NS)
    real_flock = fcntl.flock

    def flock(descriptor: int, operation: int) -> None:
        if operation == fcntl.LOCK_UN:
            raise OSError(errno.ENOLCK, "No locks available")
        real_flock(descriptor, operation)

    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", flock)
        with pytest.raises(StorageError, match="No locks available"):
            store.close()
    assert store.closed
    assert jobs(path) == {"a.job"}
