"""Real processes: killed, forked, interrupted, two at once. What survives is what the durability level says."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
import warnings
from dataclasses import replace
from pathlib import Path

import pytest

from walstore import Durability, Started, WalOptions, WalPersistence
from walstore.engine.recovery import Situation
from walstore.engine.watch import Watched, _close_forgotten
from walstore.errors import FencedError, ForkedProcessError, StoreLockedError, StoreNotFoundError
from walstore.fs.api import File, Lock
from walstore.fs.os_fs import OsFileSystem
from walstore.wal import os_environment


def run_child(code: str, *arguments: str, expect: int = 0, measured: bool = True) -> str:
    # The lock of coverage.py is not one that a signal handler may come upon: such children are not measured.
    environment = {name: value for name, value in os.environ.items() if measured or name != "COVERAGE_PROCESS_CONFIG"}
    finished = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert finished.returncode == expect, finished.stderr
    return finished.stdout


RECORD_UNTIL_KILLED = """
    import sys
    from walstore import Durability, WalOptions, WalPersistence
    options = WalOptions(segment_bytes_min=1024, segment_bytes_max=8192, small_store_bytes=65536)
    store = WalPersistence(sys.argv[1], durability=Durability(sys.argv[2]), options=options)
    known = {str(record.id): record.consecutive_failures for record in store.load_all()}
    if not known:
        store.record_started("job.counter", 0)
    count = known.get("job.counter", 0)
    while True:
        store.record_finished("job.counter", count, False)
        count += 1
        if count % 100 == 0:
            store.flush_checkpoint(compact=count % 300 == 0)
            print("flushed", count, flush=True)
        print(count, flush=True)
