"""What a run says of its cost: measured figures alone, and nothing where nothing was measured."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from merge_advisor import score
from merge_advisor.advisor.runs.run_cost import run_cost_lines
from merge_advisor.advisor.runs.run_folder import Plan, read_run
from merge_advisor.scores import ScoringCost


@pytest.fixture
def plan(example_world: Path) -> Plan:
    return read_run(example_world / "run").plan


def test_an_unscored_run_says_nothing_of_scoring(plan: Plan) -> None:
    lines = run_cost_lines(plan)
    assert len(lines) == 2 and lines[0].startswith(f"cost: {sum(plan.forwards.values())} forward passes and ")
    assert lines[1].startswith(
        f"instead: training the LoRA of the shots alone: {plan.forwards['finetune on the shots']} forward passes, "
    )


def test_every_candidate_costs_the_median_of_what_was_measured(plan: Plan) -> None:
    cost = ScoringCost("examples", 40, models=9, run=2, seconds_run=5.0, seconds_model=2.5, peak_bytes=2**31)
    scored = replace(plan, environment=replace(plan.environment, scoring=(cost,)))
    lines = run_cost_lines(scored)
    assert "; scoring 2 models 5.0 s (7 more were in the store); 2.0 GiB at most" in lines[0]
    # the pool of the example has six candidates
    every = "instead: scoring all 6 candidates on the 40 rows of examples: 15.0 s"
    assert lines[1] == f"{every} (2.50 s a model, the median of 9 measured)"
    unknown = replace(cost, seconds_model=None, peak_bytes=None)
    lines = run_cost_lines(replace(plan, environment=replace(plan.environment, scoring=(unknown,))))
    assert not any("scoring all" in line for line in lines) and "GiB" not in lines[0]


def test_what_is_in_the_store_keeps_the_seconds_it_took(example_world: Path, tmp_path: Path) -> None:
    run, cache = shutil.copytree(example_world / "run", tmp_path / "run"), tmp_path / "cache"
    first = score(run, metric="loss", cache=cache).plan.environment.scoring[0]
    again = score(run, metric="loss", cache=cache).plan.environment.scoring[0]
    assert first.run > 0 and first.seconds_run > 0 and first.run <= first.models
    assert (again.run, again.seconds_run) == (0, 0.0)
    assert again.seconds_model == pytest.approx(first.seconds_model) and again.models == first.models
    assert read_run(run).plan.environment.scoring == (again,)
