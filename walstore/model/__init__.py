"""What a job is and what each event does to it: pure, without I/O and without a clock."""

from __future__ import annotations

__all__: list[str] = []
