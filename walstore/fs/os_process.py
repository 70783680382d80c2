"""What the engine is told of the operating system besides files: this process, its forks, and randomness."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable

__all__ = ["call_in_forked_child", "describe_process", "random_bytes"]


def random_bytes(size: int) -> bytes:
    """Return ``size`` random bytes."""
    return os.urandom(size)


def describe_process() -> dict[str, str | int]:
    """Return the host and the id of this process, for people."""
    return {"host": socket.gethostname(), "pid": os.getpid()}


def call_in_forked_child(function: Callable[[], None]) -> None:
    """Let ``function`` be called in every child that this process forks, before anything else runs in it."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=function)
