"""The examples run, and pick up where they were."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


def test_the_service_finds_its_jobs_again(tmp_path: Path) -> None:
    said = [
        subprocess.run(
            [sys.executable, "-W", "error", str(EXAMPLES / "service.py"), str(tmp_path / "store"), "2"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for _ in range(2)
    ]
    assert said[0].startswith("created: 0 jobs")
    assert said[1].startswith("clean: 2 jobs")
    assert said[1].count("running example.") == 2


@pytest.mark.skipif(find_spec("apscheduler") is None, reason="APScheduler is not installed")
def test_the_service_with_apscheduler_does_again_what_was_cut_off(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", str(EXAMPLES / "apscheduler_service.py"), str(tmp_path / "store")]
    with subprocess.Popen([*command, "60"], stdout=subprocess.PIPE, text=True) as service:
        assert service.stdout is not None
        assert service.stdout.readline() == "jobs: []\n"
        while service.stdout.readline() != "running report once\n":
            """The heartbeat runs before and meanwhile."""
        service.kill()
    said = subprocess.run([*command, "0.5"], capture_output=True, text=True, check=True).stdout
    assert said.startswith("cut off while running: once of ")
    assert "'once'" in said.splitlines()[1]
    assert "finished report once" in said
    said = subprocess.run([*command, "0.5"], capture_output=True, text=True, check=True).stdout
    assert said.startswith("jobs: ['heartbeat', 'hourly']")
