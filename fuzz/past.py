"""The past of a store with real processes: what its lives recorded, and the rule for what must be left of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from fuzz.lives import LANES, Board, Plan, operations
from walstore.engine.environment import Environment
from walstore.errors import StoreNotFoundError
from walstore.options import Durability
from walstore.testing.model import Jobs, apply, jobs_of
from walstore.wal import WalPersistence

__all__ = ["Lane", "Past", "read_store"]


@dataclass(slots=True)
class Lane:
    """What one lane may hold."""

    states: list[Jobs] = field(default_factory=lambda: [{}])
    """The fold of the first n units since what is known to be on the device, for each n."""
    process_floor: int = 0
    """Units that survive the death of the process."""
    power_floor: int = 0
    """Units that survive a power loss."""

    def settle(self) -> None:
        """Note that all of it is on the device."""
        self.states = self.states[-1:]
        self.process_floor = self.power_floor = 0


class Past:
    """What was recorded into a store in all of its lives, and how much of it must be there."""

    def __init__(self) -> None:
        self.lanes = [Lane() for _ in range(LANES)]
        self._existed = False

    def jobs(self) -> Jobs:
        """Return what the store holds: known only after ``check``."""
        return {job: record for lane in self.lanes for job, record in lane.states[-1].items()}

    def add(self, plans: Sequence[Plan], board: Board) -> None:
        """Take in what the writers of one life did."""
        if not board.opened:
            return
        self._existed = True
        acknowledged = board.acknowledged()
        for lane in self.lanes:
            lane.settle()
        for plan in plans:
            for number in plan.lanes:
                self._add_lane(plan, number, board.attempted(number), acknowledged[number], board.synced(number))

    def _add_lane(self, plan: Plan, number: int, attempted: int, acknowledged: int, synced: int) -> None:
        lane = self.lanes[number]
        jobs = dict(lane.states[-1])
        units = (unit for _, unit in operations(plan, number) if unit)
        for unit in islice(units, attempted):
            for event in unit:
                apply(jobs, event)
            lane.states.append(dict(jobs))
        lane.process_floor = synced if plan.level is Durability.BUFFERED else acknowledged
        lane.power_floor = acknowledged if plan.level is Durability.POWER else synced

    def check(self, found: Jobs | None, *, power: bool) -> str:
        """Return what is wrong with what was found after the death of a process, or after a power loss; "" if nothing.

        ``found`` is None where there was no store. What is found is what the next life starts from.
        """
        if found is None and self._existed:
            return "the store is gone"
        left = dict(found or {})
        for number, lane in enumerate(self.lanes):
            prefix = f"lane{number}."
            jobs = {job: left.pop(job) for job in list(left) if job.startswith(prefix)}
            floor = lane.power_floor if power else lane.process_floor
            units = next((n for n in range(len(lane.states) - 1, -1, -1) if lane.states[n] == jobs), None)
            if units is None:
                return f"lane {number} holds no prefix, of which {floor} units must be there: {_nearest(lane, jobs)}"
            if units < floor:
                return f"lane {number} holds {units} of {len(lane.states) - 1} units, and {floor} must be there"
            del lane.states[units + 1 :]
            lane.process_floor = units
            if power:
                lane.settle()
        return f"jobs that nobody recorded: {left}" if left else ""


def _nearest(lane: Lane, jobs: Jobs) -> str:
    """Say how jobs that are no state of a lane differ from the state that they come closest to."""

    def differing(state: Jobs) -> list[str]:
        return sorted(job for job in state.keys() | jobs.keys() if state.get(job) != jobs.get(job))

    units = min(range(len(lane.states)), key=lambda number: len(differing(lane.states[number])))
    state = lane.states[units]
    lines = [f"\n  {job}: {jobs.get(job)}, not {state.get(job)}" for job in differing(state)]
    return f"it differs from the state after {units} of {len(lane.states) - 1} units in{''.join(lines)}"


def read_store(directory: Path, environment: Environment | None = None) -> Jobs | None:
    """Return what a store holds, without changing it; None where none was ever finished."""
    try:
        with WalPersistence(directory, read_only=True, environment=environment) as store:
            return jobs_of(store)
    except StoreNotFoundError:
        return None
