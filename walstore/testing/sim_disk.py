"""The medium of the simulated file system: what files and directories hold, and what a power loss may leave of them.

Live state and durable state are kept apart. A file remembers, for each sector written since the last sync, every
content that the sector had before; a directory remembers every change since its last sync. Nothing here knows paths,
handles or errors, and nothing here takes a lock: the callers hold the world's.
"""

from __future__ import annotations

import random

__all__ = ["SECTOR_BYTES", "DirectoryNode", "FileNode"]

SECTOR_BYTES = 512

# Out of these is drawn how much of what one file or directory has not synced survives on average: independent even
# draws alone would never show a large file that lost nothing, or everything.
_SHARES = (0.0, 0.1, 0.5, 0.9, 1.0)
_TORN_SHARE = 0.5


class FileNode:
    """The bytes of one file, whatever names lead to it.

    ``data`` is what a read shows. ``dirty`` maps each sector written since the last sync to the contents it had
    before each of those writes, the durable one first. ``lost`` maps each sector that a failed sync marked clean to
    its durable content. ``sizes`` holds the durable length, then each length since.
    """

    __slots__ = ("data", "dirty", "lost", "sizes")

    def __init__(self, data: bytearray | None = None) -> None:
        self.data = bytearray() if data is None else data
        self.dirty: dict[int, list[bytes]] = {}
        self.lost: dict[int, bytes] = {}
        self.sizes = [len(self.data)]

    def size_bytes(self) -> int:
        """Return the live length."""
        return len(self.data)

    def write(self, offset: int, data: bytes) -> None:
        """Write, growing the file where ``data`` goes past its end."""
        if not data:
            return
        end = offset + len(data)
        if end > len(self.data):
            self.resize(end)
        for sector in range(offset // SECTOR_BYTES, (end - 1) // SECTOR_BYTES + 1):
            if sector in self.dirty:
                self.dirty[sector].append(self._sector(sector))
            else:
                self._dirty_first(sector)
        self.data[offset:end] = data

    def remember(self, start: int, end: int) -> None:
        """Note that bytes from ``start`` to ``end``, all within the file, are about to be appended over zeros.

        What a dirty sector held before is not kept: one torn at the right place shows it, and this is the hot path.
        """
        for sector in range(start // SECTOR_BYTES, (end - 1) // SECTOR_BYTES + 1):
            if sector not in self.dirty:
                self._dirty_first(sector)

    def resize(self, size: int) -> None:
        """Set the length: new bytes are zeros, and cut bytes are zeroed first, as a kernel does with a page's rest."""
        if size == len(self.data):
            return
        if size < len(self.data):
            used = max([len(self.data.rstrip(b"\0")), *((sector + 1) * SECTOR_BYTES for sector in self.lost)])
            self.write(size, bytes(max(0, min(used, len(self.data)) - size)))
            del self.data[size:]
        else:
            self.data.extend(bytes(size - len(self.data)))
        self.sizes.append(size)

    def sync(self) -> None:
        """Make the length and all bytes durable, except those that a failed sync lost before."""
        self.dirty.clear()
        self.sizes = [len(self.data)]
        self.lost = {sector: old for sector, old in self.lost.items() if sector * SECTOR_BYTES < len(self.data)}

    def lose(self) -> None:
        """Mark all bytes clean without making them durable; the length stays to be synced."""
        for sector, contents in self.dirty.items():
            self.lost[sector] = contents[0]
        self.dirty.clear()

    def copy(self, copies: dict[object, FileNode | DirectoryNode]) -> FileNode:
        """Return a copy that goes its own way, noted in ``copies``, or the one that is noted there already."""
        known = copies.get(self)
        if isinstance(known, FileNode):
            return known
        twin = copies[self] = FileNode(self.data[:])
        twin.dirty = {sector: contents[:] for sector, contents in self.dirty.items()}
        twin.lost = self.lost.copy()
        twin.sizes = self.sizes[:]
        return twin

    def after_power_loss(self, choice: random.Random) -> FileNode:
        """Return the file as a power loss may leave it; this one is not changed."""
        size = self.sizes[0]
        if len(self.sizes) > 1:
            size = (size, self.sizes[-1], self.sizes[choice.randrange(len(self.sizes))])[choice.randrange(3)]
        sectors = -(-max(self.sizes) // SECTOR_BYTES)
        data = self.data.ljust(sectors * SECTOR_BYTES, b"\0")
        for sector, content in self.lost.items():
            data[sector * SECTOR_BYTES : (sector + 1) * SECTOR_BYTES] = content
        share = _SHARES[choice.randrange(len(_SHARES))] if self.dirty else 0.0
        for sector, contents in self.dirty.items():
            content = self._survivor(sector, contents, share, choice)
            data[sector * SECTOR_BYTES : (sector + 1) * SECTOR_BYTES] = content
        del data[size:]
        return FileNode(data)

    def _survivor(self, sector: int, contents: list[bytes], share: float, choice: random.Random) -> bytes:
        if share in {0.0, 1.0} or choice.random() >= _TORN_SHARE:
            return self._sector(sector) if choice.random() < share else contents[0]
        # A torn sector: a span of one of its contents on another. Bytes on which all agree, such as synced bytes that
        # no write touched, can't change.
        candidates = [*contents, self._sector(sector)]
        under = candidates[choice.randrange(len(candidates))]
        over = candidates[choice.randrange(len(candidates))]
        start, end = sorted((choice.randrange(SECTOR_BYTES + 1), choice.randrange(SECTOR_BYTES + 1)))
        return under[:start] + over[start:end] + under[end:]

    def _sector(self, sector: int) -> bytes:
        """Return the live content, padded with zeros behind the end of the file."""
        return bytes(self.data[sector * SECTOR_BYTES : (sector + 1) * SECTOR_BYTES]).ljust(SECTOR_BYTES, b"\0")

    def _dirty_first(self, sector: int) -> None:
        # A rewritten sector goes to the device whole, so what a failed sync lost in it gets another chance.
        self.dirty[sector] = [self.lost.pop(sector, b"") or self._sector(sector)]


class DirectoryNode:
    """A directory: what its names lead to now, what they durably lead to, and the changes in between.

    A change maps each name it touches to what the name leads to afterwards (None: to nothing), and is atomic: a
    rename is one change of two names.
    """

    __slots__ = ("durable", "entries", "pending")

    def __init__(self, entries: dict[str, FileNode | DirectoryNode] | None = None) -> None:
        self.entries = {} if entries is None else entries
        self.durable = dict(self.entries)
        self.pending: list[dict[str, FileNode | DirectoryNode | None]] = []

    def size_bytes(self) -> int:
        """Return the sum of the live lengths of all files below."""
        return sum(node.size_bytes() for node in self.entries.values())

    def change(self, change: dict[str, FileNode | DirectoryNode | None]) -> None:
        """Make a change that a power loss may undo until the next ``sync``."""
        _apply(change, self.entries)
        self.pending.append(change)

    def sync(self) -> None:
        """Make all changes durable."""
        for change in self.pending:
            _apply(change, self.durable)
        self.pending.clear()

    def copy(self, copies: dict[object, FileNode | DirectoryNode]) -> DirectoryNode:
        """Return a copy of the directory and all below; a file of several names, now or durably, is one there too."""
        known = copies.get(self)
        if isinstance(known, DirectoryNode):
            return known
        twin = copies[self] = DirectoryNode({name: node.copy(copies) for name, node in self.entries.items()})
        twin.durable = {name: node.copy(copies) for name, node in self.durable.items()}
        twin.pending = [
            {name: None if node is None else node.copy(copies) for name, node in change.items()}
            for change in self.pending
        ]
        return twin

    def after_power_loss(self, choice: random.Random) -> DirectoryNode:
        """Return the directory, and all below, as a power loss may leave it; this one is not changed.

        Changes of the same name survive in their order, others independently of each other.
        """
        survivors = dict(self.durable)
        undone: set[str] = set()
        share = _SHARES[choice.randrange(len(_SHARES))] if self.pending else 0.0
        for change in self.pending:
            if undone.isdisjoint(change) and choice.random() < share:
                _apply(change, survivors)
            else:
                undone.update(change)
        return DirectoryNode({name: node.after_power_loss(choice) for name, node in survivors.items()})


def _apply(change: dict[str, FileNode | DirectoryNode | None], entries: dict[str, FileNode | DirectoryNode]) -> None:
    for name, node in change.items():
        if node is None:
            del entries[name]
        else:
            entries[name] = node
