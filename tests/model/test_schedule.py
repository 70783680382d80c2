"""The four kinds of schedule: how they are built, and when they fire next."""

from __future__ import annotations

import copy
import pickle
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from walstore.model.names import INSTANT_MAX_NS
from walstore.model.schedule import Cron, Manual, Once, Periodic, Schedule, ScheduleForm, schedule_of

HOUR_NS = 3_600 * 10**9
NEW_YEAR_NS = 1_767_225_600 * 10**9  # 2026-01-01T00:00:00Z.
NEW_YEAR = datetime(2026, 1, 1, tzinfo=UTC)

instants_ns = st.integers(0, INSTANT_MAX_NS)


@given(instants_ns)
def test_manual_is_due_at_once(at_ns: int) -> None:
    assert Manual().next_after(at_ns) == at_ns


@given(instants_ns, instants_ns)
def test_once_fires_at_its_instant_or_never(once_ns: int, at_ns: int) -> None:
    assert Once(at_ns=once_ns).next_after(at_ns) == (once_ns if once_ns >= at_ns else None)
    assert Once(at_ns=once_ns).next_after(once_ns) == once_ns


@given(st.integers(1, INSTANT_MAX_NS), instants_ns)
def test_periodic_fires_one_period_later(every_ns: int, at_ns: int) -> None:
    fire_ns = at_ns + every_ns
    assert Periodic(every_ns=every_ns).next_after(at_ns) == (fire_ns if fire_ns < 2**63 else None)


@pytest.mark.parametrize(("at_ns", "expected"), [(INSTANT_MAX_NS - 7, INSTANT_MAX_NS), (INSTANT_MAX_NS - 6, None)])
def test_the_last_instant_is_the_last_fire(at_ns: int, expected: int | None) -> None:
    assert Periodic(every_ns=7).next_after(at_ns) == expected


@pytest.mark.parametrize(
    ("expression", "at_ns", "expected_ns"),
    [
        ("@hourly", NEW_YEAR_NS, NEW_YEAR_NS + HOUR_NS),
        ("@hourly", NEW_YEAR_NS - 1, NEW_YEAR_NS),
        ("0 0 0 1 1 * 2026", NEW_YEAR_NS - 1, NEW_YEAR_NS),
        ("0 0 0 1 1 * 2026", NEW_YEAR_NS, None),
        ("0 0 0 30 2 *", 0, None),
        ("* * * * * *", INSTANT_MAX_NS, None),
    ],
)
def test_cron_fires_strictly_after(expression: str, at_ns: int, expected_ns: int | None) -> None:
    assert Cron(expression).next_after(at_ns) == expected_ns


def test_values() -> None:
    assert Once(NEW_YEAR).at_ns == NEW_YEAR_NS
    assert Once(at_ns=NEW_YEAR_NS + 999) == Once(at_ns=NEW_YEAR_NS + 999)
    assert Once(at_ns=NEW_YEAR_NS + 999).at == NEW_YEAR
    assert Periodic(timedelta(hours=1)).every_ns == HOUR_NS
    assert Periodic(every_ns=HOUR_NS + 999).every == timedelta(hours=1)
    assert Cron("@hourly").expression == "@hourly"


SCHEDULES: list[Schedule] = [
    Manual(),
    Once(at_ns=5),
    Once(at_ns=6),
    Periodic(every_ns=5),
    Periodic(every_ns=6),
    Cron("@hourly"),
    Cron("0 0 * * * *"),
]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_equality_is_by_kind_and_value(schedule: Schedule) -> None:
    twin = eval(repr(schedule))  # The representation is how it is built.
    assert twin == schedule
    assert hash(twin) == hash(schedule)
    assert [other for other in SCHEDULES if other == schedule] == [schedule]
    assert schedule != schedule.form
    for other in (copy.copy(schedule), copy.deepcopy(schedule), pickle.loads(pickle.dumps(schedule))):
        assert other == schedule
        assert type(other) is type(schedule)
        assert other.next_after(4) == schedule.next_after(4)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_schedules_are_immutable(schedule: Schedule) -> None:
    form = schedule.form
    for attribute in ("form", "at_ns", "every_ns", "expression", "other"):
        with pytest.raises(AttributeError):
            setattr(schedule, attribute, 1)
        with pytest.raises(AttributeError):
            delattr(schedule, attribute)
    assert schedule.form == form


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_forms_read_back(schedule: Schedule) -> None:
    assert schedule_of(schedule.form) == schedule


