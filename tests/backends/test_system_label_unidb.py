"""``SystemLabelPersistence`` on the package ``uni-db``, where that can be loaded.

``on_unidb.py`` has the tests. They run in a child process, since the wheels of uni-db need glibc 2.38 and an older one
needs a library preloaded: three functions that it lacks, compiled here for this run.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from walstore import SchedulerPersistenceError
from walstore.backends.system_label_unidb import open_unidb, sync_file_system
from walstore.errors import StorageError

TESTS = Path(__file__).with_name("on_unidb.py")

# What glibc 2.38 calls the functions that C23 has changed (they read "0b101" as well, which nobody writes there).
SHIM = """
#include <stdlib.h>
long __isoc23_strtol(const char *text, char **end, int base) { return strtol(text, end, base); }
long long __isoc23_strtoll(const char *text, char **end, int base) { return strtoll(text, end, base); }
unsigned long long __isoc23_strtoull(const char *text, char **end, int base) { return strtoull(text, end, base); }
"""

# What the real package is not needed for, or takes long: `make test-unidb` runs it on the package as well.
SLICE = "not wrong_arguments and not straight and not threads and not loading_while"


def why_not(environment: dict[str, str]) -> str:
    """Why uni-db can't be imported in this environment; empty where it can."""
    found = subprocess.run(
        [sys.executable, "-c", "import uni_db"], env=environment, capture_output=True, text=True, check=False
    )
    return "" if found.returncode == 0 else (found.stderr.splitlines() or [f"exit code {found.returncode}"])[-1]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a process that can import uni-db."""
    plain = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    reason = why_not(plain)
    if "__isoc23_" in reason or "GLIBC_2.38" in reason:
        home = tmp_path_factory.mktemp("shim")
        (home / "shim.c").write_text(SHIM)
        try:
            subprocess.run(["cc", "-shared", "-fPIC", "-o", home / "shim.so", home / "shim.c"], check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"uni-db needs glibc 2.38 here, or a compiler ({error})")
        plain["LD_PRELOAD"] = str(home / "shim.so")
        reason = why_not(plain)
    if reason:
        pytest.skip(f"uni-db can't be imported: {reason}")
    return plain


def test_on_the_real_package(environment: dict[str, str], tmp_path: Path, pytestconfig: pytest.Config) -> None:
    everything = os.environ.get("WALSTORE_UNIDB_TESTS") == "all"
    options = [] if everything else ["-k", SLICE]
    done = subprocess.run(
        [
            *[sys.executable, "-m", "pytest", "-c", str(pytestconfig.inipath), f"--rootdir={pytestconfig.rootpath}"],
            *["-p", "no:cacheprovider", "--benchmark-disable", f"--basetemp={tmp_path / 'temp'}", "-q", *options],
            str(TESTS),
        ],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    sys.stdout.write(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_sync_that_fails_is_an_error(tmp_path: Path) -> None:
    sync_file_system(str(tmp_path))
    with pytest.raises(StorageError, match=r"syncing the file system of .*/none"):
        sync_file_system(str(tmp_path / "none"))


def test_what_is_not_of_this_machine_is_refused() -> None:
    with pytest.raises(SchedulerPersistenceError, match="no directory of this machine"):
        open_unidb("s3://bucket/graph")
    with pytest.raises(TypeError, match="durability"):
        open_unidb("graph", durability="power")  # type: ignore[arg-type]
