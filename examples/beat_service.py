"""A Celery beat that can be killed at any moment and picks up where it was: run it, kill -9 it, run it again.

Usage: python examples/beat_service.py [directory], which is the same as, in that directory,
``celery -A beat_service beat --scheduler walstore --schedule beat.walstore``.

Messages go to a folder here, so that no broker is needed; a worker reads them with ``celery -A beat_service worker``.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from celery import Celery
from celery.schedules import crontab

if __name__ == "__main__" and len(sys.argv) > 1:
    os.chdir(sys.argv[1])

messages = Path("messages")
messages.mkdir(exist_ok=True)

app = Celery("beat_service", broker="filesystem://")
app.conf.update(
    broker_transport_options={"data_folder_in": messages.name, "data_folder_out": messages.name},
    beat_schedule={
        "heartbeat": {"task": "example.heartbeat", "schedule": 0.2},
        "report": {"task": "example.report", "schedule": 0.5, "kwargs": {"pages": 3}},
        "nightly": {"task": "example.nightly", "schedule": crontab(hour="4", minute="0")},
    },
)


@app.task(name="example.heartbeat")
def heartbeat() -> None:
    """Run twice, it does no harm: whoever is killed while it sends a task sends it again."""


if __name__ == "__main__":
    app.Beat(scheduler="walstore", schedule="beat.walstore", loglevel="INFO").run()
