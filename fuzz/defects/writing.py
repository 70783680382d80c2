"""Defects of recording: the buffer, the frames, and the change from one segment to the next."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from xxhash import xxh3_64_digest

from fuzz.defects.planting import defect, swap
from walstore import hotpath
from walstore.engine import segment as segments
from walstore.engine.buffer import Buffer
from walstore.engine.log import Log
from walstore.engine.segment import Segment
from walstore.engine.store import Store
from walstore.errors import storage_error
from walstore.format import frame as framing
from walstore.format.frame import Frame, NeedMore, encode_frame, frame_body, seal_body
from walstore.format.layout import FrameKind
from walstore.fs.os_append import PwriteAppender
from walstore.hotpath import HotPath, finished_form
from walstore.model.events import EventForm
from walstore.model.names import Instant, JobId
from walstore.model.records import JobState

__all__: list[str] = []

JobBuffer = Buffer[EventForm, JobState]
JobStore = Store[EventForm, JobState]


@defect("simulate", "small_worlds")
def half_a_record_many() -> None:
    """The events of one ``record_many`` get a frame each, so a crash keeps some of them."""
    record_batch = Store.record_batch

    def one_by_one(self: JobStore, events: Sequence[EventForm]) -> None:
        for event in events:
            record_batch(self, [event])

    swap(Store, "record_batch", one_by_one)


@defect("threads", "simulate")
def event_recorded_by_a_call_that_raised() -> None:
    """An event goes into a full buffer before the call finds that it can't be drained, and raises."""

    def add(self: JobBuffer, event: EventForm) -> None:
        self.sink.append(event)
        if len(self.items) > self.events_max:
            self._keeper.call(self.drain)

    swap(Buffer, "add", add)


@defect("threads", "simulate")
def buffer_emptied_before_it_is_written() -> None:
    """Draining takes the events out of the buffer first, and loses them when the disk is full."""

    def drain(self: JobBuffer) -> None:
        batch = self.items[:]
        del self.items[: len(batch)]
        if batch:
            self._log.append(FrameKind.EVENTS, self._codec.encode_events(batch))

    swap(Buffer, "drain", drain)


@defect("threads")
def list_swapped_while_another_thread_appends() -> None:
    """Draining puts a new list in the place of the buffer, and who had looked up the old one appends to that."""

    def add(self: JobBuffer, event: EventForm) -> None:
        sink = self.sink
        if len(self.items) >= self.events_max:
            self._keeper.call(self.drain)
            sink = self.sink
        sink.append(event)

    def drain(self: JobBuffer) -> None:
        batch, self.items = self.items, []
        if self.sink is batch:
            self.sink = self.items
        if batch:
            self._log.append(FrameKind.EVENTS, self._codec.encode_events(batch))

    swap(Buffer, "add", add)
    swap(Buffer, "drain", drain)
    _close_hot_path()


@defect("simulate", "small_worlds")
def events_swapped_in_a_drain() -> None:
    """A drain writes the newest event first."""

    def drain(self: JobBuffer) -> None:
        count = len(self.items)
        if count:
            self._log.append(FrameKind.EVENTS, self._codec.encode_events(self.items[count - 1 :: -1]))
            del self.items[:count]

    swap(Buffer, "drain", drain)


@defect("threads", "simulate")
def last_event_of_a_batch_dropped_at_rotation() -> None:
    """A drain that meets the end of a segment leaves its last event out when it writes to the next one."""

    def drain(self: JobBuffer) -> None:
        count = len(self.items)
        if not count:
            return
        write, seed = self._log.head
        try:
            write(encode_frame(FrameKind.EVENTS, self._codec.encode_events(self.items[:count]), seed))
        except ValueError:
            self._log.append(FrameKind.EVENTS, self._codec.encode_events(self.items[: max(count - 1, 1)]))
        except OSError as error:
            raise storage_error(error, "draining") from error
        del self.items[:count]

    swap(Buffer, "drain", drain)


