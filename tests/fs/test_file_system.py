"""What the engine relies on, of the real file system and of the simulated one alike."""

from __future__ import annotations

import errno
import itertools
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

from walstore.errors import UnsupportedPlatformError
from walstore.fs import os_fs, os_process
from walstore.fs.api import Appender, FileSystem
from walstore.fs.atomic import SyncFailedError, create_atomically
from walstore.fs.os_fs import OsFileSystem
from walstore.testing.sim_fs import SimFileSystem


@pytest.fixture(params=["real", "simulated"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[FileSystem, str]:
    if request.param == "real":
        return OsFileSystem(), str(tmp_path)
    fs = SimFileSystem()
    fs.make_directory("/store")
    return fs, "/store"


@pytest.mark.parametrize("size", [1, 4096, 65_537, 300_000])
def test_space_that_is_written_ahead_reads_as_zeros(world: tuple[FileSystem, str], size: int) -> None:
    fs, directory = world
    file = fs.create(f"{directory}/a")
    file.allocate(size, written=True)
    assert file.size() == size
    assert file.read(0, size + 1) == bytes(size)
    file.close()


def test_bytes_come_back_where_they_were_written(world: tuple[FileSystem, str]) -> None:
    fs, directory = world
    file = fs.create(f"{directory}/a")
    file.allocate(4096)
    assert file.size() == 4096
    file.write(100, b"hello")
    assert file.read(99, 7) == b"\0hello\0"
    assert file.read(4090, 100) == b"\0" * 6
    assert file.read(5000, 10) == b""
    file.truncate(103)
    assert file.size() == 103
    assert file.read(100, 10) == b"hel"
    file.sync()
    file.close()
    file.close()
    again = fs.open(f"{directory}/a")
    assert again.read(100, 10) == b"hel"
    again.close()


def test_names(world: tuple[FileSystem, str]) -> None:
    fs, directory = world
    fs.create(f"{directory}/a").close()
    with pytest.raises(FileExistsError):
        fs.create(f"{directory}/a")
    fs.create(f"{directory}/b").close()
    fs.rename(f"{directory}/a", f"{directory}/b")
    assert fs.list_directory(directory) == ["b"]
    fs.unlink(f"{directory}/b")
    fs.sync_directory(directory)
    assert fs.list_directory(directory) == []
    for call in (fs.unlink, fs.open, fs.list_directory, fs.read_small):
        with pytest.raises(FileNotFoundError):
            call(f"{directory}/missing")
    fs.make_directory(f"{directory}/inner")
    with pytest.raises(FileExistsError):
        fs.make_directory(f"{directory}/inner")
    with pytest.raises(OSError, match=r".") as refused:
        fs.open(f"{directory}/inner", writable=True)
    assert refused.value.errno in (errno.EISDIR, errno.EINVAL)
    fs.create(f"{directory}/file").close()
    with pytest.raises(NotADirectoryError):
        fs.list_directory(f"{directory}/file")


def test_a_shared_lock_keeps_the_writer_out_and_writes_nothing(world: tuple[FileSystem, str]) -> None:
    fs, directory = world
    path = f"{directory}/LOCK"
    with pytest.raises(FileNotFoundError):
        fs.lock_shared(path)
    assert fs.list_directory(directory) == []
    writer = fs.lock(path)
    assert writer is not None
    writer.write(b"me")
    assert fs.lock_shared(path) is None
    writer.release()
    first, second = fs.lock_shared(path), fs.lock_shared(path)
    assert first is not None
    assert second is not None
    assert first.read() == b"me"
    with pytest.raises(OSError, match="Bad file"):
        first.write(b"x")
    first.release()
    assert fs.lock(path) is None
    second.release()
    third = fs.lock(path)
    assert third is not None
    assert third.read() == b"me"
    third.release()


def test_the_lock_is_exclusive(world: tuple[FileSystem, str]) -> None:
    fs, directory = world
    lock = fs.lock(f"{directory}/LOCK")
    assert lock is not None
    assert lock.read() == b""
    lock.write(b"held by me")
    assert fs.read_small(f"{directory}/LOCK") == b"held by me"
    lock.write(b"short")
    assert lock.read() == b"short"
    assert fs.lock(f"{directory}/LOCK") is None
    lock.release()
    lock.release()
    second = fs.lock(f"{directory}/LOCK")
    assert second is not None
    assert second.read() == b"short"
    second.release()


def test_the_boot_id_stays_the_same(world: tuple[FileSystem, str]) -> None:
    fs, _ = world
    assert len(fs.boot_id()) == 16
    assert fs.boot_id() == fs.boot_id()


@pytest.fixture(params=["mapped", "pwrite", "without a GIL", "simulated"])
def append(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[int], Appender]]:
    """Give what makes an appender over the first bytes of a file of 4096."""
    fs: FileSystem = OsFileSystem()
    directory = str(tmp_path)
    if request.param == "simulated":
        fs, directory = SimFileSystem(), "/"
    if request.param not in {"pwrite", "simulated"}:
        monkeypatch.setattr(os_fs, "_file_system_kind", lambda _: "ext4")
    if request.param == "pwrite":
        monkeypatch.setattr(os_fs, "_file_system_kind", lambda _: "btrfs")
    if request.param == "without a GIL":
        monkeypatch.setattr("sys._is_gil_enabled", lambda: False, raising=False)
    file = fs.create(f"{directory}/segment")
    file.allocate(4096)
    yield lambda end: file.appender(16, end)
    file.close()


def test_an_appender_appends_whole_or_not_at_all(append: Callable[[int], Appender]) -> None:
    appender = append(100)
    assert appender.tell() == 16
    appender.write(b"a" * 40)
    assert appender.tell() == 56
    with pytest.raises(ValueError, match=r"."):
        appender.write(b"b" * 45)
    assert appender.tell() == 56
    appender.write(b"c" * 44)
    assert appender.tell() == 100
    with pytest.raises(ValueError, match=r"."):
        appender.write(b"d")


def test_nothing_is_written_after_the_seal(append: Callable[[int], Appender]) -> None:
    appender = append(4000)
    write = appender.write
    write(b"a" * 40)
    assert appender.seal() == 56
    for attempt in (write, appender.write):
        with pytest.raises(ValueError, match=r"."):
            attempt(b"b")


def test_threads_append_one_after_another_where_a_write_is_one_step(append: Callable[[int], Appender]) -> None:
    appender = append(16 + 8 * 50 * 8)
    lock = nullcontext() if appender.one_step else threading.Lock()

    def work(number: int) -> None:
        for _ in range(50):
            with lock:
                appender.write(bytes([number]) * 8)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert appender.tell() == 16 + 8 * 50 * 8


def test_create_atomically_leaves_the_whole_file_or_none(world: tuple[FileSystem, str]) -> None:
    fs, directory = world
    file = create_atomically(fs, directory, "name", "name.tmp", lambda file: file.write(0, b"content"))
    assert file.read(0, 100) == b"content"
    file.close()
    assert fs.list_directory(directory) == ["name"]

    def fail(_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        create_atomically(fs, directory, "other", "other.tmp", fail)
    assert fs.list_directory(directory) == ["name"]


def test_a_failed_sync_of_the_directory_is_told_apart() -> None:
    fs = SimFileSystem()
    fs.fail("sync_directory", errno.EIO)
    with pytest.raises(SyncFailedError):
        create_atomically(fs, "/", "name", "name.tmp", lambda file: file.write(0, b"content"))


def test_a_leftover_that_can_not_be_removed_is_mentioned() -> None:
    fs = SimFileSystem()
    fs.fail("rename", errno.EIO)
    fs.fail("unlink", errno.EACCES)
    with pytest.raises(OSError, match=r".") as failed:
        create_atomically(fs, "/", "name", "name.tmp", lambda file: file.write(0, b"content"))
    assert failed.value.errno == errno.EIO
    assert "name.tmp could not be removed" in failed.value.__notes__[0]


# The real one alone.


def test_files_and_directories_are_for_their_owner_alone(tmp_path: Path) -> None:
    fs = OsFileSystem()
    fs.make_directory(f"{tmp_path}/store")
    fs.create(f"{tmp_path}/store/a").close()
    lock = fs.lock(f"{tmp_path}/store/LOCK")
    assert lock is not None
    lock.release()
    assert (tmp_path / "store").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "store" / "a").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "store" / "LOCK").stat().st_mode & 0o777 == 0o600


