"""The index of what is due says what a search through everything would say."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from walstore.integrations.due_index import DueIndex

_keys = st.sampled_from(["a", "b", "c", "d", "e"])
_instants = st.integers(-3, 3)
_steps = st.lists(st.tuples(_keys, _instants | st.none()) | _keys, max_size=120)


@given(_steps)
def test_it_agrees_with_a_search_through_everything(steps: list[tuple[str, int | None] | str]) -> None:
    index = DueIndex()
    model: dict[str, int | None] = {}
    for step in steps:
        if isinstance(step, str):
            index.discard(step)
            model.pop(step, None)
        else:
            index.put(*step)
            model[step[0]] = step[1]
        timed = sorted((instant, key) for key, instant in model.items() if instant is not None)
        never = sorted(key for key, instant in model.items() if instant is None)
        for now in range(-4, 5):
            assert index.due(now) == [key for instant, key in timed if instant <= now]
        assert index.first() == (timed[0][0] if timed else None)
        assert index.all() == [key for _, key in timed] + never
        assert [key in index for key in "abcde"] == [key in model for key in "abcde"]
    index.clear()
    assert (index.due(9), index.first(), index.all()) == ([], None, [])


class Counted(int):
    """An instant that counts how often it is compared."""

    compared = 0

    def __le__(self, other: int) -> bool:
        Counted.compared += 1
        return int(self) <= other

    def __lt__(self, other: int) -> bool:
        Counted.compared += 1
        return int(self) < other

    __hash__ = int.__hash__


def test_what_is_not_due_costs_nothing() -> None:
    index = DueIndex()
    for number in range(10_000):
        index.put(f"key{number}", Counted(number + 100))
    index.put("due", Counted(1))
    Counted.compared = 0
    assert index.due(2) == ["due"]
    assert Counted.compared < 10


def test_updates_without_end_take_no_memory() -> None:
    index = DueIndex()
    for number in range(10_000):
        index.put("key", number)
        index.put("other", -number)
    assert len(index._heap) < 100
    assert (index.first(), index.due(10_000)) == (-9_999, ["other", "key"])
