"""What the suite of the contract needs from whoever runs it: how a store is opened, how it crashes, how much to try."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

from walstore.persistence import BatchPersistence, SchedulerPersistence
from walstore.testing.model import ManualClock

try:
    import pytest
except ImportError as missing:
    raise ImportError(f"{missing}: walstore.testing.contract needs it, pip install 'walstore[test]'") from missing

__all__ = ["ContractHooks"]


class ContractHooks:
    """The hooks and the fixtures of the suite. A subclass gives ``open``, and may override all else."""

    examples: ClassVar[int] = 25
    """How many sequences of calls are tried, wherever they are drawn by hypothesis."""
    jobs_many: ClassVar[int] = 20_000
    """How many jobs are many. Less for a backend that takes long for them."""

    def open(self, path: Path, clock: Callable[[], int]) -> SchedulerPersistence:
        """Return the persistence that lives at ``path``, new or with what was recorded there before.

        The parent of ``path`` exists. ``clock`` gives the instant of ``record_scheduled``.
        """
        raise NotImplementedError

    def reopen(self, store: SchedulerPersistence, path: Path, clock: Callable[[], int]) -> SchedulerPersistence:
        """Close ``store``, which lives at ``path``, and return another one in its place."""
        store.close()
        return self.open(path, clock)

    def crash(self, store: SchedulerPersistence, path: Path) -> Path | None:  # noqa: ARG002
        """Return where ``open`` finds what a crash at this moment would leave of ``store``, which goes on.

        None, as by default, where that can't be shown.
        """
        return None

    @pytest.fixture
    def clock(self) -> ManualClock:
        """Give the clock of the test's stores."""
        return ManualClock()

    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        """Give the place of the test's store."""
        return tmp_path / "store"

    @pytest.fixture
    def store(self, path: Path, clock: ManualClock) -> Iterator[SchedulerPersistence]:
        """Give a new store."""
        with self.open(path, clock) as store:
            yield store

    @pytest.fixture
    def batch(self, store: SchedulerPersistence) -> BatchPersistence:
        """Give the new store again, where it has what ``BatchPersistence`` adds."""
        if not isinstance(store, BatchPersistence):
            pytest.skip("not a BatchPersistence")
        return store
