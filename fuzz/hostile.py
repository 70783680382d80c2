"""Coverage-guided fuzzing of all that reads bytes, with atheris: ``python -m fuzz.hostile TARGET --seconds 600``.

Without a target all of them run one after another, each in a process of its own. The promise: nothing but the
documented errors, in bounded memory and bounded time, whatever the bytes are. ``python -m fuzz.hostile TARGET FILE``
tries one input again; inputs worth keeping are in ``fuzz/corpus``.
"""

from __future__ import annotations

import argparse
import base64
import random
import re
import subprocess
import sys
import tempfile
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Final, NoReturn

from xxhash import xxh3_64_intdigest

from fuzz.harness import Deadline, Tally, main

__all__ = ["CORPUS", "TARGET_NAMES", "run"]

CORPUS: Final = Path(__file__).with_name("corpus")
TARGET_NAMES: Final = ("frames", "headers", "snapshot", "store")

_INPUT_BYTES_MAX: Final = 8192
_TIMEOUT_S: Final = 10
"""For one input. The slowest ones take some milliseconds."""
_MEMORY_MIB: Final = 1024
"""For the whole process, with the corpus. What one input takes is bounded much more tightly, in ``bounded``."""
_UNITS: Final = re.compile(r"^stat::number_of_executed_units:\s+(\d+)|^Done (\d+) runs|^#(\d+)\s", re.MULTILINE)
_ARTIFACT: Final = re.compile(r"^artifact_prefix=.*Test unit written to (\S+)", re.MULTILINE)
_ENDING_BYTES: Final = 3000


def run(seconds: float, seed: int) -> Tally:
    """Run all targets, each for its share of the seconds; stops at the first that fails."""
    tally = Tally("hostile")
    if find_spec("atheris") is None:
        tally.skipped = "atheris is not installed: pip install 'walstore[fuzz]' (Linux on x86-64 only)"
        return tally
    deadline = Deadline(seconds)
    for target in TARGET_NAMES:
        _run_target(target, seconds / len(TARGET_NAMES), seed, tally)
        if tally.failures:
            break
    tally.seconds = deadline.elapsed()
    return tally


def _run_target(target: str, seconds: float, seed: int, tally: Tally) -> None:
    command = [sys.executable, "-m", "fuzz.hostile", target, f"--seconds={max(1, round(seconds))}", f"--seed={seed}"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    output = done.stdout.decode("utf-8", "replace")
    tally.runs += 1
    tally.points += max((int(first or second or third) for first, second, third in _UNITS.findall(output)), default=0)
    if done.returncode:
        written = _ARTIFACT.search(output)
        shown = base64.b85encode(Path(written[1]).read_bytes()).decode() if written else "none"
        tally.failures.append(f"{target}, seed {seed}, input {shown} (base 85): {output[-_ENDING_BYTES:]}")


def _fuzz(target: str, seconds: float, seed: int) -> NoReturn:
    """Fuzz one target in this process, and end it."""
    import atheris  # type: ignore[import-untyped]  # noqa: PLC0415  # An extra; only processes that fuzz need it.

    with atheris.instrument_imports(include=["walstore"], exclude=["walstore.testing"]):
        from fuzz.hostile_targets import TARGETS, bounded  # noqa: PLC0415  # Imported here, it is instrumented.

    check, mutator = TARGETS[target]

    def try_one(data: bytes) -> None:
        # Tracing the memory takes three times as long as the rest, so a part of the inputs, always the same, has to do.
        with bounded(len(data)) if xxh3_64_intdigest(data) % 16 == 0 else nullcontext():
            check(data)

    def mutate(data: bytes, bytes_max: int, seed: int) -> bytes:
        def mutate_bytes(part: bytes) -> bytes:
            changed: bytes = atheris.Mutate(part, max(len(part) + 64, 16))
            return changed

        return mutator(data, random.Random(seed), mutate_bytes)[:bytes_max]

    findings = Path(tempfile.mkdtemp(prefix=f"walstore-{target}-"))
    options = [
        f"-max_total_time={round(seconds)}",
        f"-seed={seed % 2**32 or 1}",
        f"-max_len={_INPUT_BYTES_MAX}",
        f"-timeout={_TIMEOUT_S}",
        f"-rss_limit_mb={_MEMORY_MIB}",
        f"-artifact_prefix={findings}/",
        "-print_final_stats=1",
        "-len_control=0",
    ]
    (findings / "corpus").mkdir()
    atheris.Setup(
        [sys.argv[0], *options, str(findings / "corpus"), str(CORPUS / target)], try_one, custom_mutator=mutate
    )
    atheris.Fuzz()
    raise SystemExit


def _main() -> None:
    if len(sys.argv) < 2 or sys.argv[1] not in TARGET_NAMES:
        main(run, "Fuzz all that reads bytes, guided by coverage.")
        return
    parser = argparse.ArgumentParser(description="Fuzz one target, or try inputs again.")
    parser.add_argument("target", choices=TARGET_NAMES)
    parser.add_argument("inputs", nargs="*", type=Path, help="files to try, instead of fuzzing")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long to go on (default: 60)")
    parser.add_argument("--seed", type=int, default=1, help="where to begin (default: 1)")
    arguments = parser.parse_args()
    if not arguments.inputs:
        _fuzz(arguments.target, arguments.seconds, arguments.seed)
    from fuzz.hostile_targets import TARGETS, bounded  # noqa: PLC0415  # Where it fuzzes, it must not be imported yet.

    for path in arguments.inputs:
        data = path.read_bytes()
        with bounded(len(data)):
            TARGETS[arguments.target][0](data)


if __name__ == "__main__":
    _main()
