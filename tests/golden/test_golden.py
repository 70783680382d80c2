"""Stores that were written by the release that introduced a format version: every later release reads them.

The directories beside this file are never written again. ``write_store`` shows how they came to be, and makes the
next one when the format changes.
"""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from walstore import (
    Cancelled,
    Cron,
    Finished,
    Manual,
    Once,
    Periodic,
    QName,
    Restored,
    Scheduled,
    SchedulerJobRecord,
    SchedulerJobStatus,
    Started,
    WalOptions,
    WalPersistence,
)
from walstore.engine.environment import Environment
from walstore.engine.recovery import Situation
from walstore.fs.os_fs import OsFileSystem

GOLDEN = Path(__file__).parent
FIRST_NS = 1_795_445_622_000_000_001
HOUR_NS = 3_600_000_000_000
LONG_NAME = "golden." + "ü" * 500


def job(
    name: str,
    status: SchedulerJobStatus,
    next_ns: int | None,
    started_ns: int | None,
    finished_ns: int | None,
    failures: int,
    schedule: Cron | Manual | Once | Periodic,
) -> SchedulerJobRecord:
    return SchedulerJobRecord(QName.parse(name), status, next_ns, started_ns, finished_ns, failures, schedule)


EXPECTED = [
    job(
        "golden.cron",
        SchedulerJobStatus.PENDING,
        1_795_451_400_000_000_000,
        None,
        FIRST_NS + 60_000_000_000,
        1,
        Cron("0 30 */2 * * *"),
    ),
    job("golden.late", SchedulerJobStatus.RUNNING, None, FIRST_NS + 7, None, 0, Manual()),
    job("golden.manual", SchedulerJobStatus.IDLE, None, FIRST_NS + 1, FIRST_NS + 2, 0, Manual()),
    job(
        "golden.once", SchedulerJobStatus.FAILED_RETRYING, FIRST_NS, FIRST_NS + 3, FIRST_NS + 4, 1, Once(at_ns=FIRST_NS)
    ),
    job(
        "golden.periodic",
        SchedulerJobStatus.PENDING,
        FIRST_NS + HOUR_NS + 6,
        FIRST_NS + 5,
        FIRST_NS + 6,
        0,
        Periodic(every_ns=HOUR_NS),
    ),
    job("golden.restored", SchedulerJobStatus.RUNNING, None, 2**63 - 1, 0, 2**32 - 1, Once(at_ns=2**63 - 1)),
    job(LONG_NAME, SchedulerJobStatus.PENDING, FIRST_NS, None, None, 0, Manual()),
]


def write_store(path: Path) -> WalPersistence:
    """Write every kind of event and schedule, a part into a snapshot and a part into the log; left open."""
    chance = random.Random(1)
    environment = Environment(
        fs=OsFileSystem(),
        random_bytes=chance.randbytes,
        monotonic_ns=lambda: 0,
        wall_ns=lambda: FIRST_NS,
        holder=lambda: {"host": "golden", "pid": 1},
        threads=False,
    )
    options = WalOptions(segment_bytes_min=1024, segment_bytes_max=1024)
    store = WalPersistence(path, options=options, clock=lambda: FIRST_NS, environment=environment)
    store.record_scheduled("golden.manual", Manual())
    store.record_started("golden.manual", FIRST_NS + 1)
    store.record_finished("golden.manual", FIRST_NS + 2, True)
    store.record_scheduled("golden.once", Once(at_ns=FIRST_NS))
    store.record_scheduled("golden.gone", Periodic(every_ns=1))
    store.record_scheduled(LONG_NAME, Manual())
    store.flush_checkpoint(compact=True)
    store.cancel("golden.gone")
    store.record_many([Started("golden.once", FIRST_NS + 3), Finished("golden.once", FIRST_NS + 4, False)])
    store.record_many(
        [
            Scheduled("golden.periodic", Periodic(every_ns=HOUR_NS), FIRST_NS),
            Started("golden.periodic", FIRST_NS + 5),
            Finished("golden.periodic", FIRST_NS + 6, True),
            Scheduled("golden.never", Manual()),
            Cancelled("golden.never"),
            Restored(EXPECTED[5]),
        ]
    )
    store.sync()
    store.record_scheduled("golden.cron", Cron("0 30 */2 * * *"))
    store.record_finished("golden.cron", FIRST_NS + 60_000_000_000, False)
    store.record_started("golden.late", FIRST_NS + 7)
    return store


@pytest.mark.parametrize(("name", "situation"), [("closed", Situation.CLEAN), ("killed", Situation.UNCLEAN)])
@pytest.mark.parametrize("version", sorted(path.name for path in GOLDEN.glob("v*")))
def test_every_earlier_format_is_read(tmp_path: Path, version: str, name: str, situation: Situation) -> None:
    shutil.copytree(GOLDEN / version / name, tmp_path / "jobs")
    with WalPersistence(tmp_path / "jobs", read_only=True) as reader:
        assert reader.recovery.situation is situation
        assert list(reader.iter_jobs()) == EXPECTED
    for expected in (situation, Situation.CLEAN):
        with WalPersistence(tmp_path / "jobs") as store:
            assert store.recovery.situation is expected
            assert list(store.iter_jobs()) == EXPECTED


def test_the_current_format_is_still_the_committed_one(tmp_path: Path) -> None:
    """A change of the bytes needs a new format version, or it breaks what is out there."""
    store = write_store(tmp_path / "jobs")
    newest = max(GOLDEN.glob("v*"))

    def same_frames(name: str) -> None:
        for path in (newest / name).iterdir():
            written, committed = (tmp_path / "jobs" / path.name).read_bytes(), path.read_bytes()
            if path.suffix in {".wal", ".snap"}:
                # All but the boot id and the checksum of the header, which covers it.
                assert written[:80] + written[104:] == committed[:80] + committed[104:], path.name

    same_frames("killed")
    store.close()
    same_frames("closed")
