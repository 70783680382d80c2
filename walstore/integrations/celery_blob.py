"""A beat entry as the opaque blob that the store keeps: two lines of JSON, nothing in which is ever executed.

The first line is the history of the entry: when it last ran and how often, and the time settings of the application by
which that was judged. It is always there and decides what is due. The second line is the definition: task, schedule,
arguments and options. It is empty for an entry that JSON can't express (a schedule of a class that is not Celery's own,
a function as an argument); beat takes the definition from the configuration at every start, so nothing is lost.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING, Final, TypedDict

from walstore.integrations.entry_model import BLOB_BYTES_MAX, KEY_BYTES_MAX

if TYPE_CHECKING:
    from celery.beat import ScheduleEntry
    from celery.schedules import BaseSchedule

__all__ = ["KIND", "Definition", "History", "decode_definition", "decode_history", "encode", "key_of"]

KIND: Final = "beat/1"
"""What the store knows the entries of beat by."""
_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class History:
    """What an entry did, and the time settings of the application that did it."""

    name: str
    last_run_at: datetime
    """Aware, in UTC; or naive, as a schedule with a clock of its own may have it."""
    total_run_count: int
    timezone: str | None
    enable_utc: bool


class Definition(TypedDict):
    """What an entry is to do."""

    task: str
    schedule: BaseSchedule
    args: tuple[object, ...]
    kwargs: dict[str, object]
    options: dict[str, object]


def key_of(name: str) -> str:
    """Return the key of an entry in the store: its name, or what stands for it: Celery makes names of any length."""
    encoded = name.encode()
    if len(encoded) <= KEY_BYTES_MAX:
        return name
    digest = hashlib.sha256(encoded).hexdigest()
    return encoded[: KEY_BYTES_MAX - len(digest)].decode(errors="ignore") + digest


def encode(entry: ScheduleEntry, timezone: str | None, enable_utc: bool) -> bytes:
    """Return the blob of an entry, with an empty definition where JSON can't express it."""
    last_run_at = entry.last_run_at
    assert last_run_at is not None
    if last_run_at.tzinfo is not None:
        last_run_at = last_run_at.astimezone(UTC)
    history = {
        "version": _VERSION,
        "name": entry.name,
        "last_run_at": last_run_at.isoformat(),
        "total_run_count": entry.total_run_count,
        "timezone": timezone,
        "enable_utc": enable_utc,
    }
    first, second = f"{json.dumps(history)}\n".encode("ascii"), _encode_definition(entry).encode("ascii")
    return first + second if len(first) + len(second) <= BLOB_BYTES_MAX else first


def decode_history(blob: bytes) -> History:
    """Return the history in a blob. Raises ``ValueError`` for one that this release does not know."""
    try:
        content = json.loads(blob.partition(b"\n")[0])
    except RecursionError as error:
        raise ValueError(f"not JSON of this release: {error}") from error
    match content:
        case {
            "version": 1,
            "name": str(name),
            "last_run_at": str(last_run_at),
            "total_run_count": int(total_run_count),
            "timezone": str() | None as timezone,
            "enable_utc": bool(enable_utc),
        }:
            return History(name, datetime.fromisoformat(last_run_at), total_run_count, timezone, enable_utc)
        case history:
            raise ValueError(f"not the history of an entry that this release knows: {history!r}")


def decode_definition(blob: bytes) -> Definition | None:
    """Return the definition in a blob; None where it has none.

    Raises ``ValueError`` when it can't be restored here: a schedule that this Celery refuses, or that needs a library
    which is not installed.
    """
    line = blob.partition(b"\n")[2]
    if not line:
        return None
    try:
        task, (kind, arguments), args, kwargs, options = json.loads(line, object_hook=_from_json)
        schedule = _schedule_classes()[kind](*arguments)
    except Exception as error:
        # Celery's and kombu's constructors raise whatever they like.
        raise ValueError(f"the definition can't be restored: {error}: {line.decode(errors='replace')}") from error
    return Definition(task=task, schedule=schedule, args=tuple(args), kwargs=kwargs, options=options)


@cache
def _schedule_classes() -> dict[str, Callable[..., BaseSchedule]]:
    from celery.schedules import crontab, schedule, solar  # noqa: PLC0415  # Celery is an extra.

    return {"interval": schedule, "crontab": crontab, "solar": solar}


@cache
def _encoder() -> json.JSONEncoder:
    from kombu.utils.json import JSONEncoder  # noqa: PLC0415  # As above.

    class Encoder(JSONEncoder):
        def default(self, o: object) -> object:
            if isinstance(o, timedelta):
                return {"__type__": "timedelta", "__value__": [o.days, o.seconds, o.microseconds]}
            if isinstance(o, (set, frozenset)):
                return {"__type__": "set", "__value__": list(o)}
            return super().default(o)

    return Encoder()


def _encode_definition(entry: ScheduleEntry) -> str:
    schedule = entry.schedule
    kind = next((name for name, kind in _schedule_classes().items() if type(schedule) is kind), None)
    # A subclass may do anything, and a clock of its own is a function.
    if schedule is None or kind is None or getattr(schedule, "nowfun", None) is not None:
        return ""
    arguments = [argument for argument in schedule.__reduce__()[1] if argument is not None]
    parts = [entry.task, [kind, arguments], entry.args, entry.kwargs, entry.options]
    try:
        return _encoder().encode(parts)
    except (TypeError, ValueError, RecursionError):
        return ""


def _from_json(value: dict[str, object]) -> object:
    from kombu.utils.json import object_hook  # noqa: PLC0415  # As above.

    match value:
        case {"__type__": "timedelta", "__value__": [int(days), int(seconds), int(microseconds)]}:
            return timedelta(days, seconds, microseconds)
        case {"__type__": "set", "__value__": list(elements)}:
            return set(elements)
    return object_hook(value)
