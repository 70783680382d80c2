"""``WalPersistence`` passes the contract at every durability, on a real disk and on one that loses power."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest

pytest.register_assert_rewrite("walstore.testing.contract")

from walstore import Durability, SchedulerJobRecord, SchedulerPersistence, WalOptions, WalPersistence  # noqa: E402
from walstore.engine.environment import Environment  # noqa: E402
from walstore.model.names import QName  # noqa: E402
from walstore.testing.contract import PersistenceContract  # noqa: E402
from walstore.testing.model import TABLE, Jobs, apply  # noqa: E402
from walstore.testing.sim_fs import SimFileSystem  # noqa: E402

# So small that tests see several segments.
SMALL = WalOptions(segment_bytes_min=1024, segment_bytes_max=4096)


class OnDisk(PersistenceContract):
    durability: Durability

    def open(self, path: Path, clock: Callable[[], int]) -> SchedulerPersistence:
        return WalPersistence(path, durability=self.durability, options=SMALL, clock=clock)

    def crash(self, store: SchedulerPersistence, path: Path) -> Path | None:  # noqa: ARG002
        """What the files hold at this moment is what the death of the process leaves.

        Copying them takes more than a moment, and at ``BUFFERED`` a thread writes meanwhile.
        """
        if self.durability is Durability.BUFFERED:
            return None
        crashed = path.with_name(f"crashed{len(list(path.parent.iterdir()))}")
        # A thread of the store may be making a temporary file.
        shutil.copytree(path, crashed, ignore=shutil.ignore_patterns("*.tmp"))
        return crashed


class TestBuffered(OnDisk):
    durability = Durability.BUFFERED


class TestProcess(OnDisk):
    durability = Durability.PROCESS


class TestPower(OnDisk):
    durability = Durability.POWER


class LosingPower(PersistenceContract):
    """On a disk that, when the power fails, keeps of what was not synced whatever chance leaves."""

    durability: Durability
    jobs_many = 2_000
    fs = SimFileSystem(1)
    random = random.Random(1)

    def open(self, path: Path, clock: Callable[[], int]) -> SchedulerPersistence:
        ticks = count()
        environment = Environment(
            fs=self.fs,
            random_bytes=self.random.randbytes,
            monotonic_ns=lambda: next(ticks),
            wall_ns=clock,
            holder=lambda: {"host": "simulated", "pid": 1},
        )
        self.make_directory(path.parent)
        return WalPersistence(path, durability=self.durability, options=SMALL, clock=clock, environment=environment)

    def make_directory(self, path: Path) -> None:
        for directory in reversed([path, *path.parents][:-1]):
            if directory.name not in self.fs.list_directory(str(directory.parent)):
                self.fs.make_directory(str(directory))
                self.fs.sync_directory(str(directory.parent))

    def crash(self, store: SchedulerPersistence, path: Path) -> Path:
        """The store goes on in the world that was, and what is opened next is in the one after it."""
        assert isinstance(store, WalPersistence)
        assert store._store is not None
        world = store._store._environment.fs
        assert isinstance(world, SimFileSystem)
        self.fs = world.clone().power_loss(self.random)
        return path


class TestLosingPowerBuffered(LosingPower):
    durability = Durability.BUFFERED


class TestLosingPowerProcess(LosingPower):
    durability = Durability.PROCESS


class TestLosingPowerPower(LosingPower):
    durability = Durability.POWER


@pytest.mark.parametrize("row", TABLE)
def test_the_model_says_what_the_table_says(row: str) -> None:
    events, expected = TABLE[row]
    jobs: Jobs = {}
    for event in events:
        apply(jobs, event)
    job = QName.parse("ai.geo.tile")
    assert list(jobs.values()) == ([] if expected is None else [SchedulerJobRecord(job, *expected)])
