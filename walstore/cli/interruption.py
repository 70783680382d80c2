"""Being asked to end: SIGTERM and SIGHUP are made to do what Ctrl-C does, so that what has to be removed is removed."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

__all__ = ["Interruption", "interruptible"]

_SIGNALS = (signal.SIGTERM, signal.SIGHUP)


class Interruption(KeyboardInterrupt):
    """The process was asked to end, by a signal other than Ctrl-C."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number
        """The number of the signal."""


@contextmanager
def interruptible() -> Iterator[None]:
    """Let SIGTERM and SIGHUP raise ``Interruption`` in the block; both count once, so that clearing up can end.

    A signal that is ignored, as by ``nohup``, stays ignored. Does nothing outside of the main thread, where there is no
    way to handle signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    # None is a handler that is not Python's and that could not be put back.
    heard = [number for number, handler in before.items() if handler not in {signal.SIG_IGN, None}]

    def interrupt(number: int, _: FrameType | None) -> NoReturn:
        for other in heard:
            signal.signal(other, signal.SIG_IGN)
        raise Interruption(number)

    try:
        for number in heard:
            signal.signal(number, interrupt)
        yield
    finally:
        for number in heard:
            signal.signal(number, before[number])
