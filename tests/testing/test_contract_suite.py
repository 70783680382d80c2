"""The suite of the contract does its work: a simple backend passes it, and each of several faults is found."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

# As somebody else writes it, who has nothing but the installed package.
BACKENDS = '''
import pickle
import shutil
import threading

import pytest

pytest.register_assert_rewrite("walstore.testing.contract")
from walstore import Cancelled, Finished, Scheduled, SchedulerPersistence, SchedulerPersistenceError, Started
from walstore.model.events import form_of
from walstore.testing.contract import PersistenceContract
from walstore.testing.model import apply


class FilePersistence(SchedulerPersistence):
    """Writes all jobs to one file at each call."""

    def __init__(self, path, clock):
        self.path, self.clock = path, clock
        self.lock = threading.Lock()
        self.closed = False
        self.jobs = pickle.loads(path.read_bytes()) if path.exists() else {}

    def record(self, event):
        form_of(event, 0)
        with self.lock:
            if self.closed:
                raise SchedulerPersistenceError("closed")
            apply(self.jobs, event)
            self.save()

    def save(self):
        self.path.write_bytes(pickle.dumps(self.jobs))

    def record_scheduled(self, id, schedule):
        self.record(Scheduled(id, schedule, self.clock()))

    def record_started(self, id, started_at):
        self.record(Started(id, started_at))

    def record_finished(self, id, finished_at, success):
        self.record(Finished(id, finished_at, success))

    def cancel(self, id):
        self.record(Cancelled(id))

    def load_all(self):
        with self.lock:
            if self.closed:
                raise SchedulerPersistenceError("closed")
            return list(self.jobs.values())

    def flush_checkpoint(self):
        self.load_all()

    def close(self):
        self.closed = True


class InFile(PersistenceContract):
    kind = FilePersistence
    jobs_many = 50
    examples = 5

    def open(self, path, clock):
        return self.kind(path, clock)

    def crash(self, store, path):
        crashed = path.with_name(path.name + "-crashed")
        return shutil.copy(path, crashed) if path.exists() else crashed


class TestGood(InFile):
    pass


class Reviving(FilePersistence):
    def record_finished(self, id, finished_at, success):
        form_of(Finished(id, finished_at, success), 0)
        if str(id) not in self.jobs:
            super().record_started(id, finished_at)
        super().record_finished(id, finished_at, success)


class TestReviving(InFile):
    kind = Reviving


class Keeping(FilePersistence):
    """What is cancelled comes back after a restart."""

    def cancel(self, id):
        self.save, save = lambda: None, self.save
        super().cancel(id)
        self.save = save


class TestKeeping(InFile):
    kind = Keeping


class Buffering(FilePersistence):
    """Writes when it is closed, and flushes nothing."""

    def save(self):
        pass

    def close(self):
        FilePersistence.save(self)
        super().close()


class TestBuffering(InFile):
    kind = Buffering


class Stale(FilePersistence):
    """Shows what was there before the last call."""

    before = ()

    def record(self, event):
        before = list(self.jobs.values())
        super().record(event)
        self.before = before

    def load_all(self):
        super().load_all()
        return list(self.before)


class TestStale(InFile):
    kind = Stale


class Open(FilePersistence):
    """Goes on after it was closed."""

    def close(self):
        pass


class TestOpen(InFile):
    kind = Open


class Trusting(FilePersistence):
    """Takes any outcome for a bool."""

    def record_finished(self, id, finished_at, success):
        super().record_finished(id, finished_at, bool(success))


class TestTrusting(InFile):
    kind = Trusting
'''


FAULTS = {
    "TestReviving": "test_table",
    "TestKeeping": "test_table",
    "TestBuffering": "test_a_crash_after_a_flush",
    "TestStale": "test_loading_while_others_record",
    "TestOpen": "test_closing",
    "TestTrusting": "test_wrong_arguments",
}
"""What must find each."""


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """How the tests of each class ended."""
    folder = tmp_path_factory.mktemp("backend")
    (folder / "test_backends.py").write_text(BACKENDS)
    arguments = ["-q", "-p", "no:cacheprovider", "--tb=no", "-rA", "--import-mode=importlib"]
    tests = ["test_backends.py::TestGood", *(f"test_backends.py::{fault}::{test}" for fault, test in FAULTS.items())]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *arguments, *tests], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stdout + done.stderr
    found: dict[str, set[str]] = {}
    for outcome, name in re.findall(r"^(PASSED|FAILED|ERROR) test_backends.py::(\w+)", done.stdout, re.MULTILINE):
        found.setdefault(name, set()).add(outcome)
    return found


def test_a_backend_that_does_all_passes(outcomes: dict[str, set[str]]) -> None:
    assert outcomes["TestGood"] == {"PASSED"}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found(outcomes: dict[str, set[str]], fault: str) -> None:
    assert "FAILED" in outcomes[fault]
