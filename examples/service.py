"""A job service that can be killed at any moment and picks up where it was: run it, kill -9 it, run it again.

Usage: python examples/service.py [directory] [runs]
"""

from __future__ import annotations

import sys
import time

from walstore import Durability, Periodic, QName, Schedule, SchedulerJobStatus, WalPersistence

JOBS: dict[str, Schedule] = {
    "example.heartbeat": Periodic(every_ns=200_000_000),
    "example.report": Periodic(every_ns=500_000_000),
}


def main(directory: str = "service.walstore", runs: str = "20") -> None:
    """Run whatever is due, ``runs`` times."""
    with WalPersistence(directory, durability=Durability.PROCESS) as store:
        jobs = {record.id: record for record in store.load_all()}
        orphaned = [str(job) for job, record in jobs.items() if record.status is SchedulerJobStatus.RUNNING]
        print(f"{store.recovery.situation.value}: {len(jobs)} jobs, cut off while running: {orphaned or 'none'}")
        due_ns = {job: record.next_fire_at_ns or 0 for job, record in jobs.items()}
        for name, schedule in JOBS.items():
            job = QName.parse(name)
            if job not in jobs or jobs[job].schedule != schedule:
                store.record_scheduled(job, schedule)
                due_ns[job] = schedule.next_after(time.time_ns()) or 0
        for _ in range(int(runs)):
            job = min(due_ns, key=due_ns.__getitem__)
            time.sleep(max(0, due_ns[job] - time.time_ns()) / 1e9)
            store.record_started(job, time.time_ns())
            print(f"running {job}")
            finished_ns = time.time_ns()
            store.record_finished(job, finished_ns, True)
            due_ns[job] = JOBS[str(job)].next_after(finished_ns) or 0
        store.flush_checkpoint()


if __name__ == "__main__":
    main(*sys.argv[1:3])
