"""A file system in memory that forgets, as a disk does, what was not synced: to test what a crash leaves behind.

Build a ``SimFileSystem``, let the code under test run on it, end its world with ``power_loss`` or ``process_crash``,
and go on in the world that these return::

    fs = SimFileSystem(seed=1)
    fs.crash_after(7)
    try:
        run(fs)
    except SimCrash:
        check(fs.power_loss())

What a power loss leaves is drawn from the seed. Synced bytes, and the names in a synced directory, are there. Of the
rest:

- each sector (512 bytes) written since the file's last sync holds its durable content, or any it had since, or a mix
  of two of them; only bytes that were written over can differ from what was synced, so that zeros come back where
  nothing was ever synced, and nowhere else. Sectors are independent of each other, whatever the order in which they
  were written, and mapped writes are no different from others;
- a file has its durable length, or any it had since. A truncation zeroes what it cuts, and may be seen half done;
- each creation, renaming and removal since the directory's last sync happened or did not, in any order, except that
  those of the same name keep their order. A rename is whole or not at all. Syncing a file does not sync its name.

A process crash loses nothing: what the kernel had is there, and still not synced.
"""

from __future__ import annotations

import errno
import posixpath
import random

from walstore.errors import UnsupportedPlatformError
from walstore.fs.api import File, FileSystem, Lock
from walstore.testing.sim_disk import DirectoryNode, FileNode
from walstore.testing.sim_file import SimFile, SimLock
from walstore.testing.sim_world import Operation, SimCrash, SimWorld, os_error

__all__ = ["Operation", "SimCrash", "SimFileSystem"]

_SMALL_BYTES = 4096


def _normal(path: str) -> str:
    return posixpath.normpath("/" + path.lstrip("/"))


