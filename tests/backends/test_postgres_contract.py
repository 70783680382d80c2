"""``PostgresPersistence`` passes the contract at every durability."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

pytest.register_assert_rewrite("walstore.testing.contract")
pytest.importorskip("psycopg", reason="psycopg is not installed: pip install 'walstore[postgres]'")

from walstore import Durability, SchedulerPersistence  # noqa: E402
from walstore.backends.postgres import PostgresPersistence  # noqa: E402
from walstore.testing.contract import PersistenceContract  # noqa: E402


class InPostgres(PersistenceContract):
    durability: Durability

    @pytest.fixture(autouse=True)
    def connect(self, dsn: str, schema_of: Callable[[Path], str]) -> None:
        """Tell ``open`` where the server is."""
        self.dsn = dsn
        self.schema_of = schema_of

    def open(self, path: Path, clock: Callable[[], int]) -> SchedulerPersistence:
        return PostgresPersistence(self.dsn, schema=self.schema_of(path), durability=self.durability, clock=clock)


class TestBuffered(InPostgres):
    durability = Durability.BUFFERED


class TestProcess(InPostgres):
    durability = Durability.PROCESS


class TestPower(InPostgres):
    durability = Durability.POWER
