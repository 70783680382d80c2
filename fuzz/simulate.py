"""The simulation: lives of a store drawn from a seed, and at its calls to the disk what each crash would leave.

One script is one workload. At many of its calls the simulated disk is copied; from each copy several crashes are
drawn, recovered, perhaps crashed again in the recovery, and checked against the naive model. A failure is turned into a
script that dies at that call, made short, and printed: save it to a file, and ``--replay FILE`` shows it again.
"""

from __future__ import annotations

import random
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fuzz.harness import Deadline, Tally, main
from fuzz.shrink import shrink
from fuzz.sim_player import Player
from fuzz.sim_script import Script, format_script, parse_script, random_script, random_tail
from tests.crash.worlds import DIRECTORY
from walstore.format.filenames import is_temporary
from walstore.testing.sim_disk import DirectoryNode

__all__ = ["Failure", "replay", "run", "simulate"]

_SHRINK_SECONDS: Final = 10.0
_MESSAGE_LENGTH_MAX: Final = 300
_SHARES: Final = (0.004, 0.012, 0.04)
"""Out of these is drawn at what share of the calls of a script crashes are looked at."""
_SHARE_BELOW: Final = 0.015
"""The share where what is looked at comes after a crash that is itself only looked at."""
_EAGERNESS: Final = {"rename": 2, "sync": 2, "sync_directory": 6, "truncate": 2, "unlink": 2}
"""Calls at which crashes are looked at more often than at others: between them the order matters."""
_EAGERNESS_NAMES: Final = 200
"""The same for a sync for which more than one new name waits, of which a power loss may take any."""
_DEPTH_MAX: Final = 2


@dataclass(frozen=True, slots=True)
class Failure:
    """What went wrong, and the script that shows it."""

    script: Script
    error: Exception

    @property
    def kind(self) -> str:
        """What failures of the same cause have in common: the error, and the function that raised it."""
        return f"{type(self.error).__name__} in {traceback.extract_tb(self.error.__traceback__)[-1].name}"

    def __str__(self) -> str:
        message, _, _ = str(self.error).partition("\n")
        return f"{self.kind}: {message[:_MESSAGE_LENGTH_MAX]}"


class _Found(BaseException):
    """A failure that a probe found, on its way out. No ``Exception``: the engine's handlers must let it through."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure)
        self.failure = failure


class _Prober:
    """Looks, at some calls of a script, at several outcomes of a crash there, and in the same way at their recoveries.

    ``before`` is what was played to get where the script begins.
    """

    def __init__(
        self,
        before: Script,
        script: Script,
        player: Player,
        choice: random.Random,
        share: float,
        deadline: Deadline,
        depth: int = 0,
    ) -> None:
        self._before = before
        self._script = script
        self._player = player
        self._choice = choice
        self._share = share
        self._deadline = deadline
        self._depth = depth

    def look(self, call: str) -> None:
        choice, player = self._choice, self._player
        # After an error it shows whether what is promised later is true.
        share = self._share * self._eagerness(call) * (2 if player.has_failed else 1)
        if choice.random() >= share or self._deadline.passed():
            return
        nth = player.world.fs.calls - player.calls_before + 1
        step = self._script[player.position]
        before = [*self._before, *self._script[: player.position], ("die", str(nth)), step]
        moment = player.world.fs.clone(choice)
        for _ in range(choice.randrange(1, 6)):
            tail = random_tail(choice)
            twin = player.fork(moment)
            if self._depth < _DEPTH_MAX:
                prober = _Prober(before, tail, twin, choice, _SHARE_BELOW, self._deadline, self._depth + 1)
                twin.watch(prober.look)
            try:
                twin.play(tail)
            except Exception as error:
                raise _Found(Failure([*before, *tail[: twin.position + 1]], error)) from error
            finally:
                twin.leave()
            player.points += twin.points

    def _eagerness(self, call: str) -> int:
        directory = self._player.world.fs._find(DIRECTORY) if call == "sync_directory" else None
        if isinstance(directory, DirectoryNode):
            new = {name for change in directory.pending for name, node in change.items() if node is not None}
            if sum(not is_temporary(name) for name in new) > 1:
                return _EAGERNESS_NAMES
        return _EAGERNESS.get(call, 1)


def replay(script: Script) -> Failure | None:
    """Perform a script as it stands; returns what went wrong, if anything did."""
    player = Player()
    try:
        player.play(script)
    except Exception as error:  # noqa: BLE001  # Whatever it is, it is what was looked for.
        return Failure(script[: player.position + 1], error)
    finally:
        player.leave()
    return None


def simulate(player: Player, seed: int, deadline: Deadline) -> Failure | None:
    """Let a new player perform the script of a seed, looking at crashes on the way; returns what went wrong."""
    choice = random.Random(f"simulate {seed}")
    script = random_script(choice)
    player.watch(_Prober([], script, player, choice, choice.choice(_SHARES), deadline).look)
    try:
        player.play(script)
    except _Found as found:
        return found.failure
    except Exception as error:  # noqa: BLE001  # Whatever the engine raises here is a failure of it.
        return Failure(script[: player.position + 1], error)
    finally:
        player.leave()
    return None


def shrunk(failure: Failure) -> Failure:
    """Return the same failure with a script that is as short as a few seconds allow."""
    if (again := replay(failure.script)) is None or again.kind != failure.kind:
        return failure

    def fails(script: Script) -> bool:
        found = replay(script)
        return found is not None and found.kind == failure.kind

    return replay(shrink(again.script, fails, _SHRINK_SECONDS)) or failure


def run(seconds: float, seed: int) -> Tally:
    """Simulate the seeds from ``seed`` on, until the first failure or for so many seconds."""
    deadline, tally = Deadline(seconds), Tally("simulate")
    while not deadline.passed() and not tally.failures:
        player = Player()
        failure = simulate(player, seed, deadline)
        tally.runs += 1
        tally.points += player.points
        tally.seconds = deadline.elapsed()
        if failure is not None:
            short = shrunk(failure)
            tally.failures.append(f"seed {seed}: {short}\n{format_script(short.script)}")
        seed += 1
    return tally


def replay_named(name: str) -> Tally:
    """Replay the script in a file, or the seed of that number with all that is looked at on the way."""
    deadline, tally, player = Deadline(float("inf")), Tally("simulate", runs=1), Player()
    if name.isdecimal():
        failure = simulate(player, int(name), deadline)
    else:
        failure = replay(parse_script(Path(name).read_text(encoding="utf-8")))
    tally.seconds, tally.points = deadline.elapsed(), player.points
    if failure is not None:
        tally.failures.append("".join(traceback.format_exception(failure.error)) + format_script(failure.script))
    return tally


if __name__ == "__main__":
    main(run, "Simulate lives of a store, and crashes at the calls it makes.", replay_named)
