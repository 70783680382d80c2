"""The parent's side of ``walstore demo``: starts children, kills them, reopens the store, and judges what came back."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from walstore import Durability, RecoveryReport, WalPersistence
from walstore.cli.demo_tally import Tally
from walstore.cli.expected import ExpectedJob, apply, closest_prefixes, differences, expected_of
from walstore.cli.trace import TraceEvent

__all__ = ["DemoFailure", "Replay", "Returned"]

_POWER_BATCH_EVENTS = 64
_POLL_S = 0.001
_POLLS_PER_PROGRESS = 50


class DemoFailure(Exception):  # noqa: N818  # It is the demo's verdict, not an error of the program.
    """What came back is not what was acknowledged, or a child ended by itself. The message may have several lines."""


@dataclass(frozen=True, slots=True)
class Returned:
    """What came back when the store was reopened, found to be as acknowledged."""

    acknowledged: int
    """Events, from the start of the trace, whose calls had returned."""
    synced: int
    """Events, from the start of the trace, that a returned ``sync`` covered."""
    events: int
    """Events, from the start of the trace, whose exact fold the store holds."""
    statuses: Counter[str]
    recovery: RecoveryReport

    @property
    def taken(self) -> int:
        """Acknowledged events that the kill took."""
        return max(self.acknowledged - self.events, 0)


class Replay:
    """One trace on its way into one store, through as many children as it takes.

    ``work`` is a directory for the tally and for what children complain about; ``progress`` is told how far the
    running child is. A context manager that gives the tally back.
    """

    def __init__(
        self,
        trace: Path,
        events: list[TraceEvent],
        *,
        store: Path,
        work: Path,
        durability: Durability,
        progress: Callable[[str], None],
    ) -> None:
        self.batch = _POWER_BATCH_EVENTS if durability is Durability.POWER else 1
        self._trace = trace
        self._events = events
        self._store = store
        self._complaints = work / "child-stderr.txt"
        self._tally_path = work / "tally"
        self._durability = durability
        self._progress = progress
        self._tally = Tally.create(self._tally_path, len(events))
        self._polls = 0
        self._done = 0
        self._jobs: dict[str, ExpectedJob] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._tally.__exit__()

    def kill_at(self, point: int) -> Returned:
        """Let a child go on from where the store is, kill it once ``point`` events are acknowledged, and reopen.

        Raises ``DemoFailure`` when what came back is not what was acknowledged, or when the child ended by itself.
        """
        with self._child(hold=True) as child:
            # A child that has reached the end waits, so every point up to the last event is reached.
            while self._tally.acknowledged < max(point, 1):
                self._watch(child)
                time.sleep(_POLL_S)
            child.kill()
            child.wait()
        return self._reopen()

    def finish(self) -> Returned:
        """Let a child go on to the end of the trace, checkpoint, and reopen. Raises as ``kill_at`` does."""
        with self._child(hold=False) as child:
            while self._watch(child) is None:
                time.sleep(_POLL_S)
        with WalPersistence(self._store, durability=self._durability, create=False) as store:
            # In any case and to its end, so that the reopening below reads every job from the snapshot.
            store.flush_checkpoint(compact=True)
        returned = self._reopen()
        if returned.events != len(self._events):
            raise DemoFailure(f"the store holds {returned.events:,} events of {len(self._events):,} after a clean end")
        return returned

    def latencies_ns(self) -> list[int]:
        """Return how long the calls of all children took, in ascending order."""
        return self._tally.latencies_ns()

    @contextmanager
    def _child(self, *, hold: bool) -> Iterator[subprocess.Popen[bytes]]:
        """Start a child that goes on from where the store is; however the block ends, the child does not outlive it."""
        self._tally.acknowledged = self._tally.synced = 0
        command = [sys.executable, "-P", "-m", "walstore.cli.demo_child", *(["--hold"] if hold else [])]
        command += ["--trace", str(self._trace), "--store", str(self._store), "--tally", str(self._tally_path)]
        command += ["--durability", self._durability.value, "--start", str(self._done), "--batch", str(self.batch)]
        with (
            self._complaints.open("wb") as complaints,
            subprocess.Popen(  # noqa: S603  # The command is made above, of this interpreter and of paths.
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=complaints,
                # The child imports from where this process does.
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
                # Ctrl-C reaches it only through its parent.
                start_new_session=True,
            ) as child,
        ):
            try:
                yield child
            finally:
                child.kill()

    def _watch(self, child: subprocess.Popen[bytes]) -> int | None:
        """Report progress. Returns the child's exit status, None while it runs; a failed child is a ``DemoFailure``."""
        status = child.poll()
        if status:
            complaint = self._complaints.read_text("utf-8", "replace").strip() or "it said nothing"
            raise DemoFailure(f"the child ended by itself with status {status}: {complaint}")
        if self._polls % _POLLS_PER_PROGRESS == 0:
            acknowledged = max(self._tally.acknowledged, self._done)
            self._progress(f"{acknowledged:,} of {len(self._events):,} events acknowledged")
        self._polls += 1
        return status

    def _reopen(self) -> Returned:
        acknowledged, synced = max(self._tally.acknowledged, self._done), max(self._tally.synced, self._done)
        with WalPersistence(self._store, durability=self._durability, create=False) as store:
            recovery = store.recovery
            found = {str(record.id): expected_of(record) for record in store.load_all()}
        # The last call may have been in flight: its event may be there or not, a batch whole or not at all.
        last = min(acknowledged + self.batch, len(self._events))
        allowed = range(synced, last + 1) if self._durability is Durability.BUFFERED else (acknowledged, last)
        differing, closest = closest_prefixes(self._jobs, self._events, range(self._done, last + 1), found)
        good = [count for count in closest if count in allowed]
        self._advance(good[-1] if good else closest[-1])
        if differing:
            lines = [f"{differing:,} jobs differ from the state after {self._done:,} events, which comes closest:"]
            raise DemoFailure("\n  ".join(lines + differences(self._jobs, found)))
        if not good:
            raise DemoFailure(
                f"the store holds the first {self._done:,} events, but {acknowledged:,} were acknowledged at "
                f"{self._durability.value}, {synced:,} of them before a sync that returned"
            )
        return Returned(acknowledged, synced, self._done, Counter(job.status for job in found.values()), recovery)

    def _advance(self, count: int) -> None:
        for event in self._events[self._done : count]:
            apply(self._jobs, event)
        self._done = count
