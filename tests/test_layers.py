"""Imports go down: what a room may import follows from its level, and rooms of one level leave each other alone."""

import ast
from pathlib import Path

import pytest

import merge_advisor

LEVELS = [
    ("types", "scores", "errors"),
    ("registry", "templates", "statistics", "backbone"),
    tuple("pool tasks store embeddings select compose formats evaluators verdict report tuning".split()),
    ("advisor",),
    ("benchmark",),
    ("cli",),
    ("__main__",),
]
LEVEL = {room: number for number, rooms in enumerate(LEVELS) for room in rooms}
ROOT = Path(merge_advisor.__file__).parent
FILES = sorted(path for path in ROOT.rglob("*.py") if path.parent != ROOT or path.stem != "__init__")


def room_of(path):
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported_rooms(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            if node.module == "merge_advisor":
                yield from (alias.name for alias in node.names)
            elif node.module.startswith("merge_advisor."):
                yield node.module.split(".")[1]
        elif isinstance(node, ast.Import):
            yield from (a.name.split(".")[1] for a in node.names if a.name.startswith("merge_advisor."))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_down(path):
    room = room_of(path)
    assert room in LEVEL, f"{room} has no level: add it to LEVELS"
    for other in set(imported_rooms(path)) - {room, "__version__"}:
        below = LEVEL[other] < LEVEL[room]
        within_first = LEVEL[room] <= 1 and LEVEL[other] == LEVEL[room]  # types use errors
        assert below or within_first, f"{path.name} of {room} imports {other}"