WRONG_FORMS: list[Any] = [(), (4,), (4, 1), (-1,), (0, 1), (1,), (2,), (3,), (1, 2, 3), (1, "5"), (2, "5"), (3, 5)]
WRONG_FORMS += [(1, -1), (1, 2**63), (2, 0), (2, -1), (2, 2**63), (1, None), ("1", 5), (3, b"@hourly")]


@pytest.mark.parametrize("form", WRONG_FORMS, ids=repr)
def test_other_forms_are_refused(form: ScheduleForm) -> None:
    with pytest.raises(ValueError):
        schedule_of(form)


def test_an_expression_of_another_release_is_kept_and_never_fires() -> None:
    schedule = schedule_of((3, "every full moon"))
    assert isinstance(schedule, Cron)
    assert (schedule.expression, schedule.form) == ("every full moon", (3, "every full moon"))
    assert schedule.next_after(0) is None
    assert pickle.loads(pickle.dumps(schedule)) == schedule


NAIVE = NEW_YEAR.replace(tzinfo=None)
BARE: list[Any] = [None, 0, 3600, 1.5, True, "5", "2026-01-01", (1,)]


@pytest.mark.parametrize("wrong", [*BARE, timedelta(1)], ids=repr)
def test_once_takes_no_bare_value(wrong: datetime) -> None:
    with pytest.raises(TypeError, match="Once takes an aware datetime, or at_ns="):
        Once(wrong)


@pytest.mark.parametrize("wrong", [*BARE, NEW_YEAR], ids=repr)
def test_periodic_takes_no_bare_value(wrong: timedelta) -> None:
    with pytest.raises(TypeError, match="Periodic takes a timedelta, or every_ns="):
        Periodic(wrong)


NO_NUMBERS: list[Any] = [1.0, True, False, "5", timedelta(1)]


@pytest.mark.parametrize("wrong", NO_NUMBERS, ids=repr)
def test_nanoseconds_are_integers(wrong: int) -> None:
    with pytest.raises(TypeError):
        Once(at_ns=wrong)
    with pytest.raises(TypeError):
        Periodic(every_ns=wrong)


def test_both_spellings_at_once_are_refused() -> None:
    with pytest.raises(TypeError):
        Once(NEW_YEAR, at_ns=NEW_YEAR_NS)
    with pytest.raises(TypeError):
        Periodic(timedelta(1), every_ns=1)


@pytest.mark.parametrize("wrong", [-1, 2**63])
def test_once_out_of_range_is_refused(wrong: int) -> None:
    with pytest.raises(ValueError, match="the instant of Once must be between"):
        Once(at_ns=wrong)


@pytest.mark.parametrize("moment", [NAIVE, NEW_YEAR.replace(year=1969), NEW_YEAR.replace(year=2263)])
def test_once_at_a_moment_that_is_no_instant_is_refused(moment: datetime) -> None:
    with pytest.raises(ValueError, match="the instant of Once"):
        Once(moment)


@pytest.mark.parametrize("wrong", [timedelta(0), timedelta(seconds=-1), timedelta.max])
def test_periods_out_of_range_are_refused(wrong: timedelta) -> None:
    with pytest.raises(ValueError, match="a period must be between 1 and"):
        Periodic(wrong)


@pytest.mark.parametrize("wrong", [0, -1, 2**63])
def test_periods_in_nanoseconds_out_of_range_are_refused(wrong: int) -> None:
    with pytest.raises(ValueError, match="a period must be between 1 and"):
        Periodic(every_ns=wrong)


def test_cron_refuses_what_does_not_parse() -> None:
    with pytest.raises(ValueError, match="day-of-week field: is missing"):
        Cron("30 9 * * *")
    with pytest.raises(TypeError):
        Cron(5)  # type: ignore[arg-type]
