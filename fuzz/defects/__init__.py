"""Defects that real engines had, to be planted into this one: a harness that does not find them proves nothing."""

from __future__ import annotations

from fuzz.defects import compacting, durability, recovering, rotating, surroundings, writing
from fuzz.defects.planting import Defect, collect

__all__ = ["DEFECTS"]

DEFECTS: dict[str, Defect] = {
    defect.name: defect
    for module in (durability, writing, rotating, recovering, compacting, surroundings)
    for defect in collect(module)
}
