"""What callers leave for the writer: a ticket where they wait, and an error of their own where they are refused."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import NoReturn

from walstore.errors import SchedulerPersistenceError
from walstore.model.events import EventForm

__all__ = ["Refusal", "Refuser", "Ticket", "again"]

Refusal = Callable[[], SchedulerPersistenceError]


class Ticket:
    """Events whose caller waits for them; or none, of one who waits for all before. A bare lock stands for "done"."""

    __slots__ = ("done", "durable", "error", "forms")

    def __init__(self, forms: Sequence[EventForm], *, durable: bool) -> None:
        self.forms = forms
        self.durable = durable
        self.error: SchedulerPersistenceError | None = None
        self.done = threading.Lock()
        self.done.acquire()


class Refuser:
    """Stands in for the queue, and takes nothing."""

    def __init__(self, refusal: Refusal) -> None:
        self._refusal = refusal

    def append(self, _: object) -> NoReturn:
        """Raise the refusal."""
        raise self._refusal()


def again(error: SchedulerPersistenceError) -> SchedulerPersistenceError:
    """Return the same error for another thread: a traceback belongs to one."""
    copy = type(error)(*error.args)
    copy.__cause__ = error
    return copy