class SimFileSystem(SimWorld, FileSystem):
    """A file system in memory, empty but for its root; relative paths start there. See the module for what it loses.

    The same seed and the same calls, made by one thread, give the same world. Any thread may call everything.
    ``unsupported``, when set, is the reason that ``check`` raises with. Permissions and symbolic links do not exist.
    """

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed)
        self.unsupported: str | None = None
        self._boot_id = self._random.randbytes(16)
        self._locked: list[FileNode] = []
        self._shared: list[FileNode] = []

    def power_loss(self, choice: random.Random | None = None) -> SimFileSystem:
        """End this world and return what the machine finds when the power is back, under a new boot id.

        ``choice`` draws what survives; without it this world's seed does. May be called again, and after
        ``SimCrash``, each time for another outcome of the same moment; to go on in this world, ``clone`` it first.
        Faults that were ordered do not carry over.

        Only two methods of ``choice`` decide what survives, so that a subclass can go through all outcomes:
        ``random``, compared with a chance (0.0 and almost 1.0 are all it need return), and ``randrange``.
        """
        with self._mutex:
            self._end("power loss")
            choice = self._random if choice is None else choice
            return self._successor(self._root.after_power_loss(choice), choice)

    def process_crash(self, choice: random.Random | None = None) -> SimFileSystem:
        """End this world and return the one in which only the process is gone, and its locks with it.

        Nothing is lost, and nothing becomes durable. Faults that were ordered do not carry over. ``choice`` seeds
        what is left to chance in the world returned; without it this world's seed does.
        """
        with self._mutex:
            self._end("process crash")
            return self.clone(choice)

    def clone(self, choice: random.Random | None = None) -> SimFileSystem:
        """Return a copy without open handles, locks and ordered faults; this world goes on.

        ``choice`` seeds what is left to chance in the copy. Without it this world's seed does, so that what is drawn
        here afterwards is something else than it would have been.
        """
        with self._mutex:
            twin = self._successor(self._root.copy({}), self._random if choice is None else choice)
            twin._boot_id = self._boot_id
            return twin

    def check(self, directory: str) -> None:
        with self._mutex:
            self._require_alive()
            if self.unsupported is not None:
                raise UnsupportedPlatformError(f"{directory}: {self.unsupported}")

    def boot_id(self) -> bytes:
        with self._mutex:
            self._require_alive()
            return self._boot_id

    def list_directory(self, directory: str) -> list[str]:
        path = _normal(directory)
        with self._mutex:
            self._look(("list_directory", path))
            return list(self._directory(path).entries)

    def make_directory(self, directory: str) -> None:
        path = _normal(directory)
        with self._mutex:
            self._begin(("make_directory", path))
            self._add(path, DirectoryNode())

    def sync_directory(self, directory: str) -> None:
        path = _normal(directory)
        with self._mutex:
            self._begin(("sync_directory", path))
            self._directory(path).sync()

    def create(self, path: str) -> File:
        path = _normal(path)
        with self._mutex:
            self._begin(("create", path))
            node = FileNode()
            self._add(path, node)
            return SimFile(self, path, node, writable=True)

    def open(self, path: str, *, writable: bool = False) -> File:
        path = _normal(path)
        with self._mutex:
            self._look(("open", path))
            return SimFile(self, path, self._file(path), writable=writable)

    def rename(self, source: str, target: str) -> None:
        source, target = _normal(source), _normal(target)
        if posixpath.dirname(source) != posixpath.dirname(target):
            raise ValueError(f"can't rename {source} to {target}: a file is renamed within its directory")
        with self._mutex:
            self._begin(("rename", f"{source} -> {target}"))
            node = self._file(source)
            parent, name, replaced = self._look_up(target)
            if isinstance(replaced, DirectoryNode):
                raise os_error(errno.EISDIR, target)
            # A file renamed to its own name stays: of equal keys the last one counts.
            parent.change({posixpath.basename(source): None, name: node})

    def unlink(self, path: str) -> None:
        path = _normal(path)
        with self._mutex:
            self._begin(("unlink", path))
            self._file(path)
            parent, name, _ = self._look_up(path)
            parent.change({name: None})

    def lock(self, path: str) -> Lock | None:
        path = _normal(path)
        with self._mutex:
            self._begin(("lock", path))
            if self._look_up(path)[2] is None:
                self._add(path, FileNode())
            node = self._file(path)
            if node in self._locked or node in self._shared:
                return None
            self._locked.append(node)
            return SimLock(self, path, node, self._locked, self._find)

    def lock_shared(self, path: str) -> Lock | None:
        path = _normal(path)
        with self._mutex:
            self._look(("lock_shared", path))
            node = self._file(path)
            if node in self._locked:
                return None
            self._shared.append(node)
            return SimLock(self, path, node, self._shared, self._find, writable=False)

    def read_small(self, path: str) -> bytes:
        path = _normal(path)
        with self._mutex:
            self._look(("read_small", path))
            return bytes(self._file(path).data[:_SMALL_BYTES])

    def _successor(self, root: DirectoryNode, choice: random.Random) -> SimFileSystem:
        successor = SimFileSystem(choice.getrandbits(64))
        successor._root = root
        successor.capacity_bytes = self.capacity_bytes
        successor.unsupported = self.unsupported
        return successor

    def _look_up(self, path: str) -> tuple[DirectoryNode, str, FileNode | DirectoryNode | None]:
        """Return the directory that ``path`` names an entry of, the name, and what it leads to."""
        parent = self._root
        *directories, name = path[1:].split("/")
        for directory in directories:
            node = parent.entries.get(directory)
            if node is None:
                raise os_error(errno.ENOENT, path)
            if isinstance(node, FileNode):
                raise os_error(errno.ENOTDIR, path)
            parent = node
        return parent, name, parent.entries.get(name) if name else parent

    def _directory(self, path: str) -> DirectoryNode:
        node = self._look_up(path)[2]
        if isinstance(node, DirectoryNode):
            return node
        raise os_error(errno.ENOENT if node is None else errno.ENOTDIR, path)

    def _find(self, path: str) -> FileNode | DirectoryNode | None:
        try:
            return self._look_up(_normal(path))[2]
        except FileNotFoundError:
            return None

    def _file(self, path: str) -> FileNode:
        node = self._look_up(path)[2]
        if isinstance(node, FileNode):
            return node
        raise os_error(errno.ENOENT if node is None else errno.EISDIR, path)

    def _add(self, path: str, node: FileNode | DirectoryNode) -> None:
        parent, name, existing = self._look_up(path)
        if existing is not None:
            raise os_error(errno.EEXIST, path)
        free = self._free_bytes()
        if free is not None and free <= 0:
            raise os_error(errno.ENOSPC, path)
        parent.change({name: node})
