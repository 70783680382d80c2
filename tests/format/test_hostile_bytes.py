"""Bytes that were made to do harm: refused with the documented error, in bounded memory."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzz.hostile import CORPUS, TARGET_NAMES
from fuzz.hostile_targets import TARGETS, bounded
from walstore.format.codec import JobCodec
from walstore.format.index import decode_index

Decode = Callable[[bytes], object]

DECODERS: list[Decode] = [JobCodec().decode_events, JobCodec().decode_records, decode_index]
BYTES_PER_BYTE_MAX = 200
"""Memory for each byte of input: a small tuple or number costs up to that."""
BYTES_MAX = 100_000

each_decoder = pytest.mark.parametrize("decode", DECODERS, ids=["events", "records", "index"])


def refused_within(decode: Decode, payload: bytes) -> str:
    """Check that a payload is refused in bounded memory, and return the message."""
    tracemalloc.start()
    try:
        with pytest.raises(ValueError) as caught:
            decode(payload)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes <= BYTES_PER_BYTE_MAX * len(payload) + BYTES_MAX
    return str(caught.value)


@pytest.mark.mutation
@each_decoder
@pytest.mark.parametrize("depth", [1, 2, 100, 500, 1000])
@pytest.mark.parametrize("declared", [9, 10_000, 2**20, 2**32 - 1])
def test_lengths_that_nothing_stands_behind_take_no_memory(decode: Decode, depth: int, declared: int) -> None:
    header = b"\xdd" + declared.to_bytes(4, "big")
    refused_within(decode, header * depth)
    # Enough bytes behind them for any check of a length against what is left.
    refused_within(decode, header * depth + b"\xc0" * 20_000)
    refused_within(decode, b"\x91" + header * depth + b"\xc0" * 20_000)
    refused_within(decode, b"\x92" + msgpack.packb([4, "a.b"]) + header * depth + b"\xc0" * 20_000)


@pytest.mark.mutation
@each_decoder
@pytest.mark.parametrize("depth", [10, 900, 1000, 1020, 5000])
def test_a_refusal_of_nested_arrays_can_be_shown(decode: Decode, depth: int) -> None:
    nested = b"\x91" * depth + b"\xc0"
    for payload in (nested, b"\x91" + nested, b"\x92\x04" + nested, b"\x91\x92\x04" + nested, b"\x91\x93" + nested * 3):
        assert len(refused_within(decode, payload)) < 300


@pytest.mark.mutation
@each_decoder
def test_a_refusal_does_not_repeat_a_long_value(decode: Decode) -> None:
    for value in ("x" * 100_000, list(range(100_000)), 2**63):
        for content in (value, [value], [4, value], [[4, value]], [[value] * 7], [1, "a.b", 0, [3, value]]):
            assert len(refused_within(decode, msgpack.packb(content))) < 300


@pytest.mark.mutation
def test_a_cron_expression_has_a_bound_when_it_is_read_back() -> None:
    """512 records fit in one frame of a snapshot only because each of them is short."""
    decode = JobCodec().decode_events
    assert decode(msgpack.packb([1, "a.b", 0, [3, "x" * 1024]]))
    with pytest.raises(ValueError, match="schedule"):
        decode(msgpack.packb([1, "a.b", 0, [3, "x" * 1025]]))


def mutate_bytes(data: bytes, choice: random.Random) -> bytes:
    """Change bytes at random, as a fuzzer without a guide does."""
    place = choice.randrange(len(data) + 1)
    some = choice.choice([b"", b"\0", b"\xff", b"\xdd\0\1\0\0", choice.randbytes(3)])
    return data[:place] + some + data[place + choice.choice((0, len(some), 8)) :]


def inputs(target: str) -> list[Path]:
    return sorted((CORPUS / target).iterdir())


def test_every_target_has_a_corpus() -> None:
    assert sorted(TARGETS) == sorted(TARGET_NAMES) == sorted(path.name for path in CORPUS.iterdir() if path.is_dir())


@pytest.mark.parametrize(
    "path", [path for target in TARGET_NAMES for path in inputs(target)], ids=lambda path: path.name
)
def test_what_was_once_found_stays_found(path: Path) -> None:
    """Seeds, and inputs that once broke a promise: nothing but documented errors, in bounded memory."""
    data = path.read_bytes()
    with bounded(len(data)):
        TARGETS[path.parent.name][0](data)


@pytest.mark.parametrize("target", TARGET_NAMES)
@settings(max_examples=60)
@given(number=st.integers(0, 99), seed=st.integers(0, 2**32), times=st.integers(1, 4))
def test_what_is_like_it_is_read_or_refused(target: str, number: int, seed: int, times: int) -> None:
    check, mutate = TARGETS[target]
    paths, choice = inputs(target), random.Random(seed)
    data = paths[number % len(paths)].read_bytes()
    for _ in range(times):
        data = mutate(data, choice, lambda part: mutate_bytes(part, choice))
    with bounded(len(data)):
        check(data)


@pytest.mark.parametrize("target", TARGET_NAMES)
@given(data=st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(target: str, data: bytes) -> None:
    TARGETS[target][0](data)
