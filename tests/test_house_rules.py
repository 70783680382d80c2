"""The house rules, read off the source of the package that is imported: no rule here needs a reviewer."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import walstore

SOURCE = Path(walstore.__file__).parent

MODULE_LINES_MAX = 300
FUNCTION_LINES_MAX = 60

# The inside, in the order of its imports: a module imports only what stands before it. "" is walstore's own `__init__`.
INNER = {
    "errors": [],
    "options": [],
    "model": ["names", "cron", "schedule", "records", "events", "reducer"],
    "format": ["layout", "frame", "filenames", "rows", "index", "codec", "run_frames"],
    "fs": ["api", "os_append", "os_process", "os_fs", "atomic"],
    "persistence": [],
    "engine": [
        "environment",
        "payloads",
        "keeper",
        "segment",
        "snapshot",
        "successor",
        "log",
        "buffer",
        "commit",
        "survey",
        "view",
        "merge",
        "recovery",
        "repair",
        "opening",
        "founding",
        "scan",
        "salvage",
        "worker",
        "compactor",
        "stats",
        "store",
        "watch",
    ],
    "hotpath": [],
    "wal": [],
    "urls": [],
    "": [],
}
# Every module by its place; a package's `__init__` comes after its modules.
ORDER = {
    name: place
    for place, name in enumerate(
        name for room, modules in INNER.items() for name in [*(f"{room}.{module}" for module in modules), room]
    )
}

# The outside: each of these imports the inside and itself, never another one.
OUTER = {"aio", "backends", "cli", "integrations", "scheduler", "testing"}

# The engine does not know what a job is, nor who drives it: the order alone would let it ask.
ENGINE_NEVER = {name for name in ORDER if name.split(".")[0] in {"model", "persistence"}} | {"format", "format.codec"}

# Clocks, files and logging stay out of the rules of a job's life.
MODEL_NEVER = {"io", "logging", "os", "pathlib", "time"}
# One module does file I/O, so that a simulated disk can stand in for it.
FILE_IO = {"fcntl", "glob", "mmap", "os", "posix", "shutil", "tempfile"}

CORE_DEPENDENCIES = {"msgpack", "xxhash"}

PUBLIC_NAMES = [
    "BatchPersistence",
    "CancellationToken",
    "Cancelled",
    "Cron",
    "Durability",
    "Finished",
    "Manual",
    "MemoryPersistence",
    "Once",
    "Periodic",
    "QName",
    "RecoveryReport",
    "Restored",
    "Schedule",
    "Scheduled",
    "SchedulerJobRecord",
    "SchedulerJobStatus",
    "SchedulerPersistence",
    "SchedulerPersistenceError",
    "Started",
    "StoreStats",
    "WalOptions",
    "WalPersistence",
    "open_persistence",
]

Function = ast.FunctionDef | ast.AsyncFunctionDef


def module_name(path: Path) -> str:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(name: str) -> str:
    return name.partition(".")[0]


PATHS = {module_name(path): path for path in sorted(SOURCE.rglob("*.py"))}
MODULES = {name: ast.parse(path.read_text("utf-8"), str(path)) for name, path in PATHS.items()}
CLASSES = {node.name: node for tree in MODULES.values() for node in tree.body if isinstance(node, ast.ClassDef)}
PLACED = [name for name in MODULES if name in ORDER or room_of(name) in OUTER or name == "__main__"]

each_module = pytest.mark.parametrize("name", MODULES)


def absolute(name: str, node: ast.ImportFrom) -> str:
    """The module that `from ... import` names, written in full."""
    if not node.level:
        return node.module or ""
    package = ["walstore", *PATHS[name].parent.relative_to(SOURCE).parts]
    package = package[: len(package) - node.level + 1]
    return ".".join([*package, *filter(None, [node.module])])


def imports_of(name: str, tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and full name of every module that is imported, inside functions as well."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = absolute(name, node)
            for alias in node.names:
                submodule = f"{base}.{alias.name}"
                is_module = room_of(base) == "walstore" and submodule.removeprefix("walstore.") in MODULES
                yield node.lineno, submodule if is_module else base


def own_imports_of(name: str) -> Iterator[tuple[int, str]]:
    for line, imported in imports_of(name, MODULES[name]):
        if room_of(imported) == "walstore":
            yield line, imported.removeprefix("walstore").removeprefix(".")


def why_not(importer: str, imported: str) -> str | None:
    """Say what is wrong with one module of walstore importing another, if anything is."""
    room = room_of(importer)
    if importer == "__main__":
        return None if room_of(imported) == "cli" else "only the command line's main is called here"
    if room in OUTER:
        return (
            None if imported in ORDER or room_of(imported) == room else "rooms of the outside do not import each other"
        )
    if imported not in ORDER:
        return "the inside does not import the outside"
    if room == "engine" and imported in ENGINE_NEVER:
        return "the engine is given its codec and reducer, and knows no job"
    return None if ORDER[imported] < ORDER[importer] else "a module imports only what stands before it in INNER"


@each_module
def test_every_module_has_its_place(name: str) -> None:
    assert name in PLACED, (
        f"walstore.{name} has no place among the layers: add it to INNER in {Path(__file__).name}, "
        "after all that it imports and before all that imports it"
    )


def test_every_place_has_its_module() -> None:
    assert set(ORDER) - set(MODULES) == set()


@pytest.mark.parametrize("name", PLACED)
def test_imports_keep_to_the_layers(name: str) -> None:
    wrong = [
        f"line {line} imports walstore.{imported}: {reason}"
        for line, imported in own_imports_of(name)
        if (reason := why_not(name, imported))
    ]
    assert wrong == []


@pytest.mark.parametrize(
    "name", [name for name in MODULES if name in ORDER and name not in {"fs.os_append", "fs.os_fs", "fs.os_process"}]
)
def test_only_os_fs_touches_files(name: str) -> None:
    never = FILE_IO | MODEL_NEVER if room_of(name) == "model" else FILE_IO
    wrong = [f"line {line} imports {used}" for line, used in imports_of(name, MODULES[name]) if room_of(used) in never]
    wrong += [
        f"line {node.lineno} calls open()"
        for node in ast.walk(MODULES[name])
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "open"
    ]
    assert wrong == []


# A worker finds what it folds with by the name that the process that started it gives.
BY_NAME = {"urls", "engine.worker"}


@pytest.mark.parametrize("name", [name for name in MODULES if name in ORDER and name not in BY_NAME])
def test_only_urls_reaches_the_outside(name: str) -> None:
    """What is imported by its name at run time would get past the rules of the layers."""
    wrong = [
        f"line {line} imports {imported}"
        for line, imported in imports_of(name, MODULES[name])
        if room_of(imported) in {"importlib", "pkgutil", "runpy"}
    ]
    wrong += [
        f"line {node.lineno} names {node.id}"
        for node in ast.walk(MODULES[name])
        if isinstance(node, ast.Name) and node.id == "__import__"
    ]
    assert wrong == []


def test_what_urls_finds_by_name_is_a_backend() -> None:
    dotted = [
        node.value
        for node in ast.walk(MODULES["urls"])
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("walstore.")
    ]
    assert [name for name in dotted if not name.startswith("walstore.backends.")] == []


def run_on_import(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements that must succeed for the import to succeed: not in a function, a `try` or `if TYPE_CHECKING`."""
    for node in body:
        if isinstance(node, ast.If) and not (isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"):
            yield from run_on_import([*node.body, *node.orelse])
        elif isinstance(node, ast.ClassDef | ast.With):
            yield from run_on_import(node.body)
        else:
            yield node


@each_module
def test_extras_are_imported_lazily(name: str) -> None:
    known = sys.stdlib_module_names | CORE_DEPENDENCIES | {"walstore"}
    wrong = [
        f"line {line} imports {imported}"
        for node in run_on_import(MODULES[name].body)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for line, imported in imports_of(name, node)
        if room_of(imported) not in known
    ]
    assert wrong == []


@each_module
def test_modules_are_short(name: str) -> None:
    lines = len(PATHS[name].read_text("utf-8").splitlines())
    assert lines <= MODULE_LINES_MAX


@each_module
def test_functions_are_short(name: str) -> None:
    wrong = [
        f"{node.name} has {lines} lines"
        for node in ast.walk(MODULES[name])
        if isinstance(node, Function)
        if (lines := (node.end_lineno or node.lineno) - node.lineno + 1) > FUNCTION_LINES_MAX
    ]
    assert wrong == []


@each_module
def test_modules_say_what_they_are_and_offer(name: str) -> None:
    tree = MODULES[name]
    assert ast.get_docstring(tree), "no module docstring"
    assigned = {
        target.id
        for node in tree.body
        if isinstance(node, ast.Assign | ast.AnnAssign)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Name)
    }
    assert "__all__" in assigned or name == "__main__"


