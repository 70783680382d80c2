"""What the engine is told of the operating system besides files: this boot, this process and its forks, randomness."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Final

__all__ = ["call_in_forked_child", "describe_process", "kernel_boot_id", "random_bytes"]

_BOOT_ID: Final = "/proc/sys/kernel/random/boot_id"


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


def kernel_boot_id() -> bytes:
    """Return the boot id of the kernel; without one, 16 random bytes, which recovery takes for another boot."""
    try:
        return bytes.fromhex(Path(_BOOT_ID).read_text(encoding="ascii").strip().replace("-", ""))
    except (OSError, ValueError):
        return os.urandom(16)
