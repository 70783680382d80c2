"""What ``PostgresPersistence`` promises beyond the contract: one writer, and no event lost or applied twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import pytest

psycopg = pytest.importorskip("psycopg", reason="psycopg is not installed: pip install 'walstore[postgres]'")

from fuzz.postgres import run  # noqa: E402
from fuzz.postgres_proxy import CuttingProxy  # noqa: E402
from fuzz.postgres_server import PostgresServer  # noqa: E402
from walstore import Durability, Manual, QName, SchedulerJobRecord, SchedulerJobStatus, open_persistence  # noqa: E402
from walstore.backends.postgres import PostgresOptions, PostgresPersistence  # noqa: E402
from walstore.errors import (  # noqa: E402
    FencedError,
    ForkedProcessError,
    NewerFormatError,
    SchedulerPersistenceError,
    StorageError,
    StoreClosedError,
    StoreLockedError,
    StoreNotFoundError,
    StorePoisonedError,
    UnsupportedPlatformError,
)
from walstore.model.events import Finished, Started  # noqa: E402
from walstore.model.schedule import Cron, schedule_of  # noqa: E402

JOB = "ai.geo.tile"
LEVELS = list(Durability)
IMPATIENT = PostgresOptions(retry_ns=200_000_000)
DEADLINE_S = 60

each_level = pytest.mark.parametrize("level", LEVELS, ids=lambda level: level.value)


def failures(store: PostgresPersistence) -> int:
    """How often ``record_finished`` was applied: a count that neither a lost call nor a second one leaves as it is."""
    return {str(job.id): job.consecutive_failures for job in store.load_all()}[JOB]


@contextmanager
def administrator(dsn: str, schema: str) -> Iterator[Callable[..., list[tuple[Any, ...]]]]:
    """What somebody else does to the server."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(f"SET search_path TO {schema}")

        def execute(statement: str, *parameters: object) -> list[tuple[Any, ...]]:
            cursor = connection.execute(statement, parameters)
            return cursor.fetchall() if cursor.description else []

        yield execute


def end_sessions(dsn: str, schema: str) -> None:
    """End the session of the writer, as an administrator or a failing network does."""
    with administrator(dsn, schema) as execute:
        execute(
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity "
            "WHERE application_name = (SELECT session FROM store)"
        )


# Opening.


def test_a_store_is_made_and_found_again(dsn: str, schema: str) -> None:
    with pytest.raises(StoreNotFoundError, match="no store"):
        PostgresPersistence(dsn, schema=schema, create=False)
    with pytest.raises(StoreNotFoundError, match="no store"):
        PostgresPersistence(dsn, schema=schema, read_only=True)
    with PostgresPersistence(dsn, schema=schema) as store:
        store.record_started(JOB, 1)
        assert schema in repr(store)
        assert store.epoch == 1
    with PostgresPersistence(dsn, schema=schema, create=False) as store:
        assert [str(job.id) for job in store.load_all()] == [JOB]
        assert store.epoch == 2


def test_a_schema_with_other_things_is_refused(dsn: str, schema: str) -> None:
    with administrator(dsn, schema) as execute:
        execute(f"CREATE SCHEMA {schema}")
        execute("CREATE TABLE customers (id int)")
        with pytest.raises(StoreNotFoundError, match="customers"):
            PostgresPersistence(dsn, schema=schema)
        assert execute("SELECT relname FROM pg_class WHERE relnamespace = %s::regnamespace", schema) == [("customers",)]


def test_tables_of_a_newer_release_are_left_alone(dsn: str, schema: str) -> None:
    PostgresPersistence(dsn, schema=schema).close()
    with administrator(dsn, schema) as execute:
        execute("UPDATE store SET version = 99")
        for read_only in (False, True):
            with pytest.raises(NewerFormatError, match="version 99"):
                PostgresPersistence(dsn, schema=schema, read_only=read_only)
        assert execute("SELECT epoch FROM store") == [(1,)]