def inherits_contract(owner: ast.ClassDef, method: str) -> bool:
    """Whether a base class of walstore says what the method promises, so that an override need not repeat it."""
    bases = [base.value if isinstance(base, ast.Subscript) else base for base in owner.bases]
    return any(
        has_contract(CLASSES[base.id], method) for base in bases if isinstance(base, ast.Name) and base.id in CLASSES
    )


def has_contract(owner: ast.ClassDef, method: str) -> bool:
    own = [node for node in owner.body if isinstance(node, Function) and node.name == method]
    return any(ast.get_docstring(node) for node in own) or inherits_contract(owner, method)


def without_docstring(body: list[ast.stmt]) -> Iterator[str]:
    for node in body:
        if not isinstance(node, ast.ClassDef | Function) or node.name.startswith("_"):
            continue
        if not ast.get_docstring(node):
            yield node.name
        methods = [member for member in node.body if isinstance(member, Function) and not member.name.startswith("_")]
        if isinstance(node, ast.ClassDef):
            yield from (f"{node.name}.{method.name}" for method in methods if not has_contract(node, method.name))


@each_module
def test_what_is_public_has_a_contract(name: str) -> None:
    assert list(without_docstring(MODULES[name].body)) == []


def test_the_public_names_are_pinned() -> None:
    assert sorted(walstore.__all__) == PUBLIC_NAMES
    assert [name for name in PUBLIC_NAMES if not hasattr(walstore, name)] == []


def test_data_files_are_installed() -> None:
    assert (SOURCE / "py.typed").is_file()
    assert list((SOURCE / "cli" / "data").glob("*.swf.gz"))
