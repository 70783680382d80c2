"""``walstore copy``: bring every job of one persistence into another one, whichever they are, and compare them all."""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import zip_longest
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import IO, Protocol

from walstore.cli.outcome import Exit, UsageError
from walstore.cli.output import Output
from walstore.cli.reading import describe_jobs, plural
from walstore.errors import SchedulerPersistenceError
from walstore.model.records import SchedulerJobRecord, SchedulerJobStatus, state_of
from walstore.persistence import BatchPersistence, MemoryPersistence, SchedulerPersistence
from walstore.urls import open_persistence

__all__ = ["add_arguments", "place_of", "run", "shown"]

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_SECRETS = re.compile(r"(?<=//)([^/@:]*:)[^/@]*(?=@)|([?&]password=)[^&]*")
"""The password in a URL, before its host or among its parameters."""
_DIGEST_BYTES = 16
_NOTES_BYTES_MAX = 1024 * 1024
_PROGRESS_EVERY = 5_000


class _Batched(BatchPersistence, Protocol):
    """A persistence that can be copied from and to."""

    def flush_checkpoint(self) -> None: ...


@dataclass(slots=True)
class _Copied:
    """What a copy came to. ``notes`` holds a digest of each job of the source, in the order of their ids."""

    notes: IO[bytes]
    copied: int = 0
    already_there: int = 0
    statuses: Counter[SchedulerJobStatus] = field(default_factory=Counter)

    @property
    def jobs(self) -> dict[str, int]:
        """How many jobs of the source there are of each status."""
        kept = [status for status in SchedulerJobStatus if status is not SchedulerJobStatus.CANCELLED]
        return {status.value: self.statuses[status] for status in kept}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``walstore copy``."""
    parser.add_argument("source", type=place_of, metavar="SRC", help="what to copy: a URL, or the directory of a store")
    parser.add_argument("target", type=place_of, metavar="DST", help="where to: a URL, or the directory of a store")


def run(args: argparse.Namespace, out: Output) -> int:
    """Copy every job; returns ``DAMAGE`` where the copy reads back as something else.

    Raises what opening raises, and ``UsageError`` for a URL that names nothing.
    """
    source, target = args.source, args.target
    if source == target:
        raise SchedulerPersistenceError(f"{shown(source)} is both source and destination: give another destination")
    with SpooledTemporaryFile(max_size=_NOTES_BYTES_MAX) as notes:
        done = _copy(source, target, _Copied(notes), out)
        out.progress("comparing")
        difference = _difference(target, done)
    _show(source, target, done, difference, out)
    return Exit.OK if difference is None else Exit.DAMAGE


def place_of(text: str) -> str:
    """Return the URL of what an argument names: a bare path is a store, ``wal:PATH``. Paths become absolute."""
    # An unset variable of a shell must not turn into the working directory.
    if not text or "\0" in text:
        raise argparse.ArgumentTypeError("neither a URL nor a path")
    scheme, path = ("wal", text) if _SCHEME.match(text) is None else tuple(text.split(":", 1))
    if scheme in {"wal", "unidb"} and path:
        return f"{scheme}:{Path(path).absolute()}"
    return f"{scheme}:{path}"


def shown(url: str) -> str:
    """Return a URL as it may be printed: without the password in it."""
    if url.startswith("wal:"):
        return url.removeprefix("wal:")
    return _SECRETS.sub(r"\1\2***", url)


def _copy(source: str, target: str, done: _Copied, out: Output) -> _Copied:
    """Copy the jobs that the target lacks. Nothing is written where it has others."""
    with _opened(source, read_only=True) as opened:
        jobs = _batched(opened, source)
        with _opened(target) as into:
            there = _batched(into, target)
            _require_part(jobs, there, target, out)
            there.restore(_missing(jobs, there, done, out))
            out.progress("syncing")
            there.flush_checkpoint()
    return done


def _opened(url: str, *, read_only: bool = False) -> SchedulerPersistence:
    try:
        return open_persistence(url, create=not read_only, read_only=read_only)
    except ValueError as error:
        raise UsageError(str(error)) from error


def _batched(persistence: SchedulerPersistence, url: str) -> _Batched:
    if isinstance(persistence, MemoryPersistence):
        raise SchedulerPersistenceError(f"{url} keeps nothing, so there is nothing to copy from or to it")
    if not isinstance(persistence, BatchPersistence):
        raise SchedulerPersistenceError(f"{shown(url)} offers neither restore nor iter_jobs: it can't be copied")
    return persistence


def _require_part(jobs: _Batched, there: _Batched, target: str, out: Output) -> None:
    """Raise where the target has a job that the source does not have, or has otherwise."""
    with closing(_streamed(there)) as held, closing(_streamed(jobs)) as wanted:
        for number, record in enumerate(held):
            if number % _PROGRESS_EVERY == 0:
                out.progress(f"comparing with what is there: {number:,} jobs")
            name = str(record.id)
            match = next((job for job in wanted if str(job.id) >= name), None)
            if match != record:
                what = "another state of" if match is not None and match.id == record.id else "a job that SRC lacks:"
                raise SchedulerPersistenceError(
                    f"{shown(target)} already holds {what} {name}, so it is no copy that was begun from SRC. Nothing "
                    "was changed: give a destination without jobs."
                )


def _missing(jobs: _Batched, there: _Batched, done: _Copied, out: Output) -> Iterator[SchedulerJobRecord]:
    """Yield the jobs of the source that the target lacks, and take note of all of them."""
    with closing(_streamed(there)) as held, closing(_streamed(jobs)) as wanted:
        known = next(held, None)
        for number, record in enumerate(wanted, 1):
            if number % _PROGRESS_EVERY == 0:
                out.progress(f"copying: {number:,} jobs")
            done.notes.write(_digest(record))
            done.statuses[record.status] += 1
            if known is not None and known.id == record.id:
                done.already_there += 1
                known = next(held, None)
                continue
            done.copied += 1
            yield record


def _difference(target: str, done: _Copied) -> str | None:
    """Return where the target, opened anew, differs from what was read of the source; None where it does not."""
    with (
        _opened(target, read_only=True) as opened,
        closing(_streamed(_batched(opened, target))) as held,
    ):
        for record, digest in zip_longest(held, _digests(done.notes)):
            if record is None:
                return "its last jobs are missing"
            if digest is None or _digest(record) != digest:
                return f"the first job that differs is {record.id}, or one that is missing before it"
    return None


def _streamed(persistence: _Batched) -> Generator[SchedulerJobRecord]:
    yield from persistence.iter_jobs()


def _digest(record: SchedulerJobRecord) -> bytes:
    return blake2b(repr((str(record.id), *state_of(record))).encode(), digest_size=_DIGEST_BYTES).digest()


def _digests(notes: IO[bytes]) -> Iterable[bytes]:
    notes.seek(0)
    return iter(lambda: notes.read(_DIGEST_BYTES), b"")


def _show(source: str, target: str, done: _Copied, difference: str | None, out: Output) -> None:
    if out.is_json:
        out.json_document(
            {
                "ok": difference is None,
                "source": shown(source),
                "target": shown(target),
                "jobs": done.jobs,
                "copied": done.copied,
                "already_there": done.already_there,
                "difference": difference,
            }
        )
    out.line(f"jobs    {describe_jobs(done.jobs)}")
    out.line(
        f"copied  {plural(done.copied, 'job')}" + (f", {done.already_there:,} were there" * bool(done.already_there))
    )
    if difference is None:
        out.line(f"OK: {shown(target)} was read back, and every job equals the one in {shown(source)}.")
    else:
        out.error(f"{shown(target)} does not hold what was copied: {difference}; compare it with {shown(source)}")
