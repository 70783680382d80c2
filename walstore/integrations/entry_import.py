"""A store of entries that begins with what another store held."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from walstore.engine.environment import Environment, Plug
from walstore.engine.founding import found_store
from walstore.errors import storage_errors
from walstore.integrations.entry_model import EntryCodec, EntryEvent, EntryReducer, EntryState, put_event
from walstore.options import WalOptions
from walstore.wal import os_environment

__all__ = ["found_entry_store"]


def found_entry_store(
    path: str | Path,
    *,
    kind: str,
    entries: Iterable[tuple[str, bytes, int | None]],
    environment: Environment | None = None,
) -> int:
    """Make a store of ``entries`` (key, blob, when the next run is due), whole or not at all; return how many.

    On return it is on the device. ``path`` is a directory that is empty or does not exist yet. Raises ``ValueError``
    or ``TypeError`` for an entry that can't be stored or is there twice, ``StorageError`` when ``path`` holds something
    or can't be written, and what ``entries`` raises.
    """
    environment = environment if environment is not None else os_environment()
    with storage_errors(f"finding the directory that {path} is relative to"):
        directory = str(Path(path).absolute())
    states: dict[str, EntryState] = {}
    reducer = EntryReducer()
    for entry in entries:
        event = put_event(*entry)
        if event[1] in states:
            raise ValueError(f"the entry {event[1]!r} is there twice: nothing was imported")
        reducer.fold(states, [event])
    plug: Plug[EntryEvent, EntryState] = Plug(EntryCodec(kind), reducer)
    found_store(environment, directory, plug, sorted(states.items()), WalOptions().segment_bytes_min)
    return len(states)