def test_tables_of_an_older_release_are_migrated(dsn: str, schema: str) -> None:
    with PostgresPersistence(dsn, schema=schema) as store:
        store.record_started(JOB, 1)
    with administrator(dsn, schema) as execute:
        execute("DROP TABLE history")
        execute("UPDATE store SET version = 1")
        with PostgresPersistence(dsn, schema=schema, read_only=True) as reader:
            assert [job.last_started_at_ns for job in reader.load_all()] == [1]
        assert execute("SELECT version FROM store") == [(1,)]
        with PostgresPersistence(dsn, schema=schema, history=True) as store:
            store.record_started(JOB, 2)
            assert [job.last_started_at_ns for job in store.load_all()] == [2]
        assert execute("SELECT version FROM store") == [(2,)]
        assert execute("SELECT at_ns FROM history") == [(2,)]


def test_readers_see_what_the_writer_does(dsn: str, schema: str) -> None:
    with (
        PostgresPersistence(dsn, schema=schema) as store,
        PostgresPersistence(dsn, schema=schema, read_only=True) as reader,
    ):
        store.record_started(JOB, 5)
        assert reader.load_all() == store.load_all() == list(reader.iter_jobs())
        for refused in (reader.sync, reader.flush_checkpoint, lambda: reader.cancel(JOB)):
            with pytest.raises(StoreClosedError, match="read-only"):
                refused()
        assert "read-only" in repr(reader)
    with pytest.raises(StoreClosedError, match="closed"):
        reader.load_all()


@pytest.mark.parametrize("wrong", ["", "1a", "a-b", 'a"b', "A", "ä", "a" * 64, "a.b"])
def test_schemas_that_would_need_quotes_are_refused(dsn: str, wrong: str) -> None:
    with pytest.raises(ValueError, match="plain name"):
        PostgresPersistence(dsn, schema=wrong)


def test_a_dsn_that_is_none_is_refused_without_telling_it() -> None:
    with pytest.raises(ValueError, match="no connection string") as raised:
        PostgresPersistence("host=localhost secret-word")
    assert "secret-word" not in str(raised.value)
    with pytest.raises(TypeError):
        PostgresPersistence(7)  # type: ignore[arg-type]


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"database jobs at .*: |No such file") as raised:
        open_persistence(f"postgresql://me:secret-word@/jobs?host={tmp_path}")
    assert "secret-word" not in str(raised.value)
    assert "\n" not in str(raised.value)
    assert "Check the server" in str(raised.value)


def test_a_database_that_can_not_hold_every_name(dsn: str) -> None:
    name = f"walstore_latin_{os.getpid()}"
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
        try:
            with pytest.raises(UnsupportedPlatformError, match="LATIN1"):
                PostgresPersistence(psycopg.conninfo.make_conninfo(dsn, dbname=name))
        finally:
            connection.execute(f"DROP DATABASE {name}")


@pytest.mark.parametrize("wrong", [{"durability": "power"}, {"options": {}}], ids=["durability", "options"])
def test_arguments_of_the_wrong_type(dsn: str, wrong: dict[str, Any]) -> None:
    with pytest.raises(TypeError):
        PostgresPersistence(dsn, **wrong)


def test_options_are_checked() -> None:
    for wrong in (0, -1):
        with pytest.raises(ValueError, match="retry_ns"):
            PostgresOptions(retry_ns=wrong)
    with pytest.raises(TypeError, match="batch_events"):
        PostgresOptions(batch_events=1.5)  # type: ignore[arg-type]


# What is written.


def test_the_tables_read_well(dsn: str, schema: str) -> None:
    with PostgresPersistence(dsn, schema=schema, history=True, clock=lambda: 7) as store:
        store.record_scheduled(JOB, Cron("@hourly"))
        store.record_many([Started(JOB, 8), Finished(JOB, 9, False)])
        store.restore([SchedulerJobRecord(QName("a", "b"), SchedulerJobStatus.IDLE, None, 1, 2, 0, Manual())])
        store.cancel("a.b")
        with administrator(dsn, schema) as execute:
            assert execute("SELECT id, status, next_fire_at_ns, consecutive_failures, schedule FROM jobs") == [
                (JOB, "Pending", 3_600_000_000_000, 1, "cron @hourly")
            ]
            assert execute(
                "SELECT sequence, position, event, id, at_ns, success, schedule FROM history ORDER BY 1, 2"
            ) == [
                (1, 0, "scheduled", JOB, 7, None, "cron @hourly"),
                (2, 0, "started", JOB, 8, None, None),
                (2, 1, "finished", JOB, 9, False, None),
                (3, 0, "restored", "a.b", None, None, "manual"),
                (4, 0, "cancelled", "a.b", None, None, None),
            ]


