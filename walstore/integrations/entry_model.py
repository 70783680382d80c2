"""Entries: what a foreign scheduler keeps of each of its jobs, as the engine takes it: events, codec and reducer.

An entry is a blob, which only the scheduler can read, with what has to be known without reading it: when the next run
is due, and which runs have begun and not ended. Instants are microseconds since 1970 in UTC: what ``datetime``
resolves, and, in 64 bits, all of its range.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from reprlib import repr as short
from typing import Literal, cast

import msgpack

from walstore.format.rows import unpack_rows

__all__ = [
    "BLOB_BYTES_MAX",
    "DROPPED",
    "FINISHED",
    "KEY_BYTES_MAX",
    "PUT",
    "REMOVED",
    "RUNS_MAX",
    "STARTED",
    "Entry",
    "EntryCodec",
    "EntryEvent",
    "EntryReducer",
    "EntryState",
    "Run",
    "check_key",
    "check_number",
    "datetime_of_us",
    "entry_of",
    "put_event",
    "us_of",
]

KEY_BYTES_MAX = 1024
"""The longest key, in bytes of UTF-8."""
BLOB_BYTES_MAX = 1024 * 1024
RUNS_MAX = 1024
"""As many runs of one entry are kept apart; of more, the oldest are forgotten."""
_FAILURES_MAX = 2**32 - 1
_INSTANT_MAX = 2**63
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

PUT: Literal[1] = 1
STARTED: Literal[2] = 2
FINISHED: Literal[3] = 3
DROPPED: Literal[4] = 4
REMOVED: Literal[5] = 5

EntryEvent = (
    tuple[Literal[1], str, int | None, bytes]
    | tuple[Literal[2], str, int, int]
    | tuple[Literal[3], str, int, int, bool]
    | tuple[Literal[4], str, int]
    | tuple[Literal[5], str]
)
"""An event: its kind, the key, and of ``PUT`` when the next run is due, and the blob; of the runs which one it is (by
the instant for which it was planned, or any number), when it began or ended, and whether it succeeded. One that was
``DROPPED`` was started and then not made after all."""

EntryState = tuple[bool, bytes, int | None, int | None, int | None, int, tuple[int, ...]]
"""Whether the entry is there (or gone, with runs that have not ended), its blob, when the next run is due, when the
last run that ended had begun and when it ended, how many failed in a row, and the runs that go on: of each its number
and when it began, one after the other."""

_ARITY = {PUT: 4, STARTED: 4, FINISHED: 5, DROPPED: 3, REMOVED: 2}
_CELLS_MAX = 2 * RUNS_MAX


@dataclass(frozen=True, slots=True)
class Run:
    """A run that has begun. ``number`` is the instant for which it was planned, or what the scheduler says."""

    number: int
    started_us: int


@dataclass(frozen=True, slots=True)
class Entry:
    """What is known of one job of a foreign scheduler. Instants are in microseconds since 1970."""

    key: str
    is_present: bool
    """False: it was removed while it ran, and a run has not ended yet. Not to be scheduled."""
    blob: bytes
    next_run_us: int | None
    last_started_us: int | None
    """When the last run began that has ended."""
    last_finished_us: int | None
    consecutive_failures: int
    runs: tuple[Run, ...]
    """The runs that have begun and not ended, in the order in which they began."""


def entry_of(key: str, state: EntryState) -> Entry:
    """Return the entry of a state."""
    runs = tuple(Run(number, started_us) for number, started_us in zip(state[6][::2], state[6][1::2], strict=True))
    return Entry(key, *state[:6], runs)


def us_of(instant: datetime) -> int:
    """Return the microseconds since 1970 of an aware datetime, exactly."""
    return (instant - _EPOCH) // _MICROSECOND


def datetime_of_us(instant_us: int) -> datetime:
    """Return the datetime, in UTC, of microseconds since 1970. Raises ``OverflowError`` outside the years 1 to 9999."""
    return _EPOCH + timedelta(microseconds=instant_us)


def check_key(key: object) -> str:
    """Return a key that can be stored. Raises ``TypeError`` or ``ValueError`` for any other."""
    if not isinstance(key, str):
        raise TypeError(f"the key of an entry must be a string, not {key!r}")
    if not 0 < len(key.encode()) <= KEY_BYTES_MAX:
        raise ValueError(f"the key of an entry must have 1 to {KEY_BYTES_MAX} bytes of UTF-8: {short(key)}")
    return key


def check_number(number: int) -> int:
    """Return a number that can be stored. Raises ``TypeError`` or ``ValueError`` for any other."""
    if type(number) is not int:
        raise TypeError(f"an instant or the number of a run must be an integer, not {number!r}")
    if not -(2**63) <= number < 2**63:
        raise ValueError(f"an instant or the number of a run must fit 64 bits: {number}")
    return number


def put_event(key: str, blob: bytes, next_run_us: int | None) -> EntryEvent:
    """Return the event that puts an entry. Raises ``TypeError`` or ``ValueError`` for one that can't be stored."""
    if not isinstance(blob, bytes):
        raise TypeError(f"the blob of an entry must be bytes, not {type(blob).__name__}")
    if len(blob) > BLOB_BYTES_MAX:
        raise ValueError(
            f"the entry {key!r} takes {len(blob)} bytes, and one may take {BLOB_BYTES_MAX}: keep large data elsewhere, "
            "and a reference to it in the job"
        )
    return PUT, check_key(key), None if next_run_us is None else check_number(next_run_us), blob


