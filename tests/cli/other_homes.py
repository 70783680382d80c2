"""Homes for tests of the command line that need nothing installed.

Two backends for `walstore copy`: rows in memory, and rows in memory some of which are not what was written. And a kind
for `walstore import` that fails when half of it is there.
"""

from __future__ import annotations

from collections.abc import Callable

from tests.backends.label_in_memory import LabelInMemory, Properties
from walstore import Durability, SchedulerPersistenceError, WalPersistence
from walstore.backends.system_label import SystemLabelPersistence

LABELS: dict[str, LabelInMemory] = {}


def open_label(
    place: str, *, durability: Durability, create: bool, read_only: bool, clock: Callable[[], int]
) -> SystemLabelPersistence:
    assert durability is Durability.PROCESS
    assert not (create and read_only)
    return SystemLabelPersistence(LABELS.setdefault(place, LabelInMemory()).execute, clock=clock)


class _Forgetful(LabelInMemory):
    def merge(self, properties: Properties) -> None:
        if properties["qname"] == "ops.backup":
            if "changed" in self.place:
                super().merge({**properties, "consecutive_failures": 7})
        else:
            super().merge(properties)

    place = ""


def open_forgetful(
    place: str, *, durability: Durability, create: bool, read_only: bool, clock: Callable[[], int]
) -> SystemLabelPersistence:
    label = LABELS.setdefault(place, _Forgetful())
    if isinstance(label, _Forgetful):
        label.place = place
    return open_label(place, durability=durability, create=create, read_only=read_only, clock=clock)


def import_half(source: str, target: str) -> int:
    with WalPersistence(target) as store:
        store.record_started("a.b", 1)
        store.flush_checkpoint()
    raise SchedulerPersistenceError(f"the second half of {source} can't be read")
