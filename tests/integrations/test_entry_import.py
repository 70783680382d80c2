"""New stores of entries: whole or not at all; and of a damaged store, what still verifies."""

from __future__ import annotations

from pathlib import Path

import pytest

from walstore.errors import CorruptionError, StorageError
from walstore.integrations.entries import EntryStore
from walstore.integrations.entry_import import found_entry_store, salvage_entry_store


def test_a_store_begins_with_what_it_is_given(tmp_path: Path) -> None:
    assert found_entry_store(tmp_path / "store", kind="test/1", entries=[("b", b"2", None), ("a", b"1", 7)]) == 2
    with EntryStore(tmp_path / "store", kind="test/1") as store:
        assert [(key, entry.blob, entry.next_run_us) for key, entry in store.found.items()] == [
            ("a", b"1", 7),
            ("b", b"2", None),
        ]
        store.put("c", b"3", 1)


def test_nothing_is_an_empty_store(tmp_path: Path) -> None:
    assert found_entry_store(tmp_path / "store", kind="test/1", entries=[]) == 0
    with EntryStore(tmp_path / "store", kind="test/1", create=False) as store:
        assert store.found == {}


def test_an_entry_that_is_there_twice_stops_it(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="twice"):
        found_entry_store(tmp_path / "store", kind="test/1", entries=[("a", b"", None), ("a", b"", None)])
    assert not (tmp_path / "store").exists()


def test_what_verifies_is_salvaged_from_a_damaged_store(tmp_path: Path) -> None:
    source, target = tmp_path / "store", tmp_path / "salvaged"
    with EntryStore(source, kind="test/1") as store:
        for number in range(20):
            store.put(f"job{number:02}", b"x" * 100, number)
        store.started("job03", 3, at_us=5)
    (log,) = source.glob("log-*.wal")
    content = bytearray(log.read_bytes())
    content[content.index(b"job10")] ^= 1
    log.write_bytes(content)
    with pytest.raises(CorruptionError):
        EntryStore(source, kind="test/1")
    found = salvage_entry_store(source, target, kind="test/1")
    assert len(found.gaps) == 1
    with EntryStore(target, kind="test/1") as store:
        assert store.found.keys() == {f"job{number:02}" for number in range(20) if number != 10}
        assert [orphan.entry.key for orphan in store.orphaned_runs] == ["job03"]
    with pytest.raises(StorageError, match="not empty"):
        salvage_entry_store(source, target, kind="test/1")
