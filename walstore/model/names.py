"""Qualified names of jobs, and instants: what callers may pass in, and the one form that the engine keeps."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

__all__ = [
    "INSTANT_MAX_NS",
    "NAME_BYTES_MAX",
    "PLAIN_CHARACTERS_MAX",
    "Instant",
    "JobId",
    "QName",
    "datetime_of",
    "duration_ns",
    "id_of",
    "instant_ns",
    "is_plain",
    "known_ids",
    "remember",
]

NAME_BYTES_MAX = 1024
"""The longest name, in bytes of UTF-8."""
PLAIN_CHARACTERS_MAX = NAME_BYTES_MAX // 4
"""So many characters are surely not too many bytes."""
INSTANT_MAX_NS = 2**63 - 1
"""The last instant, in nanoseconds since 1970 in UTC (in the year 2262)."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND_NS = 1_000_000_000

# C0 controls with NUL, DEL, and C1 controls.
_CONTROLS = frozenset(map(chr, (*range(0x20), *range(0x7F, 0xA0))))


class QName:
    """The qualified name of a job: a namespace and a local name, both non-empty, case-sensitive.

    Two names are equal when their dotted strings are, wherever they were split. Immutable and hashable. Raises
    ``TypeError`` when a part is no string, and ``ValueError`` when a part is empty, or the whole is longer than
    1,024 bytes of UTF-8 or holds control characters or lone surrogates.
    """

    __slots__ = ("_dotted", "_namespace_length")
    _dotted: str
    _namespace_length: int

    def __init__(self, namespace: str, local: str) -> None:
        if not isinstance(namespace, str) or not isinstance(local, str):
            raise TypeError(f"a qualified name is made of two strings, not {namespace!r} and {local!r}")
        dotted = f"{namespace}.{local}"
        # Names are split again at their last dot, so a local name that ends with one would leave nothing behind it.
        if not namespace or not local or local.endswith("."):
            raise ValueError(f"both sides of a qualified name must be non-empty: {dotted!r}")
        _check_text(dotted)
        object.__setattr__(self, "_dotted", dotted)
        object.__setattr__(self, "_namespace_length", len(namespace))

    @classmethod
    def parse(cls, dotted: str) -> QName:
        """Split a dotted string at its last dot. Raises ``ValueError`` where there is none, or a side is empty."""
        if not isinstance(dotted, str):
            raise TypeError(f"a qualified name is parsed from a string, not from {dotted!r}")
        namespace, dot, local = dotted.rpartition(".")
        if not dot:
            raise ValueError(f"a qualified name has the form namespace.local: {dotted!r} has no dot")
        return cls(namespace, local)

    @classmethod
    def builtin(cls, local: str) -> QName:
        """Return the name ``local`` in the namespace ``builtin``."""
        return cls("builtin", local)

    @property
    def namespace(self) -> str:
        """The part before the dot at which the name was split."""
        return self._dotted[: self._namespace_length]

    @property
    def local(self) -> str:
        """The part after the dot at which the name was split."""
        return self._dotted[self._namespace_length + 1 :]

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a QName is immutable: {name} can't be set")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"a QName is immutable: {name} can't be deleted")

    def __eq__(self, other: object) -> bool:
        return self._dotted == other._dotted if isinstance(other, QName) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._dotted)

    def __str__(self) -> str:
        return self._dotted

    def __repr__(self) -> str:
        return f"QName({self.namespace!r}, {self.local!r})"

    def __reduce__(self) -> tuple[type[QName], tuple[str, str]]:
        return QName, (self.namespace, self.local)


JobId = QName | str
"""What callers may pass as the id of a job."""
Instant = int | datetime
"""What callers may pass as an instant: nanoseconds since 1970 in UTC, or an aware datetime."""


known_ids: set[str] = set()
"""Strings that were found to be good names; a scheduler records the same ones again and again."""
_KNOWN_IDS_MAX = 1 << 14  # A program that makes up names for ever must not fill the memory.
_KNOWN_IDS_PER_PASSED = 64
_passing = 0


def id_of(job: JobId) -> str:
    """Return the dotted string of a job's id, checked. Raises ``TypeError`` or ``ValueError`` when it is not one."""
    if type(job) is not str:
        return str(job) if isinstance(job, QName) else str(QName.parse(job))
    if job not in known_ids and not is_plain(job):
        QName.parse(job)
        remember(job)
    return job


def is_plain(job: object) -> bool:
    """Whether something is a string that is surely a good name. Strange ones are not: ``id_of`` tells which are good.

    A fifth of the time that it takes to tell for certain. For names that are not among ``known_ids``: some of the good
    ones are put there.
    """
    global _passing  # noqa: PLW0603  # A count in an object costs more; it does not matter if threads lose some of it.
    # What is printable holds no control characters and no surrogates; what comes behind "/" begins with no dot.
    if not (type(job) is str and job.isprintable() and "." in job and job > "/" and job[-1] != "."):
        return False
    if len(job) > PLAIN_CHARACTERS_MAX:
        return False
    _passing -= 1
    if _passing < 0:
        _passing = remember(job)
    return True


def remember(job: str) -> int:
    """Put a good name among ``known_ids``, and return how many others to let pass before the next one.

    The more there are, the fewer are taken: among very many names, remembering one costs more than it gives.
    """
    if len(known_ids) >= _KNOWN_IDS_MAX:
        known_ids.clear()
    known_ids.add(job)
    return len(known_ids) // _KNOWN_IDS_PER_PASSED


def instant_ns(instant: Instant, what: str = "an instant") -> int:
    """Return nanoseconds since 1970 in UTC, converted in integers.

    Raises ``TypeError`` for floats, bools and anything else that is neither an ``int`` nor a ``datetime``, and
    ``ValueError`` for naive datetimes and for instants outside [0, 2^63). ``what`` names the value in the message.
    """
    if type(instant) is int:
        value = instant
    elif isinstance(instant, datetime):
        if instant.utcoffset() is None:
            raise ValueError(f"{what} must be an aware datetime, not the naive {instant!r}: give it a time zone")
        value = duration_ns(instant - _EPOCH)
    elif isinstance(instant, int) and not isinstance(instant, bool):
        value = int(instant)
    else:
        raise TypeError(f"{what} must be an int (nanoseconds since 1970) or an aware datetime, not {instant!r}")
    if not 0 <= value <= INSTANT_MAX_NS:
        raise ValueError(f"{what} must be between 0 and 2^63 - 1 nanoseconds since 1970, not {value}")
    return value


def duration_ns(duration: timedelta) -> int:
    """Return the nanoseconds of a duration, converted in integers."""
    return (duration.days * 86_400 + duration.seconds) * _SECOND_NS + duration.microseconds * 1_000


def datetime_of(at_ns: int | None) -> datetime | None:
    """Return an instant as an aware UTC datetime, cut to whole microseconds; None for None."""
    if at_ns is None:
        return None
    return _EPOCH + timedelta(seconds=at_ns // _SECOND_NS, microseconds=at_ns % _SECOND_NS // 1_000)


def _check_text(dotted: str) -> None:
    try:
        encoded = dotted.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"a qualified name must be valid Unicode, without lone surrogates: {dotted!r}") from error
    if len(encoded) > NAME_BYTES_MAX:
        raise ValueError(f"a qualified name has at most {NAME_BYTES_MAX} bytes of UTF-8, this one {len(encoded)}")
    if not _CONTROLS.isdisjoint(dotted):
        raise ValueError(f"a qualified name must not hold control characters: {dotted!r}")
