"""The file of the next segment, made ready while the one before it fills.

Creating, allocating and syncing a file takes milliseconds, for which every caller would wait when a segment is full.
What is left to do then is to name the file.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from walstore.engine.environment import Environment
from walstore.engine.segment import Segment
from walstore.errors import SchedulerPersistenceError
from walstore.format.filenames import next_segment_name, segment_name, temporary_name
from walstore.format.layout import HEADER_BYTES, SEGMENT_RESERVE_BYTES, Header
from walstore.fs.api import Appender, File

__all__ = ["Successor"]

_logger = logging.getLogger("walstore")


class _Prepared(NamedTuple):
    file: File
    path: str
    header: Header
    appender: Appender


class Successor:
    """Makes one file ready at a time: in a thread of its own, or, without ``threads``, in the caller's.

    All methods are the keeper's, but for ``abandon``, which is for whoever has stopped the keeper.
    """

    def __init__(
        self,
        environment: Environment,
        directory: str,
        check_fence: Callable[[], None],
        on_made: Callable[[], None],
    ) -> None:
        """``on_made`` is called in the thread when a file is ready: it may be too late, and another one be wanted."""
        self._fs = environment.fs
        self._directory = directory
        self._check_fence = check_fence
        self._threads = environment.threads
        self._on_made = on_made
        self._thread: threading.Thread | None = None
        self._is_making = False
        self._prepared: _Prepared | None = None

    def is_wanted(self, follows_lsn: int) -> bool:
        """Whether a file should be made ready to follow the segment at this LSN; none is, and none is being made."""
        if self._is_making:
            return False
        prepared = self._prepared
        if prepared is not None and prepared.header.follows_lsn != follows_lsn:
            # It was not ready in time for the segment that it was made to follow.
            self._prepared = None
            self._remove(prepared.file, prepared.path)
        return self._prepared is None

    def prepare(self, header: Header, *, written: bool) -> None:
        """Begin to make a file with this header ready. ``written`` is as in ``File.allocate``.

        What goes wrong is nobody's error: the rotation does without, or meets the same trouble and tells.
        """
        path = f"{self._directory}/{temporary_name(next_segment_name(header.lsn, header.epoch))}"
        if not self._threads:
            self._make(path, header, written)
            return
        thread = threading.Thread(
            target=self._make_apart, args=(path, header, written), name="walstore-successor", daemon=True
        )
        self._thread, self._is_making = thread, True
        try:
            thread.start()
        except RuntimeError as error:
            self._thread, self._is_making = None, False
            self._note(error)

    def take(self, follows_lsn: int, lsn: int, frame_bytes: int) -> Segment | None:
        """Name the file that is ready, and return it as the segment of ``lsn``; None where none is ready with the room.

        The file is on the device on return, its name is not. Raises ``OSError``; the file is gone then.
        """
        prepared = self._prepared
        if prepared is None or HEADER_BYTES + frame_bytes + SEGMENT_RESERVE_BYTES > prepared.header.length:
            return None
        self._prepared = None
        header = prepared.header.named(lsn)
        path = f"{self._directory}/{segment_name(lsn, header.epoch)}"
        try:
            if header.follows_lsn != follows_lsn:
                # Made to follow another one. Where this one begins is known by now.
                header = replace(header, follows_lsn=None)
                prepared.file.write(0, header.encode())
                prepared.file.sync()
            self._fs.rename(prepared.path, path)
        except BaseException as error:
            self._remove(prepared.file, prepared.path, error)
            raise
        return Segment(prepared.file, path, header, prepared.appender)

    def abandon(self) -> None:
        """Remove the file that is ready, and return when no other is under way. The keeper must have been stopped."""
        if self._thread is not None:
            self._thread.join()
        prepared, self._prepared = self._prepared, None
        if prepared is not None:
            self._remove(prepared.file, prepared.path)

    def is_running_here(self) -> bool:
        """Whether the calling thread is the one that makes a file ready."""
        return self._thread is threading.current_thread()

    def _make_apart(self, path: str, header: Header, written: bool) -> None:
        try:
            self._make(path, header, written)
        finally:
            self._is_making = False
        if self._prepared is not None:
            self._on_made()

    def _make(self, path: str, header: Header, written: bool) -> None:
        try:
            self._check_fence()
            file = self._fs.create(path)
        except (OSError, SchedulerPersistenceError) as error:
            self._note(error)
            return
        try:
            file.allocate(header.length, written=written)
            file.write(0, header.encode())
            file.sync()
            appender = file.appender(HEADER_BYTES, header.length - SEGMENT_RESERVE_BYTES)
        except BaseException as error:
            self._remove(file, path, error)
            if not isinstance(error, OSError):
                raise
            self._note(error)
        else:
            self._prepared = _Prepared(file, path, header, appender)

    def _note(self, error: Exception) -> None:
        _logger.debug("the next segment of %s could not be made ready: %s", self._directory, error)

    def _remove(self, file: File, path: str, error: BaseException | None = None) -> None:
        file.close()
        try:
            self._fs.unlink(path)
        except OSError as second:
            # It has no other name, and whoever opens the store next removes it.
            if error is not None:
                error.add_note(f"{path} could not be removed: {second}")
            _logger.debug("%s could not be removed: %s", path, second)
