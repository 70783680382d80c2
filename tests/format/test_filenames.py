"""The names of files: built and parsed, and everything else left alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from walstore.format.filenames import (
    LOCK_NAME,
    SegmentName,
    is_temporary,
    is_torn,
    parse_segment,
    parse_snapshot,
    segment_name,
    snapshot_name,
    temporary_name,
    torn_name,
)

pytestmark = pytest.mark.mutation

lsns = st.integers(0, 2**64 - 1)
epochs = st.integers(1, 2**64 - 1)


def test_names_are_those_of_the_specification() -> None:
    assert segment_name(0x1F8, 0xA) == "log-00000000000001f8-0000000a.wal"
    assert segment_name(0, 2**32) == "log-0000000000000000-100000000.wal"
    assert snapshot_name(0x1F8) == "snapshot-00000000000001f8.snap"
    assert torn_name(0x1F8, 2) == "torn-00000000000001f8-00000002.bin"
    assert temporary_name(snapshot_name(0)) == "snapshot-0000000000000000.snap.tmp"
    assert LOCK_NAME == "LOCK"


@given(lsns, epochs)
def test_names_read_back(lsn: int, epoch: int) -> None:
    segment, snapshot, torn = segment_name(lsn, epoch), snapshot_name(lsn), torn_name(lsn, epoch)
    assert parse_segment(segment) == SegmentName(lsn, epoch)
    assert parse_snapshot(snapshot) == lsn
    assert [parse_segment(name) for name in (snapshot, torn)] == [None, None]
    assert [parse_snapshot(name) for name in (segment, torn)] == [None, None]
    assert [is_torn(name) for name in (segment, snapshot, torn, temporary_name(torn))] == [False, False, True, False]
    for name in (segment, snapshot, torn):
        assert not is_temporary(name)
        assert is_temporary(temporary_name(name))
        assert parse_segment(temporary_name(name)) is None
        assert parse_snapshot(temporary_name(name)) is None


@given(st.lists(lsns, min_size=2, max_size=9))
def test_names_sort_as_their_positions_do(found: list[int]) -> None:
    assert [parse_snapshot(name) for name in sorted(map(snapshot_name, found))] == sorted(found)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "LOCK",
        "log-0000000000000000-00000001",
        "log-0000000000000000-00000001.wal\n",
        "xlog-0000000000000000-00000001.wal",
        "log-0000000000000000-0000001.wal",
        "log-000000000000000-00000001.wal",
        "log-00000000000000000-00000001.wal",
        "log-000000000000000A-00000001.wal",
        "log-000000000000000g-00000001.wal",
        "log-٠٠٠٠٠٠٠٠٠٠٠٠٠٠٠٠-00000001.wal",  # noqa: RUF001  # Digits that are not ASCII.
        "log--000000000000001-00000001.wal",
        "log-0000000000000000-000000001.wal",  # A second name of log-0000000000000000-00000001.wal.
        "log-0000000000000000-00000001.wal.bak",
        "log-0000000000000000-00000001 (copy).wal",
        "snapshot-0000000000000000.snap~",
        "snapshot-000000000000000.snap",
        "snapshot-000000000000000F.snap",
        "snapshot-0000000000000000.SNAP",
    ],
)
def test_other_names_are_neither_segments_nor_snapshots(name: str) -> None:
    assert parse_segment(name) is None
    assert parse_snapshot(name) is None
