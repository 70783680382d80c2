"""The hot path: recording that a run started or finished, by one Python function for each level.

A call through ``WalPersistence``, ``Store``, codec and ``Log`` is four Python frames, and each of them costs as much as
appending to a list does. These functions do the same in one frame. Whatever is unusual (a name of another type, an
instant as a datetime, a full segment, a closed store) they leave to the usual way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from xxhash import xxh3_64_digest

from walstore.engine.store import Store
from walstore.errors import storage_error
from walstore.format.run_frames import CUT_INSTANT_MIN_NS, EIGHT_BYTES, FINISHED_SHAPES, STARTED_SHAPES, RunFrames
from walstore.model.events import FINISHED, STARTED, EventForm
from walstore.model.names import INSTANT_MAX_NS, Instant, JobId, id_of, instant_ns, is_plain, known_ids
from walstore.model.records import JobState
from walstore.options import Durability

__all__ = ["HotPath", "finished_form", "hot_path", "started_form"]

_JOBS_MAX: Final = 1 << 14
"""Jobs that are remembered, for about 400 bytes each, and as many more that were seen once."""
_PASSED_MAX: Final = 63
"""How many calls for jobs that are not known are let pass at most between two that are looked at."""
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


class _Known(dict[JobId, RunFrames]):
    """The jobs that are recorded often, with the beginnings of their frames; a bounded number of them.

    A job becomes known when it is looked at for the second time. That costs as much as a call does, so only some calls
    are looked at: most of them where jobs are found again, few where there are very many, or where each runs once.
    """

    def __init__(self) -> None:
        super().__init__()
        self._seen: set[str] = set()
        self._passed = 0

    def look(self, job: str) -> int:
        """Look at a job that is not known, and return how many such calls to let pass before the next look."""
        seen = self._seen
        if job in seen:
            if len(self) >= _JOBS_MAX:
                self.clear()
            self[job] = RunFrames.of(job)
            self._passed = 0
        else:
            if len(seen) >= _JOBS_MAX:
                seen.clear()
            seen.add(job)
            self._passed = min(2 * self._passed + 1, _PASSED_MAX)
        return self._passed


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
    known = _Known()
    return HotPath(_starts_into_log(store, known), _ends_into_log(store, known))


def _starts_into_log(store: Store[EventForm, JobState], known: _Known) -> Callable[[JobId, Instant], None]:
    log, record, shapes = store.log, store.record, STARTED_SHAPES
    passing = 0

    def record_started(id: JobId, started_at: Instant) -> None:
        nonlocal passing
        frames = known.get(id)
        if frames is not None and type(started_at) is int and CUT_INSTANT_MIN_NS <= started_at <= INSTANT_MAX_NS:
            body = frames[0] + frames[1](started_at)
        elif (
            (type(id) is str and id.isprintable() and "." in id and id > "/" and id[-1] != ".")
            and type(started_at) is int
            and CUT_INSTANT_MIN_NS <= started_at <= INSTANT_MAX_NS
        ):
            # The first line is what is_plain says; the call would take as long as two of its conditions.
            name = id.encode()
            head, pack = shapes[len(name)]
            body = pack(head, name, EIGHT_BYTES, started_at)
            passing -= 1
            if passing < 0:
                passing = known.look(id)
        else:
            record(started_form(id, started_at))
            if frames is None and type(id) is str:
                known.look(id)
            return
        write, seed = log.head
        try:
            write(xxh3_64_digest(body, seed) + body)
        except ValueError:
            log.append_body(body)
        except OSError as error:
            raise storage_error(error, f"writing to {log.live.path}") from error
        store.logged_events += 1

    return record_started


def _ends_into_log(store: Store[EventForm, JobState], known: _Known) -> Callable[[JobId, Instant, bool], None]:
    log, record, shapes = store.log, store.record, FINISHED_SHAPES
    passing = 0

    def record_finished(id: JobId, finished_at: Instant, success: bool) -> None:
        nonlocal passing
        frames = known.get(id)
        if (
            frames is not None
            and (success is True or success is False)
            and type(finished_at) is int
            and CUT_INSTANT_MIN_NS <= finished_at <= INSTANT_MAX_NS
        ):
            body = frames[2] + frames[3](finished_at, _TRUE if success else _FALSE)
        elif (
            (type(id) is str and id.isprintable() and "." in id and id > "/" and id[-1] != ".")
            and (success is True or success is False)
            and type(finished_at) is int
            and CUT_INSTANT_MIN_NS <= finished_at <= INSTANT_MAX_NS
        ):
            name = id.encode()
            head, pack = shapes[len(name)]
            body = pack(head, name, EIGHT_BYTES, finished_at, _TRUE if success else _FALSE)
            passing -= 1
            if passing < 0:
                passing = known.look(id)
        else:
            record(finished_form(id, finished_at, success))
            if frames is None and type(id) is str:
                known.look(id)
            return
        write, seed = log.head
        try:
            write(xxh3_64_digest(body, seed) + body)
        except ValueError:
            log.append_body(body)
        except OSError as error:
            raise storage_error(error, f"writing to {log.live.path}") from error
        store.logged_events += 1

    return record_finished