class EntryCodec:
    """The codec of entries. ``id`` names the scheduler whose blobs they are, so that no other one opens the store."""

    def __init__(self, id: str) -> None:
        self.id = id

    def encode_events(self, events: Sequence[EntryEvent]) -> bytes:
        """Return the payload of one frame with these events."""
        return msgpack.packb(events)

    def decode_events(self, payload: bytes) -> Sequence[EntryEvent]:
        """Return the events of a payload, checked. Raises ``ValueError``."""
        events = list(unpack_rows(payload, _CELLS_MAX))
        for event in events:
            _check_event(event)
        return cast("Sequence[EntryEvent]", events)

    def decode_many(self, payloads: Sequence[bytes]) -> Sequence[EntryEvent]:
        """Return the events of several payloads, checked."""
        return [event for payload in payloads for event in self.decode_events(payload)]

    def count_events(self, payload: bytes) -> int:
        """Return how many events a payload holds. Raises ``ValueError``."""
        return len(self.decode_events(payload))

    def encode_records(self, records: Sequence[tuple[str, EntryState]]) -> bytes:
        """Return the payload of one frame with these entries."""
        return msgpack.packb([(key, *state) for key, state in records])

    def decode_records(self, payload: bytes) -> list[tuple[str, EntryState]]:
        """Return the entries of a payload, checked. Raises ``ValueError``."""
        records: list[tuple[str, EntryState]] = []
        for record in unpack_rows(payload, _CELLS_MAX):
            if not isinstance(record, tuple) or len(record) != 8:
                raise ValueError(f"not an entry that this release knows: {short(record)}")
            _check_stored_key(record[0])
            _check_state(record[1:])
            records.append((record[0], cast("EntryState", record[1:])))
        return records


class EntryReducer:
    """The reducer of entries."""

    id = "entry/1"

    def key(self, event: EntryEvent) -> str:
        """Return the key that the event is about."""
        return event[1]

    def fold(self, states: dict[str, EntryState], events: Iterable[EntryEvent]) -> None:
        """Apply ``events`` in order to ``states``."""
        for event in events:
            key = event[1]
            state = _after(states.get(key), event)
            if state is None:
                states.pop(key, None)
            else:
                states[key] = state

    def settled(self, state: EntryState) -> EntryState:
        """Return the state as it is stored: nothing is put off."""
        return state


def _after(state: EntryState | None, event: EntryEvent) -> EntryState | None:
    """Return the state after an event; None: nothing is left to know."""
    if event[0] == PUT:
        past = state[3:] if state is not None else (None, None, 0, ())
        return True, event[3], event[2], *past
    if event[0] == STARTED:
        if state is None:
            state = False, b"", None, None, None, 0, ()
        return *state[:6], (*state[6], event[2], event[3])[-2 * RUNS_MAX :]
    if state is None:
        # A run that ends after its entry was removed must not bring it back.
        return None
    present, blob, next_run_us, started_us, finished_us, failures, runs = state
    if event[0] == REMOVED:
        present, next_run_us = False, None
    elif event[0] == FINISHED:
        runs, began_us = _without(runs, event[2])
        started_us = began_us if began_us is not None else started_us
        finished_us = event[3]
        failures = 0 if event[4] else min(failures + 1, _FAILURES_MAX)
    elif event[0] == DROPPED:
        runs, _ = _without(runs, event[2])
    else:
        raise ValueError(f"not an event that this release knows: {event!r}")
    if not present and not runs:
        return None
    return present, blob, next_run_us, started_us, finished_us, failures, runs


def _without(runs: tuple[int, ...], number: int) -> tuple[tuple[int, ...], int | None]:
    """Return the runs without the one of this number, and when it began; unchanged where there is none."""
    for place in range(0, len(runs), 2):
        if runs[place] == number:
            return runs[:place] + runs[place + 2 :], runs[place + 1]
    return runs, None


def _check_event(event: object) -> None:
    if not isinstance(event, tuple) or not event:
        raise ValueError(f"not an event: {short(event)}")
    kind = event[0]
    if type(kind) is not int or len(event) != _ARITY.get(kind):
        raise ValueError(f"not an event that this release knows: {short(event)}")
    _check_stored_key(event[1])
    if kind == PUT:
        _check_instants(event[2:3])
        _check_blob(event[3])
    elif kind == FINISHED:
        _check_numbers(event[2:4])
        if type(event[4]) is not bool:
            raise ValueError(f"not an outcome: {short(event[4])}")
    else:
        _check_numbers(event[2:])


def _check_state(state: tuple[object, ...]) -> None:
    present, blob, *instants, failures, runs = state
    if type(present) is not bool:
        raise ValueError(f"not a state that this release knows: {short(state)}")
    _check_blob(blob)
    _check_instants(instants)
    if type(failures) is not int or not 0 <= failures <= _FAILURES_MAX:
        raise ValueError(f"not a count of failures: {short(failures)}")
    if not isinstance(runs, tuple) or len(runs) % 2:
        raise ValueError(f"not the runs of an entry: {short(runs)}")
    _check_numbers(runs)


def _check_stored_key(key: object) -> None:
    if type(key) is not str or not 0 < len(key) <= KEY_BYTES_MAX:
        raise ValueError(f"not the key of an entry: {short(key)}")


def _check_blob(blob: object) -> None:
    if type(blob) is not bytes or len(blob) > BLOB_BYTES_MAX:
        raise ValueError(f"not the blob of an entry: {short(blob)}")


def _check_instants(instants: Sequence[object]) -> None:
    _check_numbers([instant for instant in instants if instant is not None])


def _check_numbers(numbers: Sequence[object]) -> None:
    for number in numbers:
        if type(number) is not int or not -_INSTANT_MAX <= number < _INSTANT_MAX:
            raise ValueError(f"not a number of 64 bits: {short(number)}")
