"""Names of jobs, and instants: what callers may pass in."""

from __future__ import annotations

import copy
import pickle
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from walstore.model.names import INSTANT_MAX_NS, NAME_BYTES_MAX, QName, datetime_of, duration_ns, id_of, instant_ns

LAST_MICROSECOND = datetime(2262, 4, 11, 23, 47, 16, 854_775, UTC)

texts = st.text(max_size=8) | st.text("a. \0\x85é\ud800", max_size=6)


@pytest.mark.parametrize(
    ("dotted", "namespace", "local"),
    [
        ("a.b", "a", "b"),
        ("a.b.c", "a.b", "c"),
        ("ai.geo.tile", "ai.geo", "tile"),
        (".a.b", ".a", "b"),
        ("a..b", "a.", "b"),
        ("...x", "..", "x"),
        (" . ", " ", " "),
        ("größe.日本.🜁", "größe.日本", "🜁"),
        ("a.b\u2028c", "a", "b\u2028c"),
    ],
)
def test_parse_splits_at_the_last_dot(dotted: str, namespace: str, local: str) -> None:
    name = QName.parse(dotted)
    assert (name.namespace, name.local, str(name)) == (namespace, local, dotted)
    assert repr(name) == f"QName({namespace!r}, {local!r})"
    assert id_of(dotted) == id_of(name) == dotted


