"""Switches simulated machines off when the test that made them has ended."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.scheduler.machine import Machine


@pytest.fixture(autouse=True)
def _switched_off() -> Iterator[None]:
    yield
    while Machine.running:
        Machine.running.pop().world.drop()
