"""What the engine is given from outside: the world it runs in, and the meaning of what it stores."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from walstore.fs.api import FileSystem

__all__ = ["Codec", "Environment", "EventT", "Plug", "Reducer", "StateT", "Worker"]

EventT = TypeVar("EventT")
StateT = TypeVar("StateT")
_EventT_contra = TypeVar("_EventT_contra", contravariant=True)


class Worker(Protocol):
    """Another process that does one task. Any thread may call ``kill``."""

    def output(self) -> str:
        """Wait until it has ended, and return what it printed. Raises ``OSError``."""
        ...

    def kill(self) -> None:
        """End it at once. It may have ended."""
        ...

    def close(self) -> None:
        """End it, if it has not ended, and give everything back."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """The world: everything that is not a pure function of what was recorded. A simulation gives its own."""

    fs: FileSystem
    random_bytes: Callable[[int], bytes]
    monotonic_ns: Callable[[], int]
    wall_ns: Callable[[], int]
    """The clock that ``LOCK`` is dated with."""
    holder: Callable[[], dict[str, str | int]]
    """Names this process in ``LOCK``: host and pid."""
    threads: bool = True
    """Whether the engine runs threads of its own. Without, nothing happens but in calls, ``Store.tick`` among them."""
    start_worker: Callable[[str, Mapping[str, str | int]], Worker] | None = None
    """Calls a function ("module:name") with a task in a new process. Raises ``OSError``. None where there is no such
    thing: what would be done there is done here."""

    def nonce(self) -> int:
        """Return a new seed for checksums: 64 random bits."""
        return int.from_bytes(self.random_bytes(8), "big")


class Codec(Protocol[EventT, StateT]):
    """Turns events and states into the payloads of frames and back. Every ``decode`` raises ``ValueError``."""

    id: str
    """At most 8 ASCII characters, in the header of every file."""

    def encode_events(self, events: Sequence[EventT]) -> bytes:
        """Return the payload of one frame with these events (at least one)."""
        ...

    def decode_events(self, payload: bytes) -> Sequence[EventT]:
        """Return the events of a payload."""
        ...

    def decode_many(self, payloads: Sequence[bytes]) -> Sequence[EventT]:
        """Return the events of several payloads, in order."""
        ...

    def count_events(self, payload: bytes) -> int:
        """Return how many events a payload holds. It need not look at more of it than that takes."""
        ...

    def encode_records(self, records: Sequence[tuple[str, StateT]]) -> bytes:
        """Return the payload of one frame with these settled states, which are in the order of their keys."""
        ...

    def decode_records(self, payload: bytes) -> list[tuple[str, StateT]]:
        """Return the states of a payload."""
        ...


class Reducer(Protocol[_EventT_contra, StateT]):
    """What events do to states. Pure: equal inputs give equal outputs, in this process and the next."""

    id: str
    """At most 8 ASCII characters, in the header of every file."""

    def key(self, event: _EventT_contra) -> str:
        """Return the key of the one state that the event is about."""
        ...

    def fold(self, states: dict[str, StateT], events: Iterable[_EventT_contra]) -> None:
        """Apply ``events`` in order to ``states``, which holds at least the states that they are about."""
        ...

    def settled(self, state: StateT) -> StateT:
        """Return a folded state as it is stored and shown."""
        ...


@dataclass(frozen=True, slots=True)
class Plug(Generic[EventT, StateT]):
    """A codec and a reducer that belong together."""

    codec: Codec[EventT, StateT]
    reducer: Reducer[EventT, StateT]
    name: str | None = None
    """Where another process can import this very plug, as "module:attribute". Without it large logs are compacted in a
    thread of this process."""
