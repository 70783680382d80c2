"""Stores for the schedulers of others, on the engine with a codec and a reducer of their own."""

from __future__ import annotations

__all__: list[str] = []
