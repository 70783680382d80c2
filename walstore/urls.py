"""Opening a persistence by its URL, whichever it is.

The backends are outside: they are found by name when they are asked for, so that nothing here depends on one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib import import_module
from typing import Final, Protocol, cast

from walstore.errors import SchedulerPersistenceError
from walstore.options import Durability
from walstore.persistence import MemoryPersistence, SchedulerPersistence
from walstore.wal import WalPersistence

__all__ = ["open_persistence"]


class _Opener(Protocol):
    def __call__(
        self, place: str, *, durability: Durability, create: bool, read_only: bool, clock: Callable[[], int]
    ) -> SchedulerPersistence: ...


_BACKENDS: Final = {
    "postgresql": ("walstore.backends.postgres", "PostgresPersistence", "postgres"),
    "postgres": ("walstore.backends.postgres", "PostgresPersistence", "postgres"),
    "unidb": ("walstore.backends.system_label_unidb", "open_unidb", "unidb"),
}
"""For each scheme of a backend: its module, what opens it there, and the extra that it needs."""
_KNOWN: Final = "wal:PATH, memory:, postgresql://HOST/DATABASE or unidb:PATH"


def open_persistence(
    url: str,
    *,
    durability: Durability = Durability.PROCESS,
    create: bool = True,
    read_only: bool = False,
    clock: Callable[[], int] = time.time_ns,
) -> SchedulerPersistence:
    """Open what ``url`` names: ``wal:PATH``, ``memory:``, ``postgresql://...`` or ``unidb:PATH``.

    A path is what follows the colon, as it is. ``postgresql:`` (or ``postgres:``) takes any URL that libpq takes. The
    keywords are those of ``WalPersistence``, and each backend says what it makes of them; ``memory:`` keeps nothing,
    and ignores them.

    Raises ``ValueError`` for a URL that names none of these, ``SchedulerPersistenceError`` where the extra that it
    needs is not installed, and what opening it raises.
    """
    if not isinstance(url, str):
        raise TypeError(f"a URL must be a str, not {url!r}")
    scheme, colon, path = url.partition(":")
    if not colon:
        raise ValueError(f"{url!r} has no scheme: write {_KNOWN}")
    if scheme == "memory":
        if path:
            raise ValueError(f"memory: names no place, so nothing may follow it: {url!r}")
        return MemoryPersistence()
    if scheme != "wal" and scheme not in _BACKENDS:
        raise ValueError(f"the scheme {scheme!r} is not known: write {_KNOWN}")
    if not path:
        raise ValueError(f"{url!r} names no place: write {_KNOWN}")
    if scheme == "wal":
        return WalPersistence(path, durability=durability, create=create, read_only=read_only, clock=clock)
    place = path if scheme == "unidb" else url
    return _opener(scheme)(place, durability=durability, create=create, read_only=read_only, clock=clock)


def _opener(scheme: str) -> _Opener:
    module, name, extra = _BACKENDS[scheme]
    try:
        return cast("_Opener", getattr(import_module(module), name))
    except ImportError as missing:
        raise SchedulerPersistenceError(
            f"{scheme}: can't be opened here ({missing}): pip install 'walstore[{extra}]'"
        ) from missing
