"""What ``test_system_label_unidb.py`` runs in a process in which the package ``uni-db`` can be imported."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import uni_db  # type: ignore[import-not-found]  # Where it is installed, this runs; elsewhere it is checked.

pytest.register_assert_rewrite("walstore.testing.contract")

from walstore import (  # noqa: E402
    Cron,
    Manual,
    Once,
    Periodic,
    QName,
    SchedulerJobRecord,
    SchedulerJobStatus,
    SchedulerPersistence,
    Started,
    WalPersistence,
    open_persistence,
)
from walstore.backends.system_label import SystemLabelPersistence  # noqa: E402
from walstore.backends.system_label_unidb import inner_query, open_unidb  # noqa: E402
from walstore.cli import main  # noqa: E402
from walstore.errors import (  # noqa: E402
    ForkedProcessError,
    StorageError,
    StoreClosedError,
    StoreLockedError,
    StoreNotFoundError,
)
from walstore.testing.contract import PersistenceContract  # noqa: E402

JOB = "ai.geo.tile"
LISTED = "MATCH (j:_BackgroundJob) RETURN j"


EVERYTHING = os.environ.get("WALSTORE_UNIDB_TESTS") == "all"


class TestUniDb(PersistenceContract):
    # An event takes ten times as long when there are a thousand jobs.
    examples = 25 if EVERYTHING else 2
    jobs_many = 5_000 if EVERYTHING else 500

    def open(self, path: Path, clock: Callable[[], int]) -> SchedulerPersistence:
        return open_unidb(str(path), clock=clock)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "database"


def listed(database: uni_db.Uni) -> dict[str, dict[str, object]]:
    """The rows as uni-db lists them, by name."""
    nodes = [row["j"] for row in database.session().query(LISTED)]
    assert all(node.labels == ["_BackgroundJob"] for node in nodes)
    return {node["qname"]: dict(node.properties) for node in nodes}


def until(seen: Callable[[], bool]) -> None:
    """Wait for what uni-db does by itself."""
    deadline_s = time.monotonic() + 60
    while not seen():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


def schedule(database: uni_db.Uni, *arguments: str) -> None:
    """Let uni-db schedule a job of its own."""
    parameters = dict(zip("abc", arguments, strict=True))
    list(database.session().query("CALL uni.periodic.schedule($a, $b, $c)", parameters))


def test_uni_db_lists_the_rows_that_we_write(path: Path) -> None:
    with open_unidb(str(path), clock=lambda: 5) as store:
        store.record_scheduled(JOB, Periodic(every_ns=7))
        store.record_started(JOB, 2**63 - 1)
        store.record_started("größe.日本.🜁'}) DETACH DELETE j //", 1)
        store.record_scheduled("a.gone", Manual())
        store.cancel("a.gone")
    database = uni_db.Uni.open(str(path))
    assert listed(database) == {
        JOB: {
            "qname": JOB,
            "status": "Running",
            "next_fire_at_ns": 12,
            "last_started_at_ns": 2**63 - 1,
            "consecutive_failures": 0,
            "schedule": '{"Periodic": {"secs": 0, "nanos": 7}}',
        },
        "größe.日本.🜁'}) DETACH DELETE j //": {
            "qname": "größe.日本.🜁'}) DETACH DELETE j //",
            "status": "Running",
            "last_started_at_ns": 1,
            "consecutive_failures": 0,
            "schedule": '"Manual"',
        },
    }
    database.shutdown()


def test_we_read_the_rows_that_uni_db_writes(path: Path) -> None:
    database = uni_db.Uni.open(str(path))
    # Without a provider for it, uni-db's scheduler starts the job, finds that out, and records both.
    schedule(database, "custom.reindex", "manual", "")
    until(lambda: listed(database).get("custom.reindex") == {"qname": "custom.reindex", "status": "FailedRetrying"})
    expected = SchedulerJobRecord(
        QName("custom", "reindex"), SchedulerJobStatus.FAILED_RETRYING, None, None, None, 0, Manual()
    )
    with SystemLabelPersistence(inner_query(database)) as beside:
        assert beside.load_all() == [expected]
    database.shutdown()
    with open_unidb(str(path), read_only=True) as reader:
        assert reader.load_all() == [expected]
    with open_persistence(f"unidb:{path}", create=False) as store:
        assert store.load_all() == [expected]
        store.record_finished("custom.reindex", 3, True)
        assert [job.status for job in store.load_all()] == [SchedulerJobStatus.IDLE]


def test_uni_db_goes_on_with_a_row_that_we_have_written(path: Path) -> None:
    database = uni_db.Uni.open(str(path))
    with SystemLabelPersistence(inner_query(database), clock=lambda: 5) as store:
        store.record_scheduled("custom.reindex", Once(at_ns=7))
        schedule(database, "custom.reindex", "manual", "")
        until(lambda: listed(database)["custom.reindex"]["status"] == "FailedRetrying")
        (job,) = store.load_all()
    assert (job.status, job.schedule, job.next_fire_at_ns) == (SchedulerJobStatus.FAILED_RETRYING, Once(at_ns=7), 7)
    database.shutdown()


def test_uni_db_does_not_run_the_jobs_that_we_write(path: Path) -> None:
    with open_unidb(str(path), clock=lambda: 5) as store:
        store.record_scheduled(JOB, Manual())
        store.record_scheduled("a.cron", Cron("* * * * * *"))
    database = uni_db.Uni.open(str(path))
    schedule(database, "custom.last", "manual", "")
    until(lambda: "custom.last" in listed(database))
    assert {name: row["status"] for name, row in listed(database).items() if name != "custom.last"} == {
        JOB: "Pending",
        "a.cron": "Pending",
    }
    database.shutdown()


_KILLED = """
import os, sys
from walstore.backends.system_label_unidb import open_unidb
store = open_unidb(sys.argv[1])
number = 0
while True:
    store.record_started(f"a.job{number % 7}", number)
    print(number, flush=True)
    number += 1
