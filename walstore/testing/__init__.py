"""What tests of schedulers and of persistences need: a simulated disk, and the contract as a suite of tests."""

from __future__ import annotations

__all__: list[str] = []
