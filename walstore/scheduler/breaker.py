"""The circuit breaker: jobs that fail again and again are left alone for a while. Pure: it is told the time."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from walstore.model.names import JobId, id_of
from walstore.model.records import SchedulerJobRecord

__all__ = ["CircuitBreaker", "CircuitState"]


class CircuitState(Enum):
    """Whether a job may run."""

    CLOSED = "closed"
    """It may."""
    OPEN = "open"
    """It has failed too often, and may not for now."""
    HALF_OPEN = "half-open"
    """It may run once, to see whether it still fails."""


@dataclass(slots=True)
class _Circuit:
    failures: int
    failed_at_ns: int
    probing: bool = False


class CircuitBreaker:
    """Opens after ``failures_max`` consecutive failures of a job, and half-opens ``cooldown_ns`` after the last one.

    When half-open it lets one run through: a success closes it, a failure opens it again. Memory follows the number of
    jobs whose last run failed. Instants are nanoseconds since 1970. Not safe for use by several threads at once.
    """

    def __init__(self, *, failures_max: int = 10, cooldown_ns: int = 30_000_000_000) -> None:
        for name, value in (("failures_max", failures_max), ("cooldown_ns", cooldown_ns)):
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"{name} must be an integer, not {value!r}")
            if value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        self._failures_max = failures_max
        self._cooldown_ns = cooldown_ns
        self._circuits: dict[str, _Circuit] = {}

    def state(self, id: JobId, now_ns: int) -> CircuitState:
        """Return the state of a job's circuit."""
        half_opens_ns = self.half_opens_at_ns(id)
        if half_opens_ns is None:
            return CircuitState.CLOSED
        return CircuitState.OPEN if now_ns < half_opens_ns else CircuitState.HALF_OPEN

    def half_opens_at_ns(self, id: JobId) -> int | None:
        """Return when an open circuit half-opens or has half-opened; None for a closed one."""
        circuit = self._circuits.get(id_of(id))
        if circuit is None or circuit.failures < self._failures_max:
            return None
        return circuit.failed_at_ns + self._cooldown_ns

    def allows(self, id: JobId, now_ns: int) -> bool:
        """Whether a job may run now. Where the circuit is half-open, the one run that it lets through is hereby taken.

        Whoever is allowed must say how the run ended (``succeeded``, ``failed``), or that there was none (``forget``).
        """
        match self.state(id, now_ns):
            case CircuitState.CLOSED:
                return True
            case CircuitState.OPEN:
                return False
        circuit = self._circuits[id_of(id)]
        is_first = not circuit.probing
        circuit.probing = True
        return is_first

    def succeeded(self, id: JobId) -> None:
        """Close the circuit of a job, since a run of it succeeded."""
        self.forget(id)

    def failed(self, id: JobId, now_ns: int) -> None:
        """Count a failed run."""
        job = id_of(id)
        circuit = self._circuits.get(job)
        self._circuits[job] = _Circuit(1 if circuit is None else circuit.failures + 1, now_ns)

    def forget(self, id: JobId) -> None:
        """Forget a job, as when it was cancelled."""
        self._circuits.pop(id_of(id), None)

    def restore(self, record: SchedulerJobRecord) -> None:
        """Put the circuit of a job to what its record says: after a restart it is as it was."""
        self.forget(record.id)
        if record.consecutive_failures and record.last_finished_at_ns is not None:
            self._circuits[str(record.id)] = _Circuit(record.consecutive_failures, record.last_finished_at_ns)
