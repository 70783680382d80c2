"""What the figures depend on: the machine, the file system, the versions."""

from __future__ import annotations

import gc
import os
import platform
import shutil
import sqlite3
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

import walstore

__all__ = ["describe", "load"]

_PACKAGES: Final = (
    "msgpack",
    "xxhash",
    "apsw",
    "lmdb",
    "rocksdict",
    "plyvel",
    "persist-queue",
    "diskcache",
    "ZODB",
    "APScheduler",
    "SQLAlchemy",
)


def describe(directory: Path) -> dict[str, str]:
    """Return what the top of the report says of this machine and of the place where the stores are."""
    return {
        "processor": f"{_first_of('/proc/cpuinfo', 'model name')}, {os.cpu_count()} cores, {platform.machine()}",
        "memory": f"{int(_first_of('/proc/meminfo', 'MemTotal').split()[0]) / 1024**2:.0f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
        "file system": f"{_file_system(directory)}, {shutil.disk_usage(directory).free / 1024**3:.0f} GiB free",
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "walstore": f"{walstore.__version__} {_commit()}".strip(),
        "packages": ", ".join([f"SQLite {sqlite3.sqlite_version}", *filter(None, map(_version, _PACKAGES))]),
        "switch interval of threads": f"{1_000 * sys.getswitchinterval():g} ms",
        "garbage collector": f"on, thresholds {gc.get_threshold()}; what the benchmark itself holds is frozen",
    }


def load() -> str:
    """Return the load averages of the machine, by which others who were using it can be noticed."""
    return ", ".join(f"{value:.2f}" for value in os.getloadavg())


def _first_of(path: str, key: str) -> str:
    lines = Path(path).read_text("utf-8").splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(key)), "0 unknown")


def _version(package: str) -> str | None:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return None


def _commit() -> str:
    git = shutil.which("git")
    if git is None:
        return ""
    command = [git, "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return f"({done.stdout.strip()})" if done.returncode == 0 else ""


def _file_system(directory: Path) -> str:
    """Return the type and the options of the mount that a directory is on."""
    best, found = -1, "unknown"
    for line in Path("/proc/self/mountinfo").read_text("utf-8").splitlines():
        left, _, right = line.partition(" - ")
        mount, options = left.split()[4:6]
        if directory.resolve().is_relative_to(mount) and len(mount) >= best:
            best, found = len(mount), f"{right.split()[0]} ({options})"
    return found
