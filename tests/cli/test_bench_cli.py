"""`merge-advisor bench` and `merge_advisor.bench` from the setup to the report."""

import json
from pathlib import Path

import pytest

import merge_advisor
from merge_advisor.cli import main
from tests.support.bench_setups import SETUP, Places, write_world

pytest.importorskip(
    "merge_advisor.benchmark.analysis.contrasts", reason="the statistics come with another part of this issue"
)
pytest.importorskip("merge_advisor.benchmark.report.write", reason="the report comes with another part of this issue")

SECONDARIES = [
    {"better": "default", "than": "random", "k": 2, "metric": "loss"},
    {"better": "default", "than": "shots_lora", "k": 2},
    {"better": "nearest", "than": "random-adapters", "k": 2},
]


@pytest.fixture(scope="module")
def world(tiny_llama: Path, tiny_pool: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Places]:
    folder = tmp_path_factory.mktemp("bench")
    path = write_world(folder, secondaries=SECONDARIES)
    return path, {"base": str(tiny_llama), "pool": str(tiny_pool), "cache": folder / "cache"}


def test_from_python(world: tuple[Path, Places], tmp_path: Path) -> None:
    path, places = world
    found = merge_advisor.bench(path, tmp_path / "out", **places)
    assert [contrast.question.better for contrast in found.contrasts] == ["default", "default", "default", "nearest"]
    assert found.contrasts[0].families == ("numbers", "words") and found.contrasts[0].units == 12
    assert found.contrasts[0].smallest_gain == 1.0 and found.contrasts[1].smallest_gain is None
    assert all(contrast.adjusted >= contrast.sign_flip for contrast in found.contrasts)
    names = {file.name for file in (tmp_path / "out").iterdir()}
    assert {"report.md", "report.html", "results.sqlite", "setup.json", "tables"} <= names
    for file in ("report.md", "report.html"):
        text = (tmp_path / "out" / file).read_text()
        assert "default" in text and str(places["cache"].parent) not in text


def test_the_command_tells_and_goes_on(
    world: tuple[Path, Places], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, places = world
    command = ["bench", str(path), "--out", str(tmp_path / "out")]
    command += [text for name, value in places.items() for text in (f"--{name}", str(value))]
    assert main([*command, "--only", "random/count/*"]) == 0
    out = capsys.readouterr().out
    assert "note: --only took 8 of" in out and "undecided" in out
    assert "not answered: No unit has results of both arms: " in out and "run them first" not in out
    assert main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "own-out, k 2, means over families:" and lines[1].split() == [
        "arm", "accuracy", "over", "base", "loss", "forwards", "units"]  # fmt: skip
    assert any(line.startswith("best-single-oracle") for line in lines) and lines[-1].startswith("wrote ")
    assert main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["results"] == found["wanted"] == 3 * 4 * 10 and found["failed"] == [] and len(found["contrasts"]) == 4


def test_failed_results_are_counted_and_exit_3(
    world: tuple[Path, Places], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, places = world
    arms = [*SETUP["arms"], {"name": "checkpoints", "strategy": "text", "composition": "slerp"}]
    path = write_world(tmp_path, arms=arms, controls=[], draws={"shots": 1, "selections": 1})
    command = ["bench", str(path), "--out", str(tmp_path / "out")]
    command += [text for name, value in places.items() for text in (f"--{name}", str(value))]
    assert main(command) == 3
    assert "failed: 3 of 12 results, the first: task colour: composition slerp takes" in capsys.readouterr().out
    assert main([*command, "--workers", "0"]) == 2
    assert "--workers 0: give 1 or more" in capsys.readouterr().err
