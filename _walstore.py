"""The script ``walstore``. It stands outside of the package, since a module inside it comes after the whole import.

So Ctrl-C ends the command quietly from the start, not only once its imports are done.
"""

from __future__ import annotations

__all__ = ["main"]


def main() -> int:
    """Run the command line and return its exit code."""
    try:
        from walstore.cli import main as run  # noqa: PLC0415  # Nothing before this can be interrupted.
    except KeyboardInterrupt:
        return 130
    return run()
