"""The blob of an entry gives back what went in, and never more than data."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from importlib.util import find_spec
from typing import Any
from zoneinfo import ZoneInfo

import pytest

pytest.importorskip("celery", reason="Celery is not installed")

from celery.beat import BeatLazyFunc, ScheduleEntry
from celery.schedules import BaseSchedule, crontab, schedule, solar
from hypothesis import given
from hypothesis import strategies as st

from tests.integrations.celery_apps import application
from walstore.integrations.celery_blob import decode_definition, decode_history, encode, key_of
from walstore.integrations.entry_model import BLOB_BYTES_MAX, KEY_BYTES_MAX

APP = application({})
ZONES = [None, UTC, ZoneInfo("Europe/Berlin"), ZoneInfo("America/New_York"), timezone(timedelta(minutes=-123))]

# Of all of Unicode, what matters to JSON and to UTF-8: making a table of the rest takes Hypothesis many seconds.
TEXT = st.text('aZ\u00e9\u6f22\U0001f600 "\\\n\0', max_size=5)
DATA = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT | st.binary(),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(TEXT, children, max_size=3),
    max_leaves=6,
) | st.builds(timedelta, seconds=st.integers(-(10**6), 10**6))
CRONTABS = st.builds(
    crontab,
    minute=st.sampled_from(["*", "*/5", 3, "1,2", [1, 59]]),
    hour=st.sampled_from(["*", "8-17/2", 0]),
    day_of_week=st.sampled_from(["*", "mon-fri", 6]),
    day_of_month=st.sampled_from(["*", "1-7,15-21"]),
    month_of_year=st.sampled_from(["*", "*/3", [2]]),
)
INTERVALS = st.builds(schedule, st.timedeltas(timedelta(milliseconds=1), timedelta(days=1000)), relative=st.booleans())


@given(
    last_run_at=st.datetimes(timezones=st.sampled_from(ZONES)),
    count=st.integers(0),
    zone=st.none() | TEXT,
    enable_utc=st.booleans(),
    name=TEXT,
)
def test_the_history_comes_back(
    last_run_at: datetime, count: int, zone: str | None, enable_utc: bool, name: str
) -> None:
    try:
        expected = last_run_at if last_run_at.tzinfo is None else last_run_at.astimezone(UTC)
    except OverflowError:  # The first and the last day that there are.
        return
    entry = ScheduleEntry(name, "a.task", last_run_at, count, schedule(1.0), app=APP)
    history = decode_history(encode(entry, zone, enable_utc))
    assert (history.last_run_at, history.last_run_at.tzinfo) == (expected, expected.tzinfo)
    assert (history.name, history.total_run_count) == (name, count)
    assert (history.timezone, history.enable_utc) == (zone, enable_utc)


@given(
    when=CRONTABS | INTERVALS,
    args=st.lists(DATA, max_size=2),
    kwargs=st.dictionaries(TEXT, DATA, max_size=2),
    options=st.fixed_dictionaries({}, optional={"queue": TEXT, "expires": st.timedeltas() | st.datetimes()}),
)
def test_the_definition_comes_back(
    when: BaseSchedule, args: list[object], kwargs: dict[str, object], options: dict[str, object]
) -> None:
    entry = ScheduleEntry("name", "a.task", None, 0, when, tuple(args), kwargs, options, app=APP)
    definition = decode_definition(encode(entry, None, True))
    assert definition is not None
    assert ScheduleEntry("name", app=APP, **definition) == entry
    assert definition["schedule"].__reduce__() == when.__reduce__()


@pytest.mark.skipif(find_spec("ephem") is None, reason="ephem, which solar schedules need, is not installed")
def test_a_solar_schedule_comes_back() -> None:
    when = solar("dusk_civil", -37.81753, 144.96715, app=APP)
    definition = decode_definition(encode(ScheduleEntry("name", "a.task", schedule=when, app=APP), None, True))
    assert definition is not None
    restored = definition["schedule"]
    restored.app = APP
    assert restored == when
    at = datetime(2026, 6, 1, tzinfo=UTC)
    assert restored.remaining_estimate(at).total_seconds() == pytest.approx(
        when.remaining_estimate(at).total_seconds(), abs=60
    )


class OfTheUser(crontab):
    """A schedule that does whatever it likes."""


@pytest.mark.parametrize(
    "change",
    [
        {"schedule": OfTheUser()},
        {"schedule": crontab(nowfun=lambda: datetime.now(UTC))},
        {"args": (BeatLazyFunc(datetime.now),)},
        {"kwargs": {"of": object()}},
        {"options": {"large": "x" * BLOB_BYTES_MAX}},
    ],
)
def test_what_json_can_not_express_is_left_to_the_configuration(change: dict[str, Any]) -> None:
    values: dict[str, Any] = {"name": "name", "task": "a.task", "schedule": schedule(60.0), "app": APP}
    entry = ScheduleEntry(**values | change)
    blob = encode(entry, None, True)
    assert decode_definition(blob) is None
    assert decode_history(blob).last_run_at == entry.last_run_at


@pytest.mark.parametrize(
    "blob",
    [b"", b"\n", b"\xff", b"[]", b"{}", b'{"version": 2}', b"1" * 5000, b"[" * 100_000],
    ids=lambda blob: repr(blob[:10]),
)
def test_other_bytes_are_no_history(blob: bytes) -> None:
    with pytest.raises(ValueError):
        decode_history(blob)


@pytest.mark.parametrize(
    "change",
    [{"version": 2}, {"last_run_at": "soon"}, {"last_run_at": 1}, {"total_run_count": "1"}, {"enable_utc": 1}],
)
def test_a_history_of_another_kind_is_none(change: dict[str, object]) -> None:
    entry = ScheduleEntry("name", "a.task", datetime.now(UTC), 0, schedule(1.0))
    good = json.loads(encode(entry, None, True).partition(b"\n")[0])
    with pytest.raises(ValueError):
        decode_history(json.dumps(good | change).encode())


@pytest.mark.parametrize(
    "line",
    [
        "nonsense",
        "[]",
        '["task", ["crontab", ["61"]], [], {}, {}]',
        '["task", ["os.system", ["true"]], [], {}, {}]',
        '["task", ["interval", []], [], {}]',
        '["task", ["interval", [{"__type__": "of another release", "__value__": 1}]], [], {}, {}]',
        "[" * 100_000,
    ],
    ids=lambda line: line[:60],
)
def test_what_can_not_be_restored_is_a_value_error(line: str) -> None:
    with pytest.raises(ValueError, match="can't be restored"):
        decode_definition(b"{}\n" + line.encode())


def test_long_names_have_short_keys() -> None:
    assert key_of("a name") == "a name"
    assert key_of("é" * (KEY_BYTES_MAX // 2)) == "é" * (KEY_BYTES_MAX // 2)
    keys = {key_of("é" * KEY_BYTES_MAX + end) for end in ("", "a", "b")}
    assert len(keys) == 3
    assert all(len(key.encode()) <= KEY_BYTES_MAX for key in keys)