"""


@pytest.mark.parametrize("durability", list(Durability))
def test_sigkill_again_and_again(tmp_path: Path, durability: Durability) -> None:
    path = tmp_path / "jobs"
    for generation in range(4):
        acknowledged, flushed = 0, 0
        with subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(RECORD_UNTIL_KILLED), str(path), durability.value],
            stdout=subprocess.PIPE,
            text=True,
        ) as child:
            assert child.stdout is not None
            for number, line in enumerate(child.stdout):
                if line.startswith("flushed"):
                    flushed = int(line.split()[1])
                elif line.strip():
                    acknowledged = int(line)
                if number == 130 + 97 * generation:
                    child.kill()
        assert child.returncode == -signal.SIGKILL
        for _ in range(2):  # Recovering twice gives the same.
            with WalPersistence(path) as store:
                (record,) = store.load_all()
            least = flushed if durability is Durability.BUFFERED else acknowledged
            # The last line may be cut by the kill, and one more call may have been under way.
            assert least <= record.consecutive_failures <= acknowledged + 2


def test_a_store_left_open_is_closed_at_exit_with_a_warning(tmp_path: Path) -> None:
    code = """
        import sys
        from walstore import Durability, Started, WalOptions, WalPersistence
        store = WalPersistence(sys.argv[1], durability=Durability.BUFFERED)
        store.record_started("job.a", 1)
    """
    finished = subprocess.run(
        [sys.executable, "-W", "always", "-c", textwrap.dedent(code), str(tmp_path / "jobs")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "ResourceWarning" in finished.stderr
    assert "never closed" in finished.stderr
    with WalPersistence(tmp_path / "jobs") as store:
        assert store.recovery.situation is Situation.CLEAN
        assert [record.last_started_at_ns for record in store.load_all()] == [1]


def test_a_forgotten_store_is_closed_with_a_warning(tmp_path: Path) -> None:
    store = WalPersistence(tmp_path / "jobs", durability=Durability.BUFFERED)
    store.record_started("job.a", 1)
    with pytest.warns(ResourceWarning, match="never closed"):
        del store
    with WalPersistence(tmp_path / "jobs") as again:
        assert len(again.load_all()) == 1


@pytest.mark.mutation
@pytest.mark.parametrize("durability", list(Durability))
def test_a_forked_child_can_not_use_the_store_and_harms_nothing(tmp_path: Path, durability: Durability) -> None:
    with WalPersistence(tmp_path / "jobs", durability=durability) as store:
        store.record_started("job.parent", 1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # Forking beside threads is what is tested.
            child = os.fork()
        if child == 0:
            status = 1
            try:
                refused = 0
                for call in (
                    lambda: store.record_started("job.child", 2),
                    store.load_all,
                    store.sync,
                    store.flush_checkpoint,
                    store.stats,
                ):
                    try:
                        call()
                    except ForkedProcessError:
                        refused += 1
                store.close()
                status = 0 if refused == 5 else 2
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        # The child neither unlocked the store nor wrote to it.
        with pytest.raises(StoreLockedError):
            WalPersistence(tmp_path / "jobs")
        store.record_started("job.parent", 3)
        assert [str(record.id) for record in store.load_all()] == ["job.parent"]
    with WalPersistence(tmp_path / "jobs") as again:
        assert [record.last_started_at_ns for record in again.load_all()] == [3]


@pytest.mark.mutation
def test_a_second_process_is_refused_by_name_and_can_read(tmp_path: Path) -> None:
    with WalPersistence(tmp_path / "jobs") as store:
        store.record_started("job.a", 1)
        said = run_child(
            """
            import sys
            from walstore import WalPersistence
            from walstore.errors import StoreLockedError
            try:
                WalPersistence(sys.argv[1])
            except StoreLockedError as error:
                print(error)
            with WalPersistence(sys.argv[1], read_only=True) as reader:
                print(len(reader.load_all()))
            """,
            str(tmp_path / "jobs"),
        )
    assert f"process {os.getpid()}" in said
    assert said.splitlines()[-1] == "1"


def test_closing_at_once_waits_for_the_compaction_that_opening_began(tmp_path: Path) -> None:
    """However short an opening is, a log that has outgrown its bound is compacted by the end of it."""
    options = WalOptions(small_store_bytes=1024)
    for attempt in range(20):
        path = tmp_path / f"jobs{attempt}"
        with WalPersistence(path, options=WalOptions(small_store_bytes=1 << 30)) as store:
            store.record_many(Started(f"job.number{number}", number) for number in range(5000))
        WalPersistence(path, options=options).close()
        with WalPersistence(path) as store:
            assert store.recovery.situation is Situation.CLEAN
            assert store.recovery.events_replayed == 0
            assert len(store.load_all()) == 5000


def test_a_reader_beside_a_busy_writer_sees_a_prefix_and_never_damage(tmp_path: Path) -> None:
    path = tmp_path / "jobs"
    WalPersistence(path).close()
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(RECORD_UNTIL_KILLED), str(path), "process"],
        stdout=subprocess.DEVNULL,
    ) as child:
        seen = [0]
        while seen[-1] < 2000:
            with WalPersistence(path, read_only=True) as reader:
                for _ in range(3):
                    seen += [record.consecutive_failures for record in reader.load_all()]
                    seen += [record.consecutive_failures for record in reader.iter_jobs()]
        child.kill()
    assert seen == sorted(seen)


def test_a_forgotten_store_is_closed_where_warnings_are_errors(tmp_path: Path) -> None:
    code = """
        import sys
        from walstore import Durability, WalPersistence
        store = WalPersistence(sys.argv[1], durability=Durability.BUFFERED)
        store.record_started("job.a", 1)
    """
    subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code), str(tmp_path / "jobs")],
        stderr=subprocess.DEVNULL,
        check=False,
    )
    with WalPersistence(tmp_path / "jobs") as store:
        assert len(store.load_all()) == 1


@pytest.mark.mutation
def test_a_directory_that_was_moved_away_is_noticed_and_its_successor_left_alone(tmp_path: Path) -> None:
    options = WalOptions(segment_bytes_min=1024, segment_bytes_max=1024)
    first = WalPersistence(tmp_path / "jobs", options=options)
    first.record_started("job.first", 1)
    first.sync()
    (tmp_path / "jobs").rename(tmp_path / "moved")
    first.record_started("job.first", 2)
    with pytest.raises(FencedError, match="moved, removed or replaced"):
        first.sync()
    with WalPersistence(tmp_path / "jobs") as second:
        second.record_started("job.second", 1)
        with pytest.raises(FencedError):
            for at_ns in range(100):
                first.record_started("job.first", at_ns)
        with pytest.raises(FencedError):
            first.flush_checkpoint(compact=True)
        with pytest.raises(FencedError):
            first.close()
    for path, name in (("jobs", "job.second"), ("moved", "job.first")):
        with WalPersistence(tmp_path / path) as store:
            assert [str(record.id) for record in store.load_all()] == [name]


def test_however_often_a_store_is_opened_its_files_are_few(tmp_path: Path) -> None:
    for at_ns in range(60):
        with WalPersistence(tmp_path / "jobs") as store:
            store.record_started("job.a", at_ns)
        with WalPersistence(tmp_path / "jobs"):
            """Nothing is recorded."""
        assert len(list((tmp_path / "jobs").iterdir())) <= 20
    with WalPersistence(tmp_path / "jobs") as store:
        assert [record.last_started_at_ns for record in store.load_all()] == [59]


@pytest.mark.mutation
@pytest.mark.filterwarnings("ignore:.*never closed:ResourceWarning")
def test_a_store_that_its_own_thread_finds_forgotten_is_closed_by_another(tmp_path: Path) -> None:
    """The garbage collector may run in the keeper, in the middle of what closing waits for."""
    store = WalPersistence(tmp_path / "jobs", durability=Durability.BUFFERED)
    store.record_started("job.a", 1)
    inner = store._store
    assert inner is not None
    store._finalizer.detach()
    inner._keeper.call(lambda: _close_forgotten(inner))
    for thread in threading.enumerate():
        if thread.name == "walstore-closer":
            thread.join()
    with WalPersistence(tmp_path / "jobs") as again:
        assert again.recovery.situation is Situation.CLEAN
        assert len(again.load_all()) == 1


@pytest.mark.mutation
@pytest.mark.filterwarnings("ignore:.*never closed:ResourceWarning")
def test_a_store_that_is_found_forgotten_while_its_next_segment_is_made_ready_is_closed(tmp_path: Path) -> None:
    found: list[Watched] = []
    begun, go = threading.Event(), threading.Event()

    class Collecting(OsFileSystem):
        """One in which the garbage collector finds the store in the thread that closing has to wait for."""

        def create(self, path: str) -> File:
            if "/next-" in path:
                begun.set()
                go.wait()
                _close_forgotten(found[0])
            return super().create(path)

    environment = replace(os_environment(), fs=Collecting())
    store = WalPersistence(tmp_path / "jobs", environment=environment)
    store.record_started("job.a", 1)
    store._finalizer.detach()
    assert store._store is not None
    found.append(store._store)
    begun.wait()
    go.set()
    for name in ("walstore-successor", "walstore-closer"):
        for thread in threading.enumerate():
            if thread.name == name:
                thread.join()
    with WalPersistence(tmp_path / "jobs") as again:
        assert again.recovery.situation is Situation.CLEAN
        assert len(again.load_all()) == 1


def test_no_file_is_made_ready_in_a_directory_that_was_moved_away(tmp_path: Path) -> None:
    begun, go = threading.Event(), threading.Event()

    class Late(OsFileSystem):
        def lock(self, path: str) -> Lock | None:
            lock = super().lock(path)
            assert lock is not None
            is_at = lock.is_at

            def is_at_once_it_goes(path: str) -> bool:
                if threading.current_thread().name == "walstore-successor":
                    begun.set()
                    go.wait()
                return is_at(path)

            lock.is_at = is_at_once_it_goes  # type: ignore[method-assign]
            return lock

    store = WalPersistence(tmp_path / "jobs", environment=replace(os_environment(), fs=Late()))
    begun.wait()
    (tmp_path / "jobs").rename(tmp_path / "moved")
    with WalPersistence(tmp_path / "jobs") as other:
        go.set()
        for thread in threading.enumerate():
            if thread.name == "walstore-successor":
                thread.join()
        with pytest.raises(FencedError):
            store.close()
        assert not list((tmp_path / "moved").glob("next-*"))
        other.record_started("job.a", 1)


@pytest.mark.mutation
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_closing_from_many_threads_closes_once(tmp_path: Path) -> None:
    for attempt in range(20):
        store = WalPersistence(tmp_path / f"jobs{attempt}")
        store.record_started("job.a", 1)
        errors: list[BaseException] = []

        def close(store: WalPersistence = store, errors: list[BaseException] = errors) -> None:
            try:
                store.close()
            except Exception as error:  # noqa: BLE001  # Whatever it is, the main thread is to show it.
                errors.append(error)

        threads = [threading.Thread(target=close) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []


@pytest.mark.mutation
def test_an_interval_of_centuries_is_fine(tmp_path: Path) -> None:
    with WalPersistence(tmp_path / "jobs", options=WalOptions(sync_interval_ns=10**30)) as store:
        store.record_started("job.a", 1)
        assert len(store.load_all()) == 1


def test_an_interrupted_load_all_leaves_no_descriptor_open(tmp_path: Path) -> None:
    # A thread would open the file of the next segment meanwhile.
    with WalPersistence(tmp_path / "jobs", environment=replace(os_environment(), threads=False)) as store:
        store.record_started("job.a", 1)
        inner = store._store
        assert inner is not None
        gc.collect()  # What earlier tests have left would be closed in between.
        before = len(list(Path("/proc/self/fd").iterdir()))
        for _ in range(10):
            view = inner.view()
            del view  # As when an exception comes before anyone can close it.
        assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_link_to_nothing_is_told(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    with pytest.raises(StoreNotFoundError, match="symbolic link to nothing"):
        WalPersistence(tmp_path / "link")


SIGNALLED = """
    import signal, sys, threading
    from walstore import Durability, WalOptions, WalPersistence
    from walstore.fs import os_fs
    if sys.argv[3] == "not mapped":
        os_fs._MAPPABLE = frozenset()
    options = WalOptions(segment_bytes_min=1024, segment_bytes_max=1024, buffer_events=8)
    store = WalPersistence(sys.argv[1], durability=Durability(sys.argv[2]), options=options)
    store.record_started("job.main", 0)
    store.record_started("job.handler", 0)
    handled = 0
    def handler(number, frame):
        global handled
        store.record_finished("job.handler", handled, False)
        store.sync()
        handled += 1
        signal.setitimer(signal.ITIMER_REAL, 0.0002)
    signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.0002)
    count = 0
    while handled < 100:
        store.record_finished("job.main", count, False)
        count += 1
        if count % 50 == 0:
            store.flush_checkpoint(compact=True)
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, signal.SIG_IGN)
    found = {str(record.id): record.consecutive_failures for record in store.load_all()}
    assert found == {"job.main": count, "job.handler": handled}, (found, count, handled)
    store.close()
