"""The merge in a process of its own: what the process does, and how the compactor hears of it."""

from __future__ import annotations

import gc
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from importlib import import_module
from typing import Final

from walstore.engine.environment import Environment, EventT, Plug, StateT, Worker
from walstore.engine.merge import FileSpill, merged_frames
from walstore.engine.snapshot import Snapshot, write_snapshot
from walstore.engine.survey import Files, survey
from walstore.engine.view import View
from walstore.errors import CorruptionError, StorageError
from walstore.format.filenames import is_temporary
from walstore.format.layout import Header
from walstore.fs.api import File, FileSystem
from walstore.fs.os_fs import OsFileSystem
from walstore.fs.os_process import absolute_path, leave_without_parent, process_id

__all__ = ["Task", "answer_of", "main", "start_worker", "write_merged"]

_MAIN: Final = "walstore.engine.worker:main"
_OUTPUT_SHOWN: Final = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What a worker is told. ``temporary`` is the file, made by its parent, that it fills with the snapshot."""

    plug: str
    directory: str
    temporary: str
    header: str
    """In hexadecimal digits."""
    memory_bytes: int
    parent: int


def write_merged(
    fs: FileSystem,
    directory: str,
    file: File,
    header: Header,
    view: View[EventT, StateT],
    memory_bytes: int,
) -> None:
    """Fold a view into a snapshot, which is written into an empty file."""
    spill = FileSpill(fs, directory, f"spill-{header.nonce:016x}", header.nonce)
    try:
        write_snapshot(file, header, view.plug.codec, merged_frames(view, memory_bytes, spill))
    finally:
        spill.close()


# In the parent.


def start_worker(
    environment: Environment,
    plug: Plug[EventT, StateT],
    directory: str,
    temporary: str,
    header: Header,
    memory_bytes: int,
) -> Worker:
    """Start a worker that fills ``temporary``, an empty file in the directory, with a snapshot. Raises ``OSError``.

    The environment must have workers, and the plug a name.
    """
    assert environment.start_worker is not None
    assert plug.name is not None
    task = Task(
        plug=plug.name,
        directory=absolute_path(directory),
        temporary=temporary,
        header=header.encode().hex(),
        memory_bytes=memory_bytes,
        parent=process_id(),
    )
    return environment.start_worker(_MAIN, asdict(task))


def answer_of(worker: Worker, directory: str) -> str | None:
    """Wait until a worker has ended. Returns None where all went well, and where it gave no answer what it printed.

    Raises what it says went wrong, ``OSError`` or ``CorruptionError``.
    """
    output = worker.output().strip()
    try:
        answer = json.loads(output.rpartition("\n")[2])
    except ValueError:
        answer = None
    match answer:
        case {"done": True}:
            return None
        case {"corruption": {"what": str(what), "path": str(path), "offset": offset, "lsn": lsn}}:
            raise CorruptionError(what, path=path, offset=offset, lsn=lsn)
        case {"refused": [int(number), str(message)]}:
            raise OSError(number, message)
        case _:
            return (
                f"the process that compacts {directory} ended before it was done: it was killed, or can't be started "
                f"here. Nothing is lost; the next attempt does without one. The end of what it printed: "
                f"{output[-_OUTPUT_SHOWN:]!r}"
            )


# In the worker.


def main(task: Mapping[str, str | int]) -> None:
    """Do a task, and print how it went as one line of JSON."""
    # Records are tuples without cycles, and the process ends with the merge: collecting would only take time.
    gc.disable()
    answer: dict[str, object] = {"done": True}
    try:
        _work(Task(**task))  # type: ignore[arg-type]  # From the same class, in the parent.
    except CorruptionError as error:
        answer = {"corruption": {"what": error.what, "path": error.path, "offset": error.offset, "lsn": error.lsn}}
    except OSError as error:
        if error.errno is None:
            raise
        answer = {
            "refused": [error.errno, f"{error.strerror} ({error.filename})" if error.filename else error.strerror]
        }
    print(json.dumps(answer), flush=True)  # noqa: T201  # The parent reads it.


def _work(task: Task) -> None:
    fs = OsFileSystem()
    module, _, attribute = task.plug.partition(":")
    plug: Plug[object, object] = getattr(import_module(module), attribute)
    header = Header.decode(bytes.fromhex(task.header))
    check_parent = partial(leave_without_parent, task.parent)
    path = f"{task.directory}/{task.temporary}"
    file = fs.open(path, writable=True)
    try:
        files = _survey(fs, task.directory, plug)
        view = View(files, header.lsn, plug, before_frame=check_parent)
        try:
            if files.chain[0].header.store_id != header.store_id:
                raise StorageError(f"{task.directory} holds another store than the one that is to be compacted")
            write_merged(fs, task.directory, file, header, view, task.memory_bytes)
        finally:
            view.close()
        check_parent()
        file.sync()
        # What is wrong here is found while the log is still there.
        Snapshot(file, path, plug.codec, plug.reducer.id).check()
    finally:
        file.close()


def _survey(fs: FileSystem, directory: str, plug: Plug[EventT, StateT]) -> Files[EventT, StateT]:
    """Open the files of a store whose writer is at work: it may begin segments, and cut those that are finished."""
    while True:
        names = _that_count(fs, directory)
        try:
            files = survey(fs, directory, plug, created=True)
        except CorruptionError:
            if _that_count(fs, directory) == names:
                raise
        else:
            assert files is not None
            return files


def _that_count(fs: FileSystem, directory: str) -> set[str]:
    return {name for name in fs.list_directory(directory) if not is_temporary(name)}
