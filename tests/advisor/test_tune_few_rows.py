"""`tune` where the rows that would judge a tuned merge have all chosen it: refused, or the plan's model stays."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import merge_advisor as ma
from merge_advisor.advisor import PlanOptions
from merge_advisor.advisor.measuring.adapting import adapt_merge
from merge_advisor.advisor.runs.run_folder import Run, read_run
from merge_advisor.advisor.runs.run_report import report_of
from merge_advisor.cli import main
from tests.advisor.test_tune_adapted import CONTINUE, LITTLE, MEMBERS, ONE, outcome_of, tune
from tests.support.task_files import write_task

pytestmark = pytest.mark.slow


def planned(place: Path, base: Path, pool: Path, spec: str, **options: Any) -> Run:
    asked = PlanOptions(k=2, strategy="all", include=MEMBERS, finetune=LITTLE, adaptation=spec, **options)
    return ma.plan(
        write_task(place / "even.jsonl"), pool=pool, base=str(base), out=place / "run", cache=place / "cache",
        options=asked, scored=False, machine=ONE,
    )  # fmt: skip


def test_a_default_run_of_few_rows_says_what_can_be_tuned_of_it(
    tmp_path: Path, tiny_llama: Path, tiny_pool: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = planned(tmp_path, tiny_llama, tiny_pool, "auto", shots=3, tuning=2)
    assert "merge-advisor tune" not in report_of(read_run(run.folder))
    given = ["tune", str(run.folder), "--cache", str(tmp_path / "cache"), "--trials", "6", "--no-score"]
    for dry in ([], ["--dry-run"]):
        assert main([*given, *dry]) == 2
        said = capsys.readouterr().err.strip().splitlines()
        assert len(said) == 1 and "(5 examples, composition exact)" in said[0] and "--adaptation none" in said[0]
    assert not (run.folder / "study.sqlite").exists()
    assert main([*given, "--adaptation", "none"]) == 0


def test_a_tuned_merge_alone_is_not_compared_with_what_was_trained(
    tmp_path: Path, tiny_llama: Path, tiny_pool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = planned(tmp_path, tiny_llama, tiny_pool, CONTINUE)

    def untrained(meter: Any, cache: Path, request: Any) -> Any:
        made = adapt_merge(meter, cache, request)
        # its rows chose it: no loss of theirs, however small, speaks for it
        model = replace(made.model, merge=request.merge, name="none", losses=(0.0,) * len(made.model.losses))
        return made._replace(model=model)

    monkeypatch.setattr("merge_advisor.advisor.searching.tuned_model.adapt_merge", untrained)
    found = tune(before.folder, tmp_path, adaptation="continue:folds=2,rate=0.5")
    assert not outcome_of(found).tuned and "which all examples chose" in outcome_of(found).reason
    assert found.recipe == before.recipe
