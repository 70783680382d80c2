"""Frames of a run that started or finished, made from pieces: byte for byte those that the codec makes."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from walstore.format.codec import JobCodec
from walstore.format.frame import frame_body
from walstore.format.layout import FrameKind
from walstore.format.run_frames import CUT_INSTANT_MIN_NS, EIGHT_BYTES, RunShape, run_shapes
from walstore.model.events import FINISHED, STARTED
from walstore.model.names import INSTANT_MAX_NS, NAME_BYTES_MAX
from walstore.testing.strategies import records

pytestmark = pytest.mark.mutation


def assert_frames_are_the_codecs(
    started_shapes: list[RunShape], finished_shapes: list[RunShape], job: str, at_ns: int, success: bool
) -> None:
    encode = JobCodec().encode_events
    started = frame_body(FrameKind.EVENTS, encode([(STARTED, job, at_ns)]))
    finished = frame_body(FrameKind.EVENTS, encode([(FINISHED, job, at_ns, success)]))
    outcome = 0xC3 if success else 0xC2
    name = job.encode()
    # What is ready is made at the first use.
    for _ in range(2):
        head, pack = started_shapes[len(name)]
        assert pack(head, name, EIGHT_BYTES, at_ns) == started
        head, pack = finished_shapes[len(name)]
        assert pack(head, name, EIGHT_BYTES, at_ns, outcome) == finished


@given(records().map(lambda record: str(record.id)), st.integers(CUT_INSTANT_MIN_NS, INSTANT_MAX_NS), st.booleans())
@example("a.b", CUT_INSTANT_MIN_NS, True)
@example("a.b", INSTANT_MAX_NS, False)
def test_frames_from_pieces_are_those_of_the_codec(job: str, at_ns: int, success: bool) -> None:
    assert_frames_are_the_codecs(run_shapes(STARTED), run_shapes(FINISHED), job, at_ns, success)


def test_frames_of_every_length_are_those_of_the_codec() -> None:
    shapes = run_shapes(STARTED), run_shapes(FINISHED)
    for name_bytes in range(3, NAME_BYTES_MAX + 1):
        # With characters that are found in the pieces as well, and with long ones.
        for filling in ("n", "w", "\0", "é"):
            job = "a." + (filling * name_bytes).encode()[: name_bytes - 2].decode(errors="replace")
            if len(job.encode()) <= NAME_BYTES_MAX:
                assert_frames_are_the_codecs(*shapes, job, CUT_INSTANT_MIN_NS + name_bytes, name_bytes % 3 == 0)