@pytest.mark.parametrize("wrong", ["often", "once", "once soon", "periodic 0", "manual 1"])
def test_a_schedule_that_nobody_here_wrote_is_told(dsn: str, schema: str, wrong: str) -> None:
    with PostgresPersistence(dsn, schema=schema) as store:
        store.record_started(JOB, 1)
        with administrator(dsn, schema) as execute:
            execute("UPDATE jobs SET schedule = %s", wrong)
        with pytest.raises(StorageError, match=JOB):
            store.load_all()
        with pytest.raises(StorageError, match=JOB):
            list(store.iter_jobs())


def test_an_id_that_nobody_here_wrote_is_told(dsn: str, schema: str) -> None:
    with PostgresPersistence(dsn, schema=schema) as store, administrator(dsn, schema) as execute:
        execute("INSERT INTO jobs VALUES ('nodot', 'Idle', NULL, NULL, NULL, 0, 'manual')")
        with pytest.raises(StorageError, match="nodot"):
            store.load_all()


def test_an_expression_that_can_not_be_stored_is_refused_before_it_is_recorded(dsn: str, schema: str) -> None:
    expression = schedule_of((Cron.KIND, "from elsewhere\0"))
    job = SchedulerJobRecord(QName.parse(JOB), SchedulerJobStatus.IDLE, None, None, None, 0, expression)
    with PostgresPersistence(dsn, schema=schema, durability=Durability.BUFFERED) as store:
        with pytest.raises(ValueError, match="PostgreSQL"):
            store.restore([job])
        with pytest.raises(ValueError, match="PostgreSQL"):
            store.record_scheduled(JOB, expression)
        store.sync()
        assert store.load_all() == []


def test_a_batch_has_a_bound(dsn: str, schema: str) -> None:
    with PostgresPersistence(dsn, schema=schema) as store:
        with pytest.raises(ValueError, match="100001 events"):
            store.record_many([Started(JOB, 1)] * 100_001)
        assert store.load_all() == []


# One writer.


def test_a_second_writer_is_told_who_the_first_one_is(dsn: str, schema: str) -> None:
    with PostgresPersistence(dsn, schema=schema) as store:
        with pytest.raises(StoreLockedError, match=rf"process {os.getpid()} since 20\d\d-"):
            PostgresPersistence(dsn, schema=schema)
        store.record_started(JOB, 1)
    PostgresPersistence(dsn, schema=schema).close()


@each_level
def test_a_writer_whose_place_was_taken_changes_nothing(dsn: str, schema: str, level: Durability) -> None:
    old = PostgresPersistence(dsn, schema=schema, durability=level)
    old.record_started(JOB, 1)
    old.sync()
    with PostgresPersistence(dsn, schema=schema, takeover=True) as new:
        with pytest.raises(FencedError, match="taken over"):
            old.record_started(JOB, 2)
            old.sync()
        calls: list[Callable[[], object]] = [
            old.load_all,
            old.sync,
            lambda: old.cancel(JOB),
            lambda: next(old.iter_jobs()),
        ]
        for call in calls:
            with pytest.raises(FencedError):
                call()
        assert [job.last_started_at_ns for job in new.load_all()] == [1]
        # At BUFFERED the call that was refused too late had been acknowledged.
        with pytest.raises(FencedError) if level is Durability.BUFFERED else nullcontext():
            old.close()
        assert old.closed
        new.record_started(JOB, 3)
        assert [job.last_started_at_ns for job in new.load_all()] == [3]


