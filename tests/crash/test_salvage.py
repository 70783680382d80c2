"""Salvage of a store that is damaged anywhere: every frame that is intact comes out, and every other one is named."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from fuzz.damage import node_of
from fuzz.stores import STORES
from tests.crash.salvaging import Layout, check_salvage
from tests.crash.worlds import DIRECTORY, World, contents
from walstore.options import Durability

_SECTOR_BYTES = 512


def flip_every_bit(world: World) -> Iterator[None]:
    for name, content in contents(world.fs).items():
        data = node_of(world, name).data
        for position in range(len(content)):
            # Where a bit says how long something is, or which version, all eight; elsewhere one is like another.
            for bit in range(8) if position < 256 else (position % 8,):
                data[position] ^= 1 << bit
                yield
                data[position] ^= 1 << bit


def cut_everywhere(world: World) -> Iterator[None]:
    for name, content in contents(world.fs).items():
        node = node_of(world, name)
        for length in range(len(content)):
            node.data = bytearray(content[:length])
            yield
        node.data = bytearray(content)


def zero_each_sector(world: World) -> Iterator[None]:
    for name, content in contents(world.fs).items():
        node = node_of(world, name)
        for size in (_SECTOR_BYTES, 64):
            for start in range(0, len(content), size):
                node.data[start : start + size] = bytes(len(node.data[start : start + size]))
                yield
                node.data = bytearray(content)


def delete_each(world: World) -> Iterator[None]:
    entries = world.fs._directory(DIRECTORY).entries
    for name in list(entries):
        node = entries.pop(name)
        yield
        entries[name] = node


@pytest.mark.parametrize("name", STORES)
@pytest.mark.parametrize("damage", [flip_every_bit, cut_everywhere, zero_each_sector, delete_each])
def test_what_is_intact_comes_out_and_what_is_not_is_named(
    damage: Callable[[World], Iterator[None]], name: str
) -> None:
    original = STORES[name](Durability.PROCESS, 1)
    twin = original.fork(original.fs.clone())
    layout = Layout(contents(twin.fs))
    whole = check_salvage(twin, layout)
    assert whole is not None
    assert whole.gaps == []
    named = 0
    for _ in damage(twin):
        found = check_salvage(twin, layout)
        named += found is not None and found.is_damaged
    assert named
    assert contents(twin.fs) == contents(original.fs)
