"""A scheduler on asyncio that keeps its jobs in a persistence: ``SchedulerHost``, and the pure parts it is made of.

``Scheduler`` and ``CircuitBreaker`` neither read a clock nor do I/O; a host of another kind can drive them as well.
"""

from __future__ import annotations

from walstore.scheduler.breaker import CircuitBreaker, CircuitState
from walstore.scheduler.clock import Clock, SimulatedClock, SystemClock
from walstore.scheduler.control import BlockingControl, SchedulerControl
from walstore.scheduler.host import SchedulerHost
from walstore.scheduler.policy import JobPolicy, Misfire
from walstore.scheduler.registry import JobRun, Provider
from walstore.scheduler.scheduler import Scheduler

__all__ = [
    "BlockingControl",
    "CircuitBreaker",
    "CircuitState",
    "Clock",
    "JobPolicy",
    "JobRun",
    "Misfire",
    "Provider",
    "Scheduler",
    "SchedulerControl",
    "SchedulerHost",
    "SimulatedClock",
    "SystemClock",
]
