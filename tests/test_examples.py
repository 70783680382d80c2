"""The examples run, and pick up where they were."""

from __future__ import annotations

import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from walstore import SchedulerJobStatus, WalPersistence
from walstore.integrations.celery_blob import decode_history
from walstore.integrations.entries import EntryStore

EXAMPLES = Path(__file__).parent.parent / "examples"


def test_the_service_finds_its_jobs_again(tmp_path: Path) -> None:
    store = tmp_path / "store"
    command = [sys.executable, "-W", "error", str(EXAMPLES / "service.py"), str(store)]
    with subprocess.Popen([*command, "1000"], stdout=subprocess.PIPE, text=True) as service:
        assert service.stdout is not None
        # In the middle of the report, unless the machine is very slow.
        said = [service.stdout.readline(), service.stdout.readline()]
        service.kill()
    assert said == ["created: 0 jobs, cut off: 0\n", "example.reports.start runs\n"]
    with WalPersistence(store, read_only=True) as found:
        cut_off = [job for job in found.load_all() if job.status is SchedulerJobStatus.RUNNING]
    again = subprocess.run([*command, "2"], capture_output=True, text=True, check=True).stdout
    assert again.startswith(f"unclean: 3 jobs, cut off: {len(cut_off)}\n")
    assert "start runs again: it was cut off" in again or str(cut_off).count("reports.start") == 0


@pytest.mark.skipif(find_spec("apscheduler") is None, reason="APScheduler is not installed")
def test_the_service_with_apscheduler_does_again_what_was_cut_off(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", str(EXAMPLES / "apscheduler_service.py"), str(tmp_path / "store")]
    with subprocess.Popen([*command, "60"], stdout=subprocess.PIPE, text=True) as service:
        try:
            assert service.stdout is not None
            assert service.stdout.readline() == "jobs: []\n"
            while service.stdout.readline() != "running report once\n":
                """The heartbeat runs before and meanwhile."""
        finally:
            service.kill()
    said = subprocess.run([*command, "0.5"], capture_output=True, text=True, check=True).stdout
    assert said.startswith("cut off while running: once of ")
    assert "'once'" in said.splitlines()[1]
    assert "finished report once" in said
    said = subprocess.run([*command, "0.5"], capture_output=True, text=True, check=True).stdout
    assert said.startswith("jobs: ['heartbeat', 'hourly']")


@pytest.mark.skipif(find_spec("celery") is None, reason="Celery is not installed")
def test_the_beat_picks_up_where_it_was_killed(tmp_path: Path) -> None:
    sent: list[str] = []
    for _ in range(2):
        before = len(sent)
        with (tmp_path / "log").open("w") as log:
            command = [sys.executable, "-W", "error", str(EXAMPLES / "beat_service.py"), str(tmp_path)]
            with subprocess.Popen(command, stdout=log, stderr=log) as beat:
                deadline = time.monotonic() + 60
                while len(sent) < before + 3:
                    assert beat.poll() is None, (tmp_path / "log").read_text()
                    assert time.monotonic() < deadline
                    time.sleep(0.01)
                    sent = [path.name for path in tmp_path.glob("messages/*.msg")]
                beat.kill()
    with EntryStore(tmp_path / "beat.walstore", kind="beat/1", create=False) as store:
        runs = sum(decode_history(entry.blob).total_run_count for entry in store.found.values())
        assert sorted(store.found) == ["celery.backend_cleanup", "heartbeat", "nightly", "report"]
    # Of each life, one run may have been cut off after its message was sent.
    assert runs <= len(list(tmp_path.glob("messages/*.msg"))) <= runs + 2
