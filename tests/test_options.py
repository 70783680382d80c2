"""The options of a store are checked when they are built."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import FrozenInstanceError, fields
from pathlib import Path
from typing import Any

import pytest

from walstore import Durability, WalOptions

NAMES = [field.name for field in fields(WalOptions)]
INTEGERS = [field.name for field in fields(WalOptions) if field.type == "int"]

WRONG_VALUES: list[Any] = [0, -1, float("nan"), float("-inf")]
WRONG_TYPES: list[Any] = [True, False, None, "1", b"1", [1], 1j]


def test_the_defaults_are_those_of_the_documentation() -> None:
    options = WalOptions()
    assert options.sync_interval_ns == 1_000_000_000
    assert options.drain_interval_ns == 5_000_000
    assert options.segment_bytes_max == 16 * 1024 * 1024
    assert options == WalOptions(sync_interval_ns=1_000_000_000)


def test_the_durabilities() -> None:
    assert [level.name for level in Durability] == ["BUFFERED", "PROCESS", "POWER"]


def test_options_are_immutable_and_named() -> None:
    options = WalOptions()
    with pytest.raises(FrozenInstanceError):
        options.buffer_events = 5  # type: ignore[misc]
    with pytest.raises(TypeError):
        WalOptions(5)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        WalOptions(sync_interval_s=1)  # type: ignore[call-arg]
    assert hash(options) == hash(WalOptions())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("wrong", WRONG_VALUES, ids=repr)
def test_values_out_of_range_are_refused(name: str, wrong: float) -> None:
    changed: dict[str, Any] = {name: wrong}
    with pytest.raises((TypeError, ValueError), match=name):
        WalOptions(**changed)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("wrong", WRONG_TYPES, ids=repr)
def test_values_of_another_type_are_refused(name: str, wrong: object) -> None:
    changed: dict[str, Any] = {name: wrong}
    with pytest.raises(TypeError, match=name):
        WalOptions(**changed)


@pytest.mark.parametrize("name", INTEGERS)
def test_sizes_durations_and_counts_are_integers(name: str) -> None:
    changed: dict[str, Any] = {name: float(getattr(WalOptions(), name)) + 0.5}
    with pytest.raises(TypeError, match=name):
        WalOptions(**changed)


def test_the_ratio_may_be_any_number_above_zero() -> None:
    assert WalOptions(compaction_ratio=0.001).compaction_ratio == 0.001
    assert WalOptions(compaction_ratio=2).compaction_ratio == 2


@pytest.mark.parametrize(
    ("minimum", "maximum", "reason"),
    [
        (1023, 4096, "segment_bytes_min must be at least 1024"),
        (4096, 4095, "segment_bytes_max must not be below segment_bytes_min"),
        (4096, 1024**3 + 1, "segment_bytes_max must be at most 1 GiB"),
    ],
)
def test_sizes_of_segments_that_do_not_fit_are_refused(minimum: int, maximum: int, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        WalOptions(segment_bytes_min=minimum, segment_bytes_max=maximum)


@pytest.mark.parametrize(("minimum", "maximum"), [(1024, 1024), (1024, 1024**3), (1024**3, 1024**3)])
def test_sizes_of_segments_at_the_limits(minimum: int, maximum: int) -> None:
    options = WalOptions(segment_bytes_min=minimum, segment_bytes_max=maximum)
    assert (options.segment_bytes_min, options.segment_bytes_max) == (minimum, maximum)


RECORDING = """
import sys
from walstore import Durability, WalOptions, WalPersistence

try:
    options = WalOptions(sync_interval_ns=1, drain_interval_ns=1)
except ValueError:
    sys.exit()
with WalPersistence(sys.argv[1], durability=Durability[sys.argv[2]], options=options) as store:
    for at_ns in range(200):
        store.record_started("a.b", at_ns)
    store.flush_checkpoint(compact=True)
    assert [job.last_started_at_ns for job in store.load_all()] == [199]
"""


@pytest.mark.parametrize("level", ["BUFFERED", "PROCESS"])
def test_the_shortest_intervals_are_refused_or_leave_room_for_calls(tmp_path: Path, level: str) -> None:
    # In a process of its own, since a store whose thread never comes to serve a call can't be closed either.
    command = [sys.executable, "-W", "error", "-c", RECORDING, str(tmp_path / "store"), level]
    subprocess.run(command, check=True, timeout=15)
