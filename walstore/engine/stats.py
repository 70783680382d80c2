"""What an operator graphs."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["StoreStats"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreStats:
    """The figures of an open store. Counters are since the opening."""

    events: int
    """Events recorded."""
    buffered_events: int
    """At ``BUFFERED``: events in the buffer now, which the death of the process would lose."""
    log_written_bytes: int
    """Bytes appended to the log."""
    syncs: int
    """Files synced."""
    durable_lsn: int
    """Everything below this LSN is known to be on the device."""
    end_lsn: int
    """Where the log ends."""
    log_bytes: int
    """Bytes of the log above the snapshot: what a recovery would replay."""
    snapshot_lsn: int
    snapshot_bytes: int
    last_checkpoint_ns: int | None
    """When the log was last compacted by this opening, in nanoseconds since 1970."""
    last_background_error: str | None
    """The last failure that no caller has seen, of draining, syncing or compacting; None once it works again."""
