"""The tree of exceptions, and that each message says what happened, where, and what to do."""

from __future__ import annotations

import errno
import inspect
import re

import pytest

import walstore
from walstore import errors
from walstore.errors import CorruptionError, SchedulerPersistenceError, StorageError, StorageFullError, storage_error

CLASSES = {
    name: cls for name, cls in vars(errors).items() if inspect.isclass(cls) and cls.__module__ == errors.__name__
}


def drawn() -> dict[str, str | None]:
    """Every class in the docstring's drawing, with the one that it hangs from."""
    assert errors.__doc__
    parents: dict[str, str | None] = {}
    path: list[tuple[int, str]] = []
    for line in errors.__doc__.splitlines():
        match = re.match(r"( {4}[│├└─ ]*)(\w+Error) {2,}\S", line)
        if match is None:
            continue
        depth, name = len(match[1]), match[2]
        path = [(column, parent) for column, parent in path if column < depth]
        parents[name] = path[-1][1] if path else None
        path.append((depth, name))
    return parents


def test_the_drawn_tree_is_the_real_one() -> None:
    real: dict[str, str | None] = {name: cls.__bases__[0].__name__ for name, cls in CLASSES.items()}
    real["SchedulerPersistenceError"] = None
    assert drawn() == real
    assert len(real) >= 12


def test_the_tree_has_one_root() -> None:
    assert SchedulerPersistenceError.__bases__ == (Exception,)
    assert all(issubclass(cls, SchedulerPersistenceError) for cls in CLASSES.values())
    assert walstore.SchedulerPersistenceError is SchedulerPersistenceError
    # What is wrong with an argument, or with the operating system, is told apart by its class.
    assert not any(issubclass(cls, (TypeError, ValueError, OSError)) for cls in CLASSES.values())


def test_all_of_them_are_public() -> None:
    assert set(CLASSES) <= set(errors.__all__)


@pytest.mark.parametrize(
    ("offset", "lsn", "place"),
    [
        (None, None, "/s/log.wal."),
        (104, None, "/s/log.wal, offset 104."),
        (104, 2_000, "/s/log.wal, offset 104 (LSN 2000)."),
    ],
)
def test_corruption_says_what_where_and_what_to_do(offset: int | None, lsn: int | None, place: str) -> None:
    error = CorruptionError("the frame does not verify", path="/s/log.wal", offset=offset, lsn=lsn)
    message = str(error)
    assert message.startswith(f"the frame does not verify: {place}")
    assert "was not changed" in message
    assert "Copy the whole directory" in message
    assert "lies about flushes" in message
    assert (error.path, error.offset, error.lsn) == ("/s/log.wal", offset, lsn)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_told_apart(code: int) -> None:
    error = storage_error(OSError(code, "No room"), "writing to /s/log.wal")
    assert type(error) is StorageFullError
    assert error.errno == code
    message = str(error)
    assert "while writing to /s/log.wal" in message
    assert "No room" in message
    assert "did not go through" in message
    assert "what was recorded before it is kept" in message
    assert "free some space" in message


@pytest.mark.parametrize("code", [errno.EIO, errno.EACCES, errno.EROFS, errno.EMFILE])
def test_other_refusals_of_the_system_keep_their_number(code: int) -> None:
    error = storage_error(OSError(code, "Refused"), "opening /s")
    assert type(error) is StorageError
    assert error.errno == code
    assert str(error).startswith("Refused while opening /s.")
    assert "try again" in str(error)


@pytest.mark.parametrize("code", [errno.EACCES, errno.EPERM, errno.EROFS])
@pytest.mark.parametrize(("doing", "hints"), [("opening the store /s", True), ("reading the store /s", False)])
def test_whoever_may_not_write_is_told_how_to_read(code: int, doing: str, hints: bool) -> None:
    assert ("read_only=True" in str(storage_error(OSError(code, "Refused"), doing))) is hints


def test_an_error_without_a_number_keeps_its_text() -> None:
    error = storage_error(OSError("odd"), "reading /s")
    assert error.errno is None
    assert str(error).startswith("odd while reading /s.")


def test_a_storage_error_may_have_no_number() -> None:
    assert StorageError("changed too often").errno is None
