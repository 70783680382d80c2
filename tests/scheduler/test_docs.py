"""``docs/scheduler.md`` tells the truth: its Python runs, and the tables name what there is."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import walstore.scheduler
from walstore.scheduler import JobPolicy, JobRun, Misfire, SchedulerControl

PAGE = (Path(__file__).parent.parent.parent / "docs" / "scheduler.md").read_text("utf-8")


def test_the_python_runs(tmp_path: Path) -> None:
    (block,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", block], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stderr) == (0, "")


def test_every_setting_is_described() -> None:
    prose = re.sub(r"^```python\n.*?^```", "", PAGE, flags=re.MULTILINE | re.DOTALL)
    named = set(re.findall(r"[a-z_]+", " ".join(re.findall(r"`([^`]+)`", prose))))
    assert {field.name for field in fields(JobPolicy)} - named - {"misfire"} == set()
    assert {member.name for member in Misfire} <= set(re.findall(r"[A-Z_]{3,}", PAGE))


def test_what_is_named_exists() -> None:
    runs = {name.removeprefix("run.") for name in re.findall(r"`(run\.[a-z_]+)", PAGE)}
    assert runs <= {field.name for field in fields(JobRun)}
    calls = re.findall(r"^\| `(?:await )?([a-z_]+)\(", PAGE, re.MULTILINE)
    assert len(calls) == 4
    assert [call for call in calls if not hasattr(SchedulerControl, call)] == []


def test_the_public_names_are_pinned() -> None:
    assert sorted(walstore.scheduler.__all__) == [
        "BlockingControl",
        "CircuitBreaker",
        "CircuitState",
        "Clock",
        "JobPolicy",
        "JobRun",
        "Misfire",
        "Provider",
        "Scheduler",
        "SchedulerControl",
        "SchedulerHost",
        "SimulatedClock",
        "SystemClock",
    ]
    assert [name for name in walstore.scheduler.__all__ if not hasattr(walstore.scheduler, name)] == []
