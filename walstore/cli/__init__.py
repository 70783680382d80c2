"""The command line ``walstore``: its parser, and how errors become one line and an exit code."""

from __future__ import annotations

import argparse
import os
import sys
import textwrap
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from walstore import __version__
from walstore.cli.outcome import MEANINGS, Exit, error_document, exit_of
from walstore.cli.output import Output, OutputError
from walstore.errors import SchedulerPersistenceError

__all__ = ["build_parser", "main"]

_COMMANDS = {
    "demo": "replay a real trace, kill the writer in the middle of it, and check what comes back",
    "inspect": "show the files of a store, also of one that does not open; changes nothing",
    "verify": "read everything in a store and name the first damaged place; changes nothing",
    "dump": "print events or records as JSON lines; changes nothing",
    "checkpoint": "recover a store that nobody has open, and compact its log into a snapshot",
    "salvage": "make a new store of what still verifies in a damaged one, and name the rest; changes nothing in SRC",
}
_WITH_ARGUMENTS = {"demo", "dump"}
"""Commands whose modules add arguments of their own."""


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
        status = _run(arguments, out)
        out.flush()
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
    except OSError as error:
        out.error(str(error))
        return Exit.REFUSED
    return status


def build_parser(command: str | None) -> argparse.ArgumentParser:
    """Return the parser. The arguments that a command's module adds are there for ``command`` only.

    So no command depends on what the others import.
    """
    parser = argparse.ArgumentParser(
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
        if name != "demo":
            metavar = "SRC" if name == "salvage" else "PATH"
            subparser.add_argument("path", type=_path, metavar=metavar, help="the directory of the store")
        if name == "salvage":
            what = "where to make the new store: a directory that does not exist yet, or is empty"
            subparser.add_argument("target", type=_path, metavar="DST", help=what)
        if name != "dump":
            subparser.add_argument("--json", action="store_true", help="print one JSON document and nothing else")
        if name == command and name in _WITH_ARGUMENTS:
            import_module(f"walstore.cli.{name}").add_arguments(subparser)
    return parser


def _run(arguments: list[str], out: Output) -> int:
    # No option takes a value before the command, so the command is the first argument that is no option.
    parser = build_parser(next((argument for argument in arguments if not argument.startswith("-")), None))
    if not arguments:
        parser.print_help(sys.stderr)
        return Exit.USAGE
    try:
        args = parser.parse_args(arguments)
    except SystemExit as leave:
        return leave.code if isinstance(leave.code, int) else Exit.USAGE
    out.is_json = getattr(args, "json", False)
    try:
        status: int = import_module(f"walstore.cli.{args.command}").run(args, out)
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except SchedulerPersistenceError as error:
        if out.is_json:
            out.json_document({"ok": False, "error": error_document(error)})
        out.error(str(error))
        return exit_of(error)
    except ValueError as error:
        # A trace or a path that the demo can't use; nothing else raises one for what a user does.
        if args.command != "demo":
            raise
        out.error(str(error))
        return Exit.USAGE
    return status


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
