"""Every state in which a power loss may leave a simulated disk, one after the other instead of one drawn at random.

Exhaustive at the granularity of sectors: each sector has any content that it had since the file's last sync, each file
any length, and each subset of the changes of names happened in which those of the same name keep their order. Beside
these, torn sectors: one at a time, cut at the places that matter to a frame, while the other sectors of its file, and
the other files, are all lost or all kept. Where what the sectors of a file, or the files of a disk, may hold has more
than ``STATES_MAX`` combinations, only those are listed that deviate in at most two of them from "nothing was lost" or
from "all was lost", and the listing says so.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations, product
from math import prod
from typing import Final, TypeVar

from xxhash import xxh3_128_digest

from walstore.format.filenames import is_temporary
from walstore.format.layout import ALIGNMENT_BYTES, FRAME_HEADER_BYTES, FRAME_MAGIC
from walstore.testing.sim_disk import SECTOR_BYTES, DirectoryNode, FileNode, _apply

__all__ = ["STATES_MAX", "Content", "Disk", "DiskStates", "disk_of", "power_losses", "tree_of"]

T = TypeVar("T")
STATES_MAX: Final = 4096
_MAGIC_OFFSET: Final = 12


@dataclass(frozen=True, slots=True)
class Content:
    """What a file holds, or None for a directory. ``digest`` stands for it in the key of a disk."""

    data: bytes | None
    digest: bytes


Disk = dict[str, Content]
"""What each path of a disk leads to, directories before what is in them."""

_DIRECTORY: Final = Content(None, b"a directory".ljust(16))


@dataclass(slots=True)
class _Choices:
    """What one file may hold: whole sectors in every combination (all lost first, all kept last), and torn ones."""

    whole: list[Content]
    torn: list[Content]
    bounded: bool = False


@dataclass(slots=True)
class DiskStates:
    """The states of one moment: for each choice of names, what each file may hold."""

    layouts: list[dict[str, _Choices]]
    bounded: bool = False
    """Whether anything had to be left out, set by ``__iter__``."""

    def __iter__(self) -> Iterator[tuple[bytes, Disk]]:
        """Yield each state with a key that is the same for the same content; states may repeat."""
        for layout in self.layouts:
            for state in self._of(layout):
                parts = [name.encode() + b"\0" + content.digest for name, content in state.items()]
                yield xxh3_128_digest(b"".join(parts)), state

    def _of(self, layout: dict[str, _Choices]) -> Iterator[Disk]:
        whole = [choices.whole for choices in layout.values()]
        self.bounded = self.bounded or _is_bounded(whole) or any(choices.bounded for choices in layout.values())
        for contents in _selections(whole):
            yield dict(zip(layout, contents, strict=True))
        for end in (0, -1):
            base = {name: choices.whole[end] for name, choices in layout.items()}
            for name, choices in layout.items():
                for content in choices.torn:
                    yield {**base, name: content}


def _is_bounded(options: list[list[T]]) -> bool:
    return prod(map(len, options)) > STATES_MAX


def _selections(options: list[list[T]]) -> Iterator[tuple[T, ...]]:
    """Yield one of each, in all combinations, or in those that are told in the docstring of this module."""
    if not _is_bounded(options):
        yield from product(*options)
        return
    for one, other in combinations(range(len(options)), 2):
        for end in (0, -1):
            yield from product(
                *(choices if number in {one, other} else [choices[end]] for number, choices in enumerate(options))
            )


def power_losses(root: DirectoryNode) -> DiskStates:
    """Return what a power loss may leave of a disk at this moment."""
    memory: dict[int, _Choices] = {}
    return DiskStates(list(_layouts(root, "", memory)))


def _layouts(node: DirectoryNode, path: str, memory: dict[int, _Choices]) -> Iterator[dict[str, _Choices]]:
    for entries in _survivors(node):
        below: list[list[dict[str, _Choices]]] = []
        for name, child in sorted(entries.items()):
            child_path = f"{path}/{name}"
            if isinstance(child, FileNode):
                key = id(child) if not is_temporary(name) else -id(child)
                if key not in memory:
                    memory[key] = _contents(child, temporary=is_temporary(name))
                below.append([{child_path: memory[key]}])
            else:
                own = {child_path: _Choices([_DIRECTORY], [])}
                below.append([{**own, **layout} for layout in _layouts(child, child_path, memory)])
        for parts in product(*below):
            yield {name: choices for part in parts for name, choices in part.items()}


def _survivors(node: DirectoryNode) -> list[dict[str, FileNode | DirectoryNode]]:
    """Return what the names may lead to. A change happens only where all earlier ones of its names did."""
    states: list[tuple[dict[str, FileNode | DirectoryNode], frozenset[str]]] = [(dict(node.durable), frozenset())]
    for change in node.pending:
        following = []
        for entries, undone in states:
            if undone.isdisjoint(change):
                changed = dict(entries)
                _apply(change, changed)
                following.append((changed, undone))
            following.append((entries, undone | change.keys()))
        states = following
    distinct = {tuple(sorted((name, id(child)) for name, child in entries.items())): entries for entries, _ in states}
    return list(distinct.values())


def _contents(node: FileNode, *, temporary: bool) -> _Choices:
    size_sectors = -(-max(node.sizes) // SECTOR_BYTES)
    live = bytes(node.data).ljust(size_sectors * SECTOR_BYTES, b"\0")
    cuts = _frame_starts(live)
    kept = [live[start : start + SECTOR_BYTES] for start in range(0, len(live), SECTOR_BYTES)]
    for sector, content in node.lost.items():
        kept[sector] = content
    lost = [node.dirty[sector][0] if sector in node.dirty else content for sector, content in enumerate(kept)]
    sizes = list(dict.fromkeys(node.sizes))
    had = [
        _had(node.dirty[sector], content, cuts, sector) if sector in node.dirty else [content]
        for sector, content in enumerate(kept)
    ]
    ends = [b"".join(lost)[: sizes[0]], b"".join(kept)[: sizes[-1]]]
    if temporary:
        # No recovery opens a file under a temporary name, so the two ends of what it may hold are enough.
        return _Choices([_content(data) for data in dict.fromkeys(ends)], [])
    whole = dict.fromkeys([ends[0], *(b"".join(sectors)[:size] for sectors in _selections(had) for size in sizes)])
    del whole[ends[-1]]
    whole[ends[-1]] = None
    torn: dict[bytes, None] = {}
    for sector in node.dirty:
        for content in _torn(lost[sector], kept[sector], cuts, sector):
            for rest in product(*(_ends(lost[other], kept[other]) for other in range(len(kept)) if other != sector)):
                data = b"".join([*rest[:sector], content, *rest[sector:]])
                torn.update((data[:size], None) for size in sizes)
    only_torn = [_content(data) for data in torn if data not in whole]
    return _Choices([_content(data) for data in whole], only_torn, bounded=_is_bounded(had))


def _ends(lost: bytes, kept: bytes) -> list[bytes]:
    return [lost] if lost == kept else [lost, kept]


def _had(before: list[bytes], kept: bytes, cuts: list[int], sector: int) -> list[bytes]:
    """Return what a sector held since the last sync: what it remembers, and what each appended frame made of it."""
    start = sector * SECTOR_BYTES
    grown = (cut - start for cut in cuts if start < cut < start + SECTOR_BYTES)
    contents = dict.fromkeys([*before, *(kept[:cut] + before[0][cut:] for cut in grown)])
    contents.pop(kept, None)
    return [*contents, kept]


def _torn(lost: bytes, kept: bytes, cuts: list[int], sector: int) -> Iterator[bytes]:
    """Yield mixes of the two ends of a sector, cut where a frame begins and around its header, and at its end."""
    start = sector * SECTOR_BYTES
    places: set[int] = set()
    for cut, following in zip(cuts, [*cuts[1:], start + SECTOR_BYTES][: len(cuts)], strict=True):
        header = (cut, cut + ALIGNMENT_BYTES, cut + FRAME_HEADER_BYTES)
        places.update((*header, following - ALIGNMENT_BYTES, following))
    inside = sorted(place - start for place in places if start < place < start + SECTOR_BYTES)
    for place in inside:
        yield kept[:place] + lost[place:]
        yield lost[:place] + kept[place:]
    for first, last in combinations([cut - start for cut in cuts if start <= cut < start + SECTOR_BYTES], 2):
        yield lost[:first] + kept[first:last] + lost[last:]
        yield kept[:first] + lost[first:last] + kept[last:]


def _frame_starts(data: bytes) -> list[int]:
    """Return where frames may begin: at every aligned place that has the magic of a frame behind it."""
    starts = []
    position = data.find(FRAME_MAGIC)
    while position >= 0:
        if position >= _MAGIC_OFFSET and (position - _MAGIC_OFFSET) % ALIGNMENT_BYTES == 0:
            starts.append(position - _MAGIC_OFFSET)
        position = data.find(FRAME_MAGIC, position + 1)
    return starts


def _content(data: bytes) -> Content:
    return Content(data, xxh3_128_digest(data))


def disk_of(root: DirectoryNode) -> tuple[bytes, Disk]:
    """Return the key and the live content of a disk, which is what the death of a process leaves."""
    state: Disk = {}
    _add_live(root, "", state)
    parts = [name.encode() + b"\0" + content.digest for name, content in state.items()]
    return xxh3_128_digest(b"".join(parts)), state


def _add_live(node: DirectoryNode, path: str, state: Disk) -> None:
    for name, child in sorted(node.entries.items()):
        if isinstance(child, FileNode):
            state[f"{path}/{name}"] = _content(bytes(child.data))
        else:
            state[f"{path}/{name}"] = _DIRECTORY
            _add_live(child, f"{path}/{name}", state)


def tree_of(state: Disk) -> DirectoryNode:
    """Return a disk that holds a state durably."""
    root = DirectoryNode()
    for path, content in state.items():
        *directories, name = path[1:].split("/")
        parent = root
        for directory in directories:
            child = parent.entries[directory]
            assert isinstance(child, DirectoryNode)
            parent = child
        node = DirectoryNode() if content.data is None else FileNode(bytearray(content.data))
        parent.entries[name] = parent.durable[name] = node
    return root
