"""Large merges in a process of their own: killed, unable to begin, out of space, writing garbage, orphaned."""

from __future__ import annotations

import errno
import gc
import os
import re
import signal
import stat
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from importlib import import_module
from io import StringIO
from pathlib import Path

import pytest

import walstore
from walstore import Periodic, Scheduled, Started, StoreStats, WalOptions, WalPersistence
from walstore.engine import worker
from walstore.engine.environment import Worker
from walstore.errors import CorruptionError, StorageError, StorageFullError, StoreClosedError
from walstore.format.layout import HEADER_BYTES, Header
from walstore.fs import os_fs
from walstore.fs.api import File
from walstore.fs.os_process import start_worker
from walstore.wal import os_environment

OPTIONS = WalOptions(small_store_bytes=1, sync_interval_ns=3_600_000_000_000)
"""Everything is large, and nothing is compacted unless it is asked for, however slow the machine."""
JOBS = 2000
_DEADLINE_S = 30.0

Task = Mapping[str, str | int]


def fill(store: WalPersistence, at_ns: int = 1) -> None:
    store.record_many(Scheduled(f"job.number{number:04d}", Periodic(every_ns=7)) for number in range(JOBS))
    store.record_many(Started(f"job.number{number:04d}", at_ns + number) for number in range(JOBS))


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + _DEADLINE_S
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.002)


def names(path: Path, pattern: str) -> list[str]:
    return sorted(entry.name for entry in path.glob(pattern))


@dataclass
class Workers:
    """Starts workers, and does something to each before anybody waits for it."""

    then: Callable[[Worker, Task], None] = lambda _worker, _task: None
    function: str | None = None
    started: int = 0

    def __call__(self, function: str, task: Task) -> Worker:
        assert start_worker is not None
        worker = start_worker(self.function or function, task)
        self.started += 1
        self.then(worker, task)
        return worker


class WorkerHere:
    """Does its task in this process, at once."""

    def __init__(self, function: str, task: Task) -> None:
        module, _, name = function.partition(":")
        printed = StringIO()
        with redirect_stdout(printed):
            try:
                getattr(import_module(module), name)({**task, "parent": os.getppid()})
            finally:
                gc.enable()
        self._printed = printed.getvalue()

    def output(self) -> str:
        return self._printed

    def kill(self) -> None:
        """It has ended."""

    def close(self) -> None:
        """It has ended."""


def opened(path: Path, workers: Callable[[str, Task], Worker], options: WalOptions = OPTIONS) -> WalPersistence:
    return WalPersistence(path, options=options, environment=replace(os_environment(), start_worker=workers))


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "store"
    assert names(tmp_path / "store", "*.tmp") == []


def after_a_failure(store: WalPersistence, path: Path, expected: object) -> StoreStats:
    """Check that nothing was published and nothing lost, and that the next attempt succeeds; return the figures."""
    assert names(path, "*.snap") == []
    assert store.load_all() == expected
    stats = store.stats()
    store.flush_checkpoint(compact=True)
    assert store.stats().last_background_error is None
    assert store.load_all() == expected
    assert len(names(path, "*.snap")) == len(names(path, "log-*")) == 1
    return stats


def test_a_large_merge_is_done_by_a_worker_and_a_small_one_is_not(path: Path) -> None:
    workers = Workers()
    with opened(path, workers, replace(OPTIONS, small_store_bytes=1 << 30)) as store:
        fill(store)
        store.flush_checkpoint(compact=True)
        assert workers.started == 0
    with opened(path, workers) as store:
        fill(store, 5)
        expected = store.load_all()
        store.flush_checkpoint(compact=True)
        assert workers.started == 1
        assert sorted(store.load_all(), key=repr) == sorted(expected, key=repr)
        (name,) = names(path, "*.snap")
        assert stat.S_IMODE((path / name).stat().st_mode) == 0o600
        assert len(names(path, "log-*")) == 1
        assert store.stats().snapshot_bytes == (path / name).stat().st_size
    with WalPersistence(path, read_only=True) as again:
        assert sorted(again.load_all(), key=repr) == sorted(expected, key=repr)


