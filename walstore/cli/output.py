"""How the command line speaks: lines and tables for people, one JSON document for machines.

``rich`` draws the tables where it is installed and standard output is a terminal; else they are aligned columns.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

__all__ = ["Output", "OutputError"]

_CLEAR_LINE = "\r\x1b[K"
_encode_line = json.JSONEncoder(separators=(",", ":")).encode
"""Made once: ``json.dumps`` with separators would make an encoder for every line."""


class OutputError(Exception):
    """Standard output takes no more: its disk is full, or it is closed. The message is the operating system's."""


class Output:
    """Results on standard output, everything else on standard error. For one thread.

    With ``is_json`` nothing but JSON goes to standard output: ``line`` and ``table`` print nothing. Printing raises
    ``BrokenPipeError`` when the reader of a pipe is gone, and ``OutputError`` when standard output fails otherwise.
    """

    def __init__(self, *, is_json: bool = False) -> None:
        self.is_json = is_json
        self._progress_shown = False
        self._after_table = False

    def line(self, text: str) -> None:
        """Print one line for people."""
        if not self.is_json:
            self._print(f"\n{_printable(text)}" if self._after_table else _printable(text))
            self._after_table = False

    def table(self, title: str, headers: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Print a table for people. None is an empty cell; columns of numbers are aligned to the right."""
        if self.is_json:
            return
        cells = [[_cell(value) for value in row] for row in rows]
        numeric = [all(row[column][:1].isdigit() or not row[column] for row in cells) for column in range(len(headers))]
        self.clear_progress()
        if not (sys.stdout.isatty() and _draw_richly(title, headers, cells, numeric)):
            self._print_plainly(title, headers, cells, numeric)
        self._after_table = True

    def json_document(self, document: dict[str, object]) -> None:
        """Print the JSON document that is the result of the command."""
        self._print(json.dumps(document, indent=2))

    def json_line(self, document: dict[str, object]) -> None:
        """Print a JSON object on a line of its own, with or without ``is_json``."""
        self._print(_encode_line(document))

    def error(self, text: str) -> None:
        """Print one line on standard error."""
        self.complaint(f"walstore: {_printable(text)}")

    def complaint(self, text: str) -> None:
        """Print text on standard error as it stands, which may be several lines."""
        self.clear_progress()
        # Without standard error, print() would turn to standard output.
        if sys.stderr is not None:
            # Where it can't be written, the exit code still says what it has to say.
            with contextlib.suppress(OSError):
                print(_encodable(text, sys.stderr.encoding), file=sys.stderr, flush=True)

    def progress(self, text: str) -> None:
        """Show a line on standard error in place of the last one, if that is a terminal; the next output removes it."""
        if sys.stderr is not None and sys.stderr.isatty():
            width = shutil.get_terminal_size().columns - 1
            print(f"{_CLEAR_LINE}{text[:width]}", end="", file=sys.stderr, flush=True)
            self._progress_shown = True

    def clear_progress(self) -> None:
        """Remove the line that ``progress`` has left."""
        if self._progress_shown:
            print(_CLEAR_LINE, end="", file=sys.stderr, flush=True)
            self._progress_shown = False

    def flush(self) -> None:
        """Hand everything printed to the operating system."""
        self.clear_progress()
        with _failing_output():
            sys.stdout.flush()

    def _print(self, text: str) -> None:
        self.clear_progress()
        with _failing_output():
            print(_encodable(text, sys.stdout.encoding))

    def _print_plainly(
        self, title: str, headers: Sequence[str], cells: Sequence[Sequence[str]], numeric: Sequence[bool]
    ) -> None:
        grid = [headers, *cells]
        widths = [max(len(row[column]) for row in grid) for column in range(len(headers))]
        self._print(f"\n{title}")
        for row in [headers, ["-" * width for width in widths], *cells]:
            aligned = (
                cell.rjust(width) if right else cell.ljust(width)
                for cell, width, right in zip(row, widths, numeric, strict=True)
            )
            self._print("  ".join(aligned).rstrip())


@contextmanager
def _failing_output() -> Iterator[None]:
    """Tell a failure of standard output from one of the store's files, which are ``OSError`` as well."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(error.strerror or str(error)) from error


def _draw_richly(title: str, headers: Sequence[str], cells: Sequence[Sequence[str]], numeric: Sequence[bool]) -> bool:
    """Draw a table with ``rich``; return False where it is not installed, or would have to break lines."""
    try:
        # Imported here: it is slow to import, and no dependency of the package.
        from rich import box  # noqa: PLC0415
        from rich.console import Console  # noqa: PLC0415
        from rich.table import Table  # noqa: PLC0415
        from rich.text import Text  # noqa: PLC0415
    except ImportError:
        return False
    table = Table(title=Text(title, "bold"), title_justify="left", box=box.ROUNDED, header_style="bold cyan")
    for header, right in zip(headers, numeric, strict=True):
        table.add_column(Text(header), justify="right" if right else "left", overflow="fold")
    for row in cells:
        # As Text, since in a string square brackets would be markup.
        table.add_row(*(Text(cell) for cell in row))
    console = Console()
    unbounded = console.options.update(max_width=sys.maxsize)
    if console.measure(table, options=unbounded).maximum > console.width:
        return False
    console.print("", table, sep="\n")
    return True


def _cell(value: object) -> str:
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else _printable(str(value))


def _printable(text: str) -> str:
    """Return the text with escapes for control characters: a path may hold any, and a terminal obeys them."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def _encodable(text: str, encoding: str | None) -> str:
    """Return the text with escapes for what the stream can't take."""
    encoding = encoding or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)
