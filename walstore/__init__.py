"""walstore: a buffered write-ahead log for the state of scheduled jobs.

The whole public surface is here, but for the exceptions, which are in ``walstore.errors``, and what tests need, which
is in ``walstore.testing``.
"""

from __future__ import annotations

import logging

from walstore.engine.recovery import RecoveryReport
from walstore.engine.stats import StoreStats
from walstore.errors import SchedulerPersistenceError
from walstore.model.events import Cancelled, Finished, Restored, Scheduled, Started
from walstore.model.names import QName
from walstore.model.records import CancellationToken, SchedulerJobRecord, SchedulerJobStatus
from walstore.model.schedule import Cron, Manual, Once, Periodic, Schedule
from walstore.options import Durability, WalOptions
from walstore.persistence import BatchPersistence, MemoryPersistence, SchedulerPersistence
from walstore.urls import open_persistence
from walstore.wal import WalPersistence

__version__ = "0.1.0"

# Silent unless the application wants to hear it.
logging.getLogger("walstore").addHandler(logging.NullHandler())

__all__ = [
    "BatchPersistence",
    "CancellationToken",
    "Cancelled",
    "Cron",
    "Durability",
    "Finished",
    "Manual",
    "MemoryPersistence",
    "Once",
    "Periodic",
    "QName",
    "RecoveryReport",
    "Restored",
    "Schedule",
    "Scheduled",
    "SchedulerJobRecord",
    "SchedulerJobStatus",
    "SchedulerPersistence",
    "SchedulerPersistenceError",
    "Started",
    "StoreStats",
    "WalOptions",
    "WalPersistence",
    "open_persistence",
]
