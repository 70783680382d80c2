"""A job service that can be killed at any moment and picks up where it was: run it, kill -9 it, run it again.

Usage: python examples/service.py [directory] [heartbeats]
"""

import asyncio
import signal
import sys
import time

from walstore import Cron, Manual, Periodic, WalPersistence
from walstore.scheduler import JobRun, SchedulerHost


async def main(directory: str = "service.walstore", heartbeats: str = "100") -> None:
    """Run three jobs until there were so many heartbeats, or until SIGTERM."""
    with WalPersistence(directory) as store:
        host, left = SchedulerHost(store), int(heartbeats)

        async def heartbeat(_: JobRun) -> None:  # On the event loop.
            nonlocal left
            left -= 1
            if left <= 0:
                host.stop()

        def report(run: JobRun) -> None:  # On a thread; run.cancel asks it to stop.
            print(f"{run.id} runs{' again: it was cut off' * run.is_rerun}", flush=True)
            time.sleep(0.5)

        host.register("example.heartbeat", heartbeat)
        host.register_namespace("example.reports", report)
        await host.start()
        print(f"{store.recovery.situation.value}: {len(host.control.list())} jobs, cut off: {len(host.orphaned)}")
        await host.control.add_scheduled_job("example.heartbeat", Periodic(every_ns=200_000_000))
        await host.control.add_scheduled_job("example.reports.hourly", Cron("@hourly"))
        await host.control.add_scheduled_job("example.reports.start", Manual())
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, host.stop)
        await host.run()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:3]))
