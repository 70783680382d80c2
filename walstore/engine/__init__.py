"""The storage engine: an append-only log, snapshots of what it folds to, recovery. It does not know what a job is."""

from __future__ import annotations

__all__: list[str] = []
