"""The handles of the simulated file system: open files, appenders and locks.

Every call raises ``SimCrash`` once the world of its handle has ended, except those that only give a handle back: what
they would do has happened.
"""

from __future__ import annotations

import errno
from collections.abc import Callable

from walstore.fs.api import Appender, File, Lock
from walstore.testing.sim_disk import FileNode
from walstore.testing.sim_world import SimWorld, Step, os_error

__all__ = ["SimAppender", "SimFile", "SimLock"]


def _write(world: SimWorld, path: str, node: FileNode, offset: int, data: bytes) -> None:
    """Write what there is room for, then raise ``ENOSPC`` when that was not all."""
    grows = offset + len(data) - node.size_bytes()
    free = world._free_bytes() if grows > 0 else None
    if free is not None and grows > free:
        node.write(offset, data[: max(0, len(data) - grows + max(0, free))])
        raise os_error(errno.ENOSPC, path)
    node.write(offset, data)


class SimAppender(Appender):
    """Appends to a mapped file. Once the file is closed, every call raises ``ValueError``, as the mapping is gone."""

    one_step = True

    def __init__(self, world: SimWorld, path: str, node: FileNode, start: int, end: int) -> None:
        self._world = world
        self._node = node
        self._position = start
        self._end = end
        self._sealed_at: int | None = None
        self._unmapped = False
        # One tuple for all calls: a trace of millions of appends then costs eight bytes for each.
        self._step: Step = ("append", path)

    def write(self, data: bytes, /) -> None:
        size = len(data)
        world, node = self._world, self._node
        with world._mutex:
            world._begin(self._step)
            while True:
                position = self._position
                end = position + size
                if end > self._end or self._sealed_at is not None or self._unmapped:
                    raise ValueError(f"{size} bytes at {position} do not fit before {self._end}, or sealed or closed")
                if not size:
                    return
                node.remember(position, end)
                # A signal handler of this thread may have appended by now. From here to the return there is no call
                # during which it could run: the append is one step for it too, as it is on a real mapping.
                if position == self._position:
                    node.data[position:end] = data
                    self._position = end
                    return

    def tell(self) -> int:
        with self._world._mutex:
            self._require_mapped()
            return self._position if self._sealed_at is None else self._end

    def seal(self) -> int:
        with self._world._mutex:
            self._require_mapped()
            if self._sealed_at is None:
                self._sealed_at = self._position
            return self._sealed_at

    def _require_mapped(self) -> None:
        self._world._require_alive()
        if self._unmapped:
            raise ValueError("the file of this appender is closed")


class SimFile(File):
    """An open file. It goes on working after its name was renamed, replaced or unlinked."""

    def __init__(self, world: SimWorld, path: str, node: FileNode, *, writable: bool) -> None:
        self._world = world
        self._path = path
        self._node = node
        self._writable = writable
        self._closed = False
        self._appenders: list[SimAppender] = []
        world._handles[self] = path

    def size(self) -> int:
        with self._world._mutex:
            self._world._look(("size", self._path))
            self._require_open()
            return self._node.size_bytes()

    def read(self, offset: int, size: int) -> bytes:
        with self._world._mutex:
            self._world._look(("read", self._path))
            self._require_open()
            if offset < 0 or size < 0:
                raise os_error(errno.EINVAL, self._path)
            return bytes(self._node.data[offset : offset + size])

    def write(self, offset: int, data: bytes) -> None:
        world, node = self._world, self._node

        def write_a_part(_lost: bool) -> None:
            node.write(offset, data[: world._random.randrange(len(data) + 1)])

        with world._mutex:
            self._require_writable(errno.EBADF)
            if offset < 0:
                raise os_error(errno.EINVAL, self._path)
            world._begin(("write", self._path), write_a_part)
            _write(world, self._path, node, offset, data)

    def allocate(self, size: int, *, written: bool = False) -> None:
        del written  # Which makes a difference in time only.
        with self._world._mutex:
            self._require_writable(errno.EBADF)
            if size <= 0:
                raise os_error(errno.EINVAL, self._path)
            self._world._begin(("allocate", self._path))
            grows = size - self._node.size_bytes()
            free = self._world._free_bytes() if grows > 0 else None
            if free is not None and grows > free:
                raise os_error(errno.ENOSPC, self._path)
            if grows > 0:
                self._node.resize(size)

    def truncate(self, size: int) -> None:
        with self._world._mutex:
            self._require_writable(errno.EINVAL)
            if size < 0:
                raise os_error(errno.EINVAL, self._path)
            if any(each._sealed_at is None and each._end > size for each in self._appenders):
                raise ValueError(
                    f"{self._path} was truncated to {size} bytes under an appender that is not sealed: "
                    "on a real disk its next write kills the process; call seal() first"
                )
            self._world._begin(("truncate", self._path))
            self._node.resize(size)

    def sync(self) -> None:
        def lose(lost: bool) -> None:
            if lost:
                self._node.lose()

        with self._world._mutex:
            self._require_open()
            step: Step = ("sync", self._path)
            self._world._begin(step, lose)
            self._node.sync()
            if self._world.after_sync is not None:
                self._world.after_sync(step)

    def appender(self, start: int, end: int) -> Appender:
        with self._world._mutex:
            self._require_writable(errno.EACCES)
            size = self._node.size_bytes()
            if not 0 <= start <= end <= size:
                raise ValueError(
                    f"{self._path} is {size} bytes long: can't append from {start} to {end}; allocate first"
                )
            appender = SimAppender(self._world, self._path, self._node, start, end)
            self._appenders.append(appender)
            return appender

    def close(self) -> None:
        with self._world._mutex:
            self._closed = True
            self._world._handles.pop(self, None)
            for appender in self._appenders:
                appender._unmapped = True

    def _require_open(self) -> None:
        self._world._require_alive()
        if self._closed:
            raise os_error(errno.EBADF, self._path)

    def _require_writable(self, otherwise: int) -> None:
        """Raise EBADF for a closed file, and ``otherwise`` for one that is open for reading only."""
        self._require_open()
        if not self._writable:
            raise os_error(otherwise, self._path)


class SimLock(Lock):
    """A lock within its world; ``locked`` holds a node for each. An abandoned one stays until the world ends."""

    def __init__(
        self,
        world: SimWorld,
        path: str,
        node: FileNode,
        locked: list[FileNode],
        find: Callable[[str], object],
        *,
        writable: bool = True,
    ) -> None:
        self._world = world
        self._path = path
        self._node = node
        self._locked = locked
        self._find = find
        self._writable = writable
        self._closed = False
        world._handles[self] = path

    def read(self) -> bytes:
        with self._world._mutex:
            self._world._look(("lock_read", self._path))
            self._require_open()
            return bytes(self._node.data)

    def write(self, data: bytes) -> None:
        with self._world._mutex:
            self._require_open()
            if not self._writable:
                raise os_error(errno.EBADF, self._path)
            self._world._begin(("lock_write", self._path))
            _write(self._world, self._path, self._node, 0, data)
            self._node.resize(len(data))
            self._node.sync()

    def is_at(self, path: str) -> bool:
        with self._world._mutex:
            self._require_open()
            return self._find(path) is self._node

    def release(self) -> None:
        with self._world._mutex:
            if not self._closed:
                self._close()
                self._locked.remove(self._node)

    def abandon(self) -> None:
        with self._world._mutex:
            self._close()

    def _close(self) -> None:
        self._closed = True
        self._world._handles.pop(self, None)

    def _require_open(self) -> None:
        self._world._require_alive()
        if self._closed:
            raise os_error(errno.EBADF, self._path)
