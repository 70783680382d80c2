"""One run of a job: what the host knows of it, and how its provider is called."""

from __future__ import annotations

import asyncio
import inspect
from dataclasses import dataclass

from walstore.model.records import CancellationToken, SchedulerJobRecord
from walstore.scheduler.registry import JobRun, Provider, Registration

__all__ = ["Run", "call"]


@dataclass(slots=True, eq=False)
class Run:
    """A job that is due, and what has become of it since."""

    record: SchedulerJobRecord
    registration: Registration
    token: CancellationToken
    """Also tells this run from a later one of a job that was cancelled and added again."""
    transition: asyncio.Lock
    """The lock under which a transition of the job is recorded and made."""
    after: Run | None = None
    """An earlier run of the job that is still there: a job never runs twice at the same time."""
    task: asyncio.Task[None] | None = None
    has_begun: bool = False
    is_executing: bool = False
    is_rearmed: bool = False
    """Its ``Manual`` job was armed again since it began: it is to be run once more."""
    has_timed_out: bool = False
    is_cut_off: bool = False
    """The host is ending, and what becomes of the run is no longer recorded."""


def call(provider: Provider, context: JobRun) -> None:
    """Call a synchronous provider, on a thread."""
    result = provider(context)
    if inspect.isawaitable(result):
        if inspect.iscoroutine(result):
            result.close()
        raise TypeError(f"the provider of {context.id} returned an awaitable: define it with async def")
