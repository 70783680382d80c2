"""Other homes for the state of scheduled jobs than a directory: each behind the same contract, and behind an extra."""

from __future__ import annotations

__all__: list[str] = []
