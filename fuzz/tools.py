"""Programs and rights that some harnesses need, and how they say that these are not here."""

from __future__ import annotations

import os
import shutil
from typing import Final

__all__ = ["UnavailableError", "tool"]

_PATH: Final = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])


class UnavailableError(Exception):
    """What a harness needs is not to be had here; the message says why."""


def tool(name: str) -> str:
    """Return the path of a program. Raises ``UnavailableError`` where it is not installed."""
    path = shutil.which(name, path=_PATH)
    if path is None:
        raise UnavailableError(f"{name} is not installed")
    return path
