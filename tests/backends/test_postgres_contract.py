"""``PostgresPersistence`` passes the contract at every durability."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

pytest.register_assert_rewrite("walstore.testing.contract")
psycopg = pytest.importorskip("psycopg", reason="psycopg is not installed: pip install 'walstore[postgres]'")

from walstore import Durability, SchedulerPersistence  # noqa: E402
from walstore.backends.postgres import PostgresPersistence  # noqa: E402
from walstore.testing.contract import PersistenceContract  # noqa: E402
from walstore.testing.model import TABLE, WRONG, ManualClock  # noqa: E402

TABLES = ("store", "jobs", "history")


class InPostgres(PersistenceContract):
    durability: Durability
    examples = 8

    @pytest.fixture(autouse=True)
    def connect(self, dsn: str, schema_of: Callable[[Path], str]) -> None:
        """Tell ``open`` where the server is."""
        self.dsn = dsn
        self.schema_of = schema_of

    def open(self, path: Path, clock: Callable[[], int]) -> SchedulerPersistence:
        return PostgresPersistence(self.dsn, schema=self.schema_of(path), durability=self.durability, clock=clock)

    def crash(self, store: SchedulerPersistence, path: Path) -> Path:  # noqa: ARG002
        """What the server has at this moment is what the death of the process leaves."""
        crashed = path.with_name(f"{path.name}-crashed")
        old, new = self.schema_of(path), self.schema_of(crashed)
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            connection.execute(f"DROP SCHEMA IF EXISTS {new} CASCADE".encode())
            connection.execute(b"BEGIN ISOLATION LEVEL REPEATABLE READ")
            connection.execute(f"CREATE SCHEMA {new}".encode())
            for table in TABLES:
                connection.execute(f"CREATE TABLE {new}.{table} (LIKE {old}.{table} INCLUDING ALL)".encode())
                connection.execute(f"INSERT INTO {new}.{table} SELECT * FROM {old}.{table}".encode())
            connection.execute(b"COMMIT")
        return crashed


class TestProcess(InPostgres):
    durability = Durability.PROCESS

    # Opening takes a connection, and founding takes tables: here there are fewer of both.

    @pytest.mark.parametrize("steps", ["straight"])
    @pytest.mark.parametrize("row", TABLE)
    def test_table(self, path: Path, clock: ManualClock, row: str, steps: str) -> None:
        super().test_table(path, clock, row, steps)

    def test_wrong_arguments(self, store: SchedulerPersistence, clock: ManualClock) -> None:  # type: ignore[override]
        for wrong in WRONG:
            super().test_wrong_arguments(store, clock, wrong)


class AtAnotherLevel(InPostgres):
    """What does not depend on the level is not tested once more: each of these tests makes tables of its own."""

    jobs_many = 2_000
    test_table = None  # type: ignore[assignment]  # As said above.
    test_wrong_arguments = None  # type: ignore[assignment]  # As said above.


class TestBuffered(AtAnotherLevel):
    durability = Durability.BUFFERED


class TestPower(AtAnotherLevel):
    durability = Durability.POWER
