"""Imports go down: what a room may import follows from its level; rooms of one level leave each other alone.

Imports under TYPE_CHECKING count like any other, and no two modules import each other, directly or on a way round.
"""

import ast
from pathlib import Path

import pytest

import merge_advisor

VALUES = "version arrays natural_numbers json_form types spaces merges scores gate_values errors progress option_fields"
OF_FILES = "regular_files disks limits write_points owners"
TEXT_AND_FILES = (
    "registry templates statistics plain_text plain_yaml whole_files checked_sqlite machine_options options "
    "hub_options gate_options"
)
LEVELS = [
    (*VALUES.split(), *OF_FILES.split()),
    tuple(TEXT_AND_FILES.split()),
    ("weights", "session_options", "engine"),
    ("backbone",),
    tuple("pool tasks store embeddings select compose formats evaluators verdict gate_rule report tuning".split()),
    ("adapt",),
    ("advisor.measuring",),
    ("advisor.runs",),
    ("advisor.planning", "advisor.scoring", "advisor.searching", "advisor.gating"),
    ("advisor",),
    ("hub",),
    ("explore",),
    ("benchmark.values",),
    ("benchmark.setup", "benchmark.views"),
    ("benchmark.running", "benchmark.analysis"),
    ("benchmark.report",),
    ("benchmark",),
    ("cli",),
    ("__main__",),
]
"""The first levels come first; a level may import those above it in this list. docs/architecture.md says why."""
LEVEL = {room: number for number, rooms in enumerate(LEVELS) for room in rooms}
ROOT = Path(merge_advisor.__file__).parent
FILES = sorted(path for path in ROOT.rglob("*.py") if path.parent != ROOT or path.stem != "__init__")


def module_of(path: Path) -> str:
    """The dotted name of a file below the package: "advisor.planning.plan", "select" for a package's `__init__`."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in FILES}


def room_of(module: str) -> str:
    """The room a module lies in: the longest name in LEVELS that it begins with."""
    parts = module.split(".")
    for size in range(len(parts), 0, -1):
        if ".".join(parts[:size]) in LEVEL:
            return ".".join(parts[:size])
    raise AssertionError(f"{module} has no level: add its room to LEVELS")


def imports_of(path: Path) -> set[str]:
    """The modules of this package that a file imports, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "merge_advisor":
            inside = (node.module or "").partition(".")[2]
            names = [f"{inside}.{alias.name}".lstrip(".") for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name.partition(".")[2] for alias in node.names if alias.name.startswith("merge_advisor.")]
        for name in names:
            found.add(name if name in MODULES else name.rpartition(".")[0])
    return found - {""}


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down(module: str) -> None:
    room = room_of(module)
    for other in imports_of(MODULES[module]):
        target = room_of(other)
        if target != room:
            within_first = LEVEL[room] == LEVEL[target] == 0  # types use errors
            assert LEVEL[target] < LEVEL[room] or within_first, f"{module} of {room} imports {other}"


def test_no_two_modules_import_each_other() -> None:
    left = {module: imports_of(path) - {module} for module, path in MODULES.items()}
    while leaves := [module for module, found in left.items() if not found & left.keys()]:
        for module in leaves:
            del left[module]
    on_circles = {module: sorted(found & left.keys()) for module, found in left.items()}
    assert not left, f"these import each other, or what does: {on_circles}"
