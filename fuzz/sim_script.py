"""The scripts of the simulation: lines of words, drawn from a seed, short enough to keep one in a file.

A step says what to do with numbers and never with objects, so that a script is its own replay. Numbers that only chance
needs (which event, which outcome of a power loss) are seeds of their own: dropping a step changes no other.

==============================  =============================================================================
``world SEED SHAPE``            the randomness of the world, and one of ``SHAPES``; only as the first step
``open LEVEL``                  open the store for writing unless it is open, and check what it holds
``event N`` ``many N COUNT``    record the event or the events that ``N`` stands for; ``restore N``: whole records
``sync`` ``flush`` ``compact``  the calls of the store; ``compact`` is ``flush_checkpoint(compact=True)``
``load`` ``iterate`` ``close``
``tick``                        let the keeper do what is due
``stream`` ``drain``            begin ``iter_jobs`` and take one job; end all those that were begun
``read`` ``hold`` ``look``      open the store read-only and close it; keep it open; look through those kept open
``meanwhile WHEN NTH N``        ``before`` or ``after`` the NTH sync of a segment from now has taken effect, while it
                                is under way, another thread records the event ``N``
``fault CALL ERRNO NTH TIMES``  let the NTH such call from now fail; ``lost``: and a sync lose the bytes
``space BYTES`` ``calm``        the device has so much room; enough again, and forget the faults
``die NTH``                     end the world at the NTH call from now that changes something; ``die NTH CALL``: at
                                the NTH call of that name
``crash KIND SEED``             end the world if it has not ended, by ``power`` or ``process``; go on in the next
``damage KIND SEED``            check what one damage to a copy comes to (``flip``, ``zero``, ``cut``, ``lose``)
==============================  =============================================================================
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache
from itertools import islice
from typing import Final

from tests.crash.worlds import OPTIONS, events, restored
from walstore.model.events import Event
from walstore.testing.model import NOW_NS

__all__ = [
    "DAMAGES",
    "SHAPES",
    "Script",
    "Step",
    "format_script",
    "parse_script",
    "random_script",
    "random_tail",
    "unit",
]

Step = tuple[str, ...]
Script = list[Step]

SHAPES: Final = (
    OPTIONS,
    # Segments of the least length, and no compaction but when asked for.
    replace(OPTIONS, segment_bytes_max=1024, small_store_bytes=10**6, compaction_ratio=50.0, buffer_events=3),
    # Compaction at almost every chance, spilled to files.
    replace(OPTIONS, small_store_bytes=300, compaction_ratio=0.1, merge_memory_bytes=256),
)
DAMAGES: Final = ("flip", "flip", "zero", "cut", "lose", "lose")
_LEVELS: Final = ("buffered", "process", "process", "power")
_UNITS: Final = 100_000
_SEEDS: Final = 1_000_000
_WEIGHTS: Final = {
    "event": 50,
    "many": 12,
    "restore": 3,
    "sync": 4,
    "flush": 3,
    "compact": 3,
    "load": 2,
    "iterate": 2,
    "tick": 4,
    "stream": 2,
    "drain": 2,
    "read": 1,
    "hold": 1,
    "look": 2,
    "meanwhile": 6,
    "reopen": 2,
}
_BURST_SHARE: Final = 0.5
"""In so many lives segments are filled at once, and often; in the others the store stays small."""
_BURST_WEIGHT: Final = 20
_DEADLY: Final = ("rename", "sync", "sync_directory", "sync_directory", "truncate", "unlink", "write")
_FAULTS: Final = (
    *("sync EIO lost", "sync EIO lost", "sync EIO lost", "sync ENOSPC lost", "sync ENOSPC lost"),
    "sync EIO",
    "sync_directory EIO",
    "write EIO",
    "write ENOSPC",
    "write EINTR",
    "append EIO",
    "allocate ENOSPC",
    "create ENOSPC",
    "create EMFILE",
    "unlink EIO",
    "truncate EIO",
    "rename EIO",
    "lock_write ENOSPC",
    "read EIO",
    "read EINTR",
    "open EMFILE",
    "list_directory EIO",
)


@lru_cache(10_000)
def unit(name: str, number: int, count: int = 1) -> tuple[Event, ...]:
    """Return what the step ``name`` records for a number; its instants are hardly ever those of another number."""
    choice = random.Random(f"unit {number}")
    if name == "restore":
        return restored(choice, NOW_NS + choice.randrange(10**12))
    return tuple(islice(events(choice, NOW_NS + choice.randrange(10**12)), count))


def format_script(script: Iterable[Step]) -> str:
    """Return a script as text, one step a line."""
    return "".join(f"{' '.join(step)}\n" for step in script)


def parse_script(text: str) -> Script:
    """Return the script in a text; what follows ``#`` is a comment."""
    return [tuple(words) for line in text.splitlines() if (words := line.partition("#")[0].split())]


