"""The options of a store in PostgreSQL: one frozen, keyword-only object, checked when it is built."""

from __future__ import annotations

from dataclasses import dataclass, fields

__all__ = ["PostgresOptions"]


@dataclass(frozen=True, kw_only=True, slots=True)
class PostgresOptions:
    """Options of a store in PostgreSQL. Durations are in nanoseconds. Raises ``ValueError`` for one out of range."""

    # These affect safety: how much a crash can take at the levels that allow a loss.
    drain_interval_ns: int = 5_000_000
    """At ``BUFFERED``: events are gathered for this long before they are sent."""
    sync_interval_ns: int = 1_000_000_000
    """At ``BUFFERED`` and ``PROCESS``: about this often a batch waits for the server's device."""

    # These affect speed, memory and waiting only.
    retry_ns: int = 30_000_000_000
    """How long a server may be out of reach before a call that waits for it raises."""
    buffer_events: int = 8_192
    """At ``BUFFERED``: a caller that finds this many events in the buffer waits until they are sent."""
    batch_events: int = 2_048
    """A batch, which is one transaction, takes no further events beyond this many. A ``record_many`` is never split."""
    kept_events: int = 65_536
    """Events that the server has taken and may not have flushed are kept in memory; beyond this many it is waited
    for."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"{field.name} must be an integer, not {value!r}")
            if not value > 0:
                raise ValueError(f"{field.name} must be above zero, not {value!r}")
