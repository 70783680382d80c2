"""One life of a service on ``SchedulerHost``: the child that ``fuzz.host`` kills, and the journal in which it tells.

A line of the journal is written before or after what it tells of, whichever makes it a promise: ``run`` when the code
of a job begins, ``end`` before it returns, ``added`` and ``cancelled`` when the call has returned.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import random
import signal
import time
import traceback
from pathlib import Path
from typing import Final

from walstore.model.records import SchedulerJobStatus
from walstore.model.schedule import Cron, Manual, Once, Periodic, Schedule
from walstore.options import Durability, WalOptions
from walstore.scheduler import CircuitBreaker, JobPolicy, JobRun, SchedulerHost
from walstore.wal import WalPersistence

__all__ = ["EVERY", "FAILING", "FLAKY", "KEPT", "OPTIONS", "RETRY_NS", "Entry", "fork_life", "read_journal"]

_LIBC: Final = ctypes.CDLL(None)
_PR_SET_PDEATHSIG: Final = 1
MS_NS: Final = 1_000_000
EVERY: Final = Periodic(every_ns=12 * MS_NS)
RETRY_NS: Final = 10 * MS_NS
FLAKY: Final = "kept.flaky"
FAILING: Final = "kept.failing"
KEPT: Final[dict[str, Schedule]] = {
    "kept.loop": Periodic(every_ns=8 * MS_NS),
    "kept.thread": Periodic(every_ns=9 * MS_NS),
    "kept.cron": Cron("* * * * * *"),
    FAILING: EVERY,
    FLAKY: Manual(),
}
"""Jobs that are never cancelled. ``FAILING`` always fails, and is not run again; ``FLAKY`` fails twice."""
OPTIONS: Final = WalOptions(
    segment_bytes_min=4096, segment_bytes_max=16_384, compaction_ratio=1.5, small_store_bytes=20_000
)
Entry = tuple[str, str, int, bool]
"""What happened, to which job, an instant that tells it apart, and one thing more."""


def read_journal(path: Path, offset: int) -> tuple[list[Entry], int]:
    """Return the entries from ``offset`` on, and where the next one will be."""
    with path.open("rb") as file:
        file.seek(offset)
        found = file.read()
    whole = found[: found.rfind(b"\n") + 1]
    return [tuple(json.loads(line)) for line in whole.splitlines()], offset + len(whole)


class _Life:
    def __init__(self, directory: Path, seed: str, level: Durability, *, is_last: bool) -> None:
        self._store = WalPersistence(directory / "store", durability=level, options=OPTIONS)
        self._journal = os.open(directory / "journal", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self._choice = random.Random(seed)
        self._is_last = is_last
        self._host = SchedulerHost(
            self._store, tick_ns=2 * MS_NS, breaker=CircuitBreaker(failures_max=1 << 32), policy=JobPolicy()
        )

    def _tell(self, *entries: Entry) -> None:
        os.write(self._journal, b"".join(json.dumps(entry).encode() + b"\n" for entry in entries))

    async def _on_loop(self, run: JobRun) -> None:
        self._tell(("run", str(run.id), run.started_at_ns, run.is_rerun))
        await asyncio.sleep(self._choice.random() * 0.01)
        self._tell(("end", str(run.id), run.started_at_ns, True))

    def _on_thread(self, run: JobRun) -> None:
        self._tell(("run", str(run.id), run.started_at_ns, run.is_rerun))
        run.cancel.wait(0.005)
        self._tell(("end", str(run.id), run.started_at_ns, True))

    async def _failing(self, run: JobRun) -> None:
        await self._on_loop(run)
        raise ValueError("as it should")

    async def _flaky(self, run: JobRun) -> None:
        self._tell(("retry" if run.failures else "run", str(run.id), run.started_at_ns, run.is_rerun))
        await asyncio.sleep(self._choice.random() * 0.01)
        self._tell(("end", str(run.id), time.time_ns(), run.failures >= 2))
        if run.failures < 2:
            raise ValueError("as it should")

    async def live(self) -> None:
        host = self._host
        host.register_namespace("kept", self._on_loop)
        host.register("kept.thread", self._on_thread)
        host.register(FAILING, self._failing, JobPolicy(rerun_orphans=False))
        host.register(FLAKY, self._flaky, JobPolicy(attempts=3, retry_delay_ns=RETRY_NS))
        host.register_namespace("once", self._on_loop)
        host.register_namespace("gone", self._on_loop)
        await host.start()
        found = [("orphan", str(job.id), job.last_started_at_ns or 0, False) for job in host.orphaned]
        self._tell(*found, ("up", "", 0, False))
        running = asyncio.create_task(host.run())
        await asyncio.gather(self._add_kept(), self._settle() if self._is_last else self._bustle())
        host.stop()
        await running
        self._store.close()

    async def _add_kept(self) -> None:
        for job, schedule in KEPT.items():
            # Arming it again would start its failures anew.
            if job != FLAKY or self._host.control.get(job) is None:
                await self._add(job, schedule)

    async def _add(self, job: str, schedule: Schedule) -> None:
        self._tell(("add", job, time.time_ns(), False))
        await self._host.control.add_scheduled_job(job, schedule)
        self._tell(("added", job, time.time_ns(), False))

    async def _bustle(self) -> None:
        """Add and cancel jobs until this life is ended."""
        host, choice = self._host, self._choice
        for number in range(1_000_000):
            await asyncio.sleep(choice.random() * 0.002)
            match choice.randrange(6):
                case 0:
                    job = f"once.{time.time_ns()}"
                    await self._add(job, Once(at_ns=time.time_ns() + choice.randrange(20 * MS_NS)))
                case 1:
                    await host.control.flush_checkpoint()
                    flaky = host.control.get(FLAKY)
                    if flaky is not None and flaky.status is SchedulerJobStatus.IDLE:
                        await self._add(FLAKY, Manual())
                case 2 | 3:
                    await self._add(f"gone.{choice.randrange(4)}", EVERY)
                case _:
                    job = f"gone.{choice.randrange(4)}"
                    self._tell(("cancel", job, number, False))
                    await host.control.cancel(job)
                    self._tell(("cancelled", job, number, False))

    async def _settle(self) -> None:
        """Wait until all that runs once has run, and all that was cut off has been run again."""
        ahead = {str(job.id): job.last_started_at_ns for job in self._host.orphaned}
        while True:
            jobs = {str(job.id): job for job in self._host.control.list()}
            rerun = all(job not in jobs or jobs[job].last_started_at_ns != at for job, at in ahead.items())
            idle = {job for job, record in jobs.items() if record.status is SchedulerJobStatus.IDLE}
            once = all(job in idle for job in jobs if job.startswith("once."))
            if rerun and once and FLAKY in idle and not set(KEPT) - set(jobs):
                return
            await asyncio.sleep(0.002)


def fork_life(directory: Path, seed: str, level: Durability, *, is_last: bool) -> int:
    """Start a life in a forked child and return its process id. What goes wrong in it is in ``complaint``."""
    child = os.fork()
    if child:
        return child
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    status = 1
    try:
        asyncio.run(_Life(directory, seed, level, is_last=is_last).live())
        status = 0
    except BaseException:  # noqa: BLE001  # Nothing of the parent may run in here, whatever happens.
        (directory / "complaint").write_text(traceback.format_exc(), encoding="utf-8")
    finally:
        os._exit(status)
