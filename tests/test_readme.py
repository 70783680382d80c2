"""The README tells the truth: its Python runs, and its commands exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"


def lines_in_blocks(language: str) -> list[str]:
    """README's lines, blank where they are not in a block of this language: line numbers stay README's own."""
    inside = False
    kept = []
    for line in README.read_text("utf-8").splitlines():
        fence = line.strip().startswith("```")
        if fence:
            inside = not inside and line.strip() == f"```{language}"
        kept.append(line if inside and not fence else "")
    return kept


def test_the_python_blocks_run(tmp_path: Path) -> None:
    script = tmp_path / "README.py"
    script.write_text("\n".join(lines_in_blocks("python")), "utf-8")
    assert script.read_text("utf-8").strip(), "README has no Python to run"

    ran = subprocess.run(
        [sys.executable, "-W", "error", str(script)], cwd=tmp_path, capture_output=True, text=True, check=False
    )

    assert ran.returncode == 0, ran.stderr
    assert ran.stderr == ""


def console_commands() -> list[str]:
    return re.findall(r"^\$ walstore ([a-z][a-z-]*)", "\n".join(lines_in_blocks("console")), re.MULTILINE)


@pytest.mark.parametrize("command", sorted({*console_commands(), "demo"}))
def test_the_console_commands_exist(command: str) -> None:
    asked = [sys.executable, "-m", "walstore", command, "--help"]

    ran = subprocess.run(asked, capture_output=True, text=True, check=False)

    assert ran.returncode == 0, ran.stderr
    assert command in ran.stdout
