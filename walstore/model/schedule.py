"""The four kinds of schedule, and when each fires next."""

from __future__ import annotations

import functools
from datetime import datetime, timedelta
from reprlib import repr as short
from typing import ClassVar

from walstore.model.cron import EXPRESSION_CHARACTERS_MAX, CompiledCron, compile_cron
from walstore.model.names import INSTANT_MAX_NS, Instant, datetime_of, duration_ns, instant_ns

__all__ = ["KINDS", "Cron", "Manual", "Once", "Periodic", "Schedule", "ScheduleForm", "schedule_of"]

ScheduleForm = tuple[int] | tuple[int, int] | tuple[int, str]
"""A schedule as the log and the reducer hold it: its kind and its one value, of plain types."""


class Schedule:
    """When a job runs: the base of ``Once``, ``Periodic``, ``Cron`` and ``Manual``.

    Immutable, hashable, equal by kind and value. Further kinds may come in later releases.
    """

    __slots__ = ("form",)
    KIND: ClassVar[int]

    form: ScheduleForm
    """The schedule in plain types, for the codec and the reducer."""

    def next_after(self, at_ns: int) -> int | None:
        """Return the first fire after ``at_ns`` (nanoseconds since 1970), or None where there is none.

        A fire after the last instant (2^63 - 1 ns) is none.
        """
        raise NotImplementedError

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a schedule is immutable: {name} can't be set")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"a schedule is immutable: {name} can't be deleted")

    def __eq__(self, other: object) -> bool:
        return self.form == other.form if isinstance(other, Schedule) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.form)

    def __reduce__(self) -> tuple[object, tuple[ScheduleForm]]:
        return schedule_of, (self.form,)


class Manual(Schedule):
    """Runs when it is asked to: it is due as soon as it is scheduled, and not again after it ran."""

    __slots__ = ()
    KIND = 0

    def __init__(self) -> None:
        object.__setattr__(self, "form", (self.KIND,))

    def next_after(self, at_ns: int) -> int | None:
        """Return ``at_ns`` itself."""
        return at_ns

    def __repr__(self) -> str:
        return "Manual()"


class Once(Schedule):
    """Runs once, at an instant: ``Once(aware_datetime)`` or ``Once(at_ns=...)``, never a bare number.

    Raises ``TypeError`` or ``ValueError`` for anything else, or an instant outside [0, 2^63).
    """

    __slots__ = ("at_ns",)
    KIND = 1
    at_ns: int

    def __init__(self, at: datetime | None = None, *, at_ns: int | None = None) -> None:
        if (at is None) == (at_ns is None):
            raise TypeError("Once takes an aware datetime, or at_ns=")
        if at is not None and not isinstance(at, datetime):
            raise TypeError(f"Once takes an aware datetime, or at_ns=, not a bare {at!r}")
        value: Instant = at if at is not None else at_ns  # type: ignore[assignment]  # One of the two is not None.
        object.__setattr__(self, "at_ns", instant_ns(value, "the instant of Once"))
        object.__setattr__(self, "form", (self.KIND, self.at_ns))

    @property
    def at(self) -> datetime:
        """The instant as an aware UTC datetime, cut to whole microseconds."""
        at = datetime_of(self.at_ns)
        assert at is not None
        return at

    def next_after(self, at_ns: int) -> int | None:
        """Return the instant if it is at ``at_ns`` or later, else None."""
        return self.at_ns if self.at_ns >= at_ns else None

    def __repr__(self) -> str:
        return f"Once(at_ns={self.at_ns})"


class Periodic(Schedule):
    """Runs again and again: ``Periodic(timedelta)`` or ``Periodic(every_ns=...)``, never a bare number.

    Raises ``TypeError`` or ``ValueError`` for anything else, or a period that is not between 1 and 2^63 - 1 ns.
    """

    __slots__ = ("every_ns",)
    KIND = 2
    every_ns: int

    def __init__(self, every: timedelta | None = None, *, every_ns: int | None = None) -> None:
        if (every is None) == (every_ns is None):
            raise TypeError("Periodic takes a timedelta, or every_ns=")
        if every is not None:
            if not isinstance(every, timedelta):
                raise TypeError(f"Periodic takes a timedelta, or every_ns=, not a bare {every!r}")
            value = duration_ns(every)
        else:
            if isinstance(every_ns, bool) or not isinstance(every_ns, int):
                raise TypeError(f"every_ns must be an int (nanoseconds), not {every_ns!r}")
            value = int(every_ns)
        if not 1 <= value <= INSTANT_MAX_NS:
            raise ValueError(f"a period must be between 1 and 2^63 - 1 nanoseconds, not {value}")
        object.__setattr__(self, "every_ns", value)
        object.__setattr__(self, "form", (self.KIND, value))

    @property
    def every(self) -> timedelta:
        """The period, cut to whole microseconds."""
        return timedelta(microseconds=self.every_ns // 1_000)

    def next_after(self, at_ns: int) -> int | None:
        """Return ``at_ns`` plus the period."""
        fire_ns = at_ns + self.every_ns
        return fire_ns if fire_ns <= INSTANT_MAX_NS else None

    def __repr__(self) -> str:
        return f"Periodic(every_ns={self.every_ns})"


class Cron(Schedule):
    """Runs by a cron expression with seconds first, in UTC. Raises ``ValueError`` when it does not parse.

    The dialect is that of the Rust crate ``cron``: 6 fields, or 7 with a year; 1 is Sunday; both day fields must
    match. See ``walstore.model.cron``.
    """

    __slots__ = ("compiled", "expression")
    KIND = 3
    expression: str
    compiled: CompiledCron | None
    """None for an expression that was read back and no longer parses: it is kept, and never fires."""

    def __init__(self, expression: str) -> None:
        self._fill(expression, compile_cron(expression))

    @classmethod
    def _read_back(cls, expression: str) -> Cron:
        """Build the schedule that an earlier release recorded, even where this release does not know it."""
        cron = object.__new__(cls)
        try:
            cron._fill(expression, compile_cron(expression))
        except ValueError:
            cron._fill(expression, None)
        return cron

    def _fill(self, expression: str, compiled: CompiledCron | None) -> None:
        object.__setattr__(self, "expression", expression)
        object.__setattr__(self, "compiled", compiled)
        object.__setattr__(self, "form", (self.KIND, expression))

    def next_after(self, at_ns: int) -> int | None:
        """Return the first fire strictly after ``at_ns``."""
        return self.compiled.next_after_ns(at_ns) if self.compiled is not None else None

    def __repr__(self) -> str:
        return f"Cron({self.expression!r})"


KINDS = (Manual, Once, Periodic, Cron)
"""The schedules that can be recorded."""


# Jobs share few schedules, so replay meets the same forms again and again; a hit costs a tenth of building one.
@functools.lru_cache(maxsize=16_384)
def schedule_of(form: ScheduleForm) -> Schedule:
    """Return the schedule of a form that was read back. Raises ``ValueError`` when it is not one."""
    match form:
        case (Manual.KIND,):
            return Manual()
        case (Once.KIND, int(at_ns)):
            return Once(at_ns=at_ns)
        case (Periodic.KIND, int(every_ns)):
            return Periodic(every_ns=every_ns)
        case (Cron.KIND, str(expression)) if len(expression) <= EXPRESSION_CHARACTERS_MAX:
            return Cron._read_back(expression)
        case _:
            raise ValueError(f"not a schedule that this release knows: {short(form)}")
