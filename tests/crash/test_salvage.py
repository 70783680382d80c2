"""Salvage of a store that is damaged anywhere: every frame that is intact comes out, and every other one is named."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.crash.salvaging import Layout, check_salvage
from tests.crash.test_damage import _closed, _killed, _node, _powerless, _recovered
from tests.crash.worlds import DIRECTORY, World, contents

WORLDS = {"closed": _closed, "killed": _killed, "powerless": _powerless, "recovered": _recovered}
_SECTOR_BYTES = 512


def flip_every_bit(world: World) -> Iterator[None]:
    for name, content in contents(world.fs).items():
        data = _node(world, name).data
        for position in range(len(content)):
            # Where a bit says how long something is, or which version, all eight; elsewhere one is like another.
            for bit in range(8) if position < 256 else (position % 8,):
                data[position] ^= 1 << bit
                yield
                data[position] ^= 1 << bit


def cut_everywhere(world: World) -> Iterator[None]:
    for name, content in contents(world.fs).items():
        node = _node(world, name)
        for length in range(len(content)):
            node.data = bytearray(content[:length])
            yield
        node.data = bytearray(content)


def zero_each_sector(world: World) -> Iterator[None]:
    for name, content in contents(world.fs).items():
        node = _node(world, name)
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


@pytest.mark.parametrize("world", WORLDS.values(), ids=WORLDS)
@pytest.mark.parametrize("damage", [flip_every_bit, cut_everywhere, zero_each_sector, delete_each])
def test_what_is_intact_comes_out_and_what_is_not_is_named(
    damage: Callable[[World], Iterator[None]], world: Callable[[], World]
) -> None:
    original = world()
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
