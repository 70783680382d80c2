"""``walstore import``: make a new store of what another scheduler has stored, all of it or nothing."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, NamedTuple, cast

from walstore.cli.outcome import Exit, UsageError
from walstore.cli.output import Output
from walstore.cli.reading import plural
from walstore.errors import SchedulerPersistenceError, storage_errors
from walstore.fs.os_fs import OsFileSystem

__all__ = ["KINDS", "Importer", "add_arguments", "run"]


class Importer(NamedTuple):
    """How one kind of file is imported: by a function that is found when it is asked for.

    It makes a store at its second argument of the file at its first, and returns how many jobs that is; it takes a
    table by name where ``has_tables``. ``package`` must be there to read the file; it comes with the extra of the same
    name.
    """

    module: str
    function: str
    package: str | None = None
    has_tables: bool = False


KINDS: Final = {
    "unidb": Importer("walstore.backends.system_label_file", "import_file"),
    "celery": Importer("walstore.integrations.celery_shelve", "import_shelve", package="celery"),
    "apscheduler": Importer("walstore.integrations.apscheduler_import", "import_sqlite", has_tables=True),
}
"""The kinds of files that can be imported."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``walstore import``."""
    parser.add_argument("kind", choices=KINDS, metavar="KIND", help=f"whose file it is: {', '.join(KINDS)}")
    parser.add_argument("source", type=_path, metavar="SOURCE", help="the file of the other scheduler")
    parser.add_argument(
        "target", type=_path, metavar="TARGET", help="where to make the store: nothing, or an empty directory"
    )
    parser.add_argument("--table", metavar="NAME", help="the table in an SQLite file, if it is not apscheduler_jobs")


def run(args: argparse.Namespace, out: Output) -> int:
    """Import a file. The store has its name when it is whole, so an interrupted import leaves nothing there.

    Raises ``SchedulerPersistenceError`` where the target is taken, or what the kind needs is not installed,
    ``UsageError`` for a table where there is none, and what the function of the kind raises.
    """
    source, target = args.source, Path(args.target)
    options = {"table": args.table} if args.table is not None else {}
    if options and not KINDS[args.kind].has_tables:
        raise UsageError(f"a file of {args.kind} has no tables: leave out --table")
    function = _function(args.kind)
    with storage_errors(f"making a store at {target}"):
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise SchedulerPersistenceError(
                f"{target} is there already: import to a path where there is nothing, or an empty directory"
            )
        with TemporaryDirectory(prefix=f".{target.name}.importing-", dir=target.parent) as home:
            out.progress(f"importing {source}")
            built = Path(home, "store")
            try:
                jobs = function(source, str(built), **options)
            except ValueError as error:
                # It is not what the kind says, or something in it is not.
                raise SchedulerPersistenceError(str(error)) from error
            built.rename(target)
        OsFileSystem().sync_directory(str(target.parent))
    if out.is_json:
        out.json_document({"ok": True, "kind": args.kind, "source": source, "target": str(target), "imported": jobs})
    out.line(f"OK: {plural(jobs, 'job')} of {source} imported into the new store {target}.")
    return Exit.OK


def _function(kind: str) -> Callable[..., int]:
    importer = KINDS[kind]
    try:
        if importer.package is not None and find_spec(importer.package) is None:
            raise ModuleNotFoundError(f"No module named {importer.package!r}")
        return cast("Callable[..., int]", getattr(import_module(importer.module), importer.function))
    except ImportError as missing:
        raise SchedulerPersistenceError(
            f"files of {kind} can't be read here ({missing}): pip install 'walstore[{kind}]'"
        ) from missing


def _path(text: str) -> str:
    # An unset variable of a shell must not turn into the working directory.
    if not text or "\0" in text:
        raise argparse.ArgumentTypeError("not a path")
    return str(Path(text).absolute())
