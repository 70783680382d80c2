"""``walstore demo``: a real trace, a child that is killed in the middle of it, and what comes back."""

from __future__ import annotations

import argparse
import math
import os
import random
import re
import shutil
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from walstore import Durability, SchedulerPersistenceError
from walstore.cli.demo_parent import DemoFailure, Replay, Returned
from walstore.cli.outcome import Exit, UsageError
from walstore.cli.output import Output
from walstore.cli.trace import Trace, read_trace

__all__ = ["add_arguments", "run"]

_TRACE = Path(__file__).parent / "data" / "KTH-SP2-1996-2.1-cln.swf.gz"
_QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999, "p99.99": 0.9999, "max": 1.0}
_STATUSES = ("Pending", "Running", "Idle", "FailedRetrying")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``walstore demo``."""
    parser.add_argument(
        "--trace",
        type=Path,
        default=_TRACE,
        metavar="FILE",
        help="a trace in the Standard Workload Format (default: KTH-SP2)",
    )
    parser.add_argument(
        "--durability",
        choices=[level.value for level in Durability],
        default=Durability.PROCESS.value,
        help="what a returned call survives (default: %(default)s)",
    )
    parser.add_argument("--kills", type=_kills, default=1, metavar="N", help="kill the child N times (default: 1)")
    parser.add_argument("--store", type=Path, metavar="PATH", help="keep the store here; must not exist yet")


def _kills(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,3}", text):
        raise argparse.ArgumentTypeError(f"must be between 0 and 999, not {text!r}")
    return int(text)


def run(args: argparse.Namespace, out: Output) -> int:
    """Run the demo; return ``Exit.OK`` when all came back as acknowledged, ``Exit.DAMAGE`` when anything differs.

    Raises ``UsageError`` with a message of one line when the trace can't be read or the store exists already. Nothing
    but a store that was asked for, or in which something differs, is left behind, also where the demo is interrupted.
    """
    store: Path | None = args.store
    if store is not None and os.path.lexists(store):
        raise UsageError(f"--store {store}: exists already; name a path that does not, or remove it")
    if store is not None and not store.absolute().parent.is_dir():
        raise UsageError(f"--store {store}: there is no directory {store.absolute().parent}; create it first")
    try:
        trace = read_trace(args.trace)
    except ValueError as error:
        raise UsageError(str(error)) from error
    work = Path(tempfile.mkdtemp(prefix="walstore-demo-"))
    failed = False
    try:
        result = _demonstrate(args, out, trace, store or work / "store", work)
        failed = result.failure is not None
    finally:
        # A store in which something differs is worth a look, so it stays where it is.
        if store is not None or not failed:
            shutil.rmtree(work)
    kept = store or (work / "store" if failed else None)
    # Where not even a directory could be made, nothing is kept.
    result.kept_at = kept if kept is not None and os.path.isdir(kept) else None  # noqa: PTH112  # It never raises.
    if out.is_json:
        out.json_document(_document(result))
    else:
        _show(result, out)
    return Exit.DAMAGE if failed else Exit.OK


@dataclass(slots=True)
class _Result:
    """What a demo found. ``failure`` is what is wrong, None when nothing is."""

    trace: Trace
    events: int
    durability: Durability
    kills: int
    batch: int
    openings: list[Returned] = field(default_factory=list)
    latencies_ns: list[int] = field(default_factory=list)
    elapsed_s: float = 0.0
    failure: str | None = None
    kept_at: Path | None = None

    def quantiles_ns(self) -> dict[str, int]:
        """Return, for each share of the calls, the smallest latency that these did not exceed."""
        count = len(self.latencies_ns)
        return {name: self.latencies_ns[math.ceil(share * count) - 1] for name, share in _QUANTILES.items() if count}

    def events_per_second(self) -> int:
        """Return the events of the whole trace by the time spent in the calls; 0 where nothing was measured."""
        return self.events * 10**9 // (sum(self.latencies_ns) or 10**18)

    def taken(self) -> int:
        """Return how many acknowledged events all kills took."""
        return sum(opening.taken for opening in self.openings)


def _demonstrate(args: argparse.Namespace, out: Output, trace: Trace, store: Path, work: Path) -> _Result:
    """Replay, kill and check, as far as all is well."""
    began_ns = time.monotonic_ns()
    events = list(trace.events())
    durability = Durability(args.durability)
    with Replay(args.trace, events, store=store, work=work, durability=durability, progress=out.progress) as replay:
        result = _Result(trace, len(events), durability, args.kills, replay.batch)
        _introduce(result, out)
        try:
            for number, point in enumerate(_points(result.events, result.kills), start=1):
                opening = replay.kill_at(point)
                result.openings.append(opening)
                out.line(f"Kill {number} of {result.kills}, asked for at event {point:,}: {_sentence(opening)}.")
            result.openings.append(replay.finish())
            out.line(f"To the end, checkpointed and reopened: all {result.events:,} events are there.")
        except DemoFailure as error:
            result.failure = str(error)
        except SchedulerPersistenceError as error:
            result.failure = f"{type(error).__name__}: {error}"
        result.latencies_ns = replay.latencies_ns()
    result.elapsed_s = (time.monotonic_ns() - began_ns) / 1e9
    return result


def _points(events: int, kills: int) -> list[int]:
    """Return the events at which to kill: one in the middle half of each stretch but the last."""
    stretch = events / (kills + 1)
    shares = [random.uniform(0.25, 0.75) for _ in range(kills)]  # noqa: S311  # They are no secret.
    return [max(int(stretch * (number + share)), 1) for number, share in enumerate(shares)]


def _introduce(result: _Result, out: Output) -> None:
    trace = result.trace
    out.line(f"Replaying {trace.name}: {len(trace.jobs):,} jobs, {result.events:,} events, {result.durability.value}.")
    out.line(f"Trace by {trace.installation or 'an unnamed site'}; thanks to {trace.acknowledgement or 'its authors'}.")
    if result.batch > 1:
        out.line(f"Each call waits for the device, so events go in batches of {result.batch} (record_many).")


def _sentence(opening: Returned) -> str:
    text = f"{opening.acknowledged:,} acknowledged, {opening.events:,} came back"
    return f"{text}, {opening.taken:,} taken by the kill" if opening.taken else text


def _document(result: _Result) -> dict[str, object]:
    """Return the result as one JSON document."""
    return {
        "trace": result.trace.name,
        "acknowledgement": result.trace.acknowledgement,
        "jobs": len(result.trace.jobs),
        "events": result.events,
        "durability": result.durability.value,
        "events_per_call": result.batch,
        "openings": [
            {
                "acknowledged": opening.acknowledged,
                "synced": opening.synced,
                "came_back": opening.events,
                "taken": opening.taken,
                "statuses": dict(opening.statuses),
                "orphaned_runs": opening.statuses["Running"],
                "situation": opening.recovery.situation.value,
                "events_replayed": opening.recovery.events_replayed,
                "torn_bytes": opening.recovery.torn_bytes,
                "kept_at": opening.recovery.kept_at,
                "duration_ns": opening.recovery.duration_ns,
            }
            for opening in result.openings
        ],
        "calls": len(result.latencies_ns),
        "latency_ns": result.quantiles_ns(),
        "events_per_second": result.events_per_second(),
        "elapsed_s": round(result.elapsed_s, 3),
        "store": str(result.kept_at) if result.kept_at else None,
        "failure": result.failure,
        "ok": result.failure is None,
    }


def _show(result: _Result, out: Output) -> None:
    named = [(f"kill {number}", opening) for number, opening in enumerate(result.openings[: result.kills], start=1)]
    named += [("the end", opening) for opening in result.openings[result.kills :]]
    if named:
        _show_openings(named, out)
    if result.failure is None:
        calls = f"{len(result.latencies_ns):,} calls{f' of {result.batch} events' if result.batch > 1 else ''}"
        out.table(
            f"Write latency in microseconds, {calls}, timer included",
            [*_QUANTILES, "events/s in calls"],
            [[*(f"{value / 1e3:,.1f}" for value in result.quantiles_ns().values()), result.events_per_second()]],
        )
    if result.kept_at is not None:
        out.line(f"The store is kept at {result.kept_at}.")
    if result.failure is not None:
        out.line(f"FAILED after {result.elapsed_s:.1f} s: {result.failure}")
        return
    what = "what was acknowledged came back, and at most the call under way besides"
    if taken := result.taken():
        what = f"a prefix came back each time; the kills took {taken:,} acknowledged events, as buffered allows"
    out.line(f"OK in {result.elapsed_s:.1f} s: {what}; each job equals an independent fold of the trace.")


def _show_openings(named: list[tuple[str, Returned]], out: Output) -> None:
    out.table(
        "Jobs that came back",
        ["after", "Pending", "Running (orphaned)", "Idle", "FailedRetrying", "all"],
        [[name, *(opening.statuses[word] for word in _STATUSES), opening.statuses.total()] for name, opening in named],
    )
    out.table(
        "How they came back",
        ["after", "situation", "events replayed", "torn bytes", "reopened in"],
        [
            [name, told.situation.value, told.events_replayed, told.torn_bytes, f"{told.duration_ns / 1e6:.1f} ms"]
            for name, told in ((name, opening.recovery) for name, opening in named)
        ],
    )
