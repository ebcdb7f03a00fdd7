"""CONTRIBUTING.md to the letter: its strategy, registered by its line, keeps the contract, and the commands take it."""

import doctest
import importlib
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from typing import ClassVar

import numpy as np
import pytest

from merge_advisor import registry, select
from merge_advisor.cli import main
from merge_advisor.errors import SpecError
from merge_advisor.select import Choice, Evidence, Pick
from tests.support.strategy_contract import StrategyContract

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "CONTRIBUTING.md").read_text()


def block(language: str) -> str:
    """The one block of a language on the page, without its indentation."""
    (text,) = re.findall(rf"^ *```{language}\n(.*?)^ *```$", PAGE, re.DOTALL | re.MULTILINE)
    return dedent(text)


def file_of_the_block() -> str:
    name: str
    (name,) = re.findall(r"Write `(merge_advisor/select/\w+\.py)`", PAGE)
    return name


@pytest.fixture(scope="class")
def spec(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The page's strategy: its file beside the others (on the package's path), its line in the registry."""
    ((name, target),) = re.findall(r'^ *"(\w+)": "(merge_advisor\.select\.\w+:\w+)",$', PAGE, re.MULTILINE)
    module = target.partition(":")[0]
    assert file_of_the_block() == module.replace(".", "/") + ".py"
    folder = tmp_path_factory.mktemp("select")
    (folder / Path(file_of_the_block()).name).write_text(block("python"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(select, "__path__", [*select.__path__, str(folder)])
        patch.setitem(registry.BUILTIN["strategy"], name, target)
        assert name in registry.names("strategy")
        yield name
    if sys.modules.pop(module, None):
        delattr(select, module.rpartition(".")[2])


class TestTheStrategyOfThePage(StrategyContract):
    """The contract, as every registered strategy has it, and what the page says beyond it."""

    def test_it_starts_from_top_k_and_says_so_where_it_centres(self, spec: str) -> None:
        assert "merge_advisor/select/top_k.py" in PAGE
        assert registry.build("strategy", f"{spec}:centre=true").centre is True

    def test_its_example_runs(self, spec: str) -> None:
        module = importlib.import_module(registry.load("strategy", spec).__module__)
        results = doctest.testmod(module)
        assert results.attempted and not results.failed

    def test_show_strategies_lists_it(self, spec: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["show", "strategies"]) == 0
        shown = capsys.readouterr().out
        assert spec in shown and registry.load("strategy", spec).cost in shown

    def test_a_setup_takes_it_as_an_arm(self, spec: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        text = (ROOT / "recipes" / "bench-demo.yaml").read_text()
        assert "arms:\n" in text
        setup = tmp_path / "bench.yaml"
        setup.write_text(text.replace("arms:\n", "arms:\n" + block("yaml")))
        assert main(["bench", str(setup), "--dry-run", "--only", f"{spec}/*"]) == 0
        assert re.search(r"choose and tune: [1-9]\d* forward passes", capsys.readouterr().out)


@pytest.mark.parametrize("command", [["check", "--stdin-filename"], ["format", "--check", "--stdin-filename"]])
def test_the_block_passes_the_linter(command: list[str]) -> None:
    checked = subprocess.run(
        ["ruff", *command, file_of_the_block(), "-"],
        input=block("python"), capture_output=True, text=True, cwd=ROOT, timeout=60, check=False,
    )  # fmt: skip
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_every_file_and_helper_that_the_page_names_is_there() -> None:
    named = set(re.findall(r"`((?:merge_advisor|tests|recipes|scripts)/[\w/.-]*)", PAGE)) - {file_of_the_block()}
    assert len(named) > 10
    for name in sorted(named):
        assert (ROOT / name).exists(), name
    helpers = [importlib.import_module(f"merge_advisor.select.{name}") for name in ("similarity", "ranking")]
    table = re.findall(r"^ *\| ((?:`\w+`(?:, )?)+) \|", PAGE, re.MULTILINE)
    assert table
    for name in re.findall(r"`(\w+)`", " ".join(table)):
        assert any(hasattr(module, name) for module in helpers), name


@dataclass(frozen=True)
class Careless:
    """Choose the candidates whose delta is longest."""

    name: ClassVar[str] = "careless"
    centres: ClassVar[str] = "no"
    cost: ClassVar[str] = "nothing"
    stops: ClassVar[str] = "at a length of 0"

    def select(self, evidence: Evidence, k: int) -> Choice:
        order = np.argsort(-np.linalg.norm(evidence.deltas * evidence.rng.random(), axis=1), kind="stable")
        return Choice(tuple(Pick(int(position)) for position in order[:k]), "k reached")


def test_the_contract_notices_what_a_first_try_forgets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "load", lambda kind, name: Careless)
    contract = StrategyContract()
    contract.test_it_says_what_it_is("careless")
    broken: list[Callable[[], None]] = [
        lambda: contract.test_a_demanded_anchor_comes_first("careless", 6, 3),
        lambda: contract.test_it_stops_where_nothing_is_added("careless"),
        lambda: contract.test_it_says_what_it_used("careless"),
    ]
    for promise in broken:
        with pytest.raises((AssertionError, SpecError)):
            promise()
