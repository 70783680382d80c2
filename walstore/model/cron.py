"""Cron expressions in the dialect of the Rust crate ``cron`` 0.16, and the instants at which they fire.

An expression has six fields, ``second minute hour day-of-month month day-of-week``, or seven with a year, or is one
of the shorthands. It fires, in UTC, at every whole second that matches all of its fields: unlike in Vixie cron, day of
month and day of week must both match. Days of the week run from 1 = Sunday to 7 = Saturday. The module is pure: it
reads no clock and keeps no state but a cache of compiled expressions.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from calendar import isleap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import lru_cache
from itertools import islice
from typing import NamedTuple

__all__ = ["ENDLESS_BEFORE_NS", "EXPRESSION_CHARACTERS_MAX", "CompiledCron", "compile_cron"]

ENDLESS_BEFORE_NS = 2_208_988_800 * 10**9
"""2040-01-01T00:00:00Z in nanoseconds since the epoch: up to here, ``CompiledCron.endless`` promises a fire."""

EXPRESSION_CHARACTERS_MAX = 1024
"""The longest expression that is compiled; it bounds what a cache entry costs."""

_CACHED_EXPRESSIONS = 1024
_NS_PER_SECOND = 10**9
_SECONDS_PER_DAY = 86_400
_EPOCH_ORDINAL = date(1970, 1, 1).toordinal()
_EPOCH_WEEKDAY = 4  # 1970-01-01 was a Thursday, counted from Sunday = 0.


class _Field(NamedTuple):
    name: str
    low: int
    high: int
    names: Mapping[str, int] = {}
    wildcards: str = "*"

    def allowed(self) -> str:
        return ", ".join((f"numbers from {self.low} to {self.high}", *self.names))


def _numbered(*spellings: str) -> dict[str, int]:
    """Map every spelling to the position of its group, counted from 1; a group separates its spellings by blanks."""
    return {name: number for number, group in enumerate(spellings, start=1) for name in group.split()}


# fmt: off
_MONTHS = _numbered(
    "jan january", "feb february", "mar march", "apr april", "may", "jun june",
    "jul july", "aug august", "sep september", "oct october", "nov november", "dec december",
)
_WEEKDAYS = _numbered(
    "sun sunday", "mon monday", "tue tues tuesday", "wed wednesday", "thu thurs thursday", "fri friday", "sat saturday",
)
# fmt: on
_YEAR = _Field("year", 1970, 2100)
_FIELDS = (
    _Field("second", 0, 59),
    _Field("minute", 0, 59),
    _Field("hour", 0, 23),
    _Field("day-of-month", 1, 31, wildcards="*?"),
    _Field("month", 1, 12, _MONTHS),
    _Field("day-of-week", 1, 7, _WEEKDAYS, wildcards="*?"),
    _YEAR,
)
_EVERY_YEAR = tuple(range(_YEAR.low, _YEAR.high + 1))
_SHORTHANDS = {
    "@hourly": "0 0 * * * *",
    "@daily": "0 0 0 * * *",
    "@weekly": "0 0 0 * * 1",
    "@monthly": "0 0 0 1 * *",
    "@yearly": "0 0 0 1 1 *",
}

# One member of a list, with the comma or the blanks behind it. As in the crate, blanks may surround a number or a name
# but not precede a wildcard within a list, and none are needed between fields: "1 , 2" is one field and "**" are two.
# What touches a member without being able to start a field belongs to it, so that the right field gets the blame.
# Possessive quantifiers keep hostile input linear: no run of blanks, digits or letters is tried twice.
_WHITESPACE = " \t\r\n"
_BLANKS = rf"[{_WHITESPACE}]*+"
_BOUND = rf"{_BLANKS}([0-9]++|[A-Za-z]++){_BLANKS}"
_ITEM = re.compile(
    rf"(?:([*?])|{_BOUND}(?:-{_BOUND})?)(?:/{_BLANKS}([0-9]++){_BLANKS})?"
    rf"(?:(,)|(?:(?<=[{_WHITESPACE}])|(?=[*?0-9A-Za-z{_WHITESPACE}]|\Z)){_BLANKS})"
)


@dataclass(frozen=True, slots=True)
class CompiledCron:
    """An expression that ``compile_cron`` accepted; immutable, and safe to share between threads.

    ``seconds``, ``minutes``, ``hours`` and ``years`` are ascending and not empty. ``days_of_year`` holds, for a common
    and for a leap year (index 0 and 1), the ascending days of the year, 0 = January 1, that match month and day of
    month; an impossible date such as February 30 leaves both empty, so that looking for it costs next to nothing.

    ``endless`` is true only if ``next_after_ns`` gives an instant for every argument before ``ENDLESS_BEFORE_NS``:
    the expression leaves the year open, and some date matches it.
    """

    seconds: tuple[int, ...]
    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days_of_year: tuple[tuple[int, ...], tuple[int, ...]]
    weekdays: frozenset[int]
    years: tuple[int, ...]
    endless: bool = field(init=False)

    def __post_init__(self) -> None:
        # A fire after the bound is a fire after every earlier instant as well, so that this answer is certain. It is
        # also complete, as the 60 years from the bound to the last year hold every date that there is: the rarest, a
        # leap day on a given weekday, recurs every 28 years there (40 where a century without a leap day intervenes,
        # as 2100 is).
        fires_late = self.years == _EVERY_YEAR and self.next_after_ns(ENDLESS_BEFORE_NS) is not None
        object.__setattr__(self, "endless", fires_late)

    def next_after_ns(self, at_ns: int) -> int | None:
        """Return the first instant strictly after ``at_ns`` at which the expression fires, or None if there is none.

        Both are nanoseconds since the epoch, in UTC; the result is a whole second. ``at_ns`` must be in [0, 2^63);
        the result is too, as no expression fires after the year 2100.
        """
        today, second_of_day = divmod(at_ns // _NS_PER_SECOND + 1, _SECONDS_PER_DAY)
        day = self._day_from(today)
        time = self._time_from(second_of_day if day == today else 0)
        if time is None:
            day, time = self._day_from(today + 1), self._time_from(0)
        if day is None or time is None:
            return None
        return (day * _SECONDS_PER_DAY + time) * _NS_PER_SECOND

    def _day_from(self, day: int) -> int | None:
        """Return the first matching day that is not before ``day``; both count from the epoch."""
        first_year = date.fromordinal(_EPOCH_ORDINAL + day).year
        for year in islice(self.years, bisect_left(self.years, first_year), None):
            january_1 = date(year, 1, 1).toordinal() - _EPOCH_ORDINAL
            days = self.days_of_year[isleap(year)]
            for day_of_year in islice(days, bisect_left(days, day - january_1), None):
                found = january_1 + day_of_year
                if (found + _EPOCH_WEEKDAY) % 7 + 1 in self.weekdays:
                    return found
        return None

    def _time_from(self, second_of_day: int) -> int | None:
        """Return the first matching second of a day that is not before ``second_of_day``."""
        minute_of_day, second = divmod(second_of_day, 60)
        hour, minute = divmod(minute_of_day, 60)
        if hour in self.hours:
            if minute in self.minutes and (later := _at_least(self.seconds, second)) is not None:
                return minute_of_day * 60 + later
            if (later := _at_least(self.minutes, minute + 1)) is not None:
                return (hour * 60 + later) * 60 + self.seconds[0]
        if (later := _at_least(self.hours, hour + 1)) is not None:
            return (later * 60 + self.minutes[0]) * 60 + self.seconds[0]
        return None


def compile_cron(expression: str) -> CompiledCron:
    """Compile ``expression``; a bounded cache lets equal expressions share one result. Any thread may call it.

    Raises ``TypeError`` if ``expression`` is no string, and ``ValueError`` if it is longer than
    ``EXPRESSION_CHARACTERS_MAX`` or not of the dialect; the message names the expression, the field, what is wrong and
    what is allowed. An expression that never fires, such as one for February 30, is accepted.
    """
    if not isinstance(expression, str):
        raise TypeError(f"a cron expression must be a str, not {type(expression).__name__}")
    if len(expression) > EXPRESSION_CHARACTERS_MAX:
        raise ValueError(
            f"cron expression {expression[:40]!r}... has {len(expression)} characters;"
            f" at most {EXPRESSION_CHARACTERS_MAX} are allowed"
        )
    return _compile(expression)


@lru_cache(maxsize=_CACHED_EXPRESSIONS)
def _compile(expression: str) -> CompiledCron:
    text = expression.strip(_WHITESPACE)
    text = _SHORTHANDS.get(text, text)
    if text.startswith("@"):
        raise ValueError(f"cron expression {expression!r}: unknown shorthand; allowed are {', '.join(_SHORTHANDS)}")
    position = 0
    parsed: list[tuple[int, ...]] = []
    for unit in _FIELDS:
        if unit is _YEAR and position == len(text):
            parsed.append(_EVERY_YEAR)
            continue
        try:
            values, position = _parse_field(unit, text, position)
        except ValueError as error:
            raise ValueError(f"cron expression {expression!r}: {unit.name} field: {error}") from None
        parsed.append(values)
    if position != len(text):
        raise ValueError(f"cron expression {expression!r}: {text[position:]!r} follows the year; 7 fields are the most")
    seconds, minutes, hours, days, months, weekdays, years = parsed
    days_of_year = (_days_of_year(months, days, february=28), _days_of_year(months, days, february=29))
    return CompiledCron(seconds, minutes, hours, days_of_year, frozenset(weekdays), years)


def _parse_field(unit: _Field, text: str, position: int) -> tuple[tuple[int, ...], int]:
    """Return the ascending values of the field that starts at ``position``, and where the next one starts."""
    if position == len(text):
        raise ValueError("is missing; 6 fields are required, and a year may follow")
    values: set[int] = set()
    comma: str | None = ","
    while comma:
        item = _ITEM.match(text, position)
        if item is None:
            raise ValueError(
                f"cannot read {text[position:]!r}; allowed are {' or '.join(unit.wildcards)}, {unit.allowed()},"
                " ranges a-b, any of these with a step /n, and lists of these without empty members"
            )
        wildcard, low, high, step, comma = item.groups()
        values.update(_values(unit, wildcard, low, high, step))
        position = item.end()
    return tuple(sorted(values)), position


def _values(unit: _Field, wildcard: str | None, low: str | None, high: str | None, step: str | None) -> range:
    """Return what one member of a list stands for: a wildcard, or a number or name ``low``, or ``low-high``."""
    if wildcard and wildcard not in unit.wildcards:
        raise ValueError(f"{wildcard!r} is allowed in the two day fields only; use '*'")
    first = unit.low if low is None else _value(unit, low)
    last = unit.high if high is None else _value(unit, high)
    if low and high and (low.isdigit() != high.isdigit() or first > last):
        raise ValueError(f"range {low}-{high} is not allowed; it takes two numbers or two names, the lower one first")
    if low and not high and step is None:
        last = first
    if low and not high and step and not low.isdigit():
        raise ValueError(f"a step may not follow the single name {low!r}; use {first}/{step}")
    # As in the crate, it is the highest value of the field that bounds a step, not the number of its values.
    if step and not 1 <= int(step) <= unit.high:
        raise ValueError(f"step {step} is not allowed; allowed are steps from 1 to {unit.high}")
    return range(first, last + 1, int(step or 1))


def _value(unit: _Field, text: str) -> int:
    value = int(text) if text.isdigit() else unit.names.get(text.lower())
    if value is None or not unit.low <= value <= unit.high:
        raise ValueError(f"{text!r} is not allowed; allowed are {unit.allowed()}")
    return value


def _days_of_year(months: Sequence[int], days: Sequence[int], *, february: int) -> tuple[int, ...]:
    """Return the ascending days of the year, 0 = January 1, of these days of these months."""
    lengths = (31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
    return tuple(sum(lengths[: month - 1]) + day - 1 for month in months for day in days if day <= lengths[month - 1])


def _at_least(values: tuple[int, ...], low: int) -> int | None:
    index = bisect_left(values, low)
    return values[index] if index < len(values) else None
