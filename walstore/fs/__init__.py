"""Files: the protocols that the engine talks to, the real implementation, and the one way to create a file."""

from __future__ import annotations

__all__: list[str] = []
