"""The recovery table: every combination of its inputs has the outcome that the design demands."""

from __future__ import annotations

from itertools import product

import pytest

from walstore.engine.recovery import Situation, judge

pytestmark = pytest.mark.mutation

COMBINATIONS = list(product([False, True], repeat=5))


@pytest.mark.parametrize(("damaged", "below", "clean", "same_boot", "behind"), COMBINATIONS)
def test_every_combination(damaged: bool, below: bool, clean: bool, same_boot: bool, behind: bool) -> None:
    found = judge(damaged=damaged, below_watermark=below, clean=clean, same_boot=same_boot, frames_behind=behind)
    if not damaged:
        assert found is (Situation.CLEAN if clean else Situation.UNCLEAN)
    elif below:
        assert found is Situation.DAMAGED_BELOW_WATERMARK
    elif clean:
        assert found is Situation.DAMAGED_AFTER_CLOSE
    elif same_boot and behind:
        assert found is Situation.HOLE_WITHOUT_POWER_LOSS
    else:
        assert found is Situation.TORN


def test_only_a_torn_tail_is_ever_cut() -> None:
    """What is damaged is refused, except above the watermark, where no power loss is contradicted."""
    opened = {
        combination
        for combination in COMBINATIONS
        if combination[0]
        and not judge(
            damaged=True,
            below_watermark=combination[1],
            clean=combination[2],
            same_boot=combination[3],
            frames_behind=combination[4],
        ).is_corruption
    }
    assert opened == {
        (True, False, False, False, False),
        (True, False, False, False, True),
        (True, False, False, True, False),
    }