@pytest.mark.mutation
def test_what_a_worker_does_is_a_whole_snapshot(path: Path) -> None:
    with opened(path, WorkerHere) as store:
        fill(store)
        store.flush_checkpoint(compact=True)
        fill(store, 5)
        expected = sorted(store.load_all(), key=repr)
        store.flush_checkpoint(compact=True)
        assert len(names(path, "*.snap")) == len(names(path, "log-*")) == 1
    with WalPersistence(path, read_only=True) as again:
        assert again.recovery.events_replayed == 0
        assert sorted(again.load_all(), key=repr) == expected


@pytest.mark.mutation
def test_a_worker_says_what_the_operating_system_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(_file: File, _offset: int, _data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "the file")

    def start(function: str, task: Task) -> Worker:
        with monkeypatch.context() as patched:
            patched.setattr(os_fs._OsFile, "write", write)
            return WorkerHere(function, task)

    with opened(path, start) as store:
        fill(store)
        expected = store.load_all()
        with pytest.raises(StorageFullError, match=r"no space left while compacting .*\(the file\)"):
            store.flush_checkpoint(compact=True)
        assert names(path, "*.snap") == []
        assert store.load_all() == expected


@pytest.mark.mutation
def test_a_worker_whose_parent_has_ended_leaves_and_one_of_another_store_refuses(path: Path) -> None:
    tasks: list[Task] = []

    def start(function: str, task: Task) -> Worker:
        tasks.append(task)
        return WorkerHere(function, task)

    with opened(path, start) as store:
        fill(store)
        store.flush_checkpoint(compact=True)
        (task,) = tasks
        (path / str(task["temporary"])).touch()
        with pytest.raises(SystemExit, match="has ended"), redirect_stdout(StringIO()):
            worker.main(task)  # Its parent would be this very process.
        gc.enable()
        header = Header.decode(bytes.fromhex(str(task["header"])))
        foreign = replace(header, store_id=bytes(16)).encode().hex()
        with pytest.raises(StorageError, match="holds another store"):
            WorkerHere("walstore.engine.worker:main", {**task, "header": foreign})
        (path / str(task["temporary"])).unlink()


class Printed(WorkerHere):
    """A worker that has printed this."""

    def __init__(self, printed: str) -> None:
        self._printed = printed


@pytest.mark.mutation
@pytest.mark.parametrize("before", ["", "a warning\n", '{"refused": [28, "?"]}\n'])
def test_the_last_line_of_what_a_worker_printed_is_its_answer(before: str) -> None:
    assert worker.answer_of(Printed(before + '{"done": true}\n'), "/jobs") is None
    with pytest.raises(OSError, match="no space") as refused:
        worker.answer_of(Printed(before + '{"refused": [28, "no space"]}'), "/jobs")
    assert (refused.value.errno, refused.value.strerror) == (28, "no space")
    with pytest.raises(CorruptionError) as found:
        worker.answer_of(
            Printed(before + '{"corruption": {"what": "a bit", "path": "/jobs/log", "offset": 5, "lsn": 77}}'), "/jobs"
        )
    assert (found.value.what, found.value.path, found.value.offset, found.value.lsn) == ("a bit", "/jobs/log", 5, 77)


@pytest.mark.mutation
@pytest.mark.parametrize(
    "printed",
    [
        "",
        "Killed",
        '{"done": false}',
        '{"done": true}\nand then',
        '{"refused": ["28", "x"]}',
        '{"refused": [28]}',
        "[]",
    ],
)
def test_a_worker_that_gave_no_answer_is_quoted(printed: str) -> None:
    said = worker.answer_of(Printed(printed), "/jobs")
    assert said is not None
    assert said.startswith("the process that compacts /jobs ended before it was done: it was killed, or can't be ")
    assert said.endswith(f"The end of what it printed: {printed!r}")


