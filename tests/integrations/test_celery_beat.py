"""Real ``celery beat`` processes: killed and started again, two at once, asked to end, and on a damaged store."""

from __future__ import annotations

import inspect
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import entry_points
from pathlib import Path

import pytest

pytest.importorskip("celery", reason="Celery is not installed")

from fuzz import celery_victim
from fuzz.celery_beats import Messages, Seen, read_store
from fuzz.celery_kill import judge

WAIT_S = 60.0

Beat = subprocess.Popen[bytes]
StartBeat = Callable[[], Beat]


@pytest.fixture
def start_beat(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[StartBeat]:
    """Start ``celery beat -S walstore`` in the directory of the test; what it says is in the file ``log``.

    With a parameter, that is added to the application.
    """
    assert entry_points(group="celery.beat_schedulers", name="walstore"), "walstore is not installed here"
    victim = inspect.getsource(celery_victim) + "\napp = application(Path.cwd())\n"
    (tmp_path / "victim.py").write_text(victim + getattr(request, "param", ""))
    beats: list[Beat] = []

    def start() -> Beat:
        (tmp_path / "log").unlink(missing_ok=True)
        with (tmp_path / "log").open("wb") as log:
            command = [sys.executable, "-W", "error", "-m", "celery", "-q", "-A", "victim", "beat"]
            command += ["-S", "walstore", "-s", "schedule", "-l", "INFO"]
            beats.append(subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=log))
        return beats[-1]

    yield start
    for beat in beats:
        beat.kill()
        beat.wait()


def wait_until(is_true: Callable[[], bool], beat: Beat, directory: Path) -> None:
    deadline = time.monotonic() + WAIT_S
    while not is_true():
        assert beat.poll() is None, (directory / "log").read_text()
        assert time.monotonic() < deadline, (directory / "log").read_text()
        time.sleep(0.01)


def messages_in(directory: Path) -> int:
    folder = directory / celery_victim.MESSAGES
    return len(list(folder.iterdir())) if folder.is_dir() else 0


def contents_of(directory: Path) -> Mapping[str, bytes]:
    return {file.name: file.read_bytes() for file in directory.iterdir()}


def test_beat_is_killed_and_goes_on(tmp_path: Path, start_beat: StartBeat) -> None:
    messages = Messages(tmp_path)
    before: Mapping[str, Seen] = {}
    for number in range(3):
        beat = start_beat()
        wait_until(lambda: messages_in(tmp_path) >= 8, beat, tmp_path)
        beat.send_signal(signal.SIGKILL if number else signal.SIGTERM)
        assert beat.wait(WAIT_S) == (-signal.SIGKILL if number else 0)
        after = read_store(tmp_path)
        assert judge(before, after, messages.collect(), (tmp_path / "log").read_text()) == ""
        before = after
    assert all(before[task].runs >= 3 for task in celery_victim.PERIODS_S if task != "run.slow")


def test_a_second_beat_is_refused_and_the_first_goes_on(tmp_path: Path, start_beat: StartBeat) -> None:
    first = start_beat()
    wait_until(lambda: messages_in(tmp_path) >= 1, first, tmp_path)
    second = start_beat()
    assert second.wait(WAIT_S) == 1
    said = (tmp_path / "log").read_text()
    assert f"schedule is open for writing in process {first.pid}" in said
    assert "Sending due task" not in said
    sent = messages_in(tmp_path)
    wait_until(lambda: messages_in(tmp_path) > sent, first, tmp_path)


def test_a_damaged_store_stops_beat_and_is_left_as_it_is(tmp_path: Path, start_beat: StartBeat) -> None:
    beat = start_beat()
    wait_until(lambda: messages_in(tmp_path) >= 3, beat, tmp_path)
    beat.terminate()
    beat.wait(WAIT_S)
    newest = max((tmp_path / "schedule").glob("*.wal"))
    damaged = bytearray(newest.read_bytes())
    # The middle of what was recorded, in a file that is longer.
    damaged[len(damaged.rstrip(b"\0")) // 2] ^= 1
    newest.write_bytes(damaged)
    before = contents_of(tmp_path / "schedule")
    beat = start_beat()
    assert beat.wait(WAIT_S) == 1
    said = (tmp_path / "log").read_text()
    assert "CorruptionError" in said
    assert newest.name in said
    assert "Sending due task" not in said
    assert contents_of(tmp_path / "schedule") == before


BLOCKED = """
from celery.beat import BeatLazyFunc

def block():
    if not Path("released").exists():
        Path("blocked").touch()
        import threading
        threading.Event().wait()
    return "released"

app.conf.beat_schedule = {"blocked": {"task": "run.blocked", "schedule": 0.1, "args": [BeatLazyFunc(block)]}}
"""


@pytest.mark.parametrize("start_beat", [BLOCKED], indirect=True)
def test_a_beat_that_is_asked_to_end_while_it_sends_makes_the_run_again(tmp_path: Path, start_beat: StartBeat) -> None:
    beat = start_beat()
    wait_until((tmp_path / "blocked").exists, beat, tmp_path)
    beat.terminate()
    assert beat.wait(WAIT_S) == 0
    found = read_store(tmp_path)["blocked"]
    assert (found.runs, found.is_orphaned) == (0, True)
    (tmp_path / "released").touch()
    beat = start_beat()
    wait_until(lambda: read_store(tmp_path)["blocked"].runs > 0, beat, tmp_path)
    assert "run 1 of 'blocked' was cut off" in (tmp_path / "log").read_text()


@pytest.mark.skipif(shutil.which("redis-server") is None, reason="there is no redis-server on the PATH")
def test_beat_is_killed_and_goes_on_over_redis(
    tmp_path: Path, start_beat: StartBeat, monkeypatch: pytest.MonkeyPatch
) -> None:
    redis = pytest.importorskip("redis", reason="the package redis is not installed")
    socket = tmp_path / "redis.sock"
    options = ["--port", "0", "--unixsocket", str(socket), "--save", "", "--dir", str(tmp_path)]
    server = subprocess.Popen(["redis-server", *options], stdout=subprocess.DEVNULL)
    try:
        wait_until(socket.exists, server, tmp_path)
        monkeypatch.setenv("VICTIM_BROKER", f"redis+socket://{socket}")
        with redis.Redis(unix_socket_path=str(socket)) as client:
            before: Mapping[str, Seen] = {}
            for _ in range(2):
                beat = start_beat()
                wait_until(lambda: int(client.llen("celery")) >= 8, beat, tmp_path)
                beat.kill()
                beat.wait(WAIT_S)
                sent: dict[str, int] = {}
                for message in client.lpop("celery", 1_000_000):
                    task = json.loads(message)["headers"]["task"]
                    sent[task] = sent.get(task, 0) + 1
                after = read_store(tmp_path)
                assert judge(before, after, sent, (tmp_path / "log").read_text()) == ""
                before = after
    finally:
        server.kill()
        server.wait()
