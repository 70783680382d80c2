"""Kills a Celery beat (SIGKILL, now and then SIGTERM) at random instants, over and over, on one and the same store.

``python -m fuzz.celery_kill --seconds 600``. The messages that were sent are counted against the runs that the store
knows. For every life and every entry:

- as many messages as runs: no run is recorded that was not sent, and none is sent twice. The one exception is a run
  that the store knows to be cut off, which may have been sent or not, and is made again;
- no run comes before its time: the last run that the store knows moves by at least the period for each run;
- an entry that did not run keeps when it last ran, and none is lost;
- the next life reports each run that was cut off.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Final

from fuzz.celery_beats import OURS, Messages, Seen, fork_beat, kill, read_store, wait, wait_for
from fuzz.celery_victim import PERIODS_S, SLEEPERS
from fuzz.harness import Deadline, Tally, main

__all__ = ["judge", "run"]

_ENTRIES: Final = {*PERIODS_S, *SLEEPERS}
_HOW: Final = (
    "while it starts",
    "between messages",
    "between messages",
    "while it sends",
    "while it sends",
    "asked to end",
)
_DELAY_MAX_S: Final = 0.3
"""Up to this long after the fork a kill comes that does not wait for a message."""
_MESSAGES_MAX: Final = 12
_MOMENT_MAX_S: Final = 0.02
"""Up to this long after a message a kill comes that waits for one."""


def run(seconds: float, seed: int) -> Tally:
    """Kill beats for some seconds. The directory is kept where a kill lost something."""
    tally, deadline = Tally("celery_kill"), Deadline(seconds)
    root = Path(tempfile.mkdtemp(prefix="walstore-celery-"))
    try:
        victim = _Victim(root, seed)
        while not deadline.passed() and not tally.failures:
            trouble = victim.live_and_die(tally.runs)
            tally.runs += 1
            tally.points += 1
            if trouble:
                tally.failures.append(f"seed {seed}, life {tally.runs - 1}: {trouble}. It is kept: {root}")
    finally:
        if not tally.failures:
            shutil.rmtree(root)
    tally.seconds = deadline.elapsed()
    return tally


class _Victim:
    """A beat that lives again and again in the same directory."""

    def __init__(self, root: Path, seed: int) -> None:
        self._root = root
        self._log = root / "log"
        self._seed = seed
        self._messages = Messages(root)
        self._before: Mapping[str, Seen] = {}

    def live_and_die(self, number: int) -> str:
        """Let beat live and kill it; return what is wrong then, "" if nothing."""
        choice = random.Random(f"celery {self._seed} {number}")
        self._log.write_text("")
        messages = choice.randrange(1, _MESSAGES_MAX)
        how = choice.choice(_HOW)
        last_message = messages * choice.choice([-1, 1]) if how == "while it sends" else 0
        child = fork_beat(self._root, OURS, {"beat_sync_every": choice.choice([0, 1, 5])}, last_message)
        expected: int = signal.SIGKILL
        try:
            if how == "while it starts":
                time.sleep(choice.random() * _DELAY_MAX_S)
            elif how != "while it sends":
                if not wait_for(self._root, messages):
                    return "beat sends nothing"
                time.sleep(choice.random() * _MOMENT_MAX_S)
            if how == "asked to end":
                expected = 0
                os.kill(child, signal.SIGTERM)
            elif how != "while it sends":
                os.kill(child, signal.SIGKILL)
            status = wait(child)
        finally:
            kill(child)
        return self._judge() if status == expected else f"beat ended with wait status {status}, when {how}"

    def _judge(self) -> str:
        sent = self._messages.collect()
        try:
            after = read_store(self._root)
        except Exception as error:  # noqa: BLE001  # Whatever a reader raises here is what this harness looks for.
            return f"reading raised {type(error).__name__}: {error}"
        before, self._before = self._before, after
        return judge(before, after, sent, self._log.read_text())


def judge(before: Mapping[str, Seen], after: Mapping[str, Seen], sent: Mapping[str, int], log: str) -> str:
    """Say what is wrong after a life of beat; "" if nothing.

    ``before`` and ``after`` are what the store said, ``sent`` is how many messages of each task there are from that
    life, and ``log`` what beat said.
    """
    if "CRITICAL" in log or "ERROR" in log:
        return "beat complains"
    if lost := before.keys() - after.keys():
        return f"lost {lost}"
    if sent:
        if missing := _ENTRIES - after.keys():
            return f"{missing} are not there"
        orphans, reported = sum(seen.is_orphaned for seen in before.values()), log.count("was cut off")
        if orphans != reported:
            return f"{orphans} runs were cut off, and {reported} reported"
    if sum(seen.is_orphaned for seen in after.values()) > 1:
        return f"several runs were cut off at once: {after}"
    troubles = (_trouble(name, before.get(name), seen, sent.get(name, 0)) for name, seen in after.items())
    return next(filter(None, troubles), "")


def _trouble(name: str, before: Seen | None, after: Seen, sent: int) -> str:
    """Say what is wrong with an entry after a life in which so many messages were sent; "" if nothing."""
    runs = after.runs - (before.runs if before else 0)
    if sent - runs not in ({0, 1} if after.is_orphaned else {0}):
        return f"{name} was sent {sent} times and has {runs} runs more: {before}, {after}"
    if before and not runs and before.last_run_at != after.last_run_at:
        return f"{name} did not run, and its last run has moved: {before}, {after}"
    period = timedelta(seconds=PERIODS_S.get(name, 0))
    if before and after.last_run_at - before.last_run_at < period * runs:
        return f"{name} ran before its time: {before}, {after}"
    return ""


if __name__ == "__main__":
    main(run, __doc__ or "")