@pytest.mark.mutation
def test_of_a_long_output_without_an_answer_the_end_is_quoted() -> None:
    said = worker.answer_of(Printed("a" * 600 + "b" * 499 + "c"), "/jobs")
    assert said is not None
    assert said.endswith("printed: " + repr("b" * 499 + "c"))


@pytest.mark.mutation
def test_damage_of_the_log_that_a_worker_finds_is_told_with_its_place(path: Path) -> None:
    with opened(path, WorkerHere) as store:
        fill(store)
        (name,) = names(path, "log-*")
        with (path / name).open("r+b") as file:
            file.seek(HEADER_BYTES + 40)
            file.write(b"?")
        with pytest.raises(CorruptionError) as found:
            store.flush_checkpoint(compact=True)
        base_lsn = int(name.split("-")[1], 16)
        place = (found.value.path, found.value.offset, found.value.lsn)
        assert place == (str(path / name), HEADER_BYTES, base_lsn + HEADER_BYTES)


def test_a_checkpoint_that_is_due_starts_a_worker_and_close_waits_for_it(path: Path) -> None:
    workers = Workers()
    with opened(path, workers) as store:
        fill(store)
        expected = store.load_all()
        store.flush_checkpoint()
    assert workers.started == 1
    assert len(names(path, "*.snap")) == 1
    with WalPersistence(path, read_only=True) as again:
        assert again.load_all() == expected


@pytest.mark.mutation
@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGTERM])
def test_a_worker_that_is_killed_loses_nothing_and_the_next_attempt_does_without(
    path: Path, signal_number: int
) -> None:
    def kill(worker: Worker, _task: Task) -> None:
        os.kill(worker._process.pid, signal_number)  # type: ignore[attr-defined]

    workers = Workers(kill)
    with opened(path, workers) as store:
        fill(store)
        expected = store.load_all()
        with pytest.raises(StorageError, match="ended before it was done"):
            store.flush_checkpoint(compact=True)
        after_a_failure(store, path, expected)
        assert workers.started == 1
        # And the one after that tries again with one.
        workers.then = lambda _worker, _task: None
        fill(store, 9)
        store.flush_checkpoint(compact=True)
        assert workers.started == 2


@pytest.mark.mutation
def test_a_worker_that_is_killed_while_nobody_waits_shows_in_the_figures(path: Path) -> None:
    with opened(path, Workers(lambda worker, _task: worker.kill())) as store:
        fill(store)
        expected = store.load_all()
        store.flush_checkpoint()
        wait_for(lambda: store.stats().last_background_error is not None)
        stats = after_a_failure(store, path, expected)
        assert "ended before it was done" in str(stats.last_background_error)


@pytest.mark.mutation
def test_where_no_process_can_be_started_a_thread_does_the_merge_the_next_time(path: Path) -> None:
    def refuse(_function: str, _task: Task) -> Worker:
        raise OSError(11, "Resource temporarily unavailable")

    environment = replace(os_environment(), start_worker=refuse)
    with WalPersistence(path, options=OPTIONS, environment=environment) as store:
        fill(store)
        expected = store.load_all()
        with pytest.raises(StorageError, match="temporarily unavailable while starting a process"):
            store.flush_checkpoint(compact=True)
        after_a_failure(store, path, expected)


@pytest.mark.parametrize("function", ["walstore.nowhere:main", "walstore.engine.worker:nothing", "json:dumps"])
def test_a_worker_that_does_not_answer_says_what_it_printed(path: Path, function: str) -> None:
    with opened(path, Workers(function=function)) as store:
        fill(store)
        expected = store.load_all()
        with pytest.raises(StorageError, match="ended before it was done") as caught:
            store.flush_checkpoint(compact=True)
        assert function.startswith("json") or "Error" in str(caught.value)
        after_a_failure(store, path, expected)


BAD_WORKER = """
import json, sys
from pathlib import Path

def main(task):
    path = Path(task["directory"]) / task["temporary"]
    header = bytes.fromhex(task["header"])
    {spoil}
    print("noise")
    print(json.dumps({{"done": True}}))
"""

