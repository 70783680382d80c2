"""Events and states of entries: what is written comes back, what was not written is refused, and what events do."""

from __future__ import annotations

import contextlib

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from walstore.integrations.entry_model import (
    BLOB_BYTES_MAX,
    DROPPED,
    FINISHED,
    KEY_BYTES_MAX,
    PUT,
    REMOVED,
    RUNS_MAX,
    STARTED,
    EntryCodec,
    EntryEvent,
    EntryReducer,
    EntryState,
    entry_of,
)

CODEC = EntryCodec("test/1")
REDUCER = EntryReducer()

_keys = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
_numbers = st.integers(-(2**63), 2**63 - 1)
_runs = st.integers(1, 3)
_events = st.one_of(
    st.tuples(st.just(PUT), _keys, st.none() | _numbers, st.binary(max_size=20)),
    st.tuples(st.just(STARTED), _keys, _numbers, _numbers),
    st.tuples(st.just(FINISHED), _keys, _numbers, _numbers, st.booleans()),
    st.tuples(st.just(DROPPED), _keys, _numbers),
    st.tuples(st.just(REMOVED), _keys),
)
_states = st.tuples(
    st.booleans(),
    st.binary(max_size=20),
    st.none() | _numbers,
    st.none() | _numbers,
    st.none() | _numbers,
    st.integers(0, 2**32 - 1),
    st.lists(st.tuples(_numbers, _numbers), max_size=4).map(lambda pairs: tuple(n for pair in pairs for n in pair)),
)
# Few keys, so that events meet.
_meeting = st.one_of(
    st.tuples(st.just(PUT), st.just("k"), st.none() | st.just(5), st.binary(max_size=2)),
    st.tuples(st.just(STARTED), st.just("k"), _runs, _runs),
    st.tuples(st.just(FINISHED), st.just("k"), _runs, _runs, st.booleans()),
    st.tuples(st.just(DROPPED), st.just("k"), _runs),
    st.tuples(st.just(REMOVED), st.just("k")),
)


@given(st.lists(_events, min_size=1, max_size=40))
def test_events_come_back(events: list[EntryEvent]) -> None:
    assert list(CODEC.decode_events(CODEC.encode_events(events))) == events


@given(st.dictionaries(_keys, _states, max_size=40))
def test_states_come_back(states: dict[str, EntryState]) -> None:
    records = sorted(states.items())
    assert CODEC.decode_records(CODEC.encode_records(records)) == records


@given(st.lists(_meeting, max_size=30))
def test_folding_knows_what_is_there_and_what_goes_on(events: list[EntryEvent]) -> None:
    states: dict[str, EntryState] = {}
    REDUCER.fold(states, events)
    present, blob, due, runs = False, b"", None, []
    for event in events:
        if event[0] == PUT:
            present, blob, due = True, event[3], event[2]
        elif event[0] == STARTED:
            runs.append((event[2], event[3]))
        elif event[0] == REMOVED:
            present, due = False, None
        else:
            ended = next((run for run in runs if run[0] == event[2]), None)
            if ended is not None:
                runs.remove(ended)
        if not present and not runs:
            blob = b""
    if not present and not runs:
        assert states == {}
        return
    entry = entry_of("k", states["k"])
    assert (entry.is_present, entry.blob, entry.next_run_us) == (present, blob, due)
    assert [(run.number, run.started_us) for run in entry.runs] == runs
    # What was folded can be stored, and folded in two parts.
    assert CODEC.decode_records(CODEC.encode_records(list(states.items()))) == list(states.items())
    halves: dict[str, EntryState] = {}
    REDUCER.fold(halves, events[: len(events) // 2])
    REDUCER.fold(halves, events[len(events) // 2 :])
    assert halves == states


def test_of_too_many_runs_the_oldest_are_forgotten() -> None:
    states: dict[str, EntryState] = {}
    REDUCER.fold(states, [(STARTED, "k", number, number) for number in range(RUNS_MAX + 2)])
    runs = entry_of("k", states["k"]).runs
    assert (len(runs), runs[0].number, runs[-1].number) == (RUNS_MAX, 2, RUNS_MAX + 1)
    assert CODEC.decode_records(CODEC.encode_records(list(states.items()))) == list(states.items())


def test_failures_in_a_row_are_counted_up_to_a_bound() -> None:
    states: dict[str, EntryState] = {"k": (True, b"", None, None, None, 2**32 - 2, ())}
    failure = (FINISHED, "k", 1, 2, False)
    REDUCER.fold(states, [failure, failure, failure])
    assert entry_of("k", states["k"]).consecutive_failures == 2**32 - 1
    REDUCER.fold(states, [(FINISHED, "k", 1, 2, True)])
    assert entry_of("k", states["k"]).consecutive_failures == 0


STATE = (True, b"", None, None, None, 0, ())
BAD_EVENTS: list[object] = [
    7,
    (),
    ("k",),
    (0, "k"),
    (6, "k"),
    (True, "k", None, b""),
    (PUT, "k", None),
    (PUT, "", None, b""),
    (PUT, b"k", None, b""),
    (PUT, "k" * (KEY_BYTES_MAX + 1), None, b""),
    (PUT, "k", 1.5, b""),
    (PUT, "k", 2**63, b""),
    (PUT, "k", None, "text"),
    (PUT, "k", None, bytes(BLOB_BYTES_MAX + 1)),
    (STARTED, "k", None, 1),
    (STARTED, "k", 1),
    (FINISHED, "k", 1, 1, 1),
    (FINISHED, "k", 1, True, True),
    (DROPPED, "k", "1"),
    (REMOVED, "k", 1),
]
BAD_RECORDS: list[object] = [
    7,
    ("k",),
    ("k", *STATE, 1),
    ("", *STATE),
    ("k", 1, *STATE[1:]),
    ("k", True, "text", *STATE[2:]),
    ("k", True, b"", 1.0, *STATE[3:]),
    ("k", *STATE[:5], -1, ()),
    ("k", *STATE[:5], 2**32, ()),
    ("k", *STATE[:5], True, ()),
    ("k", *STATE[:6], 1),
    ("k", *STATE[:6], (1,)),
    ("k", *STATE[:6], (1, None)),
    ("k", *STATE[:6], (1,) * (2 * RUNS_MAX + 2)),
]


@pytest.mark.parametrize("event", BAD_EVENTS, ids=lambda event: repr(event)[:40])
def test_what_is_no_event_is_refused(event: object) -> None:
    with pytest.raises(ValueError, match=r"not |payload"):
        CODEC.decode_events(msgpack.packb([(REMOVED, "k"), event]))


@pytest.mark.parametrize("record", BAD_RECORDS, ids=lambda record: repr(record)[:40])
def test_what_is_no_record_is_refused(record: object) -> None:
    with pytest.raises(ValueError, match=r"not |payload"):
        CODEC.decode_records(msgpack.packb([("a", *STATE), record]))


@given(st.binary(max_size=60))
def test_other_bytes_are_refused_or_hold_what_can_be_folded(payload: bytes) -> None:
    with contextlib.suppress(ValueError):
        REDUCER.fold({}, CODEC.decode_events(payload))
    with contextlib.suppress(ValueError):
        CODEC.encode_records(CODEC.decode_records(payload))
