"""What the same kills take from Celery's own beat scheduler and from walstore's: ``python -m fuzz.celery_compare``.

Each scheduler lives and is killed as often, after the same numbers of messages. What its store says then is compared
with the messages that were sent.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import signal
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, fields
from importlib import import_module
from pathlib import Path
from typing import Final

from fuzz.celery_beats import OURS, STOCK, Messages, Seen, fork_beat, kill, read_shelve, read_store, wait_for
from fuzz.celery_victim import SLEEPERS

__all__ = ["compare"]

_SLEEPERS: Final = set(SLEEPERS) - {"celery.backend_cleanup"}
"""Without the entry of which Celery's own scheduler forgets at every start when it last ran, killed or not."""

Read = Callable[[Path], Mapping[str, Seen]]
_SUBJECTS: Final[dict[str, tuple[str, Read, Mapping[str, object]]]] = {
    "walstore": (OURS, read_store, {}),
    "Celery's shelve": (STOCK, read_shelve, {}),
    "Celery's shelve, beat_sync_every=1": (STOCK, read_shelve, {"beat_sync_every": 1}),
}


@dataclass(slots=True)
class Losses:
    """What was seen over all kills of one scheduler."""

    kills: int = 0
    sent: int = 0
    """Messages."""
    unrecorded: int = 0
    """Messages of which the store did not know after the kill: they are sent again, early."""
    resets: int = 0
    """Entries, not run, of which it was forgotten when they had last run: a run that was missed stays missed."""
    unreadable: int = 0
    """Kills after which the store could not be read."""
    deleted: int = 0
    """Starts that deleted the store."""


def compare(kills: int, seed: int) -> dict[str, Losses]:
    """Kill every scheduler so often; return what each lost."""
    return {name: _kill_often(kills, seed, *subject) for name, subject in _SUBJECTS.items()}


def _kill_often(kills: int, seed: int, scheduler: str, read: Read, settings: Mapping[str, object]) -> Losses:
    losses = Losses()
    with tempfile.TemporaryDirectory(prefix="celery-compare-") as folder:
        root, before = Path(folder), dict[str, Seen]()
        messages, log = Messages(root), root / "log"
        for number in range(kills):
            choice = random.Random(f"compare {seed} {number}")
            log.write_text("")
            child = fork_beat(root, scheduler, settings)
            try:
                wait_for(root, choice.randrange(1, 16))
                time.sleep(choice.random() * 0.02)
                os.kill(child, signal.SIGKILL)
            finally:
                kill(child)
            losses.kills += 1
            losses.deleted += log.read_text().count("Removing corrupted schedule file")
            sent = messages.collect()
            losses.sent += sum(sent.values())
            try:
                after = dict(read(root))
            except Exception:  # noqa: BLE001  # Whatever it raises: that is what is counted.
                losses.unreadable += 1
                after = {}
            _add(losses, before, after, sent)
            before = after
    return losses


def _add(losses: Losses, before: Mapping[str, Seen], after: Mapping[str, Seen], sent: Mapping[str, int]) -> None:
    for task, count in sent.items():
        runs = after[task].runs if task in after else 0
        # Where runs were forgotten, the count may have begun anew.
        known = before[task].runs if task in before and before[task].runs <= runs else 0
        losses.unrecorded += max(0, count - (runs - known))
    losses.resets += sum(
        task in before
        and task not in sent
        and (task not in after or after[task].last_run_at != before[task].last_run_at)
        for task in _SLEEPERS
    )


def main() -> None:
    """Print what each scheduler lost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100, help="of each scheduler (default: 100)")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder, "probe"))
        with closing(import_module("dbm").open(path, "c")):
            pass
        kind = import_module("dbm").whichdb(path)
    print(f"Python {platform.python_version()}, the shelve is {kind}")
    names = [field.name for field in fields(Losses)]
    print("scheduler".ljust(36), *(name.rjust(11) for name in names))
    for name, losses in compare(arguments.kills, arguments.seed).items():
        print(name.ljust(36), *(str(getattr(losses, field)).rjust(11) for field in names), flush=True)


if __name__ == "__main__":
    main()