@defect("threads")
def write_method_and_seed_read_apart() -> None:
    """A rotation between reading the seed and reading where to write gives the next segment a frame of the old seed."""

    def append_body(self: Log, body: bytes) -> None:
        while True:
            frame = seal_body(body, self.head[1])
            head = self.head
            try:
                head[0](frame)
            except ValueError:
                self._keeper.call(partial(self._rotate, head, len(frame)))
            except OSError as error:
                raise storage_error(error, f"writing to {self.live.path}") from error
            else:
                return

    swap(Log, "append_body", append_body)
    _close_hot_path()


@defect("threads")
def hot_path_seeds_for_one_segment_and_writes_to_another() -> None:
    """The hot path looks its seed up first, and where to write only when the frame is ready, a rotation later."""
    into_log = hotpath._into_log

    def read_apart(store: JobStore) -> HotPath:
        log, known = store.log, into_log(store)

        def record_finished(id: JobId, finished_at: Instant, success: bool) -> None:
            seed = log.head[1]
            form = finished_form(id, finished_at, success)
            body = frame_body(FrameKind.EVENTS, store._plug.codec.encode_events([form]))
            try:
                log.head[0](seal_body(body, seed))
            except ValueError:
                log.append_body(body)

        return known._replace(record_finished=record_finished)

    swap(hotpath, "_into_log", read_apart)


@defect("threads")
def racing_append_left_behind_the_seal() -> None:
    """Sealing takes the position that it saw for the end, though a write had raced with it: that one is cut off."""

    def seal(self: Segment) -> None:
        if not self.end:
            self.block()
            self.end = self._sealed_from

    swap(Segment, "seal", seal)


@defect("salvage", "damage")
def seed_without_the_segment() -> None:
    """Checksums are not seeded by the segment, so a stale or misdirected block of another one verifies."""

    def digest(data: bytes, seed: int) -> bytes:
        del seed
        return xxh3_64_digest(data, 0)

    swap(framing, "xxh3_64_digest", digest)
    swap(hotpath, "xxh3_64_digest", digest)


@defect("salvage")
def checksum_without_the_length() -> None:
    """The checksum of a frame leaves its length out, so a damaged length is found only by what it leads to."""

    def digest(data: bytes, seed: int) -> bytes:
        return xxh3_64_digest(data[4:], seed)

    swap(framing, "xxh3_64_digest", digest)
    swap(hotpath, "xxh3_64_digest", digest)


@defect("damage", "salvage")
def checksum_of_the_first_bytes_only() -> None:
    """The checksum covers the beginning of a long frame only, to be fast."""

    def digest(data: bytes, seed: int) -> bytes:
        return xxh3_64_digest(data[:32], seed)

    swap(framing, "xxh3_64_digest", digest)
    swap(hotpath, "xxh3_64_digest", digest)


@defect("simulate", "small_worlds")
def off_by_one_at_a_segment_boundary() -> None:
    """A frame that ends exactly where its segment does is taken for one that does not fit."""
    decode_frame, decode_frames = framing.decode_frame, framing.decode_frames

    def strict(data: bytes, offset: int, seed: int, room: int) -> Frame | NeedMore:
        return decode_frame(data, offset, seed, room - 1)

    def all_but_the_last(data: bytes, offset: int, seed: int) -> list[Frame]:
        frames = decode_frames(data, offset, seed)
        return frames[:-1] if frames and frames[-1].end == len(data) else frames

    swap(segments, "decode_frame", strict)
    swap(segments, "decode_frames", all_but_the_last)


@defect("threads", "powercut")
def partial_write_left_in_place() -> None:
    """What a failed ``pwrite`` has written of a frame stays, and the next one goes behind it (as with ``O_APPEND``)."""

    def write(self: PwriteAppender, data: bytes) -> None:
        if len(data) > self._end - self._position:
            raise ValueError("the segment is full or sealed")
        try:
            self._file.write(self._position, data)
        finally:
            self._position += len(data)

    swap(PwriteAppender, "write", write)


def _close_hot_path() -> None:
    """Let all events take the usual way, where the defect is."""

    def none(store: JobStore) -> None:
        del store

    swap(hotpath, "_into_buffer", none)
    swap(hotpath, "_into_log", none)
