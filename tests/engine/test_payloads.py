"""Items that are too long for one frame are divided, in their order."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from walstore.engine.payloads import payloads
from walstore.format.layout import PAYLOAD_BYTES_MAX

pytestmark = pytest.mark.mutation


def encode(items: Sequence[bytes]) -> bytes:
    return b"".join(items)


@pytest.mark.parametrize("size", [PAYLOAD_BYTES_MAX // 4, PAYLOAD_BYTES_MAX // 4 + 1, PAYLOAD_BYTES_MAX])
@pytest.mark.parametrize("count", [1, 2, 4, 5, 7])
def test_pieces_fit_and_are_all_there(size: int, count: int) -> None:
    items = [bytes([number]) * size for number in range(count)]
    pieces = list(payloads(encode, items))
    assert [item for piece, _ in pieces for item in piece] == items
    assert all(payload == encode(piece) for piece, payload in pieces)
    assert all(len(payload) <= PAYLOAD_BYTES_MAX for _, payload in pieces)
    if size * count <= PAYLOAD_BYTES_MAX:
        assert len(pieces) == 1
