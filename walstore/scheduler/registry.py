"""Which code runs which job, and what that code is told of its run."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass

from walstore.model.names import JobId, QName, id_of
from walstore.model.records import CancellationToken
from walstore.scheduler.policy import JobPolicy

__all__ = ["JobRun", "Provider", "Registration", "Registry"]


@dataclass(frozen=True, slots=True)
class JobRun:
    """What a provider is told of the run that it is called for."""

    id: QName
    fire_at_ns: int | None
    """The fire that the run is for, in nanoseconds since 1970: when it should have begun. None where there was none."""
    started_at_ns: int
    """When it was recorded as started, which was before this call."""
    failures: int
    """How many runs in a row have failed before this one."""
    is_rerun: bool
    """Whether the run before this one was cut off by a crash, so that some of the work may be done already."""
    cancel: CancellationToken
    """Asks the run to stop: its job was cancelled, it has run into its timeout, or the host shuts down."""


Provider = Callable[[JobRun], Awaitable[object]] | Callable[[JobRun], object]
"""The code of a job: a coroutine function, which runs on the event loop, or a function, which runs on a thread.

A run succeeds by returning, whatever it returns, and fails by raising.
"""


class Registration:
    """A provider and the policy of the jobs that it serves."""

    def __init__(self, provider: Provider, policy: JobPolicy) -> None:
        if not callable(provider):
            raise TypeError(f"a provider is a function or a coroutine function, not {provider!r}")
        self.provider = provider
        self.policy = policy
        self.is_async = inspect.iscoroutinefunction(provider) or inspect.iscoroutinefunction(
            getattr(provider, "__call__", None)  # noqa: B004  # Not whether it can be called: how.
        )
        self.slots: AbstractAsyncContextManager[object] = nullcontext()
        if policy.concurrency is not None:
            self.slots = asyncio.Semaphore(policy.concurrency)


class Registry:
    """The registrations of a host: by job, and by namespace for jobs that have none of their own."""

    def __init__(self, policy: JobPolicy) -> None:
        self._policy = policy
        self._jobs: dict[str, Registration] = {}
        self._namespaces: dict[str, Registration] = {}

    def register(self, id: JobId, provider: Provider, policy: JobPolicy | None) -> None:
        """Let ``provider`` run the job ``id``."""
        self._jobs[id_of(id)] = self._registration(provider, policy)

    def register_namespace(self, namespace: str, provider: Provider, policy: JobPolicy | None) -> None:
        """Let ``provider`` run the jobs of a namespace: those whose id is it, a dot and a name without one."""
        checked = QName(namespace, "x")
        self._namespaces[checked.namespace] = self._registration(provider, policy)

    def find(self, job: str) -> Registration | None:
        """Return the registration of a job, or None where nobody serves it."""
        return self._jobs.get(job) or self._namespaces.get(job.rpartition(".")[0])

    def policy_of(self, job: str) -> JobPolicy:
        """Return the policy of a job: that of its registration, or else of the host."""
        registration = self.find(job)
        return self._policy if registration is None else registration.policy

    def _registration(self, provider: Provider, policy: JobPolicy | None) -> Registration:
        if policy is not None and not isinstance(policy, JobPolicy):
            raise TypeError(f"policy must be a JobPolicy, not {policy!r}")
        return Registration(provider, self._policy if policy is None else policy)
