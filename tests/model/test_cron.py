"""Cron expressions: which are accepted, and when they fire."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import FrozenInstanceError
from datetime import UTC, date, datetime, timedelta
from functools import cache
from itertools import pairwise, product
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from walstore.model.cron import ENDLESS_BEFORE_NS, EXPRESSION_CHARACTERS_MAX, compile_cron

SECOND_NS = 10**9
INSTANTS_END_NS = 2**63
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

# The vectors were observed on a real uni-db 4.1.1: whether it accepts an expression, and the first fire after an
# instant that it computes.
VECTORS = json.loads((Path(__file__).parent / "data" / "cron_next_fire.json").read_text("utf-8"))


def ns(text: str) -> int:
    """The instant of an ISO date, with a time or without, in UTC."""
    return (datetime.fromisoformat(text).replace(tzinfo=UTC) - EPOCH) // timedelta(seconds=1) * SECOND_NS


def next_text(expression: str, at: str) -> str | None:
    found_ns = compile_cron(expression).next_after_ns(ns(at))
    return None if found_ns is None else (EPOCH + timedelta(seconds=found_ns // SECOND_NS)).isoformat()[:19]


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["expr"])
def test_agrees_with_uni_db(vector: dict[str, str | int | None]) -> None:
    expression, from_secs, next_secs = str(vector["expr"]), vector["from_secs"], vector["next_secs"]
    assert isinstance(from_secs, int)
    if not vector["valid"]:
        with pytest.raises(ValueError, match="cron expression"):
            compile_cron(expression)
        return
    expected_ns = next_secs * SECOND_NS if isinstance(next_secs, int) else None
    assert compile_cron(expression).next_after_ns(from_secs * SECOND_NS) == expected_ns


def test_all_vectors_are_there() -> None:
    assert len(VECTORS) == 130


# --- Random expressions, checked against searches that try every second or every day. --------------------------------
# An expression is drawn as what it means, and rendered to text from there, so that nothing here parses.


class Spec(NamedTuple):
    """An expression and the values that each of its seven fields allows, by its meaning."""

    text: str
    seconds: frozenset[int]
    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    years: frozenset[int]


Drawn = tuple[str, frozenset[int]]

MONTH_NAMES = [
    *([date(2000, month, 1).strftime("%b"), date(2000, month, 1).strftime("%B")] for month in range(1, 13)),
]
# 2000-01-02 was a Sunday.
WEEKDAY_NAMES = [[date(2000, 1, 1 + day).strftime("%a"), date(2000, 1, 1 + day).strftime("%A")] for day in range(1, 8)]
WEEKDAY_NAMES[2].append("Tues")
WEEKDAY_NAMES[4].append("Thurs")

LIMITS = [(0, 59), (0, 59), (0, 23), (1, 31), (1, 12), (1, 7), (1970, 2100)]
ALL = [frozenset(range(low, high + 1)) for low, high in LIMITS]
NAMES: dict[int, list[list[str]]] = {4: MONTH_NAMES, 5: WEEKDAY_NAMES}
DAY_FIELDS = (3, 5)

BLANKS = st.sampled_from([" ", " ", " ", "\t", "  ", "\r\n", " \t "])
CASES = st.sampled_from([str.lower, str.upper, str.title, str.swapcase])


@st.composite
def members(draw: st.DrawFn, place: int) -> Drawn:
    """One member of a list in the field at `place`."""
    low, high = LIMITS[place]
    kind = draw(st.sampled_from(["wildcard", "value", "value", "named value", "value/step", "range", "named range"]))
    step = draw(st.none() | st.integers(1, high) | st.integers(1, 4))
    first, last = sorted((draw(st.integers(low, high)), draw(st.integers(low, high))))
    if place not in NAMES:
        kind = kind.removeprefix("named ")

    def name(value: int) -> str:
        case: Callable[[str], str] = draw(CASES)
        return case(draw(st.sampled_from(NAMES[place][value - 1])))

    match kind:
        case "wildcard":
            text, first, last = draw(st.sampled_from("*?" if place in DAY_FIELDS else "*")), low, high
        case "value":
            text, last, step = f"{first:0{draw(st.integers(1, 3))}}", first, None
        case "named value":
            text, last, step = name(first), first, None
        case "value/step":
            step = step or 1
            text, last = str(first), high
        case "range":
            text = f"{first}-{last}"
        case _:
            text = f"{name(first)}-{name(last)}"
    if step is not None:
        text += f"/{step}"
    return text, frozenset(v for v in ALL[place] if first <= v <= last and (v - first) % (step or 1) == 0)


@st.composite
def fields(draw: st.DrawFn, place: int) -> Drawn:
    drawn: list[Drawn] = draw(st.lists(members(place), min_size=1, max_size=3))
    return ",".join(text for text, _ in drawn), frozenset().union(*(values for _, values in drawn))


@st.composite
def longhands(draw: st.DrawFn) -> Spec:
    count = draw(st.sampled_from([6, 7]))
    drawn = [draw(st.just(("*", ALL[place])) | fields(place)) for place in range(count)]
    text = drawn[0][0]
    for field_text, _ in drawn[1:]:
        text += draw(BLANKS) + field_text
    text = draw(st.just("") | BLANKS) + text + draw(st.just("") | BLANKS)
    return Spec._make((text, *(values for _, values in drawn), *ALL[count:]))


ZERO, ONE = frozenset({0}), frozenset({1})
SHORTHANDS = [
    Spec("@hourly", ZERO, ZERO, *ALL[2:]),
    Spec("@daily", ZERO, ZERO, ZERO, *ALL[3:]),
    Spec("@weekly", ZERO, ZERO, ZERO, ALL[3], ALL[4], ONE, ALL[6]),
    Spec("@monthly", ZERO, ZERO, ZERO, ONE, *ALL[4:]),
    Spec("@yearly", ZERO, ZERO, ZERO, ONE, ONE, *ALL[5:]),
]
specs = st.sampled_from(SHORTHANDS) | longhands() | longhands() | longhands()

LAST_YEAR_END_NS = ns("2101-01-01")
# Most instants lie where there is something to find, and a few in the two centuries after it.
instants_ns = st.one_of(
    st.integers(0, LAST_YEAR_END_NS),
    st.integers(0, LAST_YEAR_END_NS // SECOND_NS).map(lambda second: second * SECOND_NS),
    st.integers(1, LAST_YEAR_END_NS // SECOND_NS // 86_400).map(lambda day: day * 86_400 * SECOND_NS - 1),
    st.integers(0, INSTANTS_END_NS - 1),
)


def seeded(examples: int) -> settings:
    """The same examples on every run, and so few that the file stays fast."""
    return settings(max_examples=examples, derandomize=True, deadline=None, database=None)


def weekday_of(day: date) -> int:
    """1 = Sunday ... 7 = Saturday."""
    return day.isoweekday() % 7 + 1


def date_matches(spec: Spec, day: date) -> bool:
    return (
        day.year in spec.years
        and day.month in spec.months
        and day.day in spec.days
        and weekday_of(day) in spec.weekdays
    )


@seeded(400)
@given(specs, instants_ns)
def test_next_fire_is_the_first_that_a_search_of_every_second_finds(spec: Spec, at_ns: int) -> None:
    window_seconds = 4000
    found_ns = compile_cron(spec.text).next_after_ns(at_ns)
    first_second = at_ns // SECOND_NS + 1
    for second in range(first_second, first_second + window_seconds):
        moment = EPOCH + timedelta(seconds=second)
        time_matches = moment.second in spec.seconds and moment.minute in spec.minutes and moment.hour in spec.hours
        if time_matches and date_matches(spec, moment.date()):
            event("fires within the window")
            assert found_ns == second * SECOND_NS
            return
    assert found_ns is None or found_ns >= (first_second + window_seconds) * SECOND_NS


@cache
def all_days() -> list[tuple[int, date]]:
    first = date(1970, 1, 1)
    return [(number, first + timedelta(days=number)) for number in range((date(2101, 1, 1) - first).days)]


def fires_by_days(spec: Spec, at_ns: int) -> Iterator[int]:
    """The first fire on every day that has one after `at_ns`, in nanoseconds, until the last year ends."""
    times = [(h * 60 + m) * 60 + s for h, m, s in product(*map(sorted, (spec.hours, spec.minutes, spec.seconds)))]
    for number, day in all_days()[at_ns // SECOND_NS // 86_400 :]:
        if date_matches(spec, day):
            midnight_ns = number * 86_400 * SECOND_NS
            yield from (at for time in times if (at := midnight_ns + time * SECOND_NS) > at_ns)


@seeded(400)
@given(specs, instants_ns)
def test_next_fire_is_the_first_that_a_search_of_every_day_finds(spec: Spec, at_ns: int) -> None:
    expected_ns = next(fires_by_days(spec, at_ns), None)
    event("never" if expected_ns is None else "within a year" if expected_ns - at_ns < 366 * 86_400e9 else "later")
    assert compile_cron(spec.text).next_after_ns(at_ns) == expected_ns


@seeded(200)
@given(specs, st.integers(0, ENDLESS_BEFORE_NS - 1))
def test_endless_expressions_fire_after_every_instant_before_the_bound(spec: Spec, at_ns: int) -> None:
    compiled = compile_cron(spec.text)
    has_dates = any(date_matches(spec, day) for _, day in all_days())
    assert compiled.endless == (has_dates and spec.years == ALL[6])
    if compiled.endless:
        assert compiled.next_after_ns(at_ns) is not None
        assert compiled.next_after_ns(ENDLESS_BEFORE_NS - 1) is not None


# --- What the dialect accepts. ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expression", "plain"),
    [
        (" \t@daily\r\n", "0 0 0 * * *"),
        ("@weekly", "0 0 0 * * SUN"),
        ("******", "* * * * * *"),
        ("0 0 12* * *", "0 0 12 * * *"),
        ("0 0 0 * * Mon2030", "0 0 0 * * 2 2030"),
        ("0 , 30 * * * * *", "0,30 * * * * *"),
        ("0 - 30 / 7 * * * * *", "0-30/7 * * * * *"),
        ("*/ 7 * * * * *", "*/7 * * * * *"),
        ("0 0 0 * jan - MARCH / 2 tUeS,Thurs", "0 0 0 * 1,3 3,5"),
        ("0 0 0 ? * ?", "0 0 0 * * *"),
        ("0 0 0 ?/2 * ?/3", "0 0 0 */2 * 1,4,7"),
        ("5,5,1-9/4,007 * * * * *", "1,5,7,9 * * * * *"),
        ("50/59 * * * * *", "50 * * * * *"),
        ("0 0 0 */31 */12 */7 */2100", "0 0 0 1 1 1 1970"),
        ("0 0 0 1 1 * 1970-2100", "@yearly"),
    ],
)
def test_other_spellings_mean_the_same(expression: str, plain: str) -> None:
    assert compile_cron(expression) == compile_cron(plain)


REFUSED = [
    # Number of fields.
    ("", "second field: is missing"),
    (" \t", "second field: is missing"),
    ("30 9 * * *", "day-of-week field: is missing; 6 fields"),
    ("* * * * * * * *", "follows the year; 7 fields are the most"),
    ("* * * * * * *x", "'x' follows the year"),
    # Shorthands.
    ("@Daily", "unknown shorthand; allowed are @hourly, @daily, @weekly, @monthly, @yearly"),
    ("@annually", "unknown shorthand"),
    ("@midnight", "unknown shorthand"),
    ("@reboot", "unknown shorthand"),
    ("@every 5s", "unknown shorthand"),
    ("@daily *", "unknown shorthand"),
    ("@dailyBla", "unknown shorthand"),
    # Out of range.
    ("60 * * * * *", "second field: '60' is not allowed; allowed are numbers from 0 to 59"),
    ("* 60 * * * *", "minute field: '60'"),
    ("* * 24 * * *", "hour field: '24' is not allowed; allowed are numbers from 0 to 23"),
    ("* * * 0 * *", "day-of-month field: '0' is not allowed; allowed are numbers from 1 to 31"),
    ("* * * 32 * *", "day-of-month field: '32'"),
    ("* * * * 0 *", "month field: '0' is not allowed; allowed are numbers from 1 to 12"),
    ("* * * * 13 *", "month field: '13'"),
    ("* * * * * 0", "day-of-week field: '0' is not allowed; allowed are numbers from 1 to 7"),
    ("* * * * * 8", "day-of-week field: '8'"),
    ("* * * * * * 1969", "year field: '1969' is not allowed; allowed are numbers from 1970 to 2100"),
    ("* * * * * * 2101", "year field: '2101'"),
    ("0-60 * * * * *", "second field: '60'"),
    ("60/2 * * * * *", "second field: '60'"),
    (f"{'9' * 1000} * * * * *", "second field: '9"),
    # Ranges.
    ("30-10 * * * * *", "range 30-10 is not allowed; it takes two numbers or two names, the lower one first"),
    ("* * * * Nov-Feb *", "month field: range Nov-Feb"),
    ("* * * * * Fri-Mon", "day-of-week field: range Fri-Mon"),
    ("* * * * * Sat-Sun", "day-of-week field: range Sat-Sun"),
    ("* * * * 1-Mar *", "month field: range 1-Mar"),
    ("* * * * * Mon-5", "day-of-week field: range Mon-5"),
    ("1-5-9 * * * * *", "second field: cannot read"),
    ("5- * * * * *", "second field: cannot read"),
    ("-5 * * * * *", "second field: cannot read"),
    ("*-5 * * * * *", "second field: cannot read"),
    # Steps.
    ("*/0 * * * * *", "second field: step 0 is not allowed; allowed are steps from 1 to 59"),
    ("*/60 * * * * *", "second field: step 60"),
    ("* * * * * */8", "day-of-week field: step 8 is not allowed; allowed are steps from 1 to 7"),
    ("* * * * Feb/2 *", "month field: a step may not follow the single name 'Feb'; use 2/2"),
    ("*/ * * * * *", "second field: cannot read"),
    ("*/x * * * * *", "second field: cannot read"),
    ("*/-1 * * * * *", "second field: cannot read"),
    ("*/2/2 * * * * *", "second field: cannot read"),
    ("* /2 * * * * *", "minute field: cannot read"),
    ("/2 * * * * *", "second field: cannot read"),
    ("10-12/* * * * * *", "second field: cannot read"),
    # Lists.
    (",1 * * * * *", "second field: cannot read"),
    ("1, * * * * *", "second field: cannot read"),
    ("1,,2 * * * * *", "second field: cannot read"),
    ("* ,5 * * * * *", "minute field: cannot read"),
    # Names.
    ("Mon * * * * *", "second field: 'Mon' is not allowed; allowed are numbers from 0 to 59"),
    ("* * * Mon * *", "day-of-month field: 'Mon'"),
    ("* * * * Mon *", "month field: 'Mon' is not allowed; allowed are numbers from 1 to 12, jan, january, feb"),
    ("* * * * Sept *", "month field: 'Sept'"),
    ("* * * * * Thur", "day-of-week field: 'Thur'"),
    ("* * * * * Mo", "day-of-week field: 'Mo'"),
    ("* * * * * Jan", "day-of-week field: 'Jan'"),
    ("* * * * JanFeb *", "month field: 'JanFeb'"),
    ("* * * * * \u017fun", "day-of-week field: cannot read"),
    # Wildcards and what other dialects know.
    ("? * * * * *", r"second field: '\?' is allowed in the two day fields only"),
    ("* ? * * * *", "minute field"),
    ("* * ? * * *", "hour field"),
    ("* * * * ? *", "month field"),
    ("* * * * * * ?", "year field"),
    ("* * * * ?/2 *", "month field"),
    ("0 0 0 L * *", "day-of-month field: 'L'"),
    ("0 0 0 15W * *", "month field: 'W'"),
    ("0 0 0 * * Mon#2", "day-of-week field: cannot read"),
    ("0 0 0 * * 6L", "year field: 'L'"),
    ("H * * * * *", "second field: 'H'"),
    # Characters.
    ("1.5 * * * * *", "second field: cannot read"),
    ("+1 * * * * *", "second field: cannot read"),
    ("\u0661 * * * * *", "second field: cannot read"),
    ("*\u00a0* * * * *", "second field: cannot read"),
    ("* * * * *\x0b*", "month field: cannot read"),
    ("* * * * * *\x00", "day-of-week field: cannot read"),
    ("\ud800 * * * * *", "second field: cannot read"),
    ("* * * * * * # nightly", "year field: cannot read"),
]


@pytest.mark.parametrize(("expression", "reason"), REFUSED, ids=[repr(row[0][:30]) for row in REFUSED])
def test_refuses_with_the_field_and_the_reason(expression: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as caught:
        compile_cron(expression)
    assert repr(expression) in str(caught.value)


@pytest.mark.parametrize("expression", [None, 5, b"@daily", ["@daily"]])
def test_refuses_what_is_no_string(expression: object) -> None:
    with pytest.raises(TypeError, match=f"must be a str, not {type(expression).__name__}"):
        compile_cron(expression)  # type: ignore[arg-type]


def test_the_length_is_bounded() -> None:
    longest = "@daily".ljust(EXPRESSION_CHARACTERS_MAX)
    assert EXPRESSION_CHARACTERS_MAX == 1024
    assert compile_cron(longest) == compile_cron("@daily")
    with pytest.raises(ValueError, match="has 1025 characters; at most 1024 are allowed"):
        compile_cron(longest + " ")


def test_an_expression_is_compiled_once_and_immutable() -> None:
    compiled = compile_cron("1 2 3 4 5 *")
    assert compile_cron("1 2 3 4 5 *") is compiled
    with pytest.raises(FrozenInstanceError):
        compiled.endless = False  # type: ignore[misc]


# --- When it fires. --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expression", "at", "expected"),
    [
        # A fire is strictly later, and carries into minutes, hours, days, months and years.
        ("* * * * * *", "2026-11-23T12:00:00", "2026-11-23T12:00:01"),
        ("* * * * * *", "2026-12-31T23:59:59", "2027-01-01T00:00:00"),
        ("30 15 12 * * *", "2026-11-23T12:15:29", "2026-11-23T12:15:30"),
        ("30 15 12 * * *", "2026-11-23T12:15:30", "2026-11-24T12:15:30"),
        ("30 15 12 * * *", "2026-11-23T11:59:59", "2026-11-23T12:15:30"),
        ("30 15,45 12 * * *", "2026-11-23T12:15:31", "2026-11-23T12:45:30"),
        ("@hourly", "2026-02-28T23:00:00", "2026-03-01T00:00:00"),
        ("@yearly", "1970-01-01", "1971-01-01T00:00:00"),
        # Both days must match: Friday the 13th, not every Friday and every 13th.
        ("0 0 0 13 * Fri", "2026-11-23", "2027-08-13T00:00:00"),
        ("0 0 0 * * 1", "2026-11-23", "2026-11-29T00:00:00"),
        ("0 0 0 * * 7", "2026-11-23", "2026-11-28T00:00:00"),
        # Leap days: 2000 has one, 2100 has none.
        ("0 0 0 29 2 *", "1970-01-01", "1972-02-29T00:00:00"),
        ("0 0 0 29 2 *", "1999-12-31", "2000-02-29T00:00:00"),
        ("0 0 0 29 2 *", "2000-02-29", "2004-02-29T00:00:00"),
        ("0 0 0 29 2 *", "2026-11-23", "2028-02-29T00:00:00"),
        ("0 0 0 29 2 *", "2096-02-28", "2096-02-29T00:00:00"),
        ("0 0 0 29 2 *", "2096-02-29", None),
        ("0 0 0 29 2 Mon", "2016-02-29", "2044-02-29T00:00:00"),
        ("0 0 0 29 2 Mon", "2072-02-29", None),
        ("0 0 0 29 2 * 2027", "2026-11-23", None),
        ("0 0 0 * * *", "2100-02-28", "2100-03-01T00:00:00"),
        ("0 0 0 * * *", "2000-02-28", "2000-02-29T00:00:00"),
        ("0 0 0 31 * *", "2026-03-31", "2026-05-31T00:00:00"),
        # Dates that do not exist.
        ("* * * 30 2 *", "1970-01-01", None),
        ("* * * 31 2,4,6,9,11 *", "1970-01-01", None),
        # The year field, and the end of the last year.
        ("0 0 0 1 1 * 2030/10", "2026-11-23", "2030-01-01T00:00:00"),
        ("0 0 0 1 1 * 2030/10", "2030-01-01", "2040-01-01T00:00:00"),
        ("0 0 0 1 1 * 1970-2026", "2026-01-01", None),
        ("59 59 23 31 12 *", "2100-12-31T23:59:58", "2100-12-31T23:59:59"),
        ("* * * * * *", "2100-12-31T23:59:59", None),
        ("* * * * * *", "2101-01-01", None),
        ("* * * * * *", "2262-04-11T23:47:16", None),
    ],
)
def test_next_fire(expression: str, at: str, expected: str | None) -> None:
    assert next_text(expression, at) == expected


@pytest.mark.parametrize(
    ("offset_ns", "expected_seconds"),
    [(-SECOND_NS, 0), (-1, 0), (0, 10), (1, 10), (SECOND_NS - 1, 10), (9 * SECOND_NS, 10), (10 * SECOND_NS - 1, 10)],
)
def test_fractions_of_a_second_neither_repeat_nor_skip_a_fire(offset_ns: int, expected_seconds: int) -> None:
    fire_ns = ns("2026-11-23T12:00:10")
    found_ns = compile_cron("*/10 * * * * *").next_after_ns(fire_ns + offset_ns)
    assert found_ns == fire_ns + expected_seconds * SECOND_NS


def test_instants_at_both_ends() -> None:
    every_second = compile_cron("* * * * * *")
    assert every_second.next_after_ns(0) == SECOND_NS
    assert every_second.next_after_ns(INSTANTS_END_NS - 1) is None


# --- The promise of `endless`. ---------------------------------------------------------------------------------------


def test_the_bound_of_endless() -> None:
    assert ns("2040-01-01") == ENDLESS_BEFORE_NS


def test_every_date_recurs_between_the_bound_and_the_last_year() -> None:
    dates = {(day.month, day.day, weekday_of(day)) for _, day in all_days()}
    assert len(dates) == 366 * 7
    assert {(day.month, day.day, weekday_of(day)) for _, day in all_days() if day.year >= 2040} == dates
    for month, day, weekday in dates:
        assert compile_cron(f"0 0 0 {day} {month} {weekday}").endless


def test_the_rarest_date_is_at_most_40_years_apart() -> None:
    leap_days = [date(year, 2, 29) for year in range(1600, 2800, 4) if year % 400 == 0 or year % 100]
    gaps = {
        later.year - earlier.year
        for weekday in range(1, 8)
        for earlier, later in pairwise(day for day in leap_days if weekday_of(day) == weekday)
    }
    assert max(gaps) == 40


@pytest.mark.parametrize(
    ("expression", "endless"),
    [
        ("* * * * * *", True),
        ("* * * * * * *", True),
        ("* * * * * * 1970-2100", True),
        ("0 0 0 29 2 Mon", True),
        ("* * * 30 2 *", False),
        ("* * * 31 2,4,6,9,11 *", False),
        ("* * * * * * 2100", False),
        ("* * * * * * 1970-2099", False),
        ("* * * * * * */2", False),
    ],
)
def test_endless(expression: str, endless: bool) -> None:
    assert compile_cron(expression).endless is endless
