"""The page on APScheduler tells the truth: its Python runs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("apscheduler", reason="APScheduler is not installed")
pytest.importorskip("sqlalchemy", reason="SQLAlchemy is not installed")

from apscheduler.jobstores.sqlalchemy import SQLAlchemyJobStore

from walstore.integrations.entries import EntryStore

PAGE = Path(__file__).parents[2] / "docs" / "apscheduler.md"


def test_the_python_blocks_run(tmp_path: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    # Names are looked up by the plugins of the installed package; a checkout has none.
    blocks = [block for block in blocks if "apscheduler.jobstores.default" not in block]
    assert len(blocks) == 4
    source = SQLAlchemyJobStore(f"sqlite:///{tmp_path / 'jobs.sqlite'}")
    source.start(None, "default")
    source.shutdown()
    script = tmp_path / "page.py"
    script.write_text("\n".join(blocks), "utf-8")
    ran = subprocess.run(
        [sys.executable, "-W", "error", str(script)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr == ""
    assert ran.stdout.startswith("Hello, world!\n")
    for name in "jobs.walstore", "migrated.walstore", "salvaged.walstore":
        EntryStore(tmp_path / name, kind="aps/1", create=False).close()