SPOILS = {
    "nothing written": "pass",
    "other bytes": "path.write_bytes(b'x' * 100_000)",
    "a header alone": "path.write_bytes(header)",
    "another header": "real(task); path.write_bytes(path.read_bytes().replace(header, header[:72] + bytes(32)))",
    "cut short": "real(task); path.write_bytes(path.read_bytes()[:-8])",
    "too long": "real(task); path.write_bytes(path.read_bytes() + bytes(8))",
    "trailer damaged": "real(task); data = path.read_bytes(); path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))",
    "index damaged": "real(task); data = path.read_bytes(); path.write_bytes(data[:-50] + b'?' + data[-49:])",
}


@pytest.mark.parametrize(
    "spoil", [pytest.param(spoil, marks=[pytest.mark.mutation] * (spoil == "too long")) for spoil in SPOILS]
)
def test_what_a_worker_wrote_is_looked_at_before_it_has_a_name(
    path: Path, spoil: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = "from contextlib import redirect_stdout\nfrom io import StringIO\n\ndef real(task):\n"
    real += "    from walstore.engine.worker import main\n    with redirect_stdout(StringIO()):\n        main(task)\n"
    (tmp_path / "bad_worker.py").write_text(real + BAD_WORKER.format(spoil=SPOILS[spoil]))
    monkeypatch.syspath_prepend(tmp_path)
    with opened(path, Workers(function="bad_worker:main")) as store:
        fill(store)
        expected = store.load_all()
        with pytest.raises(StorageError, match="does not read back as it was to be written"):
            store.flush_checkpoint(compact=True)
        after_a_failure(store, path, expected)


@pytest.mark.mutation
def test_a_full_disk_in_a_worker_is_a_full_disk(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "small_disk.py").write_text(
        textwrap.dedent("""
        import resource, signal

        def main(task):
            from walstore.engine import worker
            from walstore.fs import os_fs

            def write(self, offset, data):
                raise OSError(28, "No space left on device")

            os_fs._OsFile.write = write
            worker.main(task)
        """)
    )
    monkeypatch.syspath_prepend(tmp_path)
    workers = Workers(function="small_disk:main")
    with opened(path, workers) as store:
        fill(store)
        expected = store.load_all()
        with pytest.raises(StorageFullError, match="no space left while compacting"):
            store.flush_checkpoint(compact=True)
        # Whoever said what was wrong could work, so the next attempt has a worker as well.
        workers.function = None
        after_a_failure(store, path, expected)
        assert workers.started == 2


@pytest.mark.parametrize("start", [Workers(), pytest.param(WorkerHere, marks=pytest.mark.mutation)])
def test_damage_that_a_worker_finds_is_told_as_such(path: Path, start: Callable[[str, Task], Worker]) -> None:
    with opened(path, start) as store:
        fill(store)
        store.flush_checkpoint(compact=True)
        (name,) = names(path, "*.snap")
        with (path / name).open("r+b") as file:
            file.seek(5000)
            file.write(b"?" * 16)
        store.record_started("job.number0001", 1)
        with pytest.raises(CorruptionError, match="does not verify") as caught:
            store.flush_checkpoint(compact=True)
        assert caught.value.path == str(path / name)
        assert 0 < (caught.value.offset or 0) <= 5000
        assert names(path, "*.snap") == [name]


def test_closing_from_a_signal_handler_ends_the_worker_that_its_thread_waits_for(path: Path) -> None:
    def stop(worker: Worker, _task: Task) -> None:
        os.kill(worker._process.pid, signal.SIGSTOP)  # type: ignore[attr-defined]
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGUSR1)).start()

    store = opened(path, Workers(stop))
    before = signal.signal(signal.SIGUSR1, lambda *_: store.close())
    try:
        fill(store)
        with pytest.raises(StoreClosedError):
            store.flush_checkpoint(compact=True)
    finally:
        signal.signal(signal.SIGUSR1, before)
        store.close()
    assert names(path, "*.snap") == []


