"""Events and records to msgpack and back: the codec of jobs, as ``docs/format.md`` specifies it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from itertools import chain
from operator import itemgetter
from reprlib import repr as short
from typing import Any, cast

import msgpack

from walstore.format.rows import ROWS_AT_ONCE_MAX, unpack_all, unpack_row
from walstore.model.events import CANCELLED, FINISHED, RESTORED, SCHEDULED, STARTED, EventForm
from walstore.model.names import INSTANT_MAX_NS, NAME_BYTES_MAX
from walstore.model.records import FAILED_RETRYING, FAILURES_MAX, JobState
from walstore.model.schedule import ScheduleForm, schedule_of

__all__ = ["JobCodec"]

# One packer for all threads takes a third of the time of a new one for each event. Under the GIL a call of it is one
# step; without a GIL it would not be.
_has_gil = getattr(sys, "_is_gil_enabled", lambda: True)()
_pack: Callable[[object], bytes] = msgpack.Packer().pack if _has_gil else msgpack.packb

_SCHEDULE_TYPES = frozenset({(int,), (int, int), (int, str)})
_ARITY = {SCHEDULED: 4, STARTED: 3, FINISHED: 4, CANCELLED: 2, RESTORED: 8}
_CELLS_MAX = max(_ARITY.values())
_RECORD_CELLS = _ARITY[RESTORED] - 1
_ARRAY_UP_TO_15, _ARRAY_16, _ARRAY_32 = 0x90, 0xDC, 0xDD
_ONE_EVENT = frozenset(bytes((_ARRAY_UP_TO_15 + arity, kind)) for kind, arity in _ARITY.items())
"""The first two bytes of a payload that is one event."""
_ONE_EVENT_BEGINS = b"\x7f"
"""What follows the first byte of one event is a small integer; of several, it is an array."""
_COUNT_BYTES = {_ARRAY_16: 2, _ARRAY_32: 4}
_ONE_EVENT_MAX = _ARRAY_UP_TO_15 + _CELLS_MAX
"""The first byte of the longest msgpack array that can be one event. What is longer is an array of events."""

# Ids that were found good when they were read. The bound keeps a store of very many jobs from filling the memory.
_good_ids: set[str] = set()
_GOOD_IDS_MAX = 1 << 14


class JobCodec:
    """The codec of jobs, as the engine takes it. Every ``decode`` raises ``ValueError`` for bytes it did not write."""

    id = "job/1"

    def encode_events(self, events: Sequence[EventForm]) -> bytes:
        """Return the payload of one frame with these events, of which there is at least one."""
        return _pack(events[0] if len(events) == 1 else events)

    def decode_events(self, payload: bytes) -> Sequence[EventForm]:
        """Return the events of a payload, checked."""
        content: object
        if payload and payload[0] > _ONE_EVENT_MAX:
            content = unpack_all(payload, _CELLS_MAX)
        else:
            content = unpack_row(payload, _CELLS_MAX)
            if not isinstance(content, tuple) or not content:
                raise ValueError("the payload holds no events")
            if isinstance(content[0], int):
                content = (content,)
        _check_events(cast("Sequence[object]", content))
        return cast("Sequence[EventForm]", content)

    def decode_many(self, payloads: Sequence[bytes]) -> Sequence[EventForm]:
        """Return the events of several payloads, checked. Payloads of one event are decoded together."""
        events: list[EventForm] = []
        singles: list[bytes] = []
        for payload in payloads:
            if payload[:2] in _ONE_EVENT:
                singles.append(payload)
                if len(singles) < ROWS_AT_ONCE_MAX:
                    continue
                events += self._decode_singles(singles)
                singles.clear()
            else:
                if singles:
                    events += self._decode_singles(singles)
                    singles.clear()
                events += self.decode_events(payload)
        if singles:
            events += self._decode_singles(singles)
        return events

    def _decode_singles(self, payloads: Sequence[bytes]) -> list[EventForm]:
        # One after another they are the elements of an array, for which one call is enough: a third of the time.
        rows = unpack_all(bytes((_ARRAY_16,)) + len(payloads).to_bytes(2, "big") + b"".join(payloads), _CELLS_MAX)
        _check_events(rows)
        return cast("list[EventForm]", list(rows))

    def count_events(self, payload: bytes) -> int:
        """Return how many events a payload holds, from its first bytes; ``decode_events`` checks the others as well."""
        first = payload[0] if payload else 0
        if payload[:2] in _ONE_EVENT:
            return 1
        if first & 0xF0 == _ARRAY_UP_TO_15 and payload[1:2] > _ONE_EVENT_BEGINS:
            return first & 0x0F
        if first in _COUNT_BYTES and len(payload) > _COUNT_BYTES[first]:
            return int.from_bytes(payload[1 : 1 + _COUNT_BYTES[first]], "big")
        return len(self.decode_events(payload))

    def encode_records(self, records: Sequence[tuple[str, JobState]]) -> bytes:
        """Return the payload of one frame with these records; their states must be settled."""
        return _pack([(job, *state) for job, state in records])

    def decode_records(self, payload: bytes) -> list[tuple[str, JobState]]:
        """Return the records of a payload, checked."""
        rows = unpack_all(payload, _CELLS_MAX)
        if not _are_records(rows):
            for row in rows:
                _check_record(row)
        return list(zip(map(_job_of, rows), map(_state_of, rows), strict=True))


_job_of: Callable[[Any], str] = itemgetter(0)
_state_of: Callable[[Any], JobState] = itemgetter(slice(1, None))


def _are_records(rows: Sequence[object]) -> bool:
    """Whether all rows are records for certain. By columns, almost nothing runs in Python: a quarter of the time."""
    if set(map(type, rows)) != {tuple} or set(map(len, cast("Sequence[tuple[object, ...]]", rows))) != {_RECORD_CELLS}:
        return False
    jobs, statuses, *instants, failures, schedules = zip(*cast("Sequence[tuple[Any, ...]]", rows), strict=True)
    if set(map(type, jobs)) != {str} or max(map(len, jobs)) > NAME_BYTES_MAX:
        return False
    if not all([0 < job.rfind(".") < len(job) - 1 for job in jobs]):  # noqa: C419  # A generator takes twice as long.
        return False
    known = [at_ns for column in instants for at_ns in column if at_ns is not None]
    in_range = _are_integers(statuses, FAILED_RETRYING) and _are_integers(failures, FAILURES_MAX)
    if not in_range or not _are_integers(known, INSTANT_MAX_NS) or set(map(type, schedules)) != {tuple}:
        return False
    # Only among integers and strings are equal schedules the same, so that one of each has to be checked.
    if not set(map(type, chain.from_iterable(schedules))) <= {int, str}:
        return False
    for form in set(schedules):
        _check_schedule(form)
    return True


def _are_integers(values: Sequence[Any], highest: int) -> bool:
    return not values or (set(map(type, values)) == {int} and min(values) >= 0 and max(values) <= highest)


def _check_record(record: object) -> None:
    if not isinstance(record, tuple) or len(record) != _RECORD_CELLS:
        raise ValueError(f"not a record that this release knows: {short(record)}")
    _check_id(record[0])
    _check_state(record[1:])


def _check_events(rows: Sequence[object]) -> None:
    """Check events, the two kinds that there are most of without a further call, where their job was seen before."""
    good = _good_ids
    for event in rows:
        if type(event) is tuple:
            size = len(event)
            if size == 3:
                kind, job, at_ns = event
                is_plain = kind == STARTED
            elif size == 4:
                kind, job, at_ns, outcome = event
                is_plain = kind == FINISHED and type(outcome) is bool
            else:
                is_plain = False
            is_plain = is_plain and type(kind) is int and type(job) is str and job in good
            if is_plain and type(at_ns) is int and 0 <= at_ns <= INSTANT_MAX_NS:
                continue
        _check_event(event)
        if len(good) >= _GOOD_IDS_MAX:
            good.clear()
        good.add(event[1])  # type: ignore[index]  # It is an event.


def _check_event(event: object) -> None:
    if not isinstance(event, tuple) or not event:
        raise ValueError(f"not an event: {short(event)}")
    kind = event[0]
    if type(kind) is not int or len(event) != _ARITY.get(kind):
        raise ValueError(f"not an event that this release knows: {short(event)}")
    _check_id(event[1])
    if kind == RESTORED:
        _check_state(event[2:])
    elif kind != CANCELLED:
        _check_instant(event[2])
        if kind == SCHEDULED:
            _check_schedule(event[3])
        elif kind == FINISHED and type(event[3]) is not bool:
            raise ValueError(f"not an outcome: {short(event[3])}")


def _check_id(job: object) -> None:
    # Names were checked in full when they were recorded, and the checksum holds; this keeps out what would break the
    # engine's order of records, or memory.
    if type(job) is not str or len(job) > NAME_BYTES_MAX or not 0 < job.rfind(".") < len(job) - 1:
        raise ValueError(f"not the id of a job: {short(job)}")


def _check_instant(at_ns: object) -> None:
    if type(at_ns) is not int or not 0 <= at_ns <= INSTANT_MAX_NS:
        raise ValueError(f"not an instant: {short(at_ns)}")


def _check_state(state: tuple[object, ...]) -> None:
    status, next_fire_ns, started_ns, finished_ns, failures, schedule = state
    if type(status) is not int or not 0 <= status <= FAILED_RETRYING:
        raise ValueError(f"not a status that this release knows: {short(status)}")
    for at_ns in (next_fire_ns, started_ns, finished_ns):
        if at_ns is not None:
            _check_instant(at_ns)
    if type(failures) is not int or not 0 <= failures <= FAILURES_MAX:
        raise ValueError(f"not a count of failures: {short(failures)}")
    _check_schedule(schedule)


def _check_schedule(form: object) -> None:
    # The exact types: a bool or a float would be found in the cache under the integer that it equals.
    if not isinstance(form, tuple) or tuple(map(type, form)) not in _SCHEDULE_TYPES:
        raise ValueError(f"not a schedule: {short(form)}")
    schedule_of(cast("ScheduleForm", form))
