"""Keys by when they are due: finding the due ones costs in proportion to these, not to all that there are."""

from __future__ import annotations

from heapq import heapify, heappop, heappush

__all__ = ["DueIndex"]


class DueIndex:
    """Keys, each due at an instant or never. For one thread at a time.

    A heap of all instants that were ever put. One that no longer holds is left in it until it comes to the top, or
    until such are more than half of the heap.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[int, str]] = []
        self._due_us: dict[str, int | None] = {}

    def __contains__(self, key: str) -> bool:
        return key in self._due_us

    def put(self, key: str, due_us: int | None) -> None:
        """Say when a key is due; None: never."""
        if due_us is not None and self._due_us.get(key) != due_us:
            heappush(self._heap, (due_us, key))
        self._due_us[key] = due_us
        if len(self._heap) > 2 * len(self._due_us) + 16:
            self._heap = [(due_us, key) for key, due_us in self._due_us.items() if due_us is not None]
            heapify(self._heap)

    def discard(self, key: str) -> None:
        """Forget a key, if it is there."""
        self._due_us.pop(key, None)

    def clear(self) -> None:
        """Forget all keys."""
        self._heap.clear()
        self._due_us.clear()

    def due(self, now_us: int) -> list[str]:
        """Return the keys that are due at ``now_us``, in the order of their instants, then of the keys."""
        found: set[tuple[int, str]] = set()
        # Whatever is due lies together at the top of a heap: below an instant in the future there are only later ones.
        places = [0]
        while places:
            place = places.pop()
            if place < len(self._heap) and self._heap[place][0] <= now_us:
                if self._holds(self._heap[place]):
                    found.add(self._heap[place])
                places += (2 * place + 1, 2 * place + 2)
        return [key for _, key in sorted(found)]

    def first(self) -> int | None:
        """Return the instant at which the first key is due; None where none ever is."""
        while self._heap and not self._holds(self._heap[0]):
            heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def all(self) -> list[str]:
        """Return all keys in the order of their instants, then of the keys, those that are never due last."""
        due, never = [], []
        for key, due_us in self._due_us.items():
            if due_us is None:
                never.append(key)
            else:
                due.append((due_us, key))
        return [key for _, key in sorted(due)] + sorted(never)

    def _holds(self, item: tuple[int, str]) -> bool:
        return self._due_us.get(item[1]) == item[0]
