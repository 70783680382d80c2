"""The log as its writer sees it: appending from any thread, rotating, and what is left to sync."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final, NoReturn

from walstore.engine.environment import Environment
from walstore.engine.keeper import Keeper
from walstore.engine.segment import Identity, Segment, create_segment, segment_length
from walstore.engine.successor import Successor
from walstore.errors import SchedulerPersistenceError, StorageError, storage_error, storage_errors
from walstore.format.frame import encode_frame, frame_body, seal_body
from walstore.format.layout import CHECKSUM_BYTES, FileKind, FrameKind
from walstore.fs.api import File
from walstore.fs.atomic import SyncFailedError, sync_directory
from walstore.options import Durability, WalOptions

__all__ = ["Log", "Refusal"]

Head = tuple[Callable[[bytes], object], int]
"""Where frames go now: the write method of the live segment, and the seed of its checksums. Always read as one tuple:
read one after the other, a rotation between the two would seed a frame for the wrong segment."""

Refusal = Callable[[], SchedulerPersistenceError]
"""Makes the error that every append raises from now on."""

_NO_SEED: Final = 0
_GROWTH: Final = 4


class Log:
    """Appends frames to the live segment, and starts a new one when it is full.

    ``append`` may be called from any thread. Everything that changes the chain of segments happens in the keeper.
    """

    def __init__(
        self,
        environment: Environment,
        directory: str,
        identity: Identity,
        options: WalOptions,
        durability: Durability,
        keeper: Keeper,
        live: Segment,
        check_fence: Callable[[], None],
    ) -> None:
        self.check_fence = check_fence
        """Raises ``FencedError`` when the directory is not the one any more that the store has open."""
        self._environment = environment
        self._fs = environment.fs
        self._directory = directory
        self._identity = identity
        self._keeper = keeper
        self._options = options
        self._next_bytes = self._length_after(options.segment_bytes_min)
        self._successor = Successor(environment, directory, check_fence, partial(keeper.post, self.settle))
        self._is_synced_often = durability is Durability.POWER
        # Whether a segment was ever full. Zeros for the next one would be most of what is written until then.
        self._is_busy = False
        self._uncut: list[Segment] = []
        """Sealed, but the names of their successors are not on the device."""
        self._unsynced: list[Segment] = []
        """Sealed and cut."""
        self._refusal: Refusal | None = None
        self.closed = False
        self.on_sync_failure: Callable[[OSError, str], SchedulerPersistenceError] = storage_error
        """Told of a failed sync and what was synced; returns what to raise. Set by the commit."""
        self.live = live
        self.head: Head = self._head_of(live)

    # Appending: any thread.

    def append(self, kind: FrameKind, payload: bytes) -> None:
        """Append one frame; on return it is in the kernel's hands. Raises what ``append_body`` raises."""
        self.append_body(frame_body(kind, payload))

    def append_body(self, body: bytes) -> None:
        """Append the frame with this body (see ``frame_body``); on return it is in the kernel's hands.

        Raises ``StorageFullError`` or ``StorageError``, having recorded nothing, when a new segment is needed and can't
        be had, and what ``refuse`` was told once it was called.
        """
        while True:
            head = self.head
            write, seed = head
            try:
                write(seal_body(body, seed))
            except ValueError:
                # The segment is full, or was sealed between reading the head and writing.
                self._keeper.call(partial(self._rotate, head, CHECKSUM_BYTES + len(body)))
            except OSError as error:
                raise storage_error(error, f"writing to {self.live.path}") from error
            else:
                return

    def append_watermark(self, payload: bytes) -> None:
        """Append a watermark, for which there is always room: events leave a reserve in every segment.

        Raises ``StorageError`` only when the live segment itself can't be written.
        """
        try:
            self.append(FrameKind.WATERMARK, payload)
        except StorageError:
            # There is no next segment to be had, or writing failed: once more then.
            if self.live.sealing:
                self._keeper.call(partial(self._write_behind_seal, payload))
            else:
                self.append(FrameKind.WATERMARK, payload)

    def end_lsn(self) -> int:
        """Return where the log ends now: everything whose append has returned is below it."""
        while True:
            live = self.live
            try:
                offset = live.appender.tell()
            except ValueError:
                offset = 0  # The store was closed meanwhile. It was sealed before.
            if not live.sealing:
                return live.base_lsn + offset
            # Sealing moves the position to the end of the file. Asking the keeper waits until that is over.
            end = self._keeper.call(partial(self._settled_end, live))
            if live is self.live:
                return live.base_lsn + end

    # What is left to sync: any thread that holds the lock of the commit.

    def unsynced(self) -> tuple[int, list[Segment], Segment]:
        """Return an LSN, and the sealed segments and the live one to sync so that all below it is on the device.

        The names of these are on the device on return. Raises what ``cut`` raises.
        """
        lsn = self.end_lsn()
        while True:
            # In this order: a rotation puts the old segment among the uncut before it makes the new one live, so
            # whatever was live when the position was sampled is still live now, or was among the uncut before this.
            live = self.live
            if not self._uncut:
                return lsn, self._unsynced[:], live
            self._keeper.call(self.cut)

    def synced(self, sealed: list[Segment]) -> None:
        """Note that the sealed segments that ``unsynced`` returned were synced: they are done with, and closed.

        Not the one that was live then, even if it is sealed by now: it may have grown since it was synced.
        """
        for segment in sealed:
            self._unsynced.remove(segment)
            segment.file.close()

    # Changing the chain: the keeper.

    def settle(self) -> None:
        """Do what a rotation has left to do, and make the next segment ready. Only the keeper calls this.

        What goes wrong with the cut is told by the next sync or rotation, which tries it again; or it is poison.
        """
        if self._refusal is not None:
            return
        if self._uncut:
            try:
                self.cut()
            except SchedulerPersistenceError:
                return
        base_lsn = self.live.base_lsn
        if self._successor.is_wanted(base_lsn):
            length = segment_length(self._next_bytes, 0)
            header = self._identity.header(
                FileKind.SEGMENT, base_lsn, length, self._environment.nonce(), follows_lsn=base_lsn
            )
            self._successor.prepare(header, written=self._is_busy and not self._is_synced_often)

    def cut(self) -> None:
        """Bring the names of new segments to the device, and then cut those before them. Only the keeper calls this.

        Raises ``StorageError``, and what ``on_sync_failure`` returns when the sync of the directory fails.
        """
        uncut = self._uncut[:]
        try:
            # Being cut says that there is a successor, so its name comes first.
            sync_directory(self._fs, self._directory)
            for segment in uncut:
                segment.file.truncate(segment.end)
                # First there, then away: whoever looks for a segment must find it in one of them at any time.
                self._unsynced.append(segment)
                self._uncut.remove(segment)
        except SyncFailedError as error:
            raise self.on_sync_failure(error, self._directory) from error
        except OSError as error:
            raise storage_error(error, f"cutting the finished segments in {self._directory}") from error

    def rotate(self) -> int:
        """Start a new segment and return its base: everything recorded before lies below. Any thread may call this."""

        def start_next() -> int:
            self._rotate(self.head, 0)
            return self.live.base_lsn

        return self._keeper.call(start_next)

    def refuse(self, reason: Refusal) -> None:
        """Let every further append raise ``reason()``. The first reason stays. Any thread may call this."""

        def shut() -> None:
            self.abandon(self._refusal or reason)
            self.live.block()

        self._keeper.call(shut)

    def write_last(self, payload: bytes) -> File:
        """Write the watermark that ends a refused log, and return the file to sync. Any thread may call this."""
        self._keeper.call(partial(self._write_behind_seal, payload))
        return self.live.file

    def is_running_here(self) -> bool:
        """Whether the calling thread is one of the log's own."""
        return self._successor.is_running_here()

    def close(self) -> None:
        """Close all files. For whoever has stopped the keeper."""
        self.closed = True
        self._successor.abandon()
        for segment in [*self._uncut, *self._unsynced, self.live]:
            segment.file.close()
        self._uncut.clear()
        self._unsynced.clear()

    def abandon(self, reason: Refusal) -> None:
        """Let every further append raise, and touch nothing else: for a forked child."""
        self._refusal = reason
        self.head = (self._raise_refusal, _NO_SEED)

    def _raise_refusal(self, _frame: bytes) -> NoReturn:
        assert self._refusal is not None
        raise self._refusal()

    def _rotate(self, stale: Head, frame_bytes: int) -> None:
        if self._refusal is not None:
            raise self._refusal()
        if self.head is not stale:
            return
        self.check_fence()
        old = self.live
        try:
            old.seal()
            new = self._start(old, frame_bytes)
        except SyncFailedError as error:
            raise self.on_sync_failure(error, self._directory) from error
        except OSError as error:
            raise storage_error(error, f"starting a new segment in {self._directory}") from error
        self._is_busy = self._is_busy or frame_bytes > 0
        # Without a frame that needs room it is a compaction that comes: a small store stays one, however often.
        self._next_bytes = self._length_after(self._next_bytes if frame_bytes else old.end)
        self._uncut.append(old)
        self.live = new
        self.head = self._head_of(new)
        self._keeper.post(self.settle)

    def _length_after(self, used_bytes: int) -> int:
        """Return the length of a segment that follows one of which so much was used."""
        return min(max(_GROWTH * used_bytes, self._options.segment_bytes_min), self._options.segment_bytes_max)

    def _start(self, old: Segment, frame_bytes: int) -> Segment:
        if self._uncut:
            # Of two names that are not on the device, a power loss may take the first and leave the second.
            self.cut()
        lsn = old.base_lsn + old.end
        prepared = self._successor.take(old.base_lsn, lsn, frame_bytes)
        if prepared is not None:
            return prepared
        length = segment_length(self._next_bytes, frame_bytes)
        header = self._identity.header(FileKind.SEGMENT, lsn, length, self._environment.nonce())
        return create_segment(self._fs, self._directory, header)

    def _head_of(self, segment: Segment) -> Head:
        write = segment.appender.write
        if not segment.appender.one_step:
            # Appending takes several steps here. The keeper does it, so that a signal handler that appends in the
            # middle of an append waits its turn; a lock would make it wait for the frame that it interrupted.
            return lambda frame: self._keeper.call(partial(write, frame)), segment.seed
        return write, segment.seed

    def _settled_end(self, live: Segment) -> int:
        with storage_errors(f"looking for the end of {live.path}"):
            live.seal()
        return live.end

    def _write_behind_seal(self, payload: bytes) -> None:
        live = self.live
        with storage_errors(f"writing a watermark to {live.path}"):
            live.seal()
            live.write_behind_seal(encode_frame(FrameKind.WATERMARK, payload, live.seed))
