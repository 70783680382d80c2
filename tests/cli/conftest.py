"""Stores for the commands to look at, and the ways to run them."""

from __future__ import annotations

import dataclasses
import itertools
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from walstore import Cron, Manual, Once, Periodic, WalPersistence
from walstore.engine.environment import Environment
from walstore.wal import os_environment

START_NS = 1_700_000_000_000_000_000

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def environment() -> Environment:
    """The real file system in a world where everything else is the same each time, so that output can be compared."""
    numbers = itertools.count(1)
    ticks = itertools.count(START_NS, 1_000_000)
    return dataclasses.replace(
        os_environment(),
        random_bytes=lambda size: next(numbers).to_bytes(size, "big"),
        monotonic_ns=lambda: next(ticks),
        wall_ns=lambda: START_NS,
        holder=lambda: {"host": "ada", "pid": 4711},
        threads=False,
    )


@pytest.fixture
def store(tmp_path: Path, environment: Environment) -> Path:
    """A store that was closed, with a snapshot of four jobs and six events behind it."""
    path = tmp_path / "jobs.walstore"
    with WalPersistence(path, environment=environment, clock=lambda: START_NS) as jobs:
        jobs.record_scheduled("ai.geo.tile", Periodic(timedelta(hours=1)))
        jobs.record_scheduled("ai.geo.index", Cron("0 30 4 * * *"))
        jobs.record_scheduled("ops.backup", Once(at_ns=START_NS + 5))
        jobs.record_scheduled("ops.report", Manual())
        jobs.flush_checkpoint(compact=True)
        jobs.record_started("ai.geo.tile", START_NS + 1)
        jobs.record_finished("ai.geo.tile", START_NS + 2, True)
        jobs.record_started("ops.backup", START_NS + 5)
        jobs.record_finished("ops.backup", START_NS + 6, False)
        jobs.cancel("ops.report")
        jobs.restore([record for record in jobs.load_all() if str(record.id) == "ai.geo.index"])
    return path


@pytest.fixture
def large_store(tmp_path: Path) -> Path:
    """A store whose dump is longer than what a pipe holds."""
    path = tmp_path / "large.walstore"
    with WalPersistence(path) as jobs:
        for number in range(5_000):
            jobs.record_started(f"a.job{number}", number)
    return path


@pytest.fixture
def command() -> list[str]:
    """The command line as a process of its own."""
    return [sys.executable, "-m", "walstore"]


@pytest.fixture
def process_environment() -> dict[str, str]:
    """The environment in which such a process finds the package that is tested, and no colours."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


@pytest.fixture
def run(command: list[str], process_environment: dict[str, str]) -> Run:
    """Run the command line as a process and return what it printed."""

    def run_command(*arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, *map(str, arguments)],
            env=process_environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run_command


@pytest.fixture
def flip() -> Callable[[Path, int], None]:
    """Flip a bit of a file."""

    def flip_bit(path: Path, offset: int) -> None:
        content = bytearray(path.read_bytes())
        content[offset] ^= 1
        path.write_bytes(content)

    return flip_bit