@each_level
def test_every_transaction_checks_the_epoch(dsn: str, schema: str, level: Durability) -> None:
    """A session that could not be ended, and that has got exactly as far as the next one, is fenced all the same."""
    old = PostgresPersistence(dsn, schema=schema, durability=level)
    old.record_started(JOB, 1)
    old.sync()
    with administrator(dsn, schema) as execute:
        execute("UPDATE store SET epoch = epoch + 1, holder = 'somebody else'")
        with pytest.raises(FencedError, match="somebody else has taken over"):
            old.record_started(JOB, 2)
            old.sync()
        assert execute("SELECT last_started_at_ns FROM jobs") == [(1,)]
    with pytest.raises(FencedError) if level is Durability.BUFFERED else nullcontext():
        old.close()


def test_the_place_is_free_as_soon_as_a_store_is_closed(dsn: str, schema: str) -> None:
    with administrator(dsn, schema) as execute:
        for _ in range(10):
            store = PostgresPersistence(dsn, schema=schema)
            held = "SELECT objid FROM pg_locks WHERE locktype = 'advisory' AND classid = %s"
            key = store._store.claim.lock_class
            assert execute(held, key) == [(store.epoch,)]
            store.close()
            assert execute(held, key) == []


def test_who_comes_while_the_session_is_lost_takes_over(dsn: str, schema: str) -> None:
    with PostgresPersistence(dsn, schema=schema) as old:
        old.record_started(JOB, 1)
        old.sync()
        end_sessions(dsn, schema)
        with PostgresPersistence(dsn, schema=schema) as new:
            with pytest.raises(FencedError):
                old.record_started(JOB, 2)
            assert [job.last_started_at_ns for job in new.load_all()] == [1]


def test_of_two_that_race_one_wins(dsn: str, schema: str) -> None:
    PostgresPersistence(dsn, schema=schema).close()
    for turn in range(10):
        start = threading.Barrier(2)

        def enter(number: int, turn: int = turn, start: threading.Barrier = start) -> PostgresPersistence | None:
            start.wait()
            try:
                store = PostgresPersistence(dsn, schema=schema)
            except StoreLockedError:
                return None
            store.record_started(JOB, 10 * turn + number)
            return store

        with ThreadPoolExecutor(2) as pool:
            stores = list(pool.map(enter, range(2)))
        winners = [number for number, store in enumerate(stores) if store is not None]
        assert len(winners) == 1
        (winner,) = [store for store in stores if store is not None]
        assert [job.last_started_at_ns for job in winner.load_all()] == [10 * turn + winners[0]]
        winner.close()


_WRITER = """
import sys
from walstore import Durability
from walstore.backends.postgres import PostgresPersistence
store = PostgresPersistence(sys.argv[1], schema=sys.argv[2], durability=Durability[sys.argv[3]])
for at_ns in range(1, 1_000_000):
    store.record_finished("ai.geo.tile", at_ns, False) if at_ns > 1 else store.record_started("ai.geo.tile", 1)
    print(at_ns, flush=True)
"""