def test_links_and_pipes_are_not_opened(tmp_path: Path) -> None:
    """What somebody else put under a name of the store is refused, and a pipe does not block the opening for ever."""
    fs = OsFileSystem()
    (tmp_path / "target").write_bytes(b"somebody's")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "pipe"):
        with pytest.raises(OSError, match=r"."):
            fs.open(f"{tmp_path}/{name}", writable=True)
        with pytest.raises(OSError, match=r"."):
            fs.lock(f"{tmp_path}/{name}")


def mounted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, lines: str) -> None:
    table = tmp_path / "mountinfo"
    table.write_text(lines)
    monkeypatch.setattr(os_fs, "_MOUNTS", str(table))


def test_network_file_systems_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    base = str(tmp_path).replace(" ", "\\040")
    mounted(
        monkeypatch,
        tmp_path,
        "22 1 8:1 / / rw - ext4 /dev/sda rw\n"
        f"23 22 0:50 / {base}/far\\040away rw,relatime shared:1 - nfs4 server:/export rw\n"
        f"24 22 0:51 / {base}/near rw - xfs /dev/sdb rw\n",
    )
    fs = OsFileSystem()
    fs.check(str(tmp_path))
    fs.check(f"{tmp_path}/near/jobs")
    (tmp_path / "far away").mkdir()
    for path in ("far away", "far away/new"):
        with pytest.raises(UnsupportedPlatformError, match="nfs4"):
            fs.check(f"{tmp_path}/{path}")


