"""Beats that are started and killed, and what is left of them: the messages they sent, and what their store says.

A beat is a forked child that runs what ``celery beat`` runs. Forked and not started anew: a life costs milliseconds,
and what a test has changed in this process holds in the child as well.
"""

from __future__ import annotations

import itertools
import json
import os
import shelve
import signal
import sys
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NoReturn

from celery.apps.beat import Beat
from kombu.transport.filesystem import Channel

from fuzz import celery_victim
from fuzz.harness import Deadline
from walstore.engine.environment import Plug
from walstore.engine.opening import open_for_reading
from walstore.engine.view import View
from walstore.errors import StoreNotFoundError
from walstore.integrations.celery_blob import KIND, decode_history
from walstore.integrations.entry_model import EntryCodec, EntryEvent, EntryReducer, EntryState, entry_of
from walstore.wal import os_environment

__all__ = ["OURS", "STOCK", "Messages", "Seen", "fork_beat", "kill", "read_shelve", "read_store", "wait", "wait_for"]

OURS: Final = "walstore.integrations.celery:WalScheduler"
STOCK: Final = "celery.beat:PersistentScheduler"

_HANGS_S: Final = 60.0
_POLL_S: Final = 0.0005


@dataclass(frozen=True, slots=True)
class Seen:
    """What a store says of an entry."""

    runs: int
    last_run_at: datetime
    is_orphaned: bool = False
    """Whether a run had begun that had not ended."""


class Messages:
    """The messages that were sent, counted by task; those that are counted are taken away."""

    def __init__(self, directory: Path) -> None:
        self._folder = directory / celery_victim.MESSAGES
        self._folder.mkdir(exist_ok=True)
        self.count: dict[str, int] = {}
        self.sent_at: dict[str, list[float]] = {}
        """When the messages of each task were sent, in seconds since 1970."""

    def collect(self) -> dict[str, int]:
        """Count what was sent since the last time; return that by task. No beat may be running."""
        new: dict[str, int] = {}
        for file in sorted(self._folder.iterdir()):
            try:
                task: str = json.loads(file.read_bytes())["headers"]["task"]
            except ValueError:
                # The kill came in the middle of it: no worker gets anything from this one.
                task = ""
            if task:
                new[task] = new.get(task, 0) + 1
                self.sent_at.setdefault(task, []).append(file.stat().st_mtime)
            file.unlink()
        for task, count in new.items():
            self.count[task] = self.count.get(task, 0) + count
        return new


def fork_beat(directory: Path, scheduler: str, settings: Mapping[str, object], last_message: int = 0) -> int:
    """Start a beat in a forked child and return its process id. What it says is in the file ``log`` there.

    With ``last_message`` it kills itself while it sends that message, which is the time when most can be lost: just
    before the file is there if the number is negative, just after that if it is positive.
    """
    child = os.fork()
    if child:
        return child
    try:
        if last_message:
            _die_at(last_message)
        _run_beat(directory, scheduler, settings)
    finally:
        # Nothing of the parent may run in here, whatever happens.
        traceback.print_exc()
        os._exit(1)


def _die_at(last_message: int) -> None:
    put, numbers = Channel._put, itertools.count(1)

    def put_and_die(self: Channel, queue: str, payload: dict[str, Any], **kwargs: object) -> None:
        number = next(numbers)
        if number == -last_message:
            os.kill(os.getpid(), signal.SIGKILL)
        put(self, queue, payload, **kwargs)
        if number == last_message:
            os.kill(os.getpid(), signal.SIGKILL)

    Channel._put = put_and_die  # type: ignore[method-assign]  # In this process, which is to die.


def _run_beat(directory: Path, scheduler: str, settings: Mapping[str, object]) -> NoReturn:
    log = os.open(directory / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
    app = celery_victim.application(directory)
    app.conf.update(settings)
    beat = Beat(app=app, scheduler=scheduler, schedule=str(directory / "schedule"), loglevel="INFO", quiet=True)
    beat.run()
    os._exit(0)


def wait(child: int) -> int | None:
    """Wait until a beat has ended, and return its wait status; None when it does not end. It is left for ``kill``."""
    deadline = Deadline(_HANGS_S)
    while not deadline.passed():
        result = os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if result is not None:
            return result.si_status
        time.sleep(_POLL_S)
    return None


def kill(child: int) -> None:
    """Kill a beat, unless it has ended, and wait for it."""
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def read_store(directory: Path) -> dict[str, Seen]:
    """Return what the store in a directory says of its entries, without changing it. Empty where there is none yet."""
    plug: Plug[EntryEvent, EntryState] = Plug(EntryCodec(KIND), EntryReducer())
    try:
        files, end_lsn, _ = open_for_reading(os_environment(), str(directory / "schedule"), plug)
    except StoreNotFoundError:
        return {}
    view = View(files, end_lsn, plug)
    try:
        states = view.fold()
    finally:
        view.close()
    seen = {}
    for key, state in states.items():
        entry = entry_of(key, state)
        history = decode_history(entry.blob)
        seen[key] = Seen(history.total_run_count, history.last_run_at, bool(entry.runs))
    return seen


def read_shelve(directory: Path) -> dict[str, Seen]:
    """Return what the file of Celery's own scheduler says. Raises whatever reading it raises."""
    with shelve.open(str(directory / "schedule"), flag="r") as shelf:
        return {
            name: Seen(entry.total_run_count, entry.last_run_at.astimezone(UTC))
            for name, entry in shelf["entries"].items()
        }


def wait_for(directory: Path, count: int) -> bool:
    """Wait until there are so many messages; return whether that came true."""
    deadline = Deadline(_HANGS_S)
    while not deadline.passed():
        if sum(1 for _ in (directory / celery_victim.MESSAGES).iterdir()) >= count:
            return True
        time.sleep(_POLL_S)
    return False
