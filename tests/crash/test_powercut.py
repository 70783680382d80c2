"""Real file systems that lose their power. Mounts file systems, and so runs only where it is asked for, as root."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from fuzz import powercut
from fuzz.harness import Run, Tally
from walstore.fs.os_fs import OsFileSystem

pytestmark = pytest.mark.skipif(
    os.environ.get("WALSTORE_POWERCUT") != "1", reason="mounts file systems: set WALSTORE_POWERCUT=1, and be root"
)
SYSTEMS = [powercut.run_ext4, powercut.run_xfs]


def cut(run: Run, seconds: float) -> Tally:
    tally = run(seconds, 1)
    if tally.skipped:
        pytest.skip(tally.skipped)
    return tally


@pytest.fixture(autouse=True)
def images_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@pytest.mark.parametrize("run", SYSTEMS)
def test_no_power_loss_loses_anything(run: Run, tmp_path: Path) -> None:
    tally = cut(run, 3.0)
    assert tally.failures == []
    assert tally.points >= 3
    assert list(tmp_path.iterdir()) == []
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()


@pytest.mark.parametrize("run", SYSTEMS)
def test_a_missing_sync_of_a_directory_is_found(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OsFileSystem, "sync_directory", lambda _self, _directory: None)
    assert len(cut(run, 60.0).failures) == 1


@pytest.mark.parametrize("run", SYSTEMS)
def test_a_missing_sync_of_a_file_is_found(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fdatasync", lambda _descriptor: None)
    assert len(cut(run, 60.0).failures) == 1