def random_script(choice: random.Random) -> Script:
    """Return several lives of one store: work with faults, each ended by a crash or a close, and a tidy end."""
    script: Script = [("world", str(choice.randrange(_SEEDS)), str(choice.randrange(len(SHAPES))))]
    for _ in range(choice.randrange(1, 6)):
        life = [("open", choice.choice(_LEVELS)), *_work(choice, choice.choice((3, 10, 30, 60)))]
        for trouble in _trouble(choice):
            life.insert(choice.randrange(len(life)), trouble)
        script += [("calm",), *life]
        match choice.randrange(4):
            case 0:
                script.append(("close",))
            case 1:
                script[-1:-1] = [_die(choice)]
                script.append(_crash(choice))
            case _:
                script.append(_crash(choice))
    script += [("calm",), ("open", choice.choice(_LEVELS)), ("event", str(choice.randrange(_UNITS))), ("close",)]
    return [*script, ("open", choice.choice(_LEVELS)), ("compact",), ("load",), ("close",), ("read",)]


def random_tail(choice: random.Random) -> Script:
    """Return what follows a crash that is only looked at: its outcome, the recovery, perhaps some work."""
    tail = [_crash(choice)]
    if choice.random() < 0.15:
        return [*tail, ("damage", choice.choice(DAMAGES), str(choice.randrange(_SEEDS)))]
    tail.append(("open", choice.choice(_LEVELS)))
    if choice.random() < 0.25:
        tail += [("many", str(choice.randrange(_UNITS)), "3"), ("event", str(choice.randrange(_UNITS)))]
        tail += [("sync",)] if choice.random() < 0.5 else []
        tail += [("close",) if choice.random() < 0.5 else _crash(choice), ("open", choice.choice(_LEVELS))]
    return tail


def _crash(choice: random.Random) -> Step:
    return ("crash", "process" if choice.random() < 0.3 else "power", str(choice.randrange(_SEEDS)))


def _die(choice: random.Random) -> Step:
    """Return a death at any call, or at one of those at which the state on the device changes most."""
    if choice.random() < 0.5:
        return ("die", str(choice.randrange(1, choice.choice((6, 25)))))
    return ("die", str(choice.choice((1, 1, 1, 2, 3))), choice.choice(_DEADLY))


def _trouble(choice: random.Random) -> Script:
    """Return the faults of a life, if it has any."""
    script: Script = []
    for _ in range(choice.choice((0, 0, 1, 2, 3))):
        call, code, *lost = choice.choice(_FAULTS).split()
        nth = choice.randrange(1, choice.choice((2, 6, 30)))
        script.append(("fault", call, code, str(nth), str(choice.choice((1, 1, 4))), *lost))
    if choice.random() < 0.08:
        script.append(("space", str(choice.randrange(2_000, 9_000))))
    return script


def _work(choice: random.Random, length: int) -> Script:
    script: Script = []
    weights = {**_WEIGHTS, "burst": _BURST_WEIGHT if choice.random() < _BURST_SHARE else 0}
    for name in choice.choices(list(weights), list(weights.values()), k=choice.randrange(1, length + 1)):
        number = str(choice.randrange(_UNITS))
        match name:
            case "event" | "restore":
                script.append((name, number))
            case "many":
                script.append((name, number, str(choice.randrange(2, 9))))
            case "burst":
                # The next segment is made ready, and one rotation comes right behind another.
                script += [
                    ("tick",),
                    *(("many", str(choice.randrange(_UNITS)), str(choice.randrange(16, 30))) for _ in range(3)),
                ]
            case "meanwhile":
                script.append((name, choice.choice(("before", "after")), str(choice.choice((1, 1, 2))), number))
            case "reopen":
                script += [("close",), ("open", choice.choice(_LEVELS))]
            case _:
                script.append((name,))
    return script