"""


def test_what_was_recorded_survives_the_death_of_the_process(path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", _KILLED, str(path)], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        for _ in range(40):
            acknowledged = int(child.stdout.readline())
        child.send_signal(signal.SIGKILL)
        acknowledged = int(([str(acknowledged), *child.stdout.read().split()])[-1])
    with open_unidb(str(path)) as store:
        last = max(job.last_started_at_ns or 0 for job in store.load_all())
    assert acknowledged <= last <= acknowledged + 1


def test_syncing_and_flushing(path: Path) -> None:
    with open_unidb(str(path)) as store:
        store.record_started(JOB, 1)
        store.sync()
        store.flush_checkpoint()
    with open_unidb(str(path), create=False) as again:
        assert len(again.load_all()) == 1


def test_copies_from_and_to_a_store(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    jobs = [
        SchedulerJobRecord(
            QName("größe", f"n{number:04}"), SchedulerJobStatus.RUNNING, None, number, 2**63 - 1, number, schedule
        )
        for number, schedule in enumerate([Manual(), Once(at_ns=5), Periodic(every_ns=2**62), Cron("@yearly")] * 150)
    ]
    with WalPersistence(tmp_path / "jobs") as store:
        store.restore(jobs)
    for places in ((tmp_path / "jobs", f"unidb:{path}"), (f"unidb:{path}", tmp_path / "back")):
        assert main(["copy", *map(str, places)]) == 0
        assert capsys.readouterr().err == ""
    with WalPersistence(tmp_path / "back", create=False) as back:
        assert list(back.iter_jobs()) == jobs


def test_the_jobs_that_uni_db_keeps_are_imported(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    database = uni_db.Uni.open(str(path))
    schedule(database, "custom.reindex", "manual", "")
    schedule(database, "ai.geo.tile", "periodic", "3600")
    schedule(database, "ai.geo.report", "cron", "0 15 9 * * Mon,Wed *")
    until(lambda: "custom.reindex" in listed(database))
    database.shutdown()
    assert main(["import", "unidb", str(path), str(tmp_path / "jobs")]) == 0
    assert "3 jobs" in capsys.readouterr().out
    with WalPersistence(tmp_path / "jobs", create=False) as store:
        found = {str(job.id): job for job in store.load_all()}
    assert {name: job.schedule for name, job in found.items()} == {
        "custom.reindex": Manual(),
        "ai.geo.tile": Periodic(every_ns=3_600_000_000_000),
        "ai.geo.report": Cron("0 15 9 * * Mon,Wed *"),
    }
    now_ns = time.time_ns()
    next_fire_at_ns = found["ai.geo.report"].next_fire_at_ns
    assert next_fire_at_ns == found["ai.geo.report"].schedule.next_after(now_ns)
    tile_ns = found["ai.geo.tile"].next_fire_at_ns or 0
    assert now_ns < tile_ns < now_ns + 3_600_000_000_000


def test_a_second_persistence_is_refused_and_a_reader_is_not(path: Path) -> None:
    with open_unidb(str(path)) as store:
        store.record_started(JOB, 1)
        with pytest.raises(StoreLockedError, match=f"process {os.getpid()} on "):
            open_unidb(str(path))
        with open_unidb(str(path), read_only=True) as reader:
            assert len(reader.load_all()) == 1
            with pytest.raises(StoreClosedError, match="read-only"):
                reader.record_started(JOB, 2)
            with pytest.raises(StoreClosedError, match="read-only"):
                reader.cancel(JOB)
    with open_unidb(str(path)) as again:
        assert [job.last_started_at_ns for job in again.load_all()] == [1]


def test_reading_only_changes_nothing(path: Path) -> None:
    def files() -> dict[str, bytes]:
        return {str(file): file.read_bytes() for file in path.rglob("*") if file.is_file()}

    with open_unidb(str(path)) as store:
        store.record_started(JOB, 1)
    before = files()
    with open_unidb(str(path), read_only=True) as reader:
        assert len(reader.load_all()) == 1
        reader.sync()
    assert files() == before


def test_a_forked_child_is_refused(path: Path) -> None:
    with open_unidb(str(path)) as store:
        store.record_started(JOB, 1)
        child = os.fork()
        if child == 0:
            # Whatever happens, the child must not go on with the tests.
            status = 1
            try:
                store.load_all()
            except ForkedProcessError:
                status = 7
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        assert len(store.load_all()) == 1


def test_what_is_no_database_is_not_made_one(tmp_path: Path) -> None:
    for create, read_only in ((False, False), (True, True)):
        with pytest.raises(StoreNotFoundError, match="no uni-db database at"):
            open_unidb(str(tmp_path / "none"), create=create, read_only=read_only)
    (tmp_path / "notes.txt").write_text("hello")
    for place in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(StoreNotFoundError):
            open_unidb(str(place))
    with pytest.raises(StoreNotFoundError, match="is empty"):
        (tmp_path / "empty").mkdir()
        open_unidb(str(tmp_path / "empty"), create=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "notes.txt"]


def test_what_uni_db_raises_is_an_error_of_the_contract(path: Path) -> None:
    database = uni_db.Uni.open(str(path))
    execute = inner_query(database)
    list(database.session().query("RETURN 1"))

    def wrong(cypher: str, parameters: object) -> Iterator[dict[str, object]]:
        return iter([dict(row) for row in execute(f"{cypher} WHERE", parameters)])  # type: ignore[arg-type]

    with pytest.raises(StorageError, match="UniParseError"):
        SystemLabelPersistence(wrong).record_started(JOB, 1)
    database.shutdown()


def test_a_damaged_database_is_refused(path: Path) -> None:
    with open_unidb(str(path)) as store:
        store.record_many([Started(JOB, 1)])
    (manifest,) = [file for file in (path / "storage" / "catalog").rglob("latest") if file.is_file()]
    manifest.write_text("../../nonsense")
    with pytest.raises(StorageError, match="uni-db can't do this"):
        open_unidb(str(path), create=False)
    # What could not be opened is not locked either.
    with pytest.raises(StorageError, match="uni-db can't do this"):
        open_unidb(str(path), create=False)