@pytest.mark.parametrize(
    ("dotted", "reason"),
    [
        ("", "has no dot"),
        ("nodot", "has no dot"),
        (".", "must be non-empty"),
        ("..", "must be non-empty"),
        (".b", "must be non-empty"),
        ("a.", "must be non-empty"),
        ("a.b.", "must be non-empty"),
        ("a.b\0", "control characters"),
        ("a\n.b", "control characters"),
        ("a.\x1f", "control characters"),
        ("a.\x7f", "control characters"),
        ("a.\x80", "control characters"),
        ("a.\x9f", "control characters"),
        ("a.\ud800", "lone surrogates"),
        ("a.\udfffb", "lone surrogates"),
        ("a." + "x" * (NAME_BYTES_MAX - 1), "1024 bytes of UTF-8, this one 1025"),
        ("a." + "é" * (NAME_BYTES_MAX // 2), "1024 bytes of UTF-8, this one 1026"),
    ],
)
def test_what_is_no_name_is_refused(dotted: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        QName.parse(dotted)
    # A second time as well: nothing is remembered of a name that was refused.
    for _ in range(2):
        with pytest.raises(ValueError, match=reason):
            id_of(dotted)


@pytest.mark.parametrize("name", ["a." + "x" * (NAME_BYTES_MAX - 2), "a." + "é" * (NAME_BYTES_MAX // 2 - 1)])
def test_the_longest_names(name: str) -> None:
    assert len(name.encode()) == NAME_BYTES_MAX == 1024
    assert str(QName.parse(name)) == name


@pytest.mark.parametrize(("namespace", "local"), [("", "b"), ("a", ""), ("", ""), ("a\0", "b"), ("a", "\x85")])
def test_what_is_no_part_of_a_name_is_refused(namespace: str, local: str) -> None:
    with pytest.raises(ValueError, match="qualified name"):
        QName(namespace, local)


@given(texts, texts)
def test_a_name_that_can_be_built_can_be_parsed_again(namespace: str, local: str) -> None:
    try:
        name = QName(namespace, local)
    except ValueError:
        return
    # Otherwise it could be recorded, and not be read back.
    assert QName.parse(str(name)) == name
    assert id_of(str(name)) == str(name)


@pytest.mark.parametrize("local", ["b.", ".", "b.."])
def test_a_name_that_could_not_be_parsed_again_is_refused(local: str) -> None:
    with pytest.raises(ValueError, match="qualified name"):
        QName("a", local)


def test_identity_is_the_dotted_string() -> None:
    first, last = QName("a", "b.c"), QName("a.b", "c")
    assert first == last
    assert hash(first) == hash(last)
    assert first != QName("A", "b.c")
    assert len({first, last, QName.parse("a.b.c"), QName("a.b", "C")}) == 2
    assert first != "a.b.c"


def test_builtin() -> None:
    assert QName.builtin("sweep") == QName("builtin", "sweep")


def test_names_are_immutable() -> None:
    name = QName("a", "b")
    for attribute in ("namespace", "local", "_dotted", "other"):
        with pytest.raises(AttributeError):
            setattr(name, attribute, "c")
        with pytest.raises(AttributeError):
            delattr(name, attribute)
    assert str(name) == "a.b"


@pytest.mark.parametrize("name", [QName("a", "b.c"), QName("a.b", "c")])
def test_names_can_be_copied_and_pickled(name: QName) -> None:
    for twin in (copy.copy(name), copy.deepcopy(name), pickle.loads(pickle.dumps(name))):
        assert (twin.namespace, twin.local) == (name.namespace, name.local)


WRONG_TYPES: list[Any] = [None, 7, b"a.b", ("a", "b"), ["a.b"], 1.5, object()]


@pytest.mark.parametrize("wrong", WRONG_TYPES, ids=lambda wrong: type(wrong).__name__)
def test_other_types_are_no_names(wrong: str) -> None:
    for attempt in (QName.parse, id_of, lambda part: QName(part, "b"), lambda part: QName("a", part)):
        with pytest.raises(TypeError):
            attempt(wrong)


def test_a_subclass_of_str_is_a_name_by_its_text() -> None:
    class Name(str):
        __slots__ = ()

    assert id_of(Name("a.b")) == "a.b"
    assert type(id_of(Name("a.b"))) is str


# --- Instants. -------------------------------------------------------------------------------------------------------


class Zoneless(tzinfo):
    """A time zone that does not know its offset: a datetime in it is naive."""

    def utcoffset(self, _: datetime | None, /) -> timedelta | None:
        return None

    dst = utcoffset

    def tzname(self, _: datetime | None, /) -> str | None:
        return None


@pytest.mark.parametrize(
    ("instant", "expected_ns"),
    [
        (0, 0),
        (1, 1),
        (INSTANT_MAX_NS, 2**63 - 1),
        (datetime(1970, 1, 1, tzinfo=UTC), 0),
        (datetime(1970, 1, 1, 0, 0, 0, 1, UTC), 1_000),
        (datetime(1970, 1, 1, 5, 30, tzinfo=timezone(timedelta(hours=5, minutes=30))), 0),
        (datetime(1969, 12, 31, 23, tzinfo=timezone(timedelta(hours=-1))), 0),
        # In floating point this one is off by 48 nanoseconds.
        (datetime(2026, 11, 23, 12, 34, 56, 123_457, UTC), 1_795_437_296_123_457_000),
        (LAST_MICROSECOND, 9_223_372_036_854_775_000),
    ],
)
def test_instants(instant: int | datetime, expected_ns: int) -> None:
    assert instant_ns(instant) == expected_ns


@pytest.mark.parametrize(
    "instant",
    [
        -1,
        2**63,
        10**30,
        datetime(1969, 12, 31, 23, 59, 59, 999_999, UTC),
        LAST_MICROSECOND + timedelta(microseconds=1),
        datetime.max.replace(tzinfo=UTC),
        datetime.min.replace(tzinfo=UTC),
    ],
)
def test_instants_out_of_range_are_refused(instant: int | datetime) -> None:
    with pytest.raises(ValueError, match="the start must be between 0 and"):
        instant_ns(instant, "the start")


@pytest.mark.parametrize("naive", [datetime(2026, 1, 1), datetime(2026, 1, 1, tzinfo=Zoneless())])  # noqa: DTZ001
def test_naive_datetimes_are_refused(naive: datetime) -> None:
    with pytest.raises(ValueError, match=r"the start must be an aware datetime.*time zone"):
        instant_ns(naive, "the start")


NO_INSTANTS: list[Any] = [
    None,
    True,
    False,
    1.0,
    float("nan"),
    "0",
    b"0",
    timedelta(1),
    datetime(2026, 1, 1, tzinfo=UTC).date(),
]


@pytest.mark.parametrize("wrong", NO_INSTANTS, ids=repr)
def test_other_types_are_no_instants(wrong: int) -> None:
    with pytest.raises(TypeError, match=r"the start must be an int .* or an aware datetime"):
        instant_ns(wrong, "the start")


@given(st.integers(0, INSTANT_MAX_NS))
def test_datetimes_are_instants_cut_to_microseconds(at_ns: int) -> None:
    at = datetime_of(at_ns)
    assert at is not None
    assert at.utcoffset() == timedelta(0)
    assert instant_ns(at) == at_ns // 1_000 * 1_000


def test_no_instant_is_no_datetime() -> None:
    assert datetime_of(None) is None


@given(st.timedeltas())
def test_durations_are_exact(duration: timedelta) -> None:
    assert duration_ns(duration) == duration // timedelta(microseconds=1) * 1_000
