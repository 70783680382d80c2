"""The hot path: recording that a run started or finished, by one Python function for each level.

A call through ``WalPersistence``, ``Store``, codec and ``Log`` is four Python frames, and each of them costs as much as
appending to a list does. These functions do the same in one frame. Whatever is unusual (a name of another type, an
instant as a datetime, a full segment, a closed store) they leave to the usual way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from xxhash import xxh3_64_digest

from walstore.engine.store import Store
from walstore.errors import storage_error
from walstore.format.run_frames import CUT_INSTANT_MIN_NS, EIGHT_BYTES, FINISHED_SHAPES, STARTED_SHAPES
from walstore.model.events import FINISHED, STARTED, EventForm
from walstore.model.names import (
    INSTANT_MAX_NS,
    PLAIN_CHARACTERS_MAX,
    Instant,
    JobId,
    id_of,
    instant_ns,
    is_plain,
    known_ids,
    remember,
)
from walstore.model.records import JobState
from walstore.options import Durability

__all__ = ["HotPath", "finished_form", "hot_path", "started_form"]

_TRUE, _FALSE = 0xC3, 0xC2  # As msgpack writes them.


class HotPath(NamedTuple):
    """Twins of two methods of ``WalPersistence``."""

    record_started: Callable[[JobId, Instant], None]
    record_finished: Callable[[JobId, Instant, bool], None]


def hot_path(store: Store[EventForm, JobState], durability: Durability) -> HotPath | None:
    """Return the hot path of a store; None where there is none: a sync, or another thread, costs more than all else."""
    if durability is Durability.BUFFERED:
        return _into_buffer(store)
    if durability is Durability.PROCESS and store.log.live.appender.one_step:
        return _into_log(store)
    return None


def started_form(job: JobId, started_at: Instant) -> EventForm:
    """Return the event that a run started, checked. Raises ``TypeError`` or ``ValueError``."""
    return STARTED, id_of(job), instant_ns(started_at, "started_at")


def finished_form(job: JobId, finished_at: Instant, success: bool) -> EventForm:
    """Return the event that a run finished, checked. Raises ``TypeError`` or ``ValueError``."""
    if success is not True and success is not False:
        raise TypeError(f"success must be a bool, not {success!r}")
    return FINISHED, id_of(job), instant_ns(finished_at, "finished_at"), success


def _into_buffer(store: Store[EventForm, JobState]) -> HotPath:
    known, buffer, record = known_ids, store.buffer, store.record
    items, events_max = buffer.items, buffer.events_max

    def record_started(id: JobId, started_at: Instant) -> None:
        if (
            (id in known or is_plain(id))
            and type(started_at) is int
            and 0 <= started_at <= INSTANT_MAX_NS
            and len(items) < events_max
        ):
            event = STARTED, id, started_at
            # Looked up when the event is ready, as in Buffer.add: nothing may come between this and the append.
            buffer.sink.append(event)  # type: ignore[arg-type]  # What is known is a string.
        else:
            record(started_form(id, started_at))

    def record_finished(id: JobId, finished_at: Instant, success: bool) -> None:
        if (
            (id in known or is_plain(id))
            and (success is True or success is False)
            and type(finished_at) is int
            and 0 <= finished_at <= INSTANT_MAX_NS
            and len(items) < events_max
        ):
            event = FINISHED, id, finished_at, success
            buffer.sink.append(event)  # type: ignore[arg-type]  # As above.
        else:
            record(finished_form(id, finished_at, success))

    return HotPath(record_started, record_finished)


def _into_log(store: Store[EventForm, JobState]) -> HotPath:
    return HotPath(_starts_into_log(store), _ends_into_log(store))


def _starts_into_log(store: Store[EventForm, JobState]) -> Callable[[JobId, Instant], None]:
    known, log, record, shapes = known_ids, store.log, store.record, STARTED_SHAPES
    passing = 0

    def record_started(id: JobId, started_at: Instant) -> None:
        nonlocal passing
        if type(id) is not str or type(started_at) is not int or not CUT_INSTANT_MIN_NS <= started_at <= INSTANT_MAX_NS:
            record(started_form(id, started_at))
            return
        if id not in known:
            # What is_plain says; the call would take as long as two of its conditions.
            if not (
                (id.isprintable() and "." in id and id > "/" and id[-1] != ".") and len(id) <= PLAIN_CHARACTERS_MAX
            ):
                record(started_form(id, started_at))
                return
            passing -= 1
            if passing < 0:
                passing = remember(id)
        name = id.encode()
        head, pack = shapes[len(name)]
        body = pack(head, name, EIGHT_BYTES, started_at)
        write, seed = log.head
        try:
            write(xxh3_64_digest(body, seed) + body)
        except ValueError:
            log.append_body(body)
        except OSError as error:
            raise storage_error(error, f"writing to {log.live.path}") from error
        store.logged_events += 1

    return record_started


def _ends_into_log(store: Store[EventForm, JobState]) -> Callable[[JobId, Instant, bool], None]:
    known, log, record, shapes = known_ids, store.log, store.record, FINISHED_SHAPES
    passing = 0

    def record_finished(id: JobId, finished_at: Instant, success: bool) -> None:
        nonlocal passing
        if (
            (success is not True and success is not False)
            or type(id) is not str
            or type(finished_at) is not int
            or not CUT_INSTANT_MIN_NS <= finished_at <= INSTANT_MAX_NS
        ):
            record(finished_form(id, finished_at, success))
            return
        if id not in known:
            if not (
                (id.isprintable() and "." in id and id > "/" and id[-1] != ".") and len(id) <= PLAIN_CHARACTERS_MAX
            ):
                record(finished_form(id, finished_at, success))
                return
            passing -= 1
            if passing < 0:
                passing = remember(id)
        name = id.encode()
        head, pack = shapes[len(name)]
        body = pack(head, name, EIGHT_BYTES, finished_at, _TRUE if success else _FALSE)
        write, seed = log.head
        try:
            write(xxh3_64_digest(body, seed) + body)
        except ValueError:
            log.append_body(body)
        except OSError as error:
            raise storage_error(error, f"writing to {log.live.path}") from error
        store.logged_events += 1

    return record_finished
