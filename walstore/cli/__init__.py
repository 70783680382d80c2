"""The command line ``walstore``: its parser, and how errors become one line and an exit code."""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import textwrap
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import NoReturn

from walstore import __version__
from walstore.cli.interruption import Interruption, interruptible
from walstore.cli.outcome import MEANINGS, Exit, UsageError, error_document, exit_of
from walstore.cli.output import Output, OutputError
from walstore.errors import SchedulerPersistenceError, storage_error

__all__ = ["build_parser", "main"]

_COMMANDS = {
    "demo": "replay a real trace, kill the writer in the middle of it, and check what comes back",
    "inspect": "show the files of a store, also of one that does not open; changes nothing",
    "verify": "read everything in a store and name the first damaged place; changes nothing",
    "dump": "print events or records as JSON lines; changes nothing",
    "checkpoint": "recover a store that nobody has open, and compact its log into a snapshot",
    "salvage": "make a new store of what still verifies in a damaged one, and name the rest; changes nothing in SRC",
    "copy": "copy every job of a persistence into another one, and compare them; changes nothing in SRC",
    "import": "make a new store of what another scheduler has stored; changes nothing in SOURCE",
}
_WITH_ARGUMENTS = {"copy", "demo", "dump", "import"}
"""Commands whose modules add arguments of their own."""
_WITHOUT_PATH = {"copy", "demo", "import"}
"""Commands that take no path of a store first."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Nothing that a user or the operating system can cause is raised, ``SystemExit`` and ``KeyboardInterrupt`` included.
    Where standard output fails, it is pointed to the null device for the rest of the process.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    out = Output()
    if sys.stdout is None:
        out.error("standard output is closed: there is nowhere to print to")
        return Exit.REFUSED
    try:
        with interruptible():
            status = _run(arguments, out)
            out.flush()
    except Interruption as ending:
        out.clear_progress()
        return Exit(128 + ending.number)
    except KeyboardInterrupt:
        out.clear_progress()
        return Exit.INTERRUPTED
    except BrokenPipeError:
        _discard_output()
        return Exit.PIPE_CLOSED
    except OutputError as error:
        _discard_output()
        out.error(f"{error} while writing to standard output: what was printed is not complete")
        return Exit.REFUSED
    return status


def build_parser(command: str | None) -> argparse.ArgumentParser:
    """Return the parser. The arguments that a command's module adds are there for ``command`` only.

    So no command depends on what the others import.
    """
    parser = _Parser(
        prog="walstore",
        description="Look at and look after stores of walstore: directories with the state of scheduled jobs.",
        epilog="exit codes:\n" + "\n".join(_exit_line(code) for code in Exit),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"walstore {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, summary in _COMMANDS.items():
        described = summary[0].upper() + summary[1:] + "."
        subparser = commands.add_parser(name, help=summary, description=described, allow_abbrev=False)
        subparser.set_defaults(parser=subparser)
        if name not in _WITHOUT_PATH:
            metavar = "SRC" if name == "salvage" else "PATH"
            subparser.add_argument("path", type=_path, metavar=metavar, help="the directory of the store")
        if name == "salvage":
            what = "where to make the new store: a directory that does not exist yet, or is empty"
            subparser.add_argument("target", type=_path, metavar="DST", help=what)
        if name != "dump":
            subparser.add_argument("--json", action="store_true", help="print one JSON document and nothing else")
        if name == command and name in _WITH_ARGUMENTS:
            _module(name).add_arguments(subparser)
    return parser


class _Parser(argparse.ArgumentParser):
    """A parser that leaves it to the command line how errors are told. Those of the commands are of the same class."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, f"{self.format_usage()}{self.prog}: error: ")


def _run(arguments: list[str], out: Output) -> int:
    # No option takes a value before the command, so the command is the first argument that is no option.
    parser = build_parser(next((argument for argument in arguments if not argument.startswith("-")), None))
    if not arguments:
        parser.print_help(sys.stderr)
        return Exit.USAGE
    # Asked for, whatever else is wrong; behind "--" it would be a path.
    out.is_json = "--json" in itertools.takewhile("--".__ne__, arguments)
    try:
        args, unknown = parser.parse_known_args(arguments)
        if unknown:
            # Left to itself, argparse would show the usage of walstore, where that of the command tells what it takes.
            args.parser.error(f"unrecognized arguments: {' '.join(unknown)}")
        status: int = _module(args.command).run(args, out)
    except SystemExit as leave:
        return leave.code if isinstance(leave.code, int) else Exit.USAGE
    except UsageError as error:
        return _refuse(error, Exit.USAGE, out)
    except SchedulerPersistenceError as error:
        return _refuse(error, exit_of(error), out)
    except BrokenPipeError:
        raise
    except OSError as error:
        return _refuse(storage_error(error, f"running walstore {args.command}"), Exit.REFUSED, out)
    return status


def _refuse(error: UsageError | SchedulerPersistenceError, status: Exit, out: Output) -> Exit:
    if out.is_json:
        out.json_document({"ok": False, "error": error_document(error)})
    if isinstance(error, UsageError) and error.usage:
        out.complaint(error.usage + str(error))
    else:
        out.error(str(error))
    return status


def _module(command: str) -> ModuleType:
    # The one command whose name is a word of Python.
    return import_module(f"walstore.cli.{'import_' if command == 'import' else command}")


def _path(text: str) -> str:
    # An unset variable of a shell must not turn into the working directory.
    if not text or "\0" in text:
        raise argparse.ArgumentTypeError("not a path")
    return str(Path(text).absolute())


def _exit_line(code: Exit) -> str:
    return textwrap.fill(MEANINGS[code], 79, initial_indent=f"  {code:<5}", subsequent_indent=" " * 7)


def _discard_output() -> None:
    """Keep the interpreter from complaining, when it exits, about what it can't print."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)
