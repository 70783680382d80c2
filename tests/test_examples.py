"""The examples run, and pick up where they were."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

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
