"""A service with APScheduler that can be killed at any moment: run it, kill -9 it, run it again.

Usage: python examples/apscheduler_service.py [directory] [seconds]
"""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime, timedelta

from apscheduler.schedulers.background import BackgroundScheduler

from walstore.integrations.apscheduler import OrphanedJobRun, WalJobStore


def heartbeat() -> None:
    """Run often."""
    print("running heartbeat", flush=True)


def report(name: str) -> None:
    """Run for a while, so that a kill meets it."""
    print(f"running report {name}", flush=True)
    time.sleep(1)
    print(f"finished report {name}", flush=True)


def main(directory: str = "apscheduler.walstore", seconds: str = "10") -> None:
    """Run what is due for some seconds."""

    def again(run: OrphanedJobRun) -> None:
        # A report may be made twice, so whatever was cut off is simply done again; APScheduler itself will not.
        print(f"cut off while running: {run.job_id} of {run.scheduled_at:%H:%M:%S}")
        if run.job is not None and run.is_removed:
            scheduler.add_job(run.job.func, args=run.job.args, id=run.job_id, misfire_grace_time=None)

    store = WalJobStore(directory, on_orphaned_run=again)
    scheduler = BackgroundScheduler(jobstores={"default": store}, timezone=UTC)
    scheduler.start(paused=True)
    print(f"jobs: {[job.id for job in scheduler.get_jobs()]}")
    if scheduler.get_job("heartbeat") is None:
        scheduler.add_job(heartbeat, "interval", seconds=0.2, id="heartbeat")
        scheduler.add_job(report, "interval", seconds=3600, id="hourly", args=["hourly"])
        now = datetime.now(UTC) + timedelta(seconds=0.5)
        scheduler.add_job(report, "date", run_date=now, id="once", args=["once"], misfire_grace_time=None)
    scheduler.resume()
    time.sleep(float(seconds))
    scheduler.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:3])
