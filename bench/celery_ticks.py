"""What a tick that makes one run costs beat: walstore's scheduler beside Celery's own, in memory and with its shelve.

``python -m bench.celery_ticks [--entries 10 100 1000]``. Time is simulated, and nothing is sent: what is measured is
finding the entry that is due, and keeping that it ran. With beat_sync_every=1 the shelve is written after each run, as
walstore records each run; by default it is written every three minutes. On a busy machine the work, which is the time
of the processor without any waiting, says more than the time that passed.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import perf_counter_ns, thread_time_ns
from typing import Any, Final

from celery import Celery
from celery.beat import PersistentScheduler, Scheduler

from bench import machine
from bench.timing import settle
from walstore.integrations.celery import WalScheduler

_HERE: Final = Path(__file__).parent
_START: Final = datetime(2026, 1, 1, tzinfo=UTC)
_ROUNDS: Final = 5
_TICKS: Final = 400
_SLOW_TICKS: Final = 60
"""Of a scheduler that waits for the device, or writes all entries, at each run."""


class TimedCelery(Celery):
    """An application that is at an instant of the benchmark's choice."""

    instant = _START

    def now(self) -> datetime:
        """Return that instant."""
        return self.instant


def silent(kind: type[Scheduler]) -> type[Scheduler]:
    """Return the scheduler of a kind that sends nothing."""
    return type(f"Silent{kind.__name__}", (kind,), {"send_task": lambda *_, **__: None, "producer": None})


SUBJECTS: Final[dict[str, tuple[type[Scheduler], dict[str, object], str, int]]] = {
    "Celery, in memory": (Scheduler, {}, "nothing", _TICKS),
    "Celery, shelve": (PersistentScheduler, {}, "nothing: a loss of 3 minutes", _TICKS),
    "walstore process": (WalScheduler, {}, "kill -9", _TICKS),
    "Celery, shelve, each run": (PersistentScheduler, {"beat_sync_every": 1}, "kill -9, mostly", _SLOW_TICKS),
    "walstore power": (WalScheduler, {"beat_walstore_durability": "power"}, "power loss", _SLOW_TICKS),
}
"""How each is made, what a run survives when its tick has returned, and how many ticks a round has."""


class Subject:
    """A scheduler with entries, of which one is due at each second."""

    def __init__(self, kind: type[Scheduler], settings: dict[str, Any], directory: Path, entries: int) -> None:
        self._app = TimedCelery("bench", broker="memory://", set_as_current=True)
        schedule = {
            f"entry-{n:05}": {"task": "bench.task", "schedule": float(entries), "args": (n,)} for n in range(entries)
        }
        self._app.conf.update(settings, beat_schedule=schedule, result_expires=None)
        self._app.set_current()
        self._scheduler = silent(kind)(app=self._app, schedule_filename=str(directory / "schedule"))
        if kind is Scheduler:
            self._scheduler.merge_inplace(self._app.conf.beat_schedule)
        for number, entry in enumerate(self._scheduler.schedule.values()):
            entry.last_run_at = _START + timedelta(seconds=number)
        self._scheduler.sync()
        self._app.instant = _START + timedelta(seconds=entries - 0.5)
        self._scheduler.tick()

    def measure(self, ticks: int) -> list[tuple[int, int]]:
        """Make so many ticks, each with one run; return the nanoseconds that passed, and that this thread worked."""
        self._app.set_current()
        settle()
        times = []
        for _ in range(ticks):
            self._app.instant += timedelta(seconds=1)
            start_ns, worked_ns = perf_counter_ns(), thread_time_ns()
            delay = self._scheduler.tick()
            times.append((perf_counter_ns() - start_ns, thread_time_ns() - worked_ns))
            assert delay == 0, f"nothing was due for {delay} seconds"
        return times

    def close(self) -> None:
        """Close the scheduler."""
        self._scheduler.close()


def measure(root: Path, entries: int) -> None:
    """Measure all schedulers with so many entries, taking turns, and print a table."""
    times: dict[str, list[tuple[int, int]]] = {}
    made: dict[str, Subject] = {}
    try:
        for number, (name, (kind, settings, _, _)) in enumerate(SUBJECTS.items()):
            directory = root / f"{entries}-{number}"
            directory.mkdir()
            made[name] = Subject(kind, settings, directory, entries)
        for _ in range(_ROUNDS):
            for name, subject in made.items():
                times.setdefault(name, []).extend(subject.measure(SUBJECTS[name][3]))
    finally:
        for subject in made.values():
            subject.close()
    print(f"\n{entries:,} entries, microseconds for each tick that makes a run\n")
    print("| scheduler | a run survives | p50 | p90 | p50 of the work |\n|---|---|---|---|---|")
    for name, (_, _, survives, _) in SUBJECTS.items():
        passed, worked = (statistics.quantiles(column, n=10) for column in zip(*times[name], strict=True))
        cells = [f"{value / 1000:,.0f}" for value in (passed[4], passed[8], worked[4])]
        print("|", " | ".join([name, survives, *cells]), "|", flush=True)


def main() -> None:
    """Do so as the arguments say."""
    parser = argparse.ArgumentParser(prog="python -m bench.celery_ticks", description=__doc__)
    parser.add_argument("--entries", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--stores", type=Path, default=_HERE.parent / "build", help="where to put the stores")
    arguments = parser.parse_args()
    arguments.stores.mkdir(parents=True, exist_ok=True)
    root = Path(tempfile.mkdtemp(prefix="celery-", dir=arguments.stores))
    try:
        for what, value in (machine.describe(root) | {"load average": machine.load()}).items():
            print(f"- {what}: {value}")
        for entries in arguments.entries:
            measure(root, entries)
    finally:
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