def test_the_mount_on_top_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    mounted(
        monkeypatch,
        tmp_path,
        "22 1 8:1 / / rw - ext4 /dev/sda rw\n"
        f"23 22 0:50 / {tmp_path} rw - ext4 /dev/sdb rw\n"
        f"24 22 0:51 / {tmp_path} rw - cifs //server/share rw\n",
    )
    with pytest.raises(UnsupportedPlatformError, match="cifs"):
        OsFileSystem().check(str(tmp_path))


def test_a_platform_without_what_it_takes_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os_fs, "fcntl", None)
    with pytest.raises(UnsupportedPlatformError, match="MemoryPersistence"):
        OsFileSystem().check(str(tmp_path))


def test_without_a_boot_id_every_look_is_another_boot(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os_process, "_BOOT_ID", str(tmp_path / "missing"))
    assert OsFileSystem().boot_id() != OsFileSystem().boot_id()


def test_a_write_that_fails_half_way_leaves_nothing_behind_the_end(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Where mapping is not safe, a full disk may cut a write: its bytes must not lie behind a shorter frame."""
    monkeypatch.setattr(os_fs, "_file_system_kind", lambda _: "btrfs")
    file = OsFileSystem().create(f"{tmp_path}/segment")
    file.allocate(4096)
    appender = file.appender(0, 4096)
    appender.write(b"a" * 8)
    real_pwrite = os.pwrite
    full = [True, True]

    def pwrite(descriptor: int, data: bytes, offset: int) -> int:
        if full and full.pop():
            if len(full) == 1:
                return real_pwrite(descriptor, bytes(data)[:20], offset)
            raise OSError(errno.ENOSPC, "No space left on device")
        return real_pwrite(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", pwrite)
    with pytest.raises(OSError, match="No space left"):
        appender.write(b"b" * 40)
    appender.write(b"c" * 8)
    assert file.read(0, 64) == b"a" * 8 + b"c" * 8 + bytes(48)
    file.close()


def test_short_reads_and_writes_are_completed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The kernel may move less than it was asked to, at any call: a signal came in between, or memory was short."""
    real_pread, real_pwrite = os.pread, os.pwrite
    monkeypatch.setattr(os, "pread", lambda descriptor, size, offset: real_pread(descriptor, min(size, 7), offset))
    monkeypatch.setattr(os, "pwrite", lambda descriptor, data, offset: real_pwrite(descriptor, data[:5], offset))
    fs, path = OsFileSystem(), f"{tmp_path}/a"
    file = fs.create(path)
    file.write(0, bytes(range(100)))
    assert file.read(10, 50) == bytes(range(10, 60))
    assert file.read(90, 50) == bytes(range(90, 100))
    assert fs.read_small(path) == bytes(range(100))
    file.close()
    lock = fs.lock(f"{tmp_path}/LOCK")
    assert lock is not None
    lock.write(b"who holds it")
    assert lock.read() == b"who holds it"
    lock.release()


@pytest.mark.signals
def test_signals_leave_every_call_whole(tmp_path: Path) -> None:
    """Python repeats what a signal interrupts (EINTR), as long as the handler does not raise."""
    signals = 0

    def count(_number: int, _frame: object) -> None:
        nonlocal signals
        signals += 1

    before = signal.signal(signal.SIGALRM, count)
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    try:
        fs = OsFileSystem()
        for number in itertools.count():
            data = bytes([number % 256]) * 1_000_000
            file = fs.create(f"{tmp_path}/{number}.tmp")
            file.allocate(len(data))
            file.write(0, data)
            file.sync()
            file.truncate(len(data) - 1)
            fs.rename(f"{tmp_path}/{number}.tmp", f"{tmp_path}/{number}")
            fs.sync_directory(str(tmp_path))
            assert file.read(0, len(data)) == data[:-1]
            file.close()
            fs.unlink(f"{tmp_path}/{number}")
            if signals >= 30:
                break
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert list(tmp_path.iterdir()) == []
