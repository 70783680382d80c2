"""Headers and watermarks: what is written reads back, and whatever was damaged is refused."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from xxhash import xxh3_64_digest

from walstore.format.layout import (
    HEADER_BYTES,
    BadHeaderError,
    FileKind,
    Header,
    NewerVersionError,
    Watermark,
)

pytestmark = pytest.mark.mutation

HEADER = Header(
    kind=FileKind.SNAPSHOT,
    store_id=bytes(range(16)),
    codec_id="job/1",
    reducer_id="12345678",
    lsn=2**63 - 1,
    epoch=3,
    length=0,
    nonce=0x0102030405060708,
    boot_id=b"\xb0" * 16,
)
U63 = st.integers(0, 2**63 - 1)
U64 = st.integers(0, 2**64 - 1)
VERSION_BYTES = 12

headers = st.builds(
    Header,
    kind=st.sampled_from(FileKind),
    store_id=st.binary(min_size=16, max_size=16),
    codec_id=st.from_regex(r"[!-~]{0,8}", fullmatch=True),
    reducer_id=st.from_regex(r"[!-~]{0,8}", fullmatch=True),
    lsn=U63,
    epoch=U63,
    length=U63,
    nonce=U64,
    boot_id=st.binary(min_size=16, max_size=16),
)


def resealed(data: bytes) -> bytes:
    """The same header with a checksum that fits: as somebody would write it who knows the format."""
    return data[:96] + xxh3_64_digest(data[:96])


@given(headers, st.binary(max_size=40))
def test_headers_read_back(header: Header, behind: bytes) -> None:
    data = header.encode()
    assert len(data) == HEADER_BYTES == 104
    assert Header.decode(data + behind) == header


@given(headers, U63, U63)
def test_a_header_that_follows_another_segment_leaves_its_lsn_to_the_name(
    header: Header, follows_lsn: int, lsn: int
) -> None:
    segment = replace(header, kind=FileKind.SEGMENT, follows_lsn=follows_lsn)
    data = segment.encode()
    assert struct.unpack(">HQ", data[14:16] + data[48:56]) == (1, follows_lsn)
    assert Header.decode(data).named(lsn) == replace(segment, lsn=lsn)
    assert header.named(lsn) == header
    with pytest.raises(BadHeaderError, match="no release"):
        Header.decode(replace(segment, kind=FileKind.SNAPSHOT).encode())


def test_flags_that_no_release_has_written_are_refused() -> None:
    for kind in FileKind:
        for flags in range(2, 2**16):
            data = bytearray(replace(HEADER, kind=kind).encode())
            data[14:16] = struct.pack(">H", flags)
            with pytest.raises(BadHeaderError, match="no release"):
                Header.decode(resealed(bytes(data)))


def test_fields_stand_where_the_specification_says() -> None:
    data = HEADER.encode()
    assert data[:8] == b"WALSTORE"
    assert struct.unpack(">HHHH", data[8:16]) == (1, 0xFFFE, 2, 0)
    assert data[16:32] == HEADER.store_id
    assert data[32:48] == b"job/1\0\0\x0012345678"
    assert struct.unpack(">QQQQ", data[48:80]) == (2**63 - 1, 3, 0, 0x0102030405060708)
    assert data[80:96] == HEADER.boot_id
    assert data[96:] == xxh3_64_digest(data[:96], 0)


def test_every_flipped_bit_is_refused() -> None:
    data = HEADER.encode()
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(BadHeaderError):
            Header.decode(bytes(flipped))


def test_every_shorter_header_is_refused() -> None:
    data = HEADER.encode()
    for length in range(len(data)):
        with pytest.raises(BadHeaderError):
            Header.decode(data[:length])


@pytest.mark.parametrize("data", [bytes(HEADER_BYTES), b"\xff" * HEADER_BYTES, b"not a store " * 9])
def test_what_is_no_header_is_refused(data: bytes) -> None:
    with pytest.raises(BadHeaderError):
        Header.decode(data)


@pytest.mark.parametrize("version", [2, 3, 0xFFFF])
@pytest.mark.parametrize("length", [VERSION_BYTES, HEADER_BYTES])
def test_a_newer_version_is_told_from_damage_whatever_follows(version: int, length: int) -> None:
    data = (b"WALSTORE" + struct.pack(">HH", version, version ^ 0xFFFF)).ljust(length, b"?")
    with pytest.raises(NewerVersionError, match=str(version)) as caught:
        Header.decode(data)
    assert caught.value.version == version


@pytest.mark.parametrize(
    ("offset", "value"),
    [
        (8, b"\0\0\xff\xff"),  # Version 0.
        (12, b"\0\0"),  # Kinds of files that there are not.
        (12, b"\0\3"),
        (14, b"\0\1"),  # Not zero.
        (32, b"\xff"),  # Not ASCII.
        (40, b"\x80"),
        (48, b"\x80"),  # An LSN, an epoch and a length after which none fits in 64 bits.
        (56, b"\x80"),
        (64, b"\x80"),
    ],
)
def test_values_that_no_release_writes_are_refused_even_with_a_good_checksum(offset: int, value: bytes) -> None:
    data = HEADER.encode()
    with pytest.raises(BadHeaderError):
        Header.decode(resealed(data[:offset] + value + data[offset + len(value) :]))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"WALSTORE", "the header is cut short"),
        (HEADER.encode()[:-1], "the header is cut short"),
        (b"x" + HEADER.encode()[1:], "the file does not begin with the magic of a store's file"),
        (HEADER.encode()[:8] + b"\1" + HEADER.encode()[9:], "the format version is damaged"),
        (HEADER.encode()[:-1] + b"x", "the checksum of the header does not match"),
        (resealed(HEADER.encode()[:14] + b"\0\1" + HEADER.encode()[16:]), "values that no release has written"),
        (resealed(HEADER.encode()[:32] + b"\xff" + HEADER.encode()[33:]), "the codec or reducer id is not ASCII"),
    ],
    ids=["version", "checksum", "magic", "damaged version", "damaged", "values", "ids"],
)
def test_the_reason_of_a_refusal_is_told(data: bytes, reason: str) -> None:
    with pytest.raises(BadHeaderError, match=f"^(the header holds )?{reason}$"):
        Header.decode(data)


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_as_a_bad_header(data: bytes) -> None:
    with pytest.raises(BadHeaderError):
        Header.decode(data)


def test_resealing_a_header_changes_what_it_says() -> None:
    data = HEADER.encode()
    assert Header.decode(resealed(data[:63] + b"\7" + data[64:])) == replace(HEADER, epoch=7)


@given(U64, st.booleans())
def test_watermarks_read_back(lsn: int, clean: bool) -> None:
    payload = Watermark(lsn, clean=clean).encode()
    assert payload == struct.pack(">QQ", lsn, clean)
    assert Watermark.decode(payload) == Watermark(lsn, clean=clean)


@pytest.mark.parametrize("payload", [b"", bytes(15), bytes(17), bytes(15) + b"\2", bytes(8) + b"\x80" + bytes(7)])
def test_what_is_no_watermark_is_refused(payload: bytes) -> None:
    with pytest.raises(
        ValueError, match=r"^a watermark has (16 bytes|flags that this release does not know: 0x(2|8000000000000000))$"
    ):
        Watermark.decode(payload)