"""


@pytest.mark.parametrize("mapped", ["mapped", "not mapped"])
@pytest.mark.parametrize("durability", list(Durability))
def test_a_signal_handler_records_and_syncs(tmp_path: Path, durability: Durability, mapped: str) -> None:
    """It interrupts appends, rotations, syncs and checkpoints of its own thread; nothing hangs, nothing is lost."""
    run_child(SIGNALLED, str(tmp_path / "jobs"), durability.value, mapped, measured=False)


INTERRUPTED = """
    import signal, sys
    from walstore import Durability, WalOptions, WalPersistence
    options = WalOptions(segment_bytes_min=1024, segment_bytes_max=1024, buffer_events=8)
    store = WalPersistence(sys.argv[1], durability=Durability(sys.argv[2]), options=options)
    store.record_started("job.main", 0)
    count, interrupted = 0, 0
    def handler(number, frame):
        global interrupted
        interrupted += 1
        raise KeyboardInterrupt
    signal.signal(signal.SIGALRM, handler)
    # In a function of its own: CPython does not cover the jump at the end of a loop by the `try` around the loop.
    def record_until_interrupted():
        global count
        before = interrupted
        while interrupted == before:  # What a handler raises inside a finaliser, Python only prints.
            store.record_finished("job.main", count, False)
            count += 1
            if count % 20 == 0:
                store.flush_checkpoint(compact=True)
    while interrupted < 100:
        try:
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.0003)
                record_until_interrupted()
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
        except KeyboardInterrupt:
            pass
    (record,) = store.load_all()
    # Of each interrupted call it is not known whether it recorded; no other one is lost or doubled.
    assert count <= record.consecutive_failures <= count + interrupted, (record, count, interrupted)
    store.sync()
    store.close()
"""


@pytest.mark.parametrize("durability", list(Durability))
def test_ctrl_c_leaves_the_store_usable(tmp_path: Path, durability: Durability) -> None:
    run_child(INTERRUPTED, str(tmp_path / "jobs"), durability.value, measured=False)
    with WalPersistence(tmp_path / "jobs") as store:
        assert store.recovery.situation is Situation.CLEAN
