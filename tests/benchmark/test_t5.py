"""The published setup, cut to three tasks and carried out on the small T5: every step that FLAN-T5-large would take."""

import json
from pathlib import Path

import pytest

import merge_advisor as ma
from merge_advisor.plain_yaml import load_yaml

RECIPES = Path(__file__).parents[2] / "recipes"
TASKS = ("backwards_three", "capital_vowels", "swap_two")


@pytest.mark.slow
def test_three_tasks_of_the_published_setup_on_the_small_t5(tmp_path: Path) -> None:
    setup = load_yaml((RECIPES / "flan-t5-bbh.yaml").read_text())
    setup |= {"base": str(RECIPES / "t5" / "base"), "pool": str(RECIPES / "t5" / "pool"), "views": ["own-out"]}
    setup |= {"k": [6], "draws": {"shots": 1, "selections": 1}, "max_new_tokens": 32}
    setup["tasks"] = {
        "path": str(RECIPES / "t5" / "tasks"), "families": str(RECIPES / "t5" / "families.json"), "only": list(TASKS),
        "shots": 5, "heldout": 20,
    }  # fmt: skip
    for question in (setup["primary"], *setup["secondaries"]):
        question |= {"view": "own-out", "k": 6}
    path = tmp_path / "setup.yaml"
    path.write_text(json.dumps(setup))
    out = tmp_path / "out"
    found = ma.bench(path, out, cache=tmp_path / "cache")

    results = found.measured.results
    assert not found.measured.failed and len(results) == 3 * (11 + 6)
    for result in results:
        assert result.unit.task not in [name for name, _ in result.members]
        if result.arm in [arm["name"] for arm in setup["arms"]]:
            # where few are alike in words, trials repeat each other and cost nothing
            assert len(result.members) <= 6 and result.forwards >= (40 if len(result.members) > 3 else 20) * 5
            assert max(abs(weight) for _, weight in result.members) <= 1.5
    losses = {(result.arm, result.unit.task): result.loss for result in results if result.loss is not None}
    # some arm comes to an adapter of the family, whose job is a part of the task's
    assert all(min(v for (_, name), v in losses.items() if name == task) < losses["base", task] for task in TASKS)
    assert {found.contrasts[0].question.better, found.contrasts[0].question.than} == {"anchor-19", "random-20"}
    assert (out / "report.html").is_file() and (out / "tables" / "contrasts.csv").is_file()
    again = ma.bench(path, out, cache=tmp_path / "cache")
    assert again.contrasts == found.contrasts and again.measured.results == results
