"""Many threads on one store: nothing is lost, and each thread's own order is kept."""

from __future__ import annotations

import errno
import os
import signal
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from tests.crash.worlds import DIRECTORY, World
from walstore import Durability, SchedulerJobStatus, WalOptions, WalPersistence
from walstore.engine import commit
from walstore.errors import StoreClosedError, StorePoisonedError

THREADS = 32
# Segments so small that the threads meet a rotation every few dozen events.
TINY = WalOptions(segment_bytes_min=1024, segment_bytes_max=4096, buffer_events=64)


def run_all(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.mark.parametrize(
    ("durability", "events"), [(Durability.BUFFERED, 400), (Durability.PROCESS, 400), (Durability.POWER, 20)]
)
def test_threads_record_while_another_checkpoints(tmp_path: Path, durability: Durability, events: int) -> None:
    store = WalPersistence(tmp_path / "jobs", durability=durability, options=TINY)
    errors: list[BaseException] = []
    recording = threading.Event()
    recording.set()

    def record(number: int) -> None:
        try:
            for at_ns in range(events):
                # Two jobs a thread: one whose last event tells the order, one that counts every event.
                store.record_started(f"thread.last{number}", at_ns)
                store.record_finished("thread.shared", at_ns, False)
                store.record_finished(f"thread.last{number}", at_ns, False)
        except Exception as error:  # noqa: BLE001  # Whatever it is, the main thread is to show it.
            errors.append(error)

    def checkpoint() -> None:
        try:
            while recording.is_set():
                store.flush_checkpoint(compact=True)
                store.load_all()
        except Exception as error:  # noqa: BLE001  # Whatever it is, the main thread is to show it.
            errors.append(error)

    store.record_started("thread.shared", 0)
    checkpointer = threading.Thread(target=checkpoint)
    checkpointer.start()
    run_all([threading.Thread(target=record, args=(number,)) for number in range(THREADS)])
    recording.clear()
    checkpointer.join()
    assert errors == []
    before = {str(record.id): record for record in store.load_all()}
    store.close()
    with WalPersistence(tmp_path / "jobs") as reopened:
        after = {str(record.id): record for record in reopened.load_all()}
    assert after == before
    assert after.pop("thread.shared").consecutive_failures == THREADS * events
    assert len(after) == THREADS
    for job in after.values():
        assert job.consecutive_failures == events
        assert (job.last_started_at_ns, job.last_finished_at_ns) == (events - 1, events - 1)
        assert job.status is SchedulerJobStatus.FAILED_RETRYING


@pytest.mark.mutation
@pytest.mark.parametrize("fails", [False, True])
def test_each_thread_that_waits_for_a_sync_is_woken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    # Nobody looks for itself, and no keeper syncs: a thread that is left waiting waits for longer than the test.
    monkeypatch.setattr(commit, "_NAP_MAX_S", 3600)
    options = WalOptions(sync_interval_ns=3600 * 10**9)
    store = WalPersistence(tmp_path / "jobs", durability=Durability.POWER, options=options)
    sync, syncs = os.fdatasync, 0

    def hold_the_first(descriptor: int) -> None:
        nonlocal syncs
        if threading.current_thread().name == "walstore-successor":
            return sync(descriptor)
        syncs += 1
        deadline = time.monotonic() + 30
        while syncs == 1 and store.stats().events < THREADS and time.monotonic() < deadline:
            time.sleep(0.001)
        if fails and syncs > 1:
            raise OSError(errno.EIO, "Input/output error")
        return sync(descriptor)

    monkeypatch.setattr(os, "fdatasync", hold_the_first)
    ends: list[str] = []

    def record(number: int) -> None:
        try:
            store.record_started(f"thread.job{number}", 1)
            ends.append("recorded")
        except StorePoisonedError:
            ends.append("poisoned")

    threads = [threading.Thread(target=record, args=(number,), daemon=True) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
        assert not thread.is_alive()
    # One sync for the first, and one for all others, who came while it was under way.
    assert syncs <= 2
    assert ("poisoned" in ends) == (fails and syncs == 2)
    with suppress(StorePoisonedError):
        store.close()


@pytest.mark.mutation
@pytest.mark.signals
def test_a_thread_that_is_interrupted_as_it_waits_leaves_the_others_their_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commit, "_NAP_MAX_S", 3600)
    options = WalOptions(sync_interval_ns=3600 * 10**9)
    store = WalPersistence(tmp_path / "jobs", durability=Durability.POWER, options=options)
    assert store._store is not None
    waiters, main = store._store._commit._waiters, threading.get_ident()
    sync, is_syncing, may_sync = os.fdatasync, threading.Event(), threading.Event()

    def hold(descriptor: int) -> None:
        if threading.current_thread().name != "walstore-successor":
            is_syncing.set()
            assert may_sync.wait(timeout=30)
        return sync(descriptor)

    def wait_for(count: int) -> None:
        deadline = time.monotonic() + 30
        while len(waiters) < count and time.monotonic() < deadline:
            time.sleep(0.001)

    def interrupt() -> None:
        wait_for(1)
        signal.pthread_kill(main, signal.SIGINT)

    monkeypatch.setattr(os, "fdatasync", hold)
    threads = [
        threading.Thread(target=store.record_started, args=(f"thread.job{number}", 1), daemon=True)
        for number in range(3)
    ]
    threads[0].start()
    assert is_syncing.wait(timeout=30)
    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        store.record_started("thread.main", 1)
    for thread in threads[1:]:
        thread.start()
    wait_for(2)
    may_sync.set()
    for thread in threads:
        thread.join(timeout=30)
        assert not thread.is_alive()
    store.close()


@pytest.mark.mutation
def test_a_store_has_one_thread_that_ends_with_it_and_holds_nobody_up(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    with WalPersistence(tmp_path / "jobs"):
        started = {(thread.name, thread.daemon) for thread in set(threading.enumerate()) - before}
        # The one that makes the next segment ready ends by itself.
        assert started - {("walstore-successor", True)} == {("walstore-keeper", True)}
    assert not set(threading.enumerate()) - before


@pytest.mark.mutation
def test_the_buffer_is_drained_again_and_again_though_nobody_asks() -> None:
    world = World(1)
    environment = replace(world.environment(), monotonic_ns=time.monotonic_ns, threads=True)
    drained = threading.Semaphore(0)
    world.fs.before_call = lambda step: drained.release() if step[0] == "append" else None
    # Not by the sync, for which nobody waits so long.
    options = WalOptions(sync_interval_ns=3600 * 10**9)
    with WalPersistence(DIRECTORY, durability=Durability.BUFFERED, options=options, environment=environment) as store:
        for at_ns in range(3):
            store.record_started("job.a", at_ns)
            assert drained.acquire(timeout=30)


@pytest.mark.mutation
def test_load_all_sees_what_returned_before_it(tmp_path: Path) -> None:
    """Each thread finds its own event in the very next ``load_all``, at the level that buffers, too."""
    store = WalPersistence(tmp_path / "jobs", durability=Durability.BUFFERED, options=TINY)
    missed: list[int] = []

    def look(number: int) -> None:
        for at_ns in range(10):
            store.record_started(f"thread.job{number}", at_ns)
            found = {str(record.id): record.last_started_at_ns for record in store.load_all()}
            if found.get(f"thread.job{number}") != at_ns:
                missed.append(number)

    run_all([threading.Thread(target=look, args=(number,)) for number in range(8)])
    store.close()
    assert missed == []


@pytest.mark.mutation
def test_closing_while_others_record_loses_no_call_that_returned(tmp_path: Path) -> None:
    for attempt in range(10):
        for durability in (Durability.BUFFERED, Durability.PROCESS):
            path = tmp_path / f"{durability.value}{attempt}"
            store = WalPersistence(path, durability=durability, options=TINY)
            returned = [0] * 4
            started = threading.Barrier(5)

            def record(
                number: int,
                store: WalPersistence = store,
                returned: list[int] = returned,
                started: threading.Barrier = started,
            ) -> None:
                started.wait()
                try:
                    while True:
                        store.record_finished(f"thread.job{number}", returned[number], False)
                        returned[number] += 1
                except StoreClosedError:
                    return

            for number in range(4):
                store.record_started(f"thread.job{number}", 0)
            threads = [threading.Thread(target=record, args=(number,)) for number in range(4)]
            for thread in threads:
                thread.start()
            started.wait()
            store.close()
            for thread in threads:
                thread.join()
            with WalPersistence(path) as reopened:
                failures = {str(record.id): record.consecutive_failures for record in reopened.load_all()}
            for number in range(4):
                assert failures[f"thread.job{number}"] == returned[number]
