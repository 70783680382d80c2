"""Planting a defect: what one is, and the one way in which it gets into the engine of this process, and out again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from inspect import signature
from types import FunctionType, ModuleType

__all__ = ["Defect", "collect", "defect", "planted", "swap", "uproot"]

_swapped: list[tuple[type | ModuleType, str, object]] = []


@dataclass(frozen=True, slots=True)
class Defect:
    """A defect that engines had: ``plant`` puts it into the engine that this process has imported."""

    name: str
    summary: str
    """One sentence: what the engine does wrong with it."""
    catchers: Sequence[str]
    """The harnesses that should find it, the likeliest first."""
    plant: Callable[[], None]


def defect(*catchers: str) -> Callable[[Callable[[], None]], Defect]:
    """Make a defect of a function that plants it; its docstring is the summary."""

    def make(plant: Callable[[], None]) -> Defect:
        assert plant.__doc__, f"{plant.__name__} does not say what it breaks"
        return Defect(plant.__name__.replace("_", "-"), " ".join(plant.__doc__.split()), catchers, plant)

    return make


def collect(module: ModuleType) -> list[Defect]:
    """Return the defects of a module in the order in which they stand there."""
    return [value for value in vars(module).values() if isinstance(value, Defect)]


def swap(owner: type | ModuleType, name: str, new: object) -> None:
    """Put ``new`` in the place of an attribute of the engine.

    Raises ``AttributeError`` where there is none, and ``TypeError`` where it is called in another way.
    """
    if name not in vars(owner):
        # What a class inherits is not its own either: the patch would not say what it changes.
        raise AttributeError(f"{owner.__name__} has no {name} of its own: the defect has to follow the engine")
    old = vars(owner)[name]
    if isinstance(old, FunctionType) and isinstance(new, FunctionType) and not _is_callable_like(new, old):
        raise TypeError(f"{owner.__name__}.{name} is called with {signature(old)}: the defect has to follow the engine")
    _swapped.append((owner, name, old))
    setattr(owner, name, new)


def planted() -> list[tuple[type | ModuleType, str]]:
    """Return the places of the engine that are changed now."""
    return [(owner, name) for owner, name, _ in _swapped]


def uproot() -> None:
    """Take every defect out again."""
    while _swapped:
        setattr(*_swapped.pop())


def _is_callable_like(new: FunctionType, old: FunctionType) -> bool:
    """Whether ``new`` takes as many arguments as ``old``, of the same kinds."""
    kinds = [[parameter.kind for parameter in signature(function).parameters.values()] for function in (new, old)]
    return kinds[0] == kinds[1]
