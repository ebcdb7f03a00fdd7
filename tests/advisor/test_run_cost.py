"""What a run says of its cost: measured figures alone, and nothing where nothing was measured."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from merge_advisor import score
from merge_advisor.advisor.runs.plan_report import Plan
from merge_advisor.advisor.runs.run_cost import run_cost, run_cost_lines
from merge_advisor.advisor.runs.run_folder import read_run
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
    every = "instead: scoring all 6 candidates on the 40 rows of examples: 240 forward passes, 15.0 s"
    assert lines[1] == f"{every} (2.50 s a model, the median of 9 measured)"
    priced = run_cost_lines(scored, price=3600.0)
    assert "15.0 s (15.00) (2.50 s a model" in priced[1] and "scoring 2 models 5.0 s (5.00)" in priced[0]
    # of a plan from a hub folder, all that could have been opened
    assert (
        "scoring all 900 candidates on the 40 rows of examples: 36000 "
        in run_cost_lines(replace(scored, fitting=900))[1]
    )
    assert run_cost(scored).every_candidate_forwards == 240 and run_cost(plan).every_candidate_forwards is None
    unknown = replace(cost, seconds_model=None, peak_bytes=None)
    lines = run_cost_lines(replace(plan, environment=replace(plan.environment, scoring=(unknown,))))
    assert not any("scoring all" in line for line in lines) and "2.0 GiB" not in lines[0]


def test_a_report_has_forward_passes_and_what_differs_stands_beside_it(example_world: Path, tmp_path: Path) -> None:
    run = shutil.copytree(example_world / "run", tmp_path / "run")
    assert "of scoring" not in (run / "report.md").read_text()
    assert "| instead: training the LoRA of the shots alone |" in (run / "report.md").read_text()
    told = []
    for _ in range(2):  # the second finds all in the store, and says the same of forward passes
        scored = score(run, metric="loss", cache=tmp_path / "cache")
        told.append({name: (run / name).read_text() for name in ("report.md", "report.html", "cost.txt")})
        models, rows = sum(m.label != "majority" for m in scored.scores[0].models), len(scored.scores[0].row_digests)
        assert f"| scoring {models} models on the {rows} rows of examples | {models * rows} |" in told[-1]["report.md"]
        assert f"| instead: scoring all 6 candidates on them | {6 * rows} |" in told[-1]["report.md"]
        assert all("instead: scoring all 6 candidates on" in text for text in told[-1].values())
        cost = told[-1]["cost.txt"].splitlines()
        assert cost[0] == run_cost_lines(scored.plan)[0] and "GiB at most" in cost[0] and "open: " in "".join(cost)
        assert "| cost.txt | what it took here" in told[-1]["report.md"]
    assert told[0]["report.md"] == told[1]["report.md"] and told[0]["report.html"] == told[1]["report.html"]


def test_what_is_in_the_store_keeps_the_seconds_it_took(example_world: Path, tmp_path: Path) -> None:
    run, cache = shutil.copytree(example_world / "run", tmp_path / "run"), tmp_path / "cache"
    first = score(run, metric="loss", cache=cache).plan.environment.scoring[0]
    again = score(run, metric="loss", cache=cache).plan.environment.scoring[0]
    assert first.run > 0 and first.seconds_run > 0 and first.run <= first.models
    assert (again.run, again.seconds_run) == (0, 0.0)
    assert again.seconds_model == pytest.approx(first.seconds_model) and again.models == first.models
    assert read_run(run).plan.environment.scoring == (again,)
