"""Examples in docstrings run, in a folder that holds what they name: `base`, `adapters`, `examples.jsonl`, `run`."""

import doctest
import importlib
from pathlib import Path

import pytest

import merge_advisor

ROOT = Path(merge_advisor.__file__).parent
OPTIONS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS


def with_examples() -> list[str]:
    """Names of the modules that hold examples; read as text, since importing all takes seconds."""
    modules = []
    for path in sorted(ROOT.rglob("*.py")):
        if ">>> " in path.read_text():
            parts = path.relative_to(ROOT.parent).with_suffix("").parts
            modules.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return modules


@pytest.mark.parametrize("name", with_examples())
def test_examples(name: str, example_world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every example of a module prints what its docstring says."""
    monkeypatch.chdir(example_world)
    monkeypatch.setenv("MERGE_ADVISOR_CACHE", str(example_world / "cache"))
    module = importlib.import_module(name)
    results = doctest.testmod(module, optionflags=OPTIONS)
    assert results.attempted
    assert not results.failed, "see the captured output above"
