"""The bytes of a store, as ``docs/format.md`` specifies them: nothing in here opens a file."""

from __future__ import annotations

__all__: list[str] = []
