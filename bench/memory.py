"""Run as a process of its own: prints its resident KiB, empty, or at each stage of using a store with many jobs."""

from __future__ import annotations

import random
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from time import time_ns
from typing import Final

__all__ = ["STAGES"]

STAGES: Final = ("opened", "100,000 events later", "after a checkpoint", "peak")
"""What the numbers that are printed stand for; the last one is the peak of the process that merges, 0 without one."""


def _status_kib(field: str) -> int:
    status = Path("/proc/self/status").read_text("ascii")
    return int(status.partition(f"{field}:")[2].split()[0])


def _use(path: str, jobs: int) -> Iterator[int]:
    # Imported here, so that a process without a store is one without walstore.
    from bench.workloads import job_id  # noqa: PLC0415
    from walstore import WalPersistence  # noqa: PLC0415

    chance = random.Random(1)
    with WalPersistence(path, create=False) as store:
        yield _status_kib("VmRSS")
        for _ in range(100_000):
            store.record_started(job_id(chance.randrange(jobs)), time_ns())
        yield _status_kib("VmRSS")
        store.flush_checkpoint(compact=True)
        yield _status_kib("VmRSS")
        yield _status_kib("VmHWM")
    # Of the largest child, which is the worker: no other one is started.
    yield resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss


def main() -> None:
    """Use the store that the first argument names, with as many jobs as the second says, or do nothing."""
    kib = _use(sys.argv[1], int(sys.argv[2])) if len(sys.argv) > 1 else [_status_kib("VmRSS")]
    print(*kib)


if __name__ == "__main__":
    main()
