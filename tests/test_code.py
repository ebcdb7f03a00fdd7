"""What all code keeps to: its types, unique names, docstrings, numbers of parameters, sizes of files."""

import collections
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import code_rules

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "merge_advisor"
MODULES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))
FILES = sorted(
    path.relative_to(ROOT).as_posix()
    for folder in ("merge_advisor", "scripts", "tests")
    for path in (ROOT / folder).rglob("*.py")
)
MOST_LINES = 430


def test_types() -> None:
    """mypy passes. Up to a minute without its cache: under xdist conftest.py lets it begin first."""
    done = subprocess.run([sys.executable, "-m", "mypy"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_public_names_mean_one_thing() -> None:
    """A class, function, constant or alias of one name is defined in one module of the package only."""
    places = collections.defaultdict(list)
    for module in MODULES:
        for name in code_rules.module_level_names(PACKAGE / module):
            places[name].append(module)
    twice = [f"{name}: {', '.join(modules)}" for name, modules in sorted(places.items()) if len(modules) > 1]
    assert not twice, "rename one, or import it:\n" + "\n".join(twice)


@pytest.mark.parametrize("module", MODULES)
def test_docstrings_have_their_sections_and_examples(module: str) -> None:
    breaches = code_rules.docstring_breaches(PACKAGE / module)
    assert not breaches, f"{module}:\n" + "\n".join(breaches)


@pytest.mark.parametrize("module", MODULES)
def test_functions_take_few_parameters_and_name_them(module: str) -> None:
    breaches = code_rules.parameter_breaches(PACKAGE / module)
    assert not breaches, f"{module}:\n" + "\n".join(breaches)


@pytest.mark.parametrize("file", FILES)
def test_files_are_short(file: str) -> None:
    lines = len((ROOT / file).read_text().splitlines())
    assert lines <= MOST_LINES, f"{file} has {lines} lines: cut it in two"
