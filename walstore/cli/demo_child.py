"""The child of ``walstore demo``: replays a trace into a store, keeps a tally of what came back, and may be killed.

Run as ``python -m walstore.cli.demo_child``. A file of its own, not a fork, so that nothing of the parent's memory can
reach it; what it was acknowledged leaves it through the tally alone.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from pathlib import Path

from walstore import (
    Cancelled,
    Durability,
    Finished,
    Manual,
    Periodic,
    Schedule,
    Scheduled,
    SchedulerPersistenceError,
    Started,
    WalPersistence,
)
from walstore.cli.demo_tally import Tally
from walstore.cli.trace import Call, PlainSchedule, TraceEvent, read_trace

__all__ = ["main"]

_SYNC_EVERY_EVENTS = 4_096


class _TraceClock:
    """A clock that shows the time of the trace: ``record_scheduled`` takes its instant from the store's clock."""

    now_ns = 0

    def __call__(self) -> int:
        return self.now_ns


def main(arguments: Sequence[str] | None = None) -> int:
    """Replay as the command line says; return 0, or 1 after writing to standard error why the store refused."""
    parser = argparse.ArgumentParser(prog="walstore.cli.demo_child", description=__doc__)
    parser.add_argument("--trace", type=Path, required=True)
    parser.add_argument("--store", required=True)
    parser.add_argument("--tally", type=Path, required=True)
    parser.add_argument("--durability", type=Durability, required=True)
    parser.add_argument("--start", type=int, required=True, help="the events that the store already holds")
    parser.add_argument("--batch", type=int, required=True, help="events per call; above 1 by record_many")
    parser.add_argument("--hold", action="store_true", help="at the end wait, store open, for the parent to kill")
    args = parser.parse_args(arguments)
    events = list(read_trace(args.trace).events())
    clock = _TraceClock()
    try:
        with (
            Tally(args.tally) as tally,
            WalPersistence(args.store, durability=args.durability, clock=clock) as store,
        ):
            tally.synced = tally.acknowledged = args.start
            _replay(store, clock, events, tally, start=args.start, batch=args.batch)
            if args.hold:
                # Ends when the parent does, so that nothing is left behind if it is the parent that dies.
                sys.stdin.buffer.read()
    except SchedulerPersistenceError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


def _replay(
    store: WalPersistence, clock: _TraceClock, events: list[TraceEvent], tally: Tally, *, start: int, batch: int
) -> None:
    for position in range(start, len(events), batch):
        group = events[position : position + batch]
        clock.now_ns = group[0].at_ns
        call = _call_of(store, group[0]) if batch == 1 else partial(store.record_many, list(map(_event_of, group)))
        began_ns = time.perf_counter_ns()
        call()
        took_ns = time.perf_counter_ns() - began_ns
        done = position + len(group)
        tally.acknowledged = done
        tally.took(position, took_ns)
        if done // _SYNC_EVERY_EVENTS > position // _SYNC_EVERY_EVENTS:
            store.sync()
            tally.synced = done


def _call_of(store: WalPersistence, event: TraceEvent) -> Callable[[], None]:
    """Return the call, ready to be timed, that an event of the trace stands for."""
    match event.call:
        case Call.SCHEDULED:
            return partial(store.record_scheduled, event.id, _schedule_of(event.schedule))
        case Call.STARTED:
            return partial(store.record_started, event.id, event.at_ns)
        case Call.FINISHED:
            return partial(store.record_finished, event.id, event.at_ns, event.success is True)
        case Call.CANCELLED:
            return partial(store.cancel, event.id)


def _event_of(event: TraceEvent) -> Scheduled | Started | Finished | Cancelled:
    match event.call:
        case Call.SCHEDULED:
            return Scheduled(event.id, _schedule_of(event.schedule), event.at_ns)
        case Call.STARTED:
            return Started(event.id, event.at_ns)
        case Call.FINISHED:
            return Finished(event.id, event.at_ns, event.success is True)
        case Call.CANCELLED:
            return Cancelled(event.id)


@lru_cache
def _schedule_of(schedule: PlainSchedule | None) -> Schedule:
    match schedule:
        case ("manual",):
            return Manual()
        case ("periodic", int(every_ns)):
            return Periodic(every_ns=every_ns)
    raise ValueError(f"not a schedule of a trace: {schedule!r}")


if __name__ == "__main__":
    sys.exit(main())
