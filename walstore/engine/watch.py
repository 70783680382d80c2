"""Watching over open stores: one that is forgotten gets closed, and one in a forked child is made unusable there."""

from __future__ import annotations

import threading
import warnings
import weakref
from typing import Protocol

from walstore.fs.os_process import call_in_forked_child

__all__ = ["Watched", "unwatch", "watch"]


class Watched(Protocol):
    """What is asked of a store, whatever it holds."""

    directory: str

    @property
    def closed(self) -> bool:
        """Whether nothing is left to close."""
        ...

    def is_running_here(self) -> bool:
        """Whether the calling thread is one of the store's own."""
        ...

    def close(self) -> None:
        """Close the store."""
        ...

    def abandon_after_fork(self) -> None:
        """Make this copy of the store unusable."""
        ...


_open_stores: weakref.WeakSet[Watched] = weakref.WeakSet()


def watch(owner: object, store: Watched) -> weakref.finalize[[Watched], object]:
    """Close ``store`` when its ``owner`` is gone, or the interpreter exits, and warn that nobody else did."""
    _open_stores.add(store)
    return weakref.finalize(owner, _close_forgotten, store)


def unwatch(store: Watched, finalizer: weakref.finalize[[Watched], object]) -> None:
    """End the watch over a store that its owner has closed. ``finalizer`` is what ``watch`` returned."""
    finalizer.detach()
    _open_stores.discard(store)


def _close_forgotten(store: Watched) -> None:
    """Close a store whose owner is gone without closing it, or that is open when the interpreter exits."""
    _open_stores.discard(store)
    if store.closed:
        return
    if store.is_running_here():
        # The garbage collector runs in any thread, also in the middle of the work that closing has to wait for.
        threading.Thread(target=_close_forgotten, args=(store,), name="walstore-closer").start()
        return
    try:
        store.close()
    finally:
        # Afterwards: where warnings are errors, this raises.
        warnings.warn(f"the store {store.directory} was never closed", ResourceWarning, stacklevel=2, source=store)


def _abandon_after_fork() -> None:
    for store in list(_open_stores):
        store.abandon_after_fork()
        _open_stores.discard(store)


call_in_forked_child(_abandon_after_fork)
