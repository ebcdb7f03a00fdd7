"""`plan --adaptation`: every registered one, end to end on a tiny base."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import merge_advisor as ma
from merge_advisor import registry
from merge_advisor.advisor import PlanOptions
from merge_advisor.advisor.planning.dry_run import describe_plan, plan_passes, times_unadapted
from merge_advisor.advisor.planning.plan import check_choosing
from merge_advisor.advisor.runs.adapted_run import way_of
from merge_advisor.advisor.runs.run_report import summary_blocks
from merge_advisor.advisor.scoring import score_run
from merge_advisor.advisor.scoring.score_model import score_model
from merge_advisor.cli import main
from merge_advisor.errors import SpecError, TaskError
from merge_advisor.report.terminal import to_text
from merge_advisor.scores import Verdict
from merge_advisor.select.evidence import FEW_ROWS
from merge_advisor.types import RESIDUAL, SHOTS_LORA, Row, Task
from merge_advisor.verdict import judge
from merge_advisor.weights.adapter import read_adapter
from merge_advisor.weights.base import resolve_base
from merge_advisor.weights.updates import digest_of_delta
from tests.support.adapted_plans import FAST, planned
from tests.support.task_files import write_task

SPECS = (
    "auto", "basis:form=prior,start=merge", "coefficients", "continue", "continue:folds=0", "mix", "prompt", "shots",
)  # fmt: skip
VARIANTS = (
    "auto:pool=false", "basis", "basis:form=output", "basis:form=first",
    "basis:form=first,source=inputs", "continue:form=refactored", "coefficients:objective=entropy",
    "prompt:on=mean", "prompt:on=merge", "prompt:on=shots", "shots:folds=0", "shots:rates=2",
    "shots:normalised=1,unlikelihood=1",
)  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapted")
    write_task(folder / "even.jsonl")
    return folder


def test_every_adaptation_is_planned_here() -> None:
    assert {spec.partition(":")[0] for spec in SPECS} | {"none"} == set(registry.names("adaptation"))


@pytest.mark.parametrize("spec", (*SPECS, *(pytest.param(spec, marks=pytest.mark.slow) for spec in VARIANTS)))
def test_a_run_folder_holds_the_model_and_how_it_was_made(
    place: Path, tiny_llama: Path, tiny_pool: Path, spec: str
) -> None:
    run = planned(place, tiny_llama, tiny_pool, spec)
    found = run.plan.adaptation
    assert found is not None and found.asked == spec and found.reason and found.start is not None
    assert run.plan.verdict is not None
    ids = [member.id for member in run.recipe.members]
    assert sum(name in ids for name in (SHOTS_LORA, RESIDUAL)) <= 1
    # what was trained is in the folder, byte for byte what the recipe names, at weight 1 on top of a merge
    local = resolve_base(str(tiny_llama), cache=place / "cache" / "base")
    for member in run.recipe.members:
        if member.id in (SHOTS_LORA, RESIDUAL):
            assert digest_of_delta(read_adapter(run.folder / member.id, local.shapes)) == member.fingerprint
        if member.id == RESIDUAL:
            assert member.weight == 1.0 and found.numbers > 0
    labels = [model.label for model in run.scores[0].models]
    assert {"base", "anchor", "shots_lora", "uniform", "start", "merge"} <= set(labels)
    assert (run.folder / "start" / "recipe.json").is_file()
    if found.predicted is not None:
        assert np.isfinite(found.predicted)
    assert found.reason.partition(":")[0] in (run.folder / "report.md").read_text()


@pytest.mark.parametrize(
    ("asked", "chosen", "pool", "way"),
    [("mix", "mix", False, "shots"), ("mix", "mix", True, "mix"), ("continue:start=base", "continue", False, "shots"),
     ("continue", "continue", True, "continue"), ("auto", "continue", True, "continue"),
     ("continue:start=mean", "continue", True, "continue from mean"), ("auto", "basis", True, "basis"),
     ("continue:start=random", "continue", True, "continue from random"), ("basis", "basis", False, "basis"),
     ("basis:form=first,source=inputs", "basis", False, "shots"), ("basis:source=random", "basis", False, "shots"),
     ("basis:form=first,source=inputs,start=merge", "basis", True, "continue"),
     ("basis:source=layer,start=mean", "basis", True, "continue from mean"),
     ("basis:start=mean", "basis", True, "basis"),
     ("auto", "shots", False, "shots"), ("auto", "none", True, "none"), ("prompt", "prompt", False, "prompt on shots"),
     ("prompt:on=merge", "prompt", True, "prompt on merge"), ("prompt:on=mean", "prompt", True, "prompt on mean"),
     ("prompt:on=mean", "prompt", False, "prompt on shots"), ("auto", "prompt", True, "prompt on merge"),
     ("coefficients", "coefficients", True, "coefficients"), ("gone:x=1", "continue", True, "continue")],
)  # fmt: skip
def test_the_verdict_goes_by_what_is_in_the_model(
    place: Path, tiny_llama: Path, tiny_pool: Path, asked: str, chosen: str, pool: bool, way: str
) -> None:
    run = planned(place, tiny_llama, tiny_pool, "continue")
    found = run.plan.adaptation
    assert found is not None and RESIDUAL in [member.id for member in run.recipe.members]
    members = tuple(
        member if pool or member.id == RESIDUAL else replace(member, weight=0.0) for member in run.recipe.members
    )
    plan = replace(run.plan, adaptation=replace(found, asked=asked, chosen=chosen))
    assert way_of(replace(run, plan=plan, recipe=replace(run.recipe, members=members))) == way


@pytest.mark.slow
@pytest.mark.parametrize("spec", ["continue:start=base", "basis:form=first,source=inputs", "continue:start=mean"])
def test_a_better_model_without_the_pool_is_not_said_to_have_been_trained_from_it(
    place: Path, tiny_llama: Path, tiny_pool: Path, spec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def winning(models: Any, metric: str, digests: Any, **how: Any) -> Any:
        best = [replace(m, rows={metric: [float(m.label == "merge") - 0.5] * len(digests)}) for m in models]
        return judge(best, metric, digests, **how)

    monkeypatch.setattr(score_run, "judge", winning)
    plan = planned(place, tiny_llama, tiny_pool, spec, f"won-{spec[-4:]}").plan
    if spec == "continue:start=mean":
        assert plan.verdict == Verdict.TRAIN_FROM_MERGE and "trained from the mean of the pool" in plan.reason
    else:
        assert plan.verdict == Verdict.TRAIN_ON_EXAMPLES and "use the LoRA trained on the examples" in plan.reason


def test_the_folders_adapter_is_the_model_that_was_scored(place: Path, tiny_llama: Path, tiny_pool: Path) -> None:
    run = planned(place, tiny_llama, tiny_pool, "continue")
    assert RESIDUAL in [member.id for member in run.recipe.members]
    rows = [{"input": row.input, "output": row.output} for row in run.tasks[0].heldout]
    (place / "heldout.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    alone = score_model(run.folder / "adapter", [place / "heldout.jsonl"], base=str(tiny_llama), metric="loss")
    table = run.scores[0]
    own, start = table.model("merge").metrics["loss"], table.model("start").metrics["loss"]
    assert alone["heldout"][1].metrics["loss"] == pytest.approx(own, abs=1e-5)
    assert abs(own - start) > 1e-3
    # servers that read neither pattern (vLLM) apply it at the same scale, and take neither DoRA nor whole modules
    config = json.loads((run.folder / "adapter" / "adapter_config.json").read_text())
    assert config["lora_alpha"] == config["r"] and config["alpha_pattern"] == config["rank_pattern"]
    assert config["modules_to_save"] is None and not config["use_dora"] and not config["use_rslora"]


def test_the_same_again_gives_the_same_bytes(place: Path, tiny_llama: Path, tiny_pool: Path) -> None:
    one = planned(place, tiny_llama, tiny_pool, "continue")
    shutil.rmtree(place / "cache" / "trained")
    other = planned(place, tiny_llama, tiny_pool, "continue", "again", scored=False)
    assert one.recipe == other.recipe
    files = ("recipe.json", "residual/adapter_model.safetensors", "adapter/adapter_model.safetensors")
    for name in files:
        assert (one.folder / name).read_bytes() == (other.folder / name).read_bytes()


def test_what_was_trained_is_not_trained_again(place: Path, tiny_llama: Path, tiny_pool: Path) -> None:
    planned(place, tiny_llama, tiny_pool, "continue", "first", scored=False)
    kept = {path: path.stat().st_mtime_ns for path in (place / "cache" / "trained").rglob("*.safetensors")}
    planned(place, tiny_llama, tiny_pool, "continue", "second", scored=False)
    after = {path: path.stat().st_mtime_ns for path in (place / "cache" / "trained").rglob("*.safetensors")}
    assert kept and after == kept


def test_a_finetune_that_was_killed_is_made_anew(place: Path, tiny_llama: Path, tiny_pool: Path) -> None:
    one = planned(place, tiny_llama, tiny_pool, "continue", "first", scored=False)
    for config in (place / "cache" / "trained").rglob("adapter_config.json"):  # it is written last
        config.unlink()
    other = planned(place, tiny_llama, tiny_pool, "continue", "third", scored=False)
    assert one.recipe == other.recipe


def test_auto_says_what_it_compared(place: Path, tiny_llama: Path, tiny_pool: Path) -> None:
    found = planned(place, tiny_llama, tiny_pool, "auto").plan.adaptation
    assert found is not None
    assert {option.name for option in found.options} == {"base", "prompt", "shots", "merge", "continue from merge"}
    gains = [option.gain for option in found.options]
    assert gains == sorted(gains, reverse=True)
    assert found.chosen == {"base": "none"}.get(found.options[0].name, found.options[0].name.partition(" ")[0])
    assert f"next best {found.options[1].name}" in found.reason
    alone = planned(place, tiny_llama, tiny_pool, "auto:pool=false").plan.adaptation
    assert alone is not None and {option.name for option in alone.options} == {"base", "prompt", "shots"}


@pytest.mark.slow
def test_a_recipe_of_no_weight_is_merged_with_a_note(place: Path, tiny_llama: Path, tiny_pool: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("merge_advisor.adapt.shots.SCALES", (0.0,))
        run = planned(place, tiny_llama, tiny_pool, "shots", "nothing", scored=False)
    assert run.is_base and not run.prompted
    assert "merge-advisor merge" not in to_text(summary_blocks(run))
    notes: list[str] = []
    out = ma.merge(run.folder, place / "of-nothing", on_note=notes.append, cache=place / "cache")
    assert "the model is the base itself" in notes[0]
    assert (out / "model.safetensors").is_file()


@pytest.mark.parametrize("spec", ("shots", "shots:folds=0"))
def test_the_row_of_the_shots_lora_is_the_one_that_was_made(
    place: Path, tiny_llama: Path, tiny_pool: Path, spec: str
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("merge_advisor.adapt.shots.SCALES", (0.5,))
        run = planned(place, tiny_llama, tiny_pool, spec, f"half-{spec[-1]}")
    assert [(member.id, member.weight) for member in run.recipe.members] == [(SHOTS_LORA, 0.5)]
    found = run.plan.adaptation
    assert found is not None and found.shots_scale == 0.5
    table = run.scores[0]
    assert table.model("merge").rows == table.model("shots_lora").rows


def test_the_dry_run_costs_no_less_than_the_plan(place: Path, tiny_llama: Path, tiny_pool: Path) -> None:
    for spec in ("auto", "continue", "mix", "shots", "shots:rates=2"):
        run = planned(place, tiny_llama, tiny_pool, spec)
        options = PlanOptions(k=2, finetune=FAST, adaptation=spec)
        said = describe_plan([place / "even.jsonl"], pool=tiny_pool, base=str(tiny_llama), options=options)
        assert 0 < run.plan.forwards["adapt"] <= said["passes"]["adapt, at most"]
        assert 0 < run.plan.forwards["choose"] <= said["passes"]["choose, at most"]


def chosen_and_trained(passes: Mapping[str, int]) -> int:
    return sum(count for step, count in passes.items() if step not in ("embed the pool", "score"))


@pytest.mark.parametrize(("shots", "tuning", "least", "most"), [
    (3, 2, 4.5, 4.7), (5, 4, 4.3, 4.45), (6, 4, 2.0, 2.15), (12, 8, 1.95, 2.05), (24, 16, 2.4, 2.5),
])  # fmt: skip
@pytest.mark.parametrize("candidates", [15, 59])
def test_auto_takes_no_more_than_is_said_of_the_same_plan_without_an_adaptation(
    shots: int, tuning: int, least: float, most: float, candidates: int
) -> None:
    """2.5 times at most; of fewer than ten rows, which choose one model for a quarter of that, 2.5 times of four."""
    rows = tuple(Row(f"say {number}", f"{number}") for number in range(shots + tuning))
    task = Task("say", rows[:shots], rows[shots:], ())
    times = times_unadapted([task], candidates, PlanOptions())
    assert least < times < most and (times <= 2.5 or shots + tuning < FEW_ROWS)
    of_four = plan_passes([task], candidates, PlanOptions(adaptation="none", strategy="rerank:few=4"))
    assert chosen_and_trained(plan_passes([task], candidates, PlanOptions())) <= 2.5 * chosen_and_trained(of_four)
    assert times_unadapted([task], candidates, PlanOptions(adaptation="none")) == 1
    passes = plan_passes([task], candidates, PlanOptions())
    assert passes["adapt, at most"] / (passes["choose, at most"] + passes["finetune on the shots, at most"]) == (
        pytest.approx(times - 1)
    )


def test_the_dry_run_says_how_many_times_a_plan_without_an_adaptation_it_takes(
    place: Path, tiny_llama: Path, tiny_pool: Path
) -> None:
    def lines(spec: str) -> tuple[float, str]:
        options = PlanOptions(k=2, finetune=FAST, adaptation=spec)
        said = describe_plan([place / "even.jsonl"], pool=tiny_pool, base=str(tiny_llama), options=options)
        return said["times"], "\n".join(said["lines"])

    times, said = lines("auto")
    assert times > 1 and f"choosing and training: {times:.1f} times what `--adaptation none` takes" in said
    assert lines("none")[0] == 1 and "times what" not in lines("none")[1]


def test_a_composition_that_is_no_sum_is_refused(place: Path, tiny_llama: Path, tiny_pool: Path) -> None:
    options = PlanOptions(k=2, finetune=FAST, adaptation="continue", composition="ties", rank=4)
    with pytest.raises(SpecError, match="no plain sum"):
        ma.plan(
            place / "even.jsonl", pool=tiny_pool, base=str(tiny_llama), out=place / "ties", options=options,
            cache=place / "cache",
        )  # fmt: skip
    assert not (place / "ties").exists()


@pytest.mark.parametrize(
    ("spec", "says"),
    [("continue:start=moon", "start=moon is none of"), ("basis:form=x", "form=x"),
     ("basis:start=moon", "start=moon is none of"), ("mix:folds=1", "at least 2"),
     ("strange", "adaptation 'strange' is unknown"), ("basis:shrinkage=0", "shrinkage=0"),
     ("basis:source=inputs", "give form=first, not core"), ("continue:form=x", "form=x is none of"),
     ("continue:form=refactored,start=base", "the base is no update to begin at"),
     ("coefficients:most=0", "one"), ("shots:rates=4", "rates=4: give 1, 2, 3"), ("shots:folds=1", "at least 2"),
     ("continue:stop=x", "stop=x is none of"), ("continue:form=refactored,anew=true", "one set of factors"),
     ("continue:folds=-1", "folds=-1"), ("auto:folds=0", "at least 2"), ("auto:few=1", "few=1"),
     ("auto:rates=5", "rates=5"), ("shots:unlikelihood=-1", "unlikelihood=-1: weight of a loss"),
     ("shots:normalised=nan", "normalised=nan")],
)  # fmt: skip
def test_a_wrong_spec_is_one_line(
    place: Path, tiny_llama: Path, tiny_pool: Path, spec: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["plan", "--task", str(place / "even.jsonl"), "--pool", str(tiny_pool), "--base", str(tiny_llama)]
    assert main([*given, "--out", str(place / "wrong"), "--adaptation", spec]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and says in said[0]


def test_what_the_rows_cannot_choose_is_refused_before_anything_is_measured() -> None:
    rows = tuple(Row(f"say {number}", f"{number}") for number in range(4))
    task, options = Task("say", rows, (), ()), PlanOptions(adaptation="shots:folds=0,rates=2")
    with pytest.raises(TaskError, match="chooses the rate on tuning rows, and there are none"):
        check_choosing([task], options)
    check_choosing([replace(task, shots=rows[:3], tuning=rows[3:])], options)
    check_choosing([task], replace(options, adaptation="shots:rates=2"))  # its folds choose it


def test_a_run_that_stays_at_its_merge_says_so_without_folds_too(
    tiny_llama: Path, tiny_pool: Path, place: Path
) -> None:
    options = PlanOptions(k=2, finetune=FAST, adaptation="continue:folds=0,rate=1e-12")  # nothing moves
    run = ma.plan(
        place / "even.jsonl", pool=tiny_pool, base=str(tiny_llama), out=place / "stays", options=options,
        cache=place / "cache", scored=False,
    )  # fmt: skip
    found = run.plan.adaptation
    assert found is not None and found.chosen == "none"
    assert found.start is not None and found.start.digest == run.recipe.digest


@pytest.mark.slow
def test_a_pool_of_one(place: Path, tiny_llama: Path, tiny_pool: Path) -> None:
    only = sorted(path.name for path in tiny_pool.iterdir() if path.is_dir())[0]
    for spec in ("auto", "basis", "coefficients"):
        options = PlanOptions(k=4, finetune=FAST, adaptation=spec, include=(only,))
        run = ma.plan(
            place / "even.jsonl", pool=tiny_pool, base=str(tiny_llama), out=place / f"one-{spec}", options=options,
            cache=place / "cache", scored=False,
        )  # fmt: skip
        assert run.plan.adaptation is not None


def test_two_rows_are_two_folds(place: Path, tiny_llama: Path, tiny_pool: Path) -> None:
    rows = [{"input": "is 1 even?", "output": "no"}, {"input": "is 2 even?", "output": "yes"}]
    (place / "two.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = ma.plan(
        place / "two.jsonl", pool=tiny_pool, base=str(tiny_llama), out=place / "two", cache=place / "cache",
        options=PlanOptions(k=2, finetune=FAST, adaptation="auto"),
    )  # fmt: skip
    assert run.plan.adaptation is not None and run.plan.verdict is None


def test_steps_that_are_fixed_are_judged_afterwards(place: Path, tiny_llama: Path, tiny_pool: Path) -> None:
    options = PlanOptions(k=2, finetune=replace(FAST, steps=4), adaptation="continue")
    run = ma.plan(
        place / "even.jsonl", pool=tiny_pool, base=str(tiny_llama), out=place / "fixed", options=options,
        cache=place / "cache", scored=False,
    )  # fmt: skip
    assert run.plan.adaptation is not None and run.plan.adaptation.predicted is not None
