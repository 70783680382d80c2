"""Records of jobs, their statuses and their cancellation tokens."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Callable
from dataclasses import FrozenInstanceError, fields, replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given

from walstore.model.names import QName
from walstore.model.records import (
    FAILURES_MAX,
    CancellationToken,
    JobState,
    SchedulerJobRecord,
    SchedulerJobStatus,
    record_of,
    state_of,
)
from walstore.model.schedule import Manual, Once, schedule_of
from walstore.testing.strategies import records

RECORD = SchedulerJobRecord(
    QName("ai.geo", "tile"), SchedulerJobStatus.RUNNING, 1_999, 2_000, None, 3, Once(at_ns=1_999)
)


def test_statuses_have_the_words_of_uni_db() -> None:
    words = {status.name: status.value for status in SchedulerJobStatus}
    assert words == {
        "PENDING": "Pending",
        "RUNNING": "Running",
        "IDLE": "Idle",
        "FAILED_RETRYING": "FailedRetrying",
        "CANCELLED": "Cancelled",
    }


def test_instants_as_datetimes() -> None:
    assert RECORD.next_fire_at == datetime(1970, 1, 1, 0, 0, 0, 1, UTC)
    assert RECORD.last_started_at == datetime(1970, 1, 1, 0, 0, 0, 2, UTC)
    assert RECORD.last_finished_at is None
    assert replace(RECORD, last_finished_at_ns=0).last_finished_at == datetime(1970, 1, 1, tzinfo=UTC)


def test_equality_hash_and_representation_leave_the_token_out() -> None:
    twin = replace(RECORD)
    before = repr(RECORD), hash(RECORD)
    twin.cancel.cancel()
    assert twin == RECORD
    assert (repr(twin), hash(twin)) == before
    assert not RECORD.cancel.is_cancelled


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("id", QName("ai.geo", "Tile")),
        ("status", SchedulerJobStatus.IDLE),
        ("next_fire_at_ns", 2_000),
        ("last_started_at_ns", None),
        ("last_finished_at_ns", 0),
        ("consecutive_failures", 0),
        ("schedule", Manual()),
    ],
)
def test_every_other_field_counts(name: str, value: Any) -> None:  # noqa: ANN401
    assert replace(RECORD, **{name: value}) != RECORD


def test_records_are_immutable() -> None:
    for field in fields(RECORD):
        with pytest.raises(FrozenInstanceError):
            setattr(RECORD, field.name, None)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("id", "ai.geo.tile"),
        ("status", "Running"),
        ("status", 1),
        ("schedule", 3600),
        ("schedule", None),
        *[(name, 1.5) for name in ("next_fire_at_ns", "last_started_at_ns", "last_finished_at_ns")],
        *[(name, True) for name in ("next_fire_at_ns", "last_started_at_ns", "last_finished_at_ns")],
        ("last_started_at_ns", datetime(2026, 1, 1, tzinfo=UTC)),
        ("consecutive_failures", 1.0),
        ("consecutive_failures", True),
        ("consecutive_failures", None),
    ],
)
def test_fields_of_another_type_are_refused(name: str, value: Any) -> None:  # noqa: ANN401
    with pytest.raises(TypeError, match=name):
        replace(RECORD, **{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("next_fire_at_ns", -1),
        ("last_started_at_ns", 2**63),
        ("last_finished_at_ns", -1),
        ("consecutive_failures", -1),
        ("consecutive_failures", 2**32),
    ],
)
def test_fields_out_of_range_are_refused(name: str, value: Any) -> None:  # noqa: ANN401
    with pytest.raises(ValueError, match=name):
        replace(RECORD, **{name: value})


def test_the_failures_fill_a_u32() -> None:
    assert replace(RECORD, consecutive_failures=FAILURES_MAX).consecutive_failures == 2**32 - 1


@given(records())
def test_states_read_back(record: SchedulerJobRecord) -> None:
    assert record_of(str(record.id), state_of(record)) == record


def pickled(record: SchedulerJobRecord) -> SchedulerJobRecord:
    copied: SchedulerJobRecord = pickle.loads(pickle.dumps(record))
    return copied


@pytest.mark.parametrize("duplicate", [pickled, copy.copy, copy.deepcopy])
@given(record=records())
def test_a_copy_has_a_token_of_its_own(
    duplicate: Callable[[SchedulerJobRecord], SchedulerJobRecord], record: SchedulerJobRecord
) -> None:
    """The token belongs to one process, so a copy that is sent to another one can't take it along."""
    assert duplicate(record) == record
    record.cancel.cancel()
    copied = duplicate(record)
    assert copied == record
    assert not copied.cancel.is_cancelled


def test_the_plain_form_is_in_the_order_of_the_specification() -> None:
    assert state_of(RECORD) == (1, 1_999, 2_000, None, 3, (1, 1_999))
    numbers = {
        status: state_of(replace(RECORD, status=status))[0]
        for status in SchedulerJobStatus
        if status is not SchedulerJobStatus.CANCELLED
    }
    assert [status.value for status in sorted(numbers, key=numbers.__getitem__)] == [
        "Pending",
        "Running",
        "Idle",
        "FailedRetrying",
    ]
    assert sorted(numbers.values()) == [0, 1, 2, 3]


def test_a_cancelled_job_is_not_kept() -> None:
    with pytest.raises(ValueError, match=r"Cancelled job is not kept.*ai\.geo\.tile.*cancel"):
        state_of(replace(RECORD, status=SchedulerJobStatus.CANCELLED))


@pytest.mark.parametrize("status", [-1, 4, 255])
def test_an_unknown_status_is_refused(status: int) -> None:
    state: JobState = (status, None, None, None, 0, (0,))
    with pytest.raises(ValueError, match="status"):
        record_of("a.b", state)


def test_a_record_names_its_job_split_at_the_last_dot() -> None:
    record = record_of("a.b.c", (0, None, None, None, 0, (0,)))
    assert (record.id.namespace, record.id.local, record.schedule) == ("a.b", "c", schedule_of((0,)))


# --- Tokens. ---------------------------------------------------------------------------------------------------------


def test_a_record_has_one_token() -> None:
    record = replace(RECORD)
    token = record.cancel
    assert token is record.cancel
    assert not token.is_cancelled
    token.cancel()
    token.cancel()
    assert record.cancel.is_cancelled
    assert "cancelled" in repr(token)


def test_a_token_ends_the_wait_of_other_threads() -> None:
    token = CancellationToken()
    assert not token.wait(0)
    seen: list[bool] = []
    thread = threading.Thread(target=lambda: seen.append(token.wait(60)))
    thread.start()
    token.cancel()
    thread.join()
    assert seen == [True]
    assert token.wait()