@pytest.mark.signals
def test_ctrl_c_ends_the_waiting_and_the_worker(path: Path) -> None:
    begun: list[int] = []

    def interrupt(worker: Worker, _task: Task) -> None:
        begun.append(worker._process.pid)  # type: ignore[attr-defined]
        os.kill(begun[0], signal.SIGSTOP)
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()

    with opened(path, Workers(interrupt)) as store:
        fill(store)
        with pytest.raises(KeyboardInterrupt):
            store.flush_checkpoint(compact=True)
        with pytest.raises(ProcessLookupError):
            os.kill(begun[0], 0)
        assert len(store.load_all()) == JOBS


def test_a_worker_inherits_no_descriptor_and_no_environment(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "looking.py").write_text(
        "import os, sys\n"
        "def main(task):\n"
        "    print(sorted(map(int, os.listdir('/proc/self/fd'))), os.getcwd(), os.getpgid(0) == os.getpid(), "
        "sys.flags.isolated)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONHOME", "/nowhere")
    leaked = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(leaked, True)
    try:
        with opened(path, Workers(function="looking:main")) as store:
            fill(store)
            with pytest.raises(StorageError, match=re.escape("[0, 1, 2, 3] / True 1")):
                store.flush_checkpoint(compact=True)
    finally:
        os.close(leaked)


def test_the_working_directory_may_have_changed_or_gone(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with opened(Path("store"), Workers()) as store:
        fill(store)
        gone = tmp_path / "gone"
        gone.mkdir()
        monkeypatch.chdir(gone)
        gone.rmdir()
        store.flush_checkpoint(compact=True)
        assert len(names(path, "*.snap")) == 1
    monkeypatch.chdir(tmp_path)


ORPHAN = """
import os, signal, sys
from dataclasses import replace
from walstore import WalPersistence, WalOptions, Started
from walstore.fs.os_process import start_worker
from walstore.wal import os_environment

def start(function, task):
    worker = start_worker(function, task)
    if sys.argv[2] == "stopped":
        os.kill(worker._process.pid, signal.SIGSTOP)
    print(worker._process.pid, flush=True)
    return worker

environment = replace(os_environment(), start_worker=start)
store = WalPersistence(sys.argv[1], options=WalOptions(small_store_bytes=1), environment=environment)
for number in range(200):
    store.record_many([Started(f"job.number{number:04d}.{one}", number) for one in range(500)])
print("recorded", flush=True)
store.flush_checkpoint(compact=True)
print("compacted", flush=True)
"""


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize("how", ["running", "stopped"])
def test_an_orphaned_worker_ends_and_publishes_nothing(path: Path, tmp_path: Path, how: str) -> None:
    script = tmp_path / "parent.py"
    script.write_text(ORPHAN)
    environment = {**os.environ, "PYTHONPATH": str(Path(walstore.__file__).parent.parent)}
    with subprocess.Popen(
        [sys.executable, str(script), str(path), how], stdout=subprocess.PIPE, text=True, env=environment
    ) as parent:
        assert parent.stdout is not None
        lines: list[str] = []
        # The checkpoint may come before the end of the recording, on its own.
        while not any(line.isdigit() for line in lines):
            lines.append(parent.stdout.readline().strip())
        parent.kill()
    (pid,) = (int(line) for line in lines if line.isdigit())
    before = names(path, "*.snap")
    assert before == []
    if how == "stopped":
        # Until now it could do nothing. The next opening clears its files away before it goes on.
        with opened(path, Workers(), replace(OPTIONS, small_store_bytes=1 << 40)) as store:
            assert [name for name in names(path, "*.tmp") if not name.startswith("next-")] == []
            os.kill(pid, signal.SIGCONT)
            wait_for(lambda: not is_running(pid))
            assert len(store.load_all()) % 500 == 0
    wait_for(lambda: not is_running(pid))
    assert names(path, "*.snap") == []
    with opened(path, Workers()) as store:
        assert len(store.load_all()) % 500 == 0
