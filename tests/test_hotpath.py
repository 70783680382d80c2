"""Recording by the hot path does the same as by the usual way, whatever is recorded, whenever, and how often."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from walstore import Durability, WalOptions, WalPersistence
from walstore.errors import ForkedProcessError, StoreClosedError
from walstore.format.run_frames import CUT_INSTANT_MIN_NS
from walstore.model.names import INSTANT_MAX_NS, NAME_BYTES_MAX, Instant, QName, is_plain, known_ids

JOB = "ai.geo.tile"
LEVELS = [Durability.BUFFERED, Durability.PROCESS]
# More calls than it takes for the only job to become known.
OFTEN = 20


def known(store: WalPersistence, job: str = JOB) -> None:
    for at_ns in range(OFTEN):
        store.record_started(job, at_ns)


@pytest.fixture(params=LEVELS, ids=lambda level: level.value)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[WalPersistence]:
    options = WalOptions(segment_bytes_min=1024, segment_bytes_max=1024, buffer_events=64)
    with WalPersistence(tmp_path / "store", durability=request.param, options=options) as store:
        known(store)
        yield store


INSTANTS: list[tuple[Instant, int]] = [
    (0, 0),
    (1, 1),
    (CUT_INSTANT_MIN_NS - 1, CUT_INSTANT_MIN_NS - 1),
    (CUT_INSTANT_MIN_NS, CUT_INSTANT_MIN_NS),
    (INSTANT_MAX_NS, INSTANT_MAX_NS),
    (datetime(2026, 1, 1, tzinfo=UTC), 1_767_225_600_000_000_000),
]


@pytest.mark.parametrize(("instant", "expected_ns"), INSTANTS)
def test_every_instant_is_kept(store: WalPersistence, instant: Instant, expected_ns: int) -> None:
    store.record_started(JOB, instant)
    store.record_finished(JOB, instant, False)
    (record,) = store.load_all()
    assert (record.last_started_at_ns, record.last_finished_at_ns) == (expected_ns, expected_ns)
    assert record.consecutive_failures == 1


WRONG: list[tuple[object, type[Exception]]] = [
    (-1, ValueError),
    (INSTANT_MAX_NS + 1, ValueError),
    (2**64, ValueError),
    (True, TypeError),
    (1.5e18, TypeError),
    (None, TypeError),
    ("1", TypeError),
    (datetime(2026, 1, 1), ValueError),  # noqa: DTZ001  # Naive on purpose.
]


@pytest.mark.parametrize(("instant", "error"), WRONG)
def test_a_wrong_instant_of_a_known_job_is_refused(
    store: WalPersistence, instant: Instant, error: type[Exception]
) -> None:
    before = store.load_all()
    with pytest.raises(error):
        store.record_started(JOB, instant)
    with pytest.raises(error):
        store.record_finished(JOB, instant, True)
    assert store.load_all() == before


@pytest.mark.parametrize("success", [1, 0, None, "yes", 1.0])
def test_a_wrong_outcome_of_a_known_job_is_refused(store: WalPersistence, success: bool) -> None:
    before = store.load_all()
    with pytest.raises(TypeError):
        store.record_finished(JOB, 2**40, success)
    assert store.load_all() == before


@pytest.mark.parametrize("job", [None, 7, b"a.b", "", "a", ".a", "a.", "a.b\n", ["a.b"], "a." + "b" * 1023])
def test_a_wrong_name_is_refused_however_often_it_comes(store: WalPersistence, job: str) -> None:
    before = store.load_all()
    for _ in range(OFTEN):
        with pytest.raises((TypeError, ValueError)):
            store.record_started(job, 2**40)
        with pytest.raises((TypeError, ValueError)):
            store.record_finished(job, 2**40, True)
    assert store.load_all() == before


def test_a_name_may_be_given_as_either_type(store: WalPersistence) -> None:
    for at_ns in range(OFTEN):
        store.record_started(QName("ai.geo", "tile"), 2**40 + at_ns)
    (record,) = store.load_all()
    assert record.last_started_at_ns == 2**40 + OFTEN - 1


def test_events_are_in_order_and_counted_across_many_segments(store: WalPersistence) -> None:
    events = store.stats().events
    for number in range(500):
        store.record_started(JOB, 2**40 + number)
        store.record_finished(JOB, 2**40 + number, number % 3 == 0)
    assert store.stats().events == events + 1000
    (record,) = store.load_all()
    assert (record.last_started_at_ns, record.consecutive_failures) == (2**40 + 499, 1)
    store.close()
    with WalPersistence(store.path) as again:
        assert again.load_all() == [record]


def test_more_jobs_than_are_remembered(tmp_path: Path) -> None:
    jobs = [f"many.job{number}" for number in range(2_500)]
    with WalPersistence(tmp_path / "store") as store:
        for turn in range(OFTEN):
            for job in jobs:
                store.record_started(job, 2**40 + turn)
        assert {record.last_started_at_ns for record in store.load_all()} == {2**40 + OFTEN - 1}
        assert len(store.load_all()) == len(jobs)


NAMES = st.text(max_size=6) | st.lists(
    st.sampled_from(
        ["a", "B9", ".", ".", "/", "-", " ", "\0", "\n", "\x7f", "\x85", "\xa0", "é", "日", "\ud800", "n" * 1020]
    )
    | st.characters(),
    max_size=6,
).map("".join)


@pytest.mark.parametrize("level", LEVELS)
def test_a_name_is_taken_or_refused_as_qname_does_it(level: Durability, tmp_path: Path) -> None:
    with WalPersistence(tmp_path / "store", durability=level) as store:
        taken: dict[str, int] = {}

        @given(NAMES, st.sampled_from([0, 2**40, INSTANT_MAX_NS]), st.booleans())
        @example("a." + "n" * 1022, 2**40, True)
        @example("a." + "n" * 1023, 2**40, True)
        @example("a." + "n" * 1023, 2**40, False)
        @example("a." + "é" * 511, 2**40, False)
        @example("a." + "é" * 512, 2**40, False)
        @settings(max_examples=300)
        def check(name: str, at_ns: int, starts: bool) -> None:
            record = store.record_started if starts else partial(store.record_finished, success=True)
            try:
                QName.parse(name)
            except ValueError as error:
                assert not is_plain(name)
                with pytest.raises(ValueError, match=f"^{re.escape(str(error))}$"):
                    record(name, at_ns)
            else:
                record(name, at_ns)
                if starts:
                    taken[name] = at_ns

        check()
        assert {str(record.id): record.last_started_at_ns for record in store.load_all()} == taken


def test_a_string_of_another_type_is_taken_by_what_it_holds(store: WalPersistence) -> None:
    class Name(str):
        __slots__ = ()

        def encode(self, *_: str) -> bytes:
            return b"another.name"

        def isprintable(self) -> bool:
            return True

    for number in range(OFTEN):
        store.record_started(Name("a.name"), 2**40 + number)
        with pytest.raises(ValueError, match="control characters"):
            store.record_started(Name("a.b\n"), 2**40)
    assert {str(record.id) for record in store.load_all()} == {"a.name", JOB}


def test_jobs_that_run_once_are_in_order_and_counted_across_many_segments(store: WalPersistence) -> None:
    events = store.stats().events
    jobs = [f"once.{'n' * (number % 40)}{number}" for number in range(500)]
    for number, job in enumerate(jobs):
        store.record_started(job, 2**40 + number)
        store.record_finished(job, 2**41 + number, number % 3 == 0)
    assert store.stats().events == events + 1000
    expected = {job: (2**40 + number, 2**41 + number, int(number % 3 > 0)) for number, job in enumerate(jobs)}
    loaded = store.load_all()
    assert {
        str(record.id): (record.last_started_at_ns, record.last_finished_at_ns, record.consecutive_failures)
        for record in loaded
        if str(record.id) != JOB
    } == expected
    store.close()
    with WalPersistence(store.path) as again:
        assert sorted(map(repr, again.load_all())) == sorted(map(repr, loaded))


def test_names_that_are_recorded_often_are_remembered_and_a_bounded_number_of_them(tmp_path: Path) -> None:
    often = {f"often.job{number}" for number in range(1_000)}
    known_ids.clear()
    with WalPersistence(tmp_path / "store") as store:
        for turn in range(OFTEN):
            for job in often:
                store.record_started(job, 2**40 + turn)
        assert len(often & known_ids) > 800
        for number in range(200_000):
            store.record_finished(f"once.job{number}", 2**40, True)
        assert 0 < len(known_ids) <= 2**14


@pytest.mark.parametrize("level", LEVELS)
def test_a_name_that_is_too_long_is_never_remembered(level: Durability, tmp_path: Path) -> None:
    long = "a." + "n" * NAME_BYTES_MAX
    with WalPersistence(tmp_path / "store", durability=level) as store:
        for number in range(100):
            for at_ns in (number, 2**40 + number):
                with pytest.raises(ValueError, match="at most 1024 bytes"):
                    store.record_started(long, at_ns)
                with pytest.raises(ValueError, match="at most 1024 bytes"):
                    store.record_finished(long, at_ns, True)
        assert long not in known_ids
        assert store.load_all() == []


def test_after_closing_a_known_job_is_refused_like_any_other(store: WalPersistence) -> None:
    started, finished = store.record_started, store.record_finished
    store.close()
    with pytest.raises(StoreClosedError):
        started(JOB, 2**40)
    with pytest.raises(StoreClosedError):
        finished(JOB, 2**40, True)


def test_a_forked_child_can_not_record_for_a_known_job(store: WalPersistence) -> None:
    child = os.fork()
    if child == 0:
        refused = 0
        calls: list[Callable[[], None]] = [
            lambda: store.record_started(JOB, 2**40),
            lambda: store.record_finished(JOB, 2**40, True),
        ]
        for call in calls:
            try:
                call()
            except ForkedProcessError:
                refused += 1
        os._exit(refused)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 2
    store.record_started(JOB, 2**41)
    assert [record.last_started_at_ns for record in store.load_all()] == [2**41]


def test_a_subclass_sees_the_calls_that_it_overrides(tmp_path: Path) -> None:
    class Counting(WalPersistence):
        seen = 0

        def record_started(self, id: QName | str, started_at: Instant) -> None:
            self.seen += 1
            super().record_started(id, started_at)

    with Counting(tmp_path / "store") as store:
        known(store)
        store.record_finished(JOB, 2**40, True)
        assert store.seen == OFTEN
        (record,) = store.load_all()
        assert (record.last_started_at_ns, record.last_finished_at_ns) == (OFTEN - 1, 2**40)
