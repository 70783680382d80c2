"""What the engine is told of the operating system besides files: this boot, processes, randomness."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

__all__ = [
    "absolute_path",
    "call_in_forked_child",
    "describe_process",
    "kernel_boot_id",
    "leave_without_parent",
    "process_id",
    "random_bytes",
    "start_worker",
]

_BOOT_ID: Final = "/proc/sys/kernel/random/boot_id"
_WORKER: Final = """
import importlib, json, sys
path, module, name, task = json.load(sys.stdin)
sys.path[:] = path
getattr(importlib.import_module(module), name)(task)
"""


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


def absolute_path(path: str) -> str:
    """Return a path that leads to the same file from every working directory."""
    return str(Path(path).absolute())


def process_id() -> int:
    """Return the id of this process."""
    return os.getpid()


def leave_without_parent(parent: int) -> None:
    """Raise ``SystemExit`` if this process is not a child of ``parent`` any more: whoever that was has ended."""
    if os.getppid() != parent:
        raise SystemExit(f"process {parent}, which started this one, has ended")


class _WorkerProcess:
    """A process of this interpreter that calls one function with one task, and ends."""

    def __init__(self, function: str, task: Mapping[str, str | int]) -> None:
        """Start it. ``function`` is named by "module:name". Raises ``OSError``."""
        module, _, name = function.partition(":")
        # Isolated mode takes nothing from the environment or the working directory, so the path is handed over.
        path = [absolute_path(entry) for entry in sys.path]
        self._input = json.dumps((path, module, name, task)).encode()
        # No fork that runs Python code, no descriptor that is handed down, no Ctrl-C that is meant for the parent.
        self._process = subprocess.Popen(  # noqa: S603  # The interpreter that runs this, and a constant.
            [sys.executable, "-I", "-c", _WORKER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            close_fds=True,
            cwd="/",
            process_group=0,
        )

    def output(self) -> str:
        """Wait until it has ended, and return what it printed."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):
            self._process.stdin.write(self._input)
            self._process.stdin.close()
        return self._process.stdout.read().decode(errors="replace")

    def kill(self) -> None:
        """End it at once. It may have ended."""
        self._process.kill()

    def close(self) -> None:
        """End it, if it has not ended, and give everything back."""
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()
        self._process.wait()


_can_start: Final = os.name == "posix" and bool(sys.executable) and not getattr(sys, "frozen", False)
start_worker: Callable[[str, Mapping[str, str | int]], _WorkerProcess] | None = _WorkerProcess if _can_start else None
"""Starts a process of this interpreter that calls a function ("module:name") with a task. Raises ``OSError``.

None where the interpreter can't be started a second time; in a frozen application it would be all of that.
"""
