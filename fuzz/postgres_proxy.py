"""A network between a store and its server that breaks where it is told to, in the middle of a message if need be."""

from __future__ import annotations

import selectors
import shutil
import socket
import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

__all__ = ["CuttingProxy"]

_PORT_NAME: Final = ".s.PGSQL.5432"
_CHUNK_BYTES: Final = 65_536


class CuttingProxy:
    """Listens on a socket of its own and passes on what comes, until the bytes that it was given are used up."""

    def __init__(self, server: Path) -> None:
        self._server = server
        self._root = Path(tempfile.mkdtemp(prefix="walstore-proxy-"))
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self._root / _PORT_NAME))
        self._listener.listen()
        self._lock = threading.Lock()
        self._left_bytes: int | None = None
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()
        self.cuts = 0
        """How often it broke."""
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    @property
    def dsn(self) -> str:
        """How to connect through it."""
        return f"host={self._root} user=postgres dbname=postgres"

    @property
    def is_armed(self) -> bool:
        """Whether it will break, and has not yet."""
        return self._left_bytes is not None

    def cut_after(self, count: int) -> None:
        """Break the connection on which the ``count``-th byte from now passes, in whichever direction, once."""
        with self._lock:
            self._left_bytes = count

    def cut_now(self) -> None:
        """Break all connections."""
        with self._lock:
            pairs = list(self._pairs)
        for pair in pairs:
            _break(pair)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
        self.cut_now()
        shutil.rmtree(self._root)

    def _accept(self) -> None:
        while True:
            try:
                client = self._listener.accept()[0]
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            try:
                server.connect(str(self._server))
            except OSError:
                client.close()
                server.close()
                continue
            with self._lock:
                self._pairs.add((client, server))
            threading.Thread(target=self._pass_on, args=((client, server),), daemon=True).start()

    def _pass_on(self, pair: tuple[socket.socket, socket.socket]) -> None:
        other = {pair[0]: pair[1], pair[1]: pair[0]}
        with selectors.DefaultSelector() as selector, suppress(OSError):
            for end in pair:
                selector.register(end, selectors.EVENT_READ)
            while all(self._move(end, other[end]) for end in _readable(selector)):
                pass
        with self._lock:
            self._pairs.discard(pair)
        _break(pair)
        for end in pair:
            end.close()

    def _move(self, source: socket.socket, target: socket.socket) -> bool:
        """Pass on what has come. False when that was the last."""
        data = source.recv(_CHUNK_BYTES)
        with self._lock:
            ends = self._left_bytes is not None and self._left_bytes < len(data)
            if ends:
                data = data[: self._left_bytes]
                self._left_bytes = None
                self.cuts += 1
            elif self._left_bytes is not None:
                self._left_bytes -= len(data)
        target.sendall(data)
        return bool(data) and not ends


def _readable(selector: selectors.BaseSelector) -> list[socket.socket]:
    return [key.fileobj for key, _ in selector.select() if isinstance(key.fileobj, socket.socket)]


def _break(pair: tuple[socket.socket, socket.socket]) -> None:
    for end in pair:
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
