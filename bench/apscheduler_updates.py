"""What an update of a job costs APScheduler: walstore at each level, its own stores in memory and in SQLite.

``python -m bench.apscheduler_updates [--jobs 1000 10000]``. An update is what the scheduler does after each run: the
job's next run time moves on, and the job is stored anew. A pass is that with the search for the one job that is due.
"""

from __future__ import annotations

import argparse
import pickle
import shutil
import tempfile
from array import array
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from apscheduler.job import Job
from apscheduler.jobstores.memory import MemoryJobStore
from apscheduler.jobstores.sqlalchemy import SQLAlchemyJobStore
from apscheduler.triggers.interval import IntervalTrigger
from sqlalchemy import create_engine, event

from bench import machine
from bench.timing import clock_cost_ns, closed, percentile, settle
from walstore.integrations.apscheduler import WalJobStore
from walstore.options import Durability

_HERE: Final = Path(__file__).parent
_START: Final = datetime(2026, 1, 1, tzinfo=UTC)
_ROUNDS: Final = 5
_CALLS: Final = 2_000
_SLOW_CALLS: Final = 200
"""Of a store that waits for the device at each call."""


def no_work(_: int) -> None:
    """Be the function of all jobs."""


def new_job(number: int) -> Job:
    """Return a job; each is due an hour after the one before."""
    trigger = IntervalTrigger(hours=1, timezone=UTC)
    options = {"misfire_grace_time": 1, "coalesce": True, "max_instances": 1, "executor": "default"}
    due = _START + timedelta(hours=number)
    job = Job(None, id=f"job-{number:06}", func=no_work, args=(number,), kwargs={}, trigger=trigger, **options)
    job.next_run_time = due
    return job


def sqlite_wal(directory: Path) -> SQLAlchemyJobStore:
    """Return APScheduler's own store, told to sync at checkpoints only."""
    engine = create_engine(f"sqlite:///{directory / 'jobs.db'}")

    def tune(connection: Any, _: object) -> None:  # noqa: ANN401  # Whatever the driver has.
        connection.execute("PRAGMA journal_mode = WAL").close()
        connection.execute("PRAGMA synchronous = NORMAL").close()

    event.listen(engine, "connect", tune)
    return SQLAlchemyJobStore(engine=engine)


STORES: Final[dict[str, tuple[Callable[[Path], Any], str, int]]] = {
    "memory": (lambda _: MemoryJobStore(), "nothing", _CALLS),
    "walstore BUFFERED": (
        lambda directory: WalJobStore(directory / "store", durability=Durability.BUFFERED),
        "exceptions",
        _CALLS,
    ),
    "walstore PROCESS": (lambda directory: WalJobStore(directory / "store"), "kill -9", _CALLS),
    "SQLite, WAL, NORMAL": (sqlite_wal, "kill -9", _CALLS),
    "walstore POWER": (
        lambda directory: WalJobStore(directory / "store", durability=Durability.POWER),
        "power loss",
        _SLOW_CALLS,
    ),
    "SQLite as it comes": (
        lambda directory: SQLAlchemyJobStore(f"sqlite:///{directory / 'jobs.db'}"),
        "power loss",
        _SLOW_CALLS,
    ),
}
"""How each is made, what an update survives when the call has returned, and how often it is called in a round."""


class Subject:
    """A store with jobs, and the calls that are measured."""

    def __init__(self, make: Callable[[Path], Any], root: Path, jobs: int) -> None:
        self._store = make(root)
        self._store.start(None, "default")
        self._jobs = {f"job-{number:06}": new_job(number) for number in range(jobs)}
        self._end = _START + timedelta(hours=jobs)
        for job in self._jobs.values():
            self._store.add_job(job)

    def update(self, job_id: str, _: None) -> None:
        """Move the next run time of a job."""
        job = self._jobs[job_id]
        job.next_run_time += timedelta(hours=1)
        self._store.update_job(job)

    def make_pass(self, _: str, __: None) -> None:
        """Find the first job, which alone is due, and move it behind all others."""
        for job in self._store.get_due_jobs(self._store.get_next_run_time()):
            self._end += timedelta(hours=1)
            job.next_run_time = self._end
            self._store.update_job(job)

    def measure(self, call: Callable[[str, None], None], calls: int) -> array[int]:
        """Return the nanoseconds of each of so many calls, jobs taking turns."""
        ids = list(self._jobs)
        out = array("q", bytes(8 * calls))
        settle()
        closed(call, [ids[number * 7 % len(ids)] for number in range(calls)], [None] * calls, out)
        return out

    def close(self) -> None:
        """Close the store."""
        self._store.shutdown()


@contextmanager
def subjects(root: Path, jobs: int) -> Iterator[dict[str, Subject]]:
    """Make a subject of each store."""
    made: dict[str, Subject] = {}
    try:
        for number, (name, (make, _, _)) in enumerate(STORES.items()):
            directory = root / f"{jobs}-{number}"
            directory.mkdir()
            made[name] = Subject(make, directory, jobs)
        yield made
    finally:
        for subject in made.values():
            subject.close()


def measure(root: Path, jobs: int, clock_ns: float) -> None:
    """Measure all stores with so many jobs, the stores taking turns, and print a table."""
    times: dict[tuple[str, str], list[int]] = {}
    with subjects(root, jobs) as made:
        for _ in range(_ROUNDS):
            for name, subject in made.items():
                calls = STORES[name][2]
                times.setdefault((name, "update"), []).extend(subject.measure(subject.update, calls))
        # Afterwards: from here on the jobs are no longer where the updates expect them.
        for _ in range(_ROUNDS):
            for name, subject in made.items():
                times.setdefault((name, "pass"), []).extend(subject.measure(subject.make_pass, STORES[name][2] // 4))
    print(f"\n{jobs:,} jobs, microseconds\n")
    print("| store | survives | update p50 | p99 | pass p50 | p99 |\n|---|---|--:|--:|--:|--:|")
    for name, (_, survives, _) in STORES.items():
        cells = [_cells(times[name, what], clock_ns) for what in ("update", "pass")]
        print(f"| {name} | {survives} | {' | '.join(cells)} |")


def _cells(times: Iterable[int], clock_ns: float) -> str:
    ordered = sorted(times)
    values = [percentile(ordered, share) for share in (0.5, 0.99)]
    return " | ".join("-" if value is None else f"{(value - clock_ns) / 1_000:,.1f}" for value in values)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.apscheduler_updates", description=__doc__)
    parser.add_argument("--jobs", type=int, nargs="+", default=[1_000], help="how many (default: %(default)s)")
    parser.add_argument("--stores", type=Path, default=_HERE.parent / "build", help="where to put the stores")
    arguments = parser.parse_args()
    arguments.stores.mkdir(parents=True, exist_ok=True)
    root = Path(tempfile.mkdtemp(prefix="bench-", dir=arguments.stores))
    try:
        for what, value in machine.describe(root).items():
            print(f"{what}: {value}")
        print(f"load average before: {machine.load()}")
        clock_ns, job = clock_cost_ns(), new_job(0)
        out = array("q", bytes(8 * _CALLS))
        closed(lambda _, job: pickle.dumps(job.__getstate__(), 5), [""] * _CALLS, [job] * _CALLS, out)
        print(f"pickling a job, which all stores but the one in memory do: {_cells(out, clock_ns)} (p50, p99, us)")
        for jobs in arguments.jobs:
            measure(root, jobs, clock_ns)
        print(f"\nload average after: {machine.load()}")
    finally:
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
