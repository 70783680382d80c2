"""The options of a store: one frozen, keyword-only object, checked when it is built.

What shapes the files (format version, segment sizes already in use) is in their headers, so options may differ from
one opening to the next.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import Enum

__all__ = ["Durability", "WalOptions"]


class Durability(Enum):
    """What an event survives once the call that recorded it has returned. All levels survive ``close``."""

    BUFFERED = "buffered"
    """Lost by SIGKILL, by a SIGTERM without a handler and by ``os._exit`` (some 5 ms of events); and all below."""

    PROCESS = "process"
    """Lost by power loss and kernel panic (about the last ``sync_interval_ns``). Survives the death of the process."""

    POWER = "power"
    """Lost by a device that lies about flushes. Survives power loss and kernel panic."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WalOptions:
    """Options of a store. Sizes are in bytes, durations in nanoseconds. Raises ``ValueError`` for one out of range."""

    # These affect safety: how much a crash can take at the levels that allow a loss.
    sync_interval_ns: int = 1_000_000_000
    """At ``BUFFERED`` and ``PROCESS``: what is in the kernel's hands is synced to the device about this often."""
    drain_interval_ns: int = 5_000_000
    """At ``BUFFERED``: the buffer is drained into the log this often."""

    # These affect speed and space only.
    buffer_events: int = 8_192
    """At ``BUFFERED``: a caller that finds this many events in the buffer drains it itself."""
    segment_bytes_min: int = 128 * 1024
    """Size of the first segment of an opening. The next one, and each that follows a full one, is four times as large;
    those that follow a compaction are four times what was used before. All up to ``segment_bytes_max``."""
    segment_bytes_max: int = 16 * 1024 * 1024
    """Size up to which segments grow. A frame that does not fit gets a segment of its own size."""
    compaction_ratio: float = 0.5
    """A checkpoint compacts when the log has grown past this share of the snapshot: bounds replay and space."""
    small_store_bytes: int = 4 * 1024 * 1024
    """Up to this size of snapshot and log together, ``flush_checkpoint`` compacts before it returns. The log also
    grows to at least this size before compaction starts without being asked for."""
    merge_memory_bytes: int = 32 * 1024 * 1024
    """About the memory that a compaction may take, whatever the number of jobs."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            is_number = isinstance(value, (int, float)) if field.name == "compaction_ratio" else isinstance(value, int)
            if isinstance(value, bool) or not is_number:
                kind = "a number" if field.name == "compaction_ratio" else "an integer"
                raise TypeError(f"{field.name} must be {kind}, not {value!r}")
            if not value > 0:
                raise ValueError(f"{field.name} must be above zero, not {value!r}")
        if self.segment_bytes_min < 1024:
            raise ValueError(f"segment_bytes_min must be at least 1024, not {self.segment_bytes_min}")
        if self.segment_bytes_max < self.segment_bytes_min:
            raise ValueError("segment_bytes_max must not be below segment_bytes_min")
        if self.segment_bytes_max > 1024**3:
            raise ValueError("segment_bytes_max must be at most 1 GiB")
