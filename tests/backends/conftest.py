"""One PostgreSQL for all tests of a process: started here, or the one that ``WALSTORE_TEST_DSN`` names."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fuzz.postgres_server import MissingError, PostgresServer, running_server

DSN_VARIABLE = "WALSTORE_TEST_DSN"


@pytest.fixture(scope="session")
def own_server() -> Iterator[PostgresServer]:
    """A server that a test may kill, and has to start again."""
    pytest.importorskip("psycopg", reason="psycopg is not installed: pip install 'walstore[postgres]'")
    try:
        with running_server() as server:
            yield server
    except MissingError as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="session")
def dsn(request: pytest.FixtureRequest) -> str:
    """A database for tests."""
    named = os.environ.get(DSN_VARIABLE)
    if named:
        pytest.importorskip("psycopg", reason="psycopg is not installed: pip install 'walstore[postgres]'")
        return named
    server: PostgresServer = request.getfixturevalue("own_server")
    return server.dsn


@pytest.fixture(scope="session")
def schema_of(dsn: str) -> Iterator[Callable[[Path], str]]:
    """Names the schema that stands for a path; all of them are gone in the end."""
    import psycopg  # noqa: PLC0415  # Without it, what asks for this is skipped.

    names: set[str] = set()

    def name_of(path: Path) -> str:
        name = f"walstore_test_{os.getpid()}_{zlib.crc32(str(path).encode()):08x}"
        names.add(name)
        return name

    yield name_of
    if os.environ.get(DSN_VARIABLE):
        with psycopg.connect(dsn, autocommit=True) as connection:
            for name in names:
                connection.execute(f"DROP SCHEMA IF EXISTS {name} CASCADE".encode())


@pytest.fixture
def schema(schema_of: Callable[[Path], str], tmp_path: Path) -> str:
    """The schema of this test."""
    return schema_of(tmp_path)
