"""New stores of entries: of what another kind of store held, and of what still verifies in a damaged one."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from walstore.engine.environment import Environment, Plug
from walstore.engine.founding import found_store
from walstore.engine.salvage import Salvaged, salvage
from walstore.errors import storage_errors
from walstore.integrations.entry_model import EntryCodec, EntryEvent, EntryReducer, EntryState, put_event
from walstore.options import WalOptions
from walstore.wal import os_environment

__all__ = ["found_entry_store", "salvage_entry_store"]


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
    plug = _plug(kind)
    states: dict[str, EntryState] = {}
    for entry in entries:
        event = put_event(*entry)
        if event[1] in states:
            raise ValueError(f"the entry {event[1]!r} is there twice: nothing was imported")
        plug.reducer.fold(states, [event])
    found_store(environment, directory, plug, sorted(states.items()), WalOptions().segment_bytes_min)
    return len(states)


def salvage_entry_store(
    source: str | Path, target: str | Path, *, kind: str, environment: Environment | None = None
) -> Salvaged[EntryState]:
    """Make a new store at ``target`` of all that still verifies at ``source``, which is not changed.

    For a store that is refused as damaged. What is returned names every gap: an entry may be missing, or be in an older
    state, if its last event was lost. Raises ``CorruptionError`` where nothing verifies, and what keeps a file from
    being read or written. ``target`` must be empty or not be there.
    """
    with storage_errors(f"finding {source} and {target}"):
        # Through links, since the new store must not come to lie in the old one.
        paths = str(Path(source).resolve()), str(Path(target).resolve())
    environment = environment if environment is not None else os_environment()
    return salvage(environment, *paths, _plug(kind), WalOptions().segment_bytes_min)


def _plug(kind: str) -> Plug[EntryEvent, EntryState]:
    return Plug(EntryCodec(kind), EntryReducer())
