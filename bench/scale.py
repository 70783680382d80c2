"""How much is measured: the full run of some twelve minutes, the quick one of about one, and a smoke test."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["SCALES", "Scale"]


@dataclass(frozen=True, slots=True)
class Scale:
    """Sizes of one run. Every figure is taken ``rounds`` times, the subjects alternating: A B C A B C ..."""

    name: str
    rounds: int
    latency_s: float
    """For about this long each subject is called in each round."""
    latency_calls_max: int
    sustained_events: int
    trace_s: float
    """A subject that is slower than this with the whole trace gets only a part of it."""
    threads: tuple[int, ...]
    threads_s: float
    tasks: int
    jobs: tuple[int, ...]
    growth_events: int
    replay_events: int
    changed_jobs: int
    checkpoints_max: int
    driver_jobs: int
    checkpoints_s: float
    """No further checkpoint in a row is begun after this time."""

    @property
    def jobs_max(self) -> int:
        """The number of jobs of the large stores."""
        return self.jobs[-1]


SCALES = {
    scale.name: scale
    for scale in (
        Scale(
            name="full",
            rounds=5,
            latency_s=0.3,
            latency_calls_max=100_000,
            sustained_events=1_000_000,
            trace_s=0.3,
            threads=(1, 4, 16, 64),
            threads_s=0.7,
            tasks=1_000,
            jobs=(1_000, 10_000, 100_000, 1_000_000),
            growth_events=200_000,
            replay_events=1_000_000,
            changed_jobs=10_000,
            checkpoints_max=100,
            driver_jobs=100_000,
            checkpoints_s=30.0,
        ),
        Scale(
            name="quick",
            rounds=3,
            latency_s=0.08,
            latency_calls_max=50_000,
            sustained_events=100_000,
            trace_s=0.1,
            threads=(1, 4, 16, 64),
            threads_s=0.2,
            tasks=1_000,
            jobs=(1_000, 10_000, 50_000),
            growth_events=20_000,
            replay_events=50_000,
            changed_jobs=500,
            checkpoints_max=5,
            driver_jobs=10_000,
            checkpoints_s=2.0,
        ),
        Scale(
            name="smoke",
            rounds=1,
            latency_s=0.01,
            latency_calls_max=2_000,
            sustained_events=2_000,
            trace_s=0.01,
            threads=(1, 4),
            threads_s=0.05,
            tasks=50,
            jobs=(100, 1_000),
            growth_events=500,
            replay_events=2_000,
            changed_jobs=100,
            checkpoints_max=2,
            driver_jobs=500,
            checkpoints_s=0.5,
        ),
    )
}
"""By name."""
