"""The codec of jobs: events and records to msgpack and back, and nothing else taken for one."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from walstore.format import codec
from walstore.format.codec import JobCodec
from walstore.model.events import Event, EventForm, event_of, form_of
from walstore.model.names import INSTANT_MAX_NS, NAME_BYTES_MAX
from walstore.model.records import FAILED_RETRYING, FAILURES_MAX, JobState, SchedulerJobRecord, record_of, state_of
from walstore.model.schedule import schedule_of
from walstore.testing.strategies import events, records

pytestmark = pytest.mark.mutation

CODEC = JobCodec()
STATE = (3, 1, None, 2, FAILURES_MAX, (3, "@hourly"))
EVENTS: list[EventForm] = [
    (1, "a.b", 5, (0,)),
    (1, "a.b", 5, (1, 6)),
    (1, "a.b", 5, (2, 7)),
    (1, "a.b", 5, (3, "@hourly")),
    (2, "ai.geo.tile", INSTANT_MAX_NS),
    (3, "ü.日本", 0, True),
    (3, "a.b", 0, False),
    (4, "a.b"),
    (5, "a.b", 3, 1, None, 2, FAILURES_MAX, (3, "@hourly")),
]
# A name with escapes in it would be another one at every collection in the same process.
each_event = pytest.mark.parametrize("form", EVENTS, ids=lambda form: repr(form).encode("ascii", "replace").decode())
# What might stand in place of any part of an event or a record.
OTHERS: list[object] = [
    None,
    True,
    False,
    -1,
    2**63,
    2**64 - 1,
    0.0,
    1.0,
    5.0,
    "",
    "x",
    b"",
    b"a.b",
    [],
    [9],
    {},
    {"a": 1},
]
OTHERS += [[0], [[0]], "a.b\0"[:2], [3, 4], [1, "5"], [3, "x" * 1025], [2, 0], [2, -1], [1, 2**63], [4, 1], [0, 1]]
OTHERS += [msgpack.ExtType(1, b"x"), msgpack.Timestamp(1), "a.", ".b", "a." + "x" * 1023]


def refuses_events(content: object) -> bool:
    try:
        CODEC.decode_events(msgpack.packb(content))
    except ValueError:
        return True
    return False


@given(st.lists(events(), min_size=1, max_size=8))
def test_events_read_back(recorded: list[Event]) -> None:
    forms = [form_of(event, 0) for event in recorded]
    decoded = CODEC.decode_events(CODEC.encode_events(forms))
    assert list(decoded) == forms
    assert [event_of(form) for form in decoded] == [event_of(form) for form in forms]


@given(st.lists(records(), max_size=8))
def test_records_read_back(stored: list[SchedulerJobRecord]) -> None:
    states = [(str(record.id), state_of(record)) for record in stored]
    decoded = CODEC.decode_records(CODEC.encode_records(states))
    assert decoded == states
    assert [record_of(job, state) for job, state in decoded] == stored


@each_event
def test_the_arrays_are_those_of_the_specification(form: EventForm) -> None:
    def as_lists(value: object) -> object:
        return [as_lists(part) for part in value] if isinstance(value, tuple) else value

    assert msgpack.unpackb(CODEC.encode_events([form])) == as_lists(form)
    assert msgpack.unpackb(CODEC.encode_events([form, form])) == [as_lists(form)] * 2


def test_records_are_arrays_of_their_fields() -> None:
    state: JobState = (3, 1, None, 2, FAILURES_MAX, (1, 9))
    payload = CODEC.encode_records([("a.b", state), ("a.c", state)])
    assert msgpack.unpackb(payload) == [[job, 3, 1, None, 2, FAILURES_MAX, [1, 9]] for job in ("a.b", "a.c")]
    assert CODEC.decode_records(CODEC.encode_records([])) == []


@pytest.mark.parametrize(
    "content", [[], [[]], None, 5, "x", {}, [1], [None], [True], [[4, "a.b"], None], [[4, "a.b"], 4]]
)
def test_what_holds_no_events_is_refused(content: object) -> None:
    assert refuses_events(content)


@each_event
def test_an_event_with_a_part_too_many_or_too_few_is_refused(form: EventForm) -> None:
    assert not refuses_events(form)
    for length in range(len(form)):
        assert refuses_events(form[:length])
        assert refuses_events([form[:length]])
    assert refuses_events([*form, 0])
    assert refuses_events([*form, None])


@pytest.mark.parametrize("kind", [0, 6, -1, 255, 2**40, True, 1.0, "1", None])
def test_an_unknown_kind_of_event_is_refused(kind: object) -> None:
    assert refuses_events([[kind, "a.b", 5, [0]]])
    assert refuses_events([[kind, "a.b", 5]])
    assert refuses_events([[kind, "a.b"]])


@each_event
def test_what_is_taken_for_an_event_can_be_folded_and_shown(form: EventForm) -> None:
    """Whatever stands in for a part of an event: it is refused, or it is an event in every respect."""
    for place in range(1, len(form)):
        for other in OTHERS:
            payload = msgpack.packb([*form[:place], other, *form[place + 1 :]])
            try:
                (decoded,) = CODEC.decode_events(payload)
            except ValueError:
                continue
            assert CODEC.encode_events([decoded]) == payload
            assert form_of(event_of(decoded), 0) == decoded


@pytest.mark.parametrize("place", range(6))
def test_what_is_taken_for_a_record_can_be_shown(place: int) -> None:
    for other in OTHERS:
        state = [*STATE[:place], other, *STATE[place + 1 :]]
        payload = msgpack.packb([["a.b", *state]])
        try:
            ((job, decoded),) = CODEC.decode_records(payload)
        except ValueError:
            continue
        assert state_of(record_of(job, decoded)) == decoded


RECORD: list[object] = ["a.b", 3, 1, None, 2, 0, [3, "@hourly"]]
NO_INSTANTS: list[object] = [-1, 2**63, True, 5.0, "5", [], b""]
NO_NAMES: list[object] = ["", "x", "a.", "a.b.", ".b", "a." + "x" * (NAME_BYTES_MAX - 1), None, 5, b"a.b", ["a.b"]]


@pytest.mark.parametrize(
    ("place", "wrong", "right"),
    [
        (0, NO_NAMES, ["c.d", "a." + "x" * (NAME_BYTES_MAX - 2), "a.b.c"]),
        (1, [-1, FAILED_RETRYING + 1, True, 1.0, None, "1"], range(FAILED_RETRYING + 1)),
        *((place, NO_INSTANTS, [None, 0, INSTANT_MAX_NS]) for place in (2, 3, 4)),
        (5, [-1, FAILURES_MAX + 1, True, 1.0, None, "1"], [0, FAILURES_MAX]),
        (6, [[], [0, 1], [1, "5"], [2], [9], 0, None, "x", [1, None], {}], [[0], [1, 5], [2, 7], [3, "@daily"]]),
    ],
)
def test_each_part_of_a_record_is_checked_also_among_many(
    place: int, wrong: Sequence[object], right: Sequence[object]
) -> None:
    def among_others(part: object) -> Iterator[tuple[int, list[list[object]]]]:
        row = [*RECORD[:place], part, *RECORD[place + 1 :]]
        for before, behind in ((0, 0), (1, 0), (0, 1), (1, 1)):
            yield before, [RECORD] * before + [row] + [RECORD] * behind

    for part in wrong:
        for _, rows in among_others(part):
            with pytest.raises(ValueError, match="not "):
                CODEC.decode_records(msgpack.packb(rows))
    for part in right:
        for index, rows in among_others(part):
            job, state = CODEC.decode_records(msgpack.packb(rows))[index]
            assert [*msgpack.unpackb(CODEC.encode_records([(job, state)]))[0]] == rows[index]


@pytest.mark.parametrize("schedule", [[1, 5.0], [1.0, 5], [2, 5.0], [0.0], [3.0, "@hourly"], [1, True], [True, 5]])
def test_only_integers_are_instants_and_kinds_of_schedules(schedule: list[object]) -> None:
    # Whether an equal schedule of integers was met before must make no difference.
    for form in ((0,), (1, 5), (1, 1), (2, 5), (3, "@hourly")):
        schedule_of(form)
    assert refuses_events([1, "a.b", 0, schedule])
    row = ["a.b", 0, None, None, None, 0]
    for others in ([], [[0]], [[1, 5], [1, 1], [2, 5], [3, "@hourly"]]):
        rows = [[*row, form] for form in (*others, schedule)]
        for content in (rows, rows[::-1]):
            with pytest.raises(ValueError, match="schedule"):
                CODEC.decode_records(msgpack.packb(content))


@pytest.mark.parametrize(
    ("failures", "is_one"), [(0, True), (FAILURES_MAX, True), (FAILURES_MAX + 1, False), (-1, False)]
)
def test_failures_are_counted_in_32_bits(failures: int, is_one: bool) -> None:
    """A count beyond that could be read, but neither shown nor restored."""
    state: JobState = (0, None, None, None, failures, (0,))
    for decode, payload in (
        (CODEC.decode_events, CODEC.encode_events([(5, "a.b", *state)])),
        (CODEC.decode_records, CODEC.encode_records([("a.b", state)])),
    ):
        if is_one:
            assert decode(payload)
        else:
            with pytest.raises(ValueError, match="failures"):
                decode(payload)


@pytest.mark.parametrize("content", [None, 5, {}, [1], [[]], [["a.b"]], [["a.b", 0, None, None, None, 0, [0], 0]]])
def test_what_holds_no_records_is_refused(content: object) -> None:
    with pytest.raises(ValueError, match=r"^not a record that this release knows: (1|\(.*\))$|not the msgpack"):
        CODEC.decode_records(msgpack.packb(content))


def test_a_cron_expression_that_no_longer_parses_is_kept() -> None:
    (event,) = CODEC.decode_events(msgpack.packb([1, "a.b", 5, [3, "of another release"]]))
    assert event == (1, "a.b", 5, (3, "of another release"))


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        ([], "the payload holds no events"),
        ([[4, "a.b"], 7], "not an event: 7"),
        ([9, "a.b", 5], r"not an event that this release knows: (9, 'a.b', 5)"),
        ([2, "a.", 5], "not the id of a job: 'a.'"),
        ([2, ".b", 5], "not the id of a job: '.b'"),
        ([2, "a.b.", 5], "not the id of a job: 'a.b.'"),
        ([2, "a.b", -1], "not an instant: -1"),
        ([3, "a.b", 5, 1], "not an outcome: 1"),
        ([1, "a.b", 5, [0.0]], "not a schedule: (0.0,)"),
        ([1, "a.b", 5, [9]], "not a schedule that this release knows: (9,)"),
        ([5, "a.b", 5, None, None, None, 0, [0]], "not a status that this release knows: 5"),
        ([5, "a.b", 0, None, None, None, 2**32, [0]], "not a count of failures: 4294967296"),
    ],
)
def test_the_reason_of_a_refusal_is_told(event: list[object], reason: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(reason)}"):
        CODEC.decode_events(msgpack.packb(event))
    with pytest.raises(
        ValueError, match=r"^(the payload is not the msgpack of this format: .*extra data|something follows)"
    ):
        CODEC.decode_events(msgpack.packb(event) + b"\0")


HOSTILE = [
    b"",
    b"\xc1",  # A byte that msgpack never uses.
    b"\xa2\xff\xfe",  # No UTF-8.
    b"\x81\x90\x01",  # Keys of a map that are not strings.
    b"\x81\xc0\x01",
    b"\x81\xa1a\x01",
    b"\xdd\xff\xff\xff\xff",  # Lengths that nothing stands behind.
    b"\xdf\xff\xff\xff\xff",
    b"\xdb\xff\xff\xff\xff",
    b"\xc6\xff\xff\xff\xff",
    b"\xc9\xff\xff\xff\xff\x01",
    b"\xc7\x0c\xff" + b"\xff" * 12,  # Instants of msgpack's own that there are not.
    b"\xc7\x03\xff\0\0\0",
    b"\xd6\xff\0\0\0\0",
    b"\x91" * 100_000,  # Deeper than any stack.
    b"\x91" * 100_000 + b"\xc0",
    b"\x81\xa1a" * 50_000,
    b"\x92\x02\xa3a.b" + b"\xc0",  # Something behind the end.
]


@pytest.mark.parametrize("payload", HOSTILE, ids=lambda payload: payload[:8].hex())
def test_hostile_bytes_are_refused(payload: bytes) -> None:
    with pytest.raises(ValueError):
        CODEC.decode_events(payload)
    with pytest.raises(ValueError):
        CODEC.decode_records(payload)


@given(st.binary(max_size=60))
def test_any_bytes_are_events_or_refused(payload: bytes) -> None:
    try:
        decoded = CODEC.decode_events(payload)
    except ValueError:
        return
    assert decoded


@given(st.lists(events(), min_size=1, max_size=3), st.data())
def test_flipped_bits_give_other_events_or_are_refused(recorded: list[Event], data: st.DataObject) -> None:
    payload = bytearray(CODEC.encode_events([form_of(event, 0) for event in recorded]))
    bit = data.draw(st.integers(0, 8 * len(payload) - 1))
    payload[bit // 8] ^= 1 << bit % 8
    try:
        decoded = CODEC.decode_events(bytes(payload))
    except ValueError:
        return
    assert decoded


@given(st.lists(st.lists(events(), min_size=1, max_size=20), max_size=8))
def test_many_payloads_are_decoded_as_one_after_another(frames: list[list[Event]]) -> None:
    forms = [[form_of(event, 0) for event in frame] for frame in frames]
    payloads = [CODEC.encode_events(frame) for frame in forms]
    assert list(CODEC.decode_many(payloads)) == [form for frame in forms for form in frame]
    assert [CODEC.count_events(payload) for payload in payloads] == [len(frame) for frame in forms]


@pytest.mark.parametrize("count", [1, 2, 15, 16, 17, 1023, 1024, 1025, 65_535, 65_536])
def test_events_are_counted_at_every_length_of_their_number(count: int) -> None:
    forms: list[EventForm] = [(2, "a.b", 2**40)] * count
    payload = CODEC.encode_events(forms)
    assert CODEC.count_events(payload) == len(CODEC.decode_events(payload)) == count
    assert list(CODEC.decode_many([CODEC.encode_events([form]) for form in forms])) == forms


@pytest.mark.parametrize(
    "payload", [b"", b"\x90", b"\x93", b"\xdc", b"\xdd\0\0", b"\xc0", b"\x93\x09\xa3a.b\x01", b"a.b"]
)
def test_what_is_no_event_is_not_counted(payload: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        CODEC.count_events(payload)


@each_event
@pytest.mark.parametrize("wrong", [b"", b"\x93\x02", b"\x93\x02\xa3a.b\x01\x01", b"\x93\x02\xa3a.b\xc3", b"\x91\xc0"])
def test_one_wrong_payload_among_many_is_refused(form: EventForm, wrong: bytes) -> None:
    right = CODEC.encode_events([form])
    for payloads in ([wrong, right], [right, wrong], [right, wrong, right], [right] * 1024 + [wrong]):
        with pytest.raises(ValueError, match=r"."):
            CODEC.decode_many(payloads)


@each_event
def test_a_job_that_was_read_before_excuses_nothing(form: EventForm) -> None:
    CODEC.decode_events(CODEC.encode_events([form]))
    for other in OTHERS:
        if other != form[-1] or type(other) is not type(form[-1]):
            for content in ([*form[:-1], other], [[*form[:-1], other]] * 20):
                assert refuses_events(content) == refuses_alone(content)


def refuses_alone(content: object) -> bool:
    """What the codec says where no job was read before."""
    codec._good_ids.clear()
    refused = refuses_events(content)
    CODEC.decode_events(CODEC.encode_events(EVENTS))
    return refused
