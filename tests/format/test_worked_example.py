"""The worked example of ``docs/format.md`` is what a store writes, byte by byte."""

from __future__ import annotations

import re
from itertools import count, pairwise
from pathlib import Path

import pytest

from walstore import WalOptions, WalPersistence
from walstore.engine.environment import Environment
from walstore.format.codec import JobCodec
from walstore.format.frame import Frame, decode_frame
from walstore.format.layout import HEADER_BYTES, FileKind, FrameKind, Header
from walstore.testing.sim_fs import SimFileSystem

pytestmark = pytest.mark.mutation

DOCUMENT = Path(__file__).parents[2] / "docs" / "format.md"
BLOCK = re.compile(r"<!-- worked example: checked by a test -->\n```\n(.*?)```\n", re.DOTALL)
LINE = re.compile(r"([0-9a-f]{4})  ((?:[0-9a-f]{2} ?)+?) {2,}(\S.*)")
REST = re.compile(r"([0-9a-f]{4})  00 to the end {2,}.* up to offset (\d+)\b.*")

STORE_ID, NONCE, BOOT_ID, LENGTH = bytes(range(16)), 0x0102030405060708, b"\xb0" * 16, 1024


def documented() -> tuple[bytes, list[int]]:
    """The bytes of the example, and the offsets of its lines."""
    block = BLOCK.search(DOCUMENT.read_text("utf-8"))
    assert block
    *lines, last = block[1].splitlines()
    data, offsets = b"", []
    for line in lines:
        match = LINE.fullmatch(line)
        assert match, line
        assert int(match[1], 16) == len(data), line
        offsets.append(len(data))
        data += bytes.fromhex(match[2])
    match = REST.fullmatch(last)
    assert match, last
    assert int(match[1], 16) == len(data)
    return data.ljust(int(match[2]), b"\0"), offsets


class RebootedFileSystem(SimFileSystem):
    def boot_id(self) -> bytes:
        return BOOT_ID


def test_it_is_what_a_store_writes() -> None:
    fs = RebootedFileSystem()
    ticks = count()
    random = {16: STORE_ID, 8: NONCE.to_bytes(8, "big")}
    environment = Environment(
        fs=fs,
        random_bytes=random.__getitem__,
        monotonic_ns=lambda: next(ticks),
        wall_ns=lambda: 0,
        holder=lambda: {"host": "simulated", "pid": 1},
        threads=False,
    )
    options = WalOptions(segment_bytes_min=LENGTH)
    with WalPersistence("/jobs", options=options, environment=environment) as store:
        store.record_started("ai.geo.tile", 1_000_000_000)
        segment = fs.open("/jobs/log-0000000000000000-00000001.wal")
        assert segment.read(0, segment.size()) == documented()[0]
        segment.close()


def test_it_reads_as_it_says() -> None:
    data, offsets = documented()
    header = Header.decode(data[:HEADER_BYTES])
    assert header == Header(
        kind=FileKind.SEGMENT,
        store_id=STORE_ID,
        codec_id="job/1",
        reducer_id="job/1",
        lsn=0,
        epoch=1,
        length=LENGTH,
        nonce=NONCE,
        boot_id=BOOT_ID,
    )
    frame = decode_frame(data, HEADER_BYTES, NONCE, len(data) - HEADER_BYTES)
    assert isinstance(frame, Frame)
    assert frame.kind is FrameKind.EVENTS
    assert JobCodec().decode_events(frame.payload) == ((2, "ai.geo.tile", 1_000_000_000),)
    assert not any(data[frame.end :])
    # A line for each field, as the tables above the example have them.
    lengths = [end - start for start, end in pairwise(offsets)]
    assert lengths == [8, 2, 2, 2, 2, 16, 8, 8, 8, 8, 8, 8, 16, 8, 8, 4, 2, 1, 1, 1, 1, 12, 5]
