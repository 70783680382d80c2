"""The names of the files of a store, built and parsed in one place."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

__all__ = [
    "LOCK_NAME",
    "UNFINISHED_NAME",
    "SegmentName",
    "is_temporary",
    "is_torn",
    "next_segment_name",
    "parse_segment",
    "parse_snapshot",
    "segment_name",
    "snapshot_name",
    "temporary_name",
    "torn_name",
]

LOCK_NAME: Final = "LOCK"
UNFINISHED_NAME: Final = "UNFINISHED"
"""Lies in the directory of a store that is made from another one, until it is whole: it can't be opened so."""
_TEMPORARY_SUFFIX: Final = ".tmp"
_SEGMENT: Final = re.compile(r"log-([0-9a-f]{16})-([0-9a-f]{8}|[1-9a-f][0-9a-f]{8,15})\.wal", re.ASCII)
_SNAPSHOT: Final = re.compile(r"snapshot-([0-9a-f]{16})\.snap", re.ASCII)
_TORN: Final = re.compile(r"torn-[0-9a-f]{16}-[0-9a-f]{8,16}\.bin", re.ASCII)
_TEMPORARY: Final = re.compile(r"(log|next|snapshot|torn|spill)-[0-9a-f]{16}[-.0-9a-z]*\.tmp", re.ASCII)


class SegmentName(NamedTuple):
    """What the name of a segment says."""

    base_lsn: int
    epoch: int


def segment_name(base_lsn: int, epoch: int) -> str:
    """Return the name of the segment that the writer of ``epoch`` began at ``base_lsn``."""
    return f"log-{base_lsn:016x}-{epoch:08x}.wal"


def next_segment_name(base_lsn: int, epoch: int) -> str:
    """Return the name of what is being made ready to follow a segment; it is only ever a temporary file."""
    return f"next-{base_lsn:016x}-{epoch:08x}"


def parse_segment(name: str) -> SegmentName | None:
    """Return what the name of a segment says, or None when it is not one."""
    match = _SEGMENT.fullmatch(name)
    return SegmentName(int(match[1], 16), int(match[2], 16)) if match else None


def snapshot_name(lsn: int) -> str:
    """Return the name of the snapshot of everything below ``lsn``."""
    return f"snapshot-{lsn:016x}.snap"


def parse_snapshot(name: str) -> int | None:
    """Return the LSN of a snapshot from its name, or None when it is not one."""
    match = _SNAPSHOT.fullmatch(name)
    return int(match[1], 16) if match else None


def torn_name(lsn: int, epoch: int) -> str:
    """Return the name under which the writer of ``epoch`` keeps the bytes that it cut off at ``lsn``."""
    return f"torn-{lsn:016x}-{epoch:08x}.bin"


def temporary_name(name: str) -> str:
    """Return the name that a file has until it is finished."""
    return name + _TEMPORARY_SUFFIX


def is_temporary(name: str) -> bool:
    """Whether a file of this name is one of a store's that was never finished. Other programs' are left alone."""
    return _TEMPORARY.fullmatch(name) is not None


def is_torn(name: str) -> bool:
    """Whether a file of this name keeps a torn tail."""
    return _TORN.fullmatch(name) is not None