@contextmanager
def writing_process(dsn: str, schema: str, level: Durability) -> Iterator[subprocess.Popen[str]]:
    """A process that records without end and says what was acknowledged; it has begun."""
    with subprocess.Popen(
        [sys.executable, "-c", _WRITER, dsn, schema, level.name],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            for _ in range(20):
                assert process.stdout.readline(), process.stderr
            yield process
        finally:
            process.kill()


def test_a_writer_that_stalls_and_wakes_up_is_fenced(dsn: str, schema: str) -> None:
    with writing_process(dsn, schema, Durability.PROCESS) as process:
        process.send_signal(signal.SIGSTOP)
        with pytest.raises(StoreLockedError):
            PostgresPersistence(dsn, schema=schema)
        with PostgresPersistence(dsn, schema=schema, takeover=True) as new:
            before = new.load_all()
            process.send_signal(signal.SIGCONT)
            _, told = process.communicate(timeout=DEADLINE_S)
            assert "FencedError" in told
            assert new.load_all() == before


@pytest.mark.parametrize("level", [Durability.PROCESS, Durability.POWER], ids=lambda level: level.value)
def test_what_a_killed_writer_had_been_acknowledged_is_there(dsn: str, schema: str, level: Durability) -> None:
    with writing_process(dsn, schema, level) as process:
        process.kill()
        assert process.stdout is not None
        acknowledged = 20 + len(process.stdout.readlines())
    store = reopened(dsn, schema)
    assert acknowledged - 1 <= failures(store) <= acknowledged
    store.close()


def reopened(dsn: str, schema: str) -> PostgresPersistence:
    """The store, once the server has noticed that its writer is dead."""
    deadline = time.monotonic() + DEADLINE_S
    while True:
        try:
            return PostgresPersistence(dsn, schema=schema)
        except StoreLockedError:
            assert time.monotonic() < deadline
            time.sleep(0.01)


# Lost connections, lost servers.


@each_level
def test_lost_sessions(dsn: str, schema: str, level: Durability) -> None:
    with PostgresPersistence(dsn, schema=schema, durability=level) as store:
        store.record_started(JOB, 0)
        for turn in range(1, 31):
            if turn % 6 == 0:
                end_sessions(dsn, schema)
            store.record_finished(JOB, turn, False)
            if turn % 10 == 0:
                assert failures(store) == turn
        assert failures(store) == 30


def test_a_commit_that_was_not_waited_for_is_waited_for_again(own_server: PostgresServer, schema: str) -> None:
    """A session that ends while it waits for a synchronous standby has committed, and nobody knows where to."""
    waiting = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND application_name LIKE 'walstore%%'"

    with (
        PostgresPersistence(own_server.dsn, schema=schema, durability=Durability.POWER) as store,
        administrator(own_server.dsn, schema) as execute,
        ThreadPoolExecutor(1) as pool,
    ):
        store.record_started(JOB, 1)
        execute("ALTER SYSTEM SET synchronous_standby_names = 'absent'")
        execute("SELECT pg_reload_conf()")
        try:
            runs, deadline = 1, time.monotonic() + DEADLINE_S
            call = pool.submit(store.record_finished, JOB, 1 + runs, False)
            while not (before := execute(waiting)):
                # The server takes the new setting over when it gets to it: until then no commit waits.
                assert time.monotonic() < deadline
                if call.done():
                    runs += 1
                    call = pool.submit(store.record_finished, JOB, 1 + runs, False)
            execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'")
            while execute(waiting) in ([], before):
                assert time.monotonic() < deadline
                time.sleep(0.01)
            assert not call.done()
        finally:
            execute("ALTER SYSTEM RESET synchronous_standby_names")
            execute("SELECT pg_reload_conf()")
        call.result(DEADLINE_S)
        assert failures(store) == runs


@pytest.mark.parametrize("part", range(3))
def test_a_network_that_breaks_at_any_byte(own_server: PostgresServer, schema: str, part: int) -> None:
    """In the middle of a statement, of its answer, of coming back: what is acknowledged is applied once."""
    with (
        CuttingProxy(own_server.socket) as proxy,
        PostgresPersistence(proxy.dsn, schema=schema, durability=LEVELS[part]) as store,
    ):
        store.record_started(JOB, 0)
        calls = 0
        # A call takes about 700 bytes in all, and coming back 3,000; steps that are coprime to both meet all places.
        for count in range(1 + 37 * part, 2_000, 111):
            proxy.cut_after(count)
            while proxy.is_armed:
                calls += 1
                store.record_finished(JOB, calls, False)
                store.sync()
            assert failures(store) == calls
        assert proxy.cuts >= 15


@each_level
def test_a_server_that_is_killed_and_comes_back(own_server: PostgresServer, schema: str, level: Durability) -> None:
    """Also what the server had taken, and not flushed, is there: it is told again."""
    with PostgresPersistence(own_server.dsn, schema=schema, durability=level) as store:
        store.record_started(JOB, 0)
        for turn in range(1, 4):
            for call in range(25):
                store.record_finished(JOB, 25 * turn + call, False)
            own_server.kill()
            own_server.start()
            assert failures(store) == 25 * turn


@pytest.mark.parametrize("level", [Durability.PROCESS, Durability.POWER], ids=lambda level: level.value)
def test_a_server_that_stays_away_is_told_to_who_waits(
    own_server: PostgresServer, schema: str, level: Durability
) -> None:
    with PostgresPersistence(own_server.dsn, schema=schema, durability=level, options=IMPATIENT) as store:
        store.record_started(JOB, 1)
        own_server.kill()
        try:
            with pytest.raises(StorageError, match="not known"):
                store.record_finished(JOB, 2, False)
            with pytest.raises(StorageError, match="Check the server"):
                store.load_all()
        finally:
            own_server.start()
        # The call that was told has left nothing, and the one before it is still there.
        assert [(job.last_started_at_ns, job.consecutive_failures) for job in store.load_all()] == [(1, 0)]
        store.record_finished(JOB, 3, False)
        assert failures(store) == 1


def test_what_is_buffered_waits_for_the_server(own_server: PostgresServer, schema: str) -> None:
    options = PostgresOptions(retry_ns=200_000_000, buffer_events=100)
    store = PostgresPersistence(own_server.dsn, schema=schema, durability=Durability.BUFFERED, options=options)
    store.record_started(JOB, 0)
    store.sync()
    own_server.kill()
    recorded = 0
    try:
        with pytest.raises(StorageError, match="Check the server"):
            store.sync()
        with pytest.raises(StorageError, match="Check the server"):
            while recorded < 10_000:
                store.record_finished(JOB, recorded, False)
                recorded += 1
        assert 100 <= recorded < 300
        with pytest.raises(StorageError, match="Check the server"):
            store.close()
        assert not store.closed
    finally:
        own_server.start()
    store.record_finished(JOB, recorded, False)
    store.close()
    with PostgresPersistence(own_server.dsn, schema=schema) as again:
        assert failures(again) == recorded + 1


def test_a_server_that_refuses_is_told_and_nothing_is_recorded(dsn: str, schema: str) -> None:
    with PostgresPersistence(dsn, schema=schema) as store, administrator(dsn, schema) as execute:
        store.record_started(JOB, 1)
        execute("ALTER TABLE jobs RENAME TO hidden")
        with pytest.raises(StorageError, match="jobs") as raised:
            store.record_started(JOB, 2)
        assert "not known" not in str(raised.value)
        execute("ALTER TABLE hidden RENAME TO jobs")
        assert [job.last_started_at_ns for job in store.load_all()] == [1]
        store.record_started(JOB, 3)
        assert [job.last_started_at_ns for job in store.load_all()] == [3]


@pytest.mark.parametrize("change", ["UPDATE store SET sequence = 0", "UPDATE store SET epoch = 0", "DELETE FROM store"])
def test_a_server_that_has_gone_back_is_told(dsn: str, schema: str, change: str) -> None:
    """As after a failover to a replica that was behind."""
    store = PostgresPersistence(dsn, schema=schema, durability=Durability.POWER)
    store.record_started(JOB, 1)
    with administrator(dsn, schema) as execute:
        execute(change)
    for call in (lambda: store.record_started(JOB, 2), store.sync, store.load_all, store.close):
        with pytest.raises(StorePoisonedError):
            call()
    assert store.closed


# Processes, threads, signals.


def test_a_forked_child_can_not_use_it(dsn: str, schema: str) -> None:
    with PostgresPersistence(dsn, schema=schema) as store:
        store.record_started(JOB, 1)
        jobs = store.iter_jobs()
        next(jobs)
        child = os.fork()
        if not child:
            outcome = 1
            try:
                for call in (lambda: store.record_started(JOB, 2), store.load_all, store.sync, lambda: list(jobs)):
                    with pytest.raises(ForkedProcessError):
                        call()
                store.close()
                outcome = 0
            finally:
                os._exit(outcome)
        assert os.waitpid(child, 0)[1] == 0
        store.record_started(JOB, 3)
        assert [job.last_started_at_ns for job in store.load_all()] == [3]
        assert list(jobs) == []


_FORKING = """
import os, sys
from walstore.backends.postgres import PostgresPersistence
store = PostgresPersistence(sys.argv[1], schema=sys.argv[2])
store.record_started("ai.geo.tile", 1)
if os.fork():
    os.kill(os.getpid(), 9)
print("child", flush=True)
sys.stdin.read()
os._exit(0)
"""


def test_a_child_that_lives_on_keeps_nobody_out(dsn: str, schema: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _FORKING, dsn, schema], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "child\n"
        store = reopened(dsn, schema)
        assert [job.last_started_at_ns for job in store.load_all()] == [1]
        store.close()
        process.communicate("")


_FORGETFUL = """
import sys
from walstore import Durability
from walstore.backends.postgres import PostgresPersistence
store = PostgresPersistence(sys.argv[1], schema=sys.argv[2], durability=Durability.BUFFERED)
for at_ns in range(100):
    store.record_started("ai.geo.tile", at_ns)
"""


def test_the_end_of_the_interpreter_saves_what_is_buffered(dsn: str, schema: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "default", "-c", _FORGETFUL, dsn, schema], capture_output=True, text=True, check=True
    )
    assert "never closed" in done.stderr
    with PostgresPersistence(dsn, schema=schema) as store:
        assert [job.last_started_at_ns for job in store.load_all()] == [99]


def test_a_store_that_is_forgotten_is_closed(dsn: str, schema: str) -> None:
    store = PostgresPersistence(dsn, schema=schema, durability=Durability.BUFFERED)
    store.record_started(JOB, 1)
    forgotten = [store]
    del store
    with pytest.warns(ResourceWarning, match="never closed"):
        forgotten.clear()
    with PostgresPersistence(dsn, schema=schema) as again:
        assert [job.last_started_at_ns for job in again.load_all()] == [1]


@pytest.mark.signals
@each_level
def test_a_signal_handler_may_record(dsn: str, schema: str, level: Durability) -> None:
    count = 0

    def record(*_: object) -> None:
        nonlocal count
        count += 1
        store.record_finished("a.b", count, False)

    with PostgresPersistence(dsn, schema=schema, durability=level) as store:
        store.record_started("a.b", 0)
        store.record_started(JOB, 0)
        before = signal.signal(signal.SIGALRM, record)
        try:
            calls = 0
            deadline = time.monotonic() + DEADLINE_S
            while count < 20:
                calls += 1
                # Anew for each call: on a slow machine, handlers would interrupt each other without end.
                signal.setitimer(signal.ITIMER_REAL, 1e-5 * (1 + calls % 50))
                store.record_finished(JOB, calls, False)
                assert time.monotonic() < deadline
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        found = {str(job.id): job.consecutive_failures for job in store.load_all()}
        assert found == {"a.b": count, JOB: calls}


def test_closing_while_others_record(dsn: str, schema: str) -> None:
    """What was acknowledged before the store was closed is there, and what comes later is refused."""
    store = PostgresPersistence(dsn, schema=schema, durability=Durability.BUFFERED)
    acknowledged = [0] * 3

    def record(thread: int) -> None:
        with suppress(SchedulerPersistenceError):
            while True:
                store.record_started(f"thread{thread}.job", acknowledged[thread] + 1)
                acknowledged[thread] += 1

    with ThreadPoolExecutor(3) as pool:
        done = [pool.submit(record, thread) for thread in range(3)]
        while min(acknowledged) < 100:
            time.sleep(0.001)
        store.close()
        for future in done:
            future.result()
    with PostgresPersistence(dsn, schema=schema) as again:
        found = {str(job.id): job.last_started_at_ns for job in again.load_all()}
    assert found == {f"thread{thread}.job": count for thread, count in enumerate(acknowledged)}


def test_lives_under_disturbances(own_server: PostgresServer) -> None:  # noqa: ARG001  # Skips where there is none.
    tally = run(3.0, 1)
    assert tally.failures == []
    assert tally.points >= 5
