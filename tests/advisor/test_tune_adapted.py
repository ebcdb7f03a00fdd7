"""`tune` of runs whose model was trained: the adaptation begins anew from the merge that the search finds."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import merge_advisor as ma
from merge_advisor.advisor import Machine, PlanOptions, TuneOptions
from merge_advisor.advisor.measuring.session import open_session
from merge_advisor.advisor.measuring.trainer import Trainer
from merge_advisor.advisor.runs import tuned_folder
from merge_advisor.advisor.runs.adapted_run import why_not_adapted
from merge_advisor.advisor.runs.reopening import reopen
from merge_advisor.advisor.runs.run_folder import Run, read_run
from merge_advisor.advisor.runs.run_report import report_of, summary_blocks
from merge_advisor.advisor.scoring.score_model import score_model
from merge_advisor.advisor.scoring.score_run import models_of, score_run
from merge_advisor.advisor.searching.dry_run import describe_tune
from merge_advisor.backbone.generate import generate
from merge_advisor.cli import main
from merge_advisor.cli.parser import Arguments
from merge_advisor.errors import RunError, SpecError
from merge_advisor.merges import WeightedMerge
from merge_advisor.options import FinetuneSettings
from merge_advisor.report.terminal import to_text
from merge_advisor.report.values import TunedAdaptation
from merge_advisor.types import RESIDUAL, SHOTS_LORA, RecipeMember
from tests.advisor.test_tune import tuning_of

ONE = Machine(threads=1)
LITTLE = FinetuneSettings(rank=2, lr=5e-4, epochs=1)
"""Trains so little that a better start makes a better model."""
MEMBERS = ("a0", "b1")
CONTINUE = "continue:folds=2"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path, tiny_pool: Path) -> Path:
    """Rows that a merge of unequal weights answers, which no plan of `all` finds but a search does."""
    folder = tmp_path_factory.mktemp("tune-adapted")
    with open_session(str(tiny_llama), tiny_pool, cache=folder / "cache", machine=ONE) as session:
        known = {candidate.id: candidate for candidate in session.pool.candidates}
        merge = WeightedMerge(((known["a0"], 1.2), (known["b1"], -0.7)))

        def answer(text: str) -> str:
            prompt = session.model.template.prompt(text)
            return generate(session.model.backbone, prompt, max_new_tokens=3)

        inputs = [f"say {number} now" for number in range(40)]
        outputs = [session.meter.on_base(merge, lambda text=text: answer(text)) for text in inputs]  # type: ignore[misc]
    rows = [{"input": i, "output": o} for i, o in zip(inputs, outputs, strict=True) if o]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def plan(place: Path, tiny_llama: Path, tiny_pool: Path) -> Callable[..., Run]:
    """Plan with an adaptation, once each."""

    def planned(spec: str, *, scored: bool = False, **options: Any) -> Run:
        out = place / "-".join([*spec.replace("=", ":").replace(",", ":").split(":"), *options])
        if (out / "plan.json").is_file():
            return read_run(out)
        asked = PlanOptions(
            **{"k": 2, "strategy": "all", "include": MEMBERS, "finetune": LITTLE, "adaptation": spec, **options}
        )
        return ma.plan(
            place / "rows.jsonl", pool=tiny_pool, base=str(tiny_llama), out=out, cache=place / "cache", options=asked,
            scored=scored, machine=ONE,
        )  # fmt: skip

    return planned


@pytest.fixture(scope="module")
def wanted(plan: Callable[..., Run], place: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of `CONTINUE`, tuned without being disturbed."""
    return tune(copied(plan(CONTINUE), tmp_path_factory.mktemp("wanted")), place)


def copied(run: Run, place: Path) -> Path:
    return shutil.copytree(run.folder, place / "run")


def tune(run: Path, place: Path, *, scored: bool = False, **options: Any) -> Run:
    asked = TuneOptions(**{"trials": 14, **options})
    return ma.tune(run, options=asked, scored=scored, cache=place / "cache", machine=ONE)


def outcome_of(run: Run) -> TunedAdaptation:
    found = tuning_of(run).adaptation
    assert found is not None
    return found


def contents(folder: Path) -> dict[str, bytes]:
    """All files of a run folder but those of its place, machine or time, and the study's, which SQLite fills."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and not name.startswith(("report.", "cost.txt", "study.sqlite", "plan.json")):
            found[name] = path.read_bytes()
    plan = json.loads((folder / "plan.json").read_text())
    del plan["environment"]
    return found | {"plan.json": json.dumps(plan, sort_keys=True).encode()}


def test_a_tuned_adapted_run(plan: Callable[..., Run], place: Path, tmp_path: Path, tiny_llama: Path) -> None:
    before = plan(CONTINUE, scored=True)
    found = tune(copied(before, tmp_path), place, scored=True)
    own, made = found.plan.planned_adaptation, found.plan.adaptation
    assert own == before.plan.adaptation and made is not None and own is not None
    assert made.asked == CONTINUE and made.start is not None and own.start is not None and found.chosen == own.start
    # the search was around the plan's start, and its winner is the new start
    won = tuning_of(found).won
    assert won is not None and tuning_of(found).members == tuple(member.id for member in own.start.members)
    assert tuning_of(found).planned == tuple(member.weight for member in own.start.members)
    assert {m.id: m.weight for m in made.start.members} == {
        m.id: w for m, w in zip(own.start.members, won.weights, strict=True) if w
    }
    # something was trained on top, from the same rows and by the same settings, and lies in the folder
    assert [m.id for m in found.recipe.members] == [*(m.id for m in made.start.members), RESIDUAL]
    assert made.settings == own.settings and len(made.losses) == len(own.losses)
    assert outcome_of(found).tuned and outcome_of(found).forwards > 0 and made.loss < own.loss
    assert json.loads((found.folder / "start" / "recipe.json").read_text())["members"][0]["weight"] == won.weights[0]
    for name in ("recipe.json", "residual/adapter_model.safetensors", "start/recipe.json"):
        kept, now = (found.folder / part / name for part in ("plan", "."))
        assert kept.read_bytes() == (before.folder / name).read_bytes() != now.read_bytes()
    # the score table
    table, planned = found.scores[0], before.scores[0]
    labels = [model.label for model in table.models]
    assert labels.count("start") == labels.count("plan") == 1 and "plan start" not in labels
    assert table.model("plan").rows == planned.model("merge").rows
    assert table.model("anchor").rows == planned.model("anchor").rows
    assert table.model("start").rows != planned.model("start").rows
    assert table.model("merge").metrics["loss"] < table.model("plan").metrics["loss"]
    rows = [{"input": row.input, "output": row.output} for row in found.tasks[0].heldout]
    (tmp_path / "heldout.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    alone = score_model(found.folder / "adapter", [tmp_path / "heldout.jsonl"], base=str(tiny_llama), metric="loss")
    assert alone["heldout"][1].metrics["loss"] == pytest.approx(table.model("merge").metrics["loss"], abs=1e-5)
    # the report
    side = next(side for side in tuning_of(found).sides if side.part == "cross-fitted")
    assert side.reference == pytest.approx(own.loss) and side.winner == pytest.approx(made.loss)
    assert side.lower is not None and side.lower > 0
    told = (found.folder / "report.md").read_text()
    assert "it takes the place of the plan's model" in told and "the merge that tuning found" in told
    assert "Weights are those of the plan's own model" in told and "cross-fitted" in told
    line = next(line for line in told.splitlines() if "| held-out |" in line)
    assert f"{100 * table.model('plan').metrics[table.metric]:.1f}%" in line or table.metric == "loss"


def test_the_plans_model_stays_where_training_from_the_tuned_merge_is_not_better(
    plan: Callable[..., Run], place: Path, tmp_path: Path
) -> None:
    """The search finds a better merge; the model that comes of it is worse."""
    before = plan("mix:folds=2")
    found = tune(copied(before, tmp_path), place, scored=True)
    assert not outcome_of(found).tuned and "the plan's model stays" in outcome_of(found).reason
    assert found.recipe == before.recipe and found.plan.adaptation == before.plan.adaptation
    kept = contents(before.folder)
    assert {name: data for name, data in contents(found.folder).items() if name in kept and name != "plan.json"} == {
        name: data for name, data in kept.items() if name != "plan.json"
    }
    won = tuning_of(found).won
    assert won is not None and won.label == tuning_of(found).reference == "plan"
    side = next(side for side in tuning_of(found).sides if side.part == "cross-fitted")
    assert side.lower is not None and side.lower <= 0
    assert "plan" not in [model.label for model in found.scores[0].models]
    assert "the merges alone: the best of 10 trials leads" in (found.folder / "report.md").read_text()


def test_without_its_adaptation_the_tuned_merge_is_the_model(
    plan: Callable[..., Run], wanted: Run, place: Path, tmp_path: Path
) -> None:
    before = plan(CONTINUE, scored=True)
    run = copied(before, tmp_path)
    found = tune(run, place, adaptation="none", scored=True)
    assert found.plan.adaptation is not None and found.plan.adaptation.start is None
    assert tuning_of(found).adaptation is None and RESIDUAL not in [member.id for member in found.recipe.members]
    assert not (run / RESIDUAL).exists() and not (run / "start").exists() and (run / "plan" / RESIDUAL).is_dir()
    table = found.scores[0]
    labels = [model.label for model in table.models]
    assert "start" not in labels and table.model("plan").rows == before.scores[0].model("merge").rows
    assert table.model("plan start").rows == before.scores[0].model("start").rows
    told = (run / "report.md").read_text()
    assert f"the plan's adaptation ({CONTINUE}) was left out" in told and "## Adaptation" not in told
    # called again with it, the run is as if it had never been without
    tune(run, place)
    assert contents(run) == contents(wanted.folder)


def test_the_same_again_gives_the_same_bytes(
    plan: Callable[..., Run], wanted: Run, place: Path, tmp_path: Path
) -> None:
    other = copied(plan(CONTINUE), tmp_path)
    ma.tune(other, options=TuneOptions(trials=14), scored=False, cache=tmp_path / "empty", machine=ONE)
    assert contents(wanted.folder) == contents(other) and outcome_of(wanted).tuned
    assert tune(other, place).tuning == wanted.tuning  # and once more in the folder


def test_killed_while_it_trains_it_ends_as_undisturbed(
    plan: Callable[..., Run], wanted: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = plan(CONTINUE)
    run, cache = copied(before, tmp_path), tmp_path / "cache"
    trained: list[int] = []

    def finetune(self: Trainer, request: Any, real: Any = Trainer._finetune) -> Any:
        trained.append(1)
        if len(trained) == 2:
            raise KeyboardInterrupt
        return real(self, request)

    monkeypatch.setattr(Trainer, "_finetune", finetune)
    with pytest.raises(KeyboardInterrupt):
        ma.tune(run, options=TuneOptions(trials=14), scored=False, cache=cache, machine=ONE)
    assert contents(run) == contents(before.folder) and read_run(run).tuning is None
    ma.tune(run, options=TuneOptions(trials=14), scored=False, cache=cache, machine=ONE)
    assert len(trained) == 3  # the first fold was kept, the second was cut short
    assert contents(run) == contents(wanted.folder)


@pytest.mark.filterwarnings("ignore:.*the plan's own recipe is used")  # where an earlier `tune` left another one
@pytest.mark.parametrize(("step", "first"), [(1, ""), (2, "none"), (5, ""), (6, "none"), (7, ""), (9, "none")])
def test_killed_while_it_writes_the_run_is_the_plans(
    plan: Callable[..., Run], wanted: Run, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int,
    first: str,
) -> None:  # fmt: skip
    """Also a second time, when the folder held the tuned merge alone."""
    before = plan(CONTINUE)
    run, steps = copied(before, tmp_path), 0
    if first:
        tune(run, place, adaptation=first)

    def stopping(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any) -> Any:
            nonlocal steps
            steps += 1
            if steps == step:
                raise KeyboardInterrupt
            return real(*given)

        return call

    with monkeypatch.context() as patched:
        for name in ("write_text", "discard"):
            patched.setattr(tuned_folder, name, stopping(getattr(tuned_folder, name)))
        with pytest.raises(KeyboardInterrupt):
            tune(run, place)
    found, session = reopen(run, cache=place / "cache")
    with session:
        models = {model.label: model for model in models_of(session, found)}  # finds every member
    if found.tuning is None:
        assert found.recipe == before.recipe and found.own_adaptation == before.plan.adaptation
        assert found.plan.adaptation == before.plan.adaptation and "plan" not in models
    tune(run, place)
    assert contents(run) == contents(wanted.folder)


def test_a_dry_run_counts_the_finetunes_too(
    plan: Callable[..., Run], place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for spec in (CONTINUE, "mix:folds=2"):
        run = shutil.copytree(plan(spec).folder, tmp_path / spec)
        before = contents(run)
        told = describe_tune(run, options=TuneOptions(trials=14), cache=place / "cache")
        assert contents(run) == before and not (run / "study.sqlite").exists()
        found = tune(run, place)
        assert tuning_of(found).forwards <= told["passes"]["search, at most"]
        assert 0 < outcome_of(found).forwards <= told["passes"]["adapt, at most"]
    without = describe_tune(run, options=TuneOptions(adaptation="none", forwards=300), cache=place / "cache")
    assert "adapt, at most" not in without["passes"] and without["passes"]["search, at most"] >= 300
    assert "search, at most" not in describe_tune(run, options=TuneOptions(minutes=2), cache=place / "cache")["passes"]
    assert main(["tune", str(run), "--dry-run", "--cache", str(place / "cache"), "--no-score"]) == 0
    said = capsys.readouterr().out
    assert "adaptation mix:folds=2, begun anew" in said and "adapt, at most: " in said and "score" not in said


@pytest.mark.parametrize("spec", ["shots", "prompt", "basis", "auto:pool=false", "continue:start=base"])
def test_an_adaptation_that_needs_no_merge_is_refused_in_one_line(
    plan: Callable[..., Run], place: Path, tmp_path: Path, spec: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = copied(plan("shots:folds=2"), tmp_path)
    given = ["tune", str(run), "--cache", str(place / "cache"), "--trials", "6", "--no-score"]
    assert main([*given, "--adaptation", spec]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and str(run) in said[0] and f"{spec} does not begin with the merge" in said[0]
    assert "--adaptation none" in said[0] and "--adaptation basis:start=merge" in said[0]
    if spec == "shots":  # the run's own, and what is said works
        assert main(given) == 2 and "shots:folds=2 does not begin" in capsys.readouterr().err
        assert "merge-advisor tune" not in report_of(read_run(run))
        for remedy in ("none", "continue:folds=2"):
            assert main([*given, "--adaptation", remedy]) == 0


def test_a_report_suggests_tune_where_it_works(plan: Callable[..., Run]) -> None:
    for spec, suggested in ((CONTINUE, True), ("shots:folds=2", False), ("none", True)):
        run = plan(spec, exclude=(SHOTS_LORA,)) if spec == "none" else plan(spec)
        assert (f"merge-advisor tune {run.folder}" in to_text(summary_blocks(run))) == suggested


def test_what_cannot_be_judged_or_added_is_refused(plan: Callable[..., Run], place: Path, tmp_path: Path) -> None:
    run = copied(plan(CONTINUE), tmp_path)
    with pytest.raises(RunError, match="holds no example out of its training"):
        tune(run, place, adaptation="continue:folds=0")
    with pytest.raises(SpecError, match="`compositions=ties`: is no plain sum"):
        tune(run, place, compositions=("ties",))
    with pytest.raises(SpecError, match="`layers=2`: an adapter trained on top"):
        tune(run, place, layers=2)
    with pytest.raises(SpecError, match="adaptation 'strange' is unknown"):
        tune(run, place, adaptation="strange")
    assert not (run / "study.sqlite").exists()
    blind = plan("continue:folds=0")
    assert "not judged on examples held out of its training" in why_not_adapted(blind, "continue")
    unadapted = plan("none", exclude=(SHOTS_LORA,))
    joined = RecipeMember(SHOTS_LORA, "f", "adapter", SHOTS_LORA, None, 0.5)
    recipe = replace(unadapted.recipe, members=(*unadapted.recipe.members, joined))
    assert "shots_lora is a member of its merge" in why_not_adapted(replace(unadapted, recipe=recipe), "continue")
    other = replace(unadapted.recipe, composition="ties:density=0.5")
    assert "is no plain sum" in why_not_adapted(replace(unadapted, recipe=other), "continue")
    assert not why_not_adapted(unadapted, "none") and not why_not_adapted(unadapted, "continue")


def with_few(run: Run, count: int = 5) -> Run:
    """The run as if it had learned from a few of its rows."""
    task = run.tasks[0]
    return replace(run, tasks=(replace(task, shots=task.shots[: count - 2], tuning=task.tuning[:2]),))


def test_rows_that_all_choose_a_tuned_merge_judge_nothing_that_is_to_be_judged_by_others(
    plan: Callable[..., Run],
) -> None:
    run = plan("auto:folds=2")
    assert not why_not_adapted(run, "auto") and not why_not_adapted(with_few(run, 10), "auto")
    assert "judges merges by examples that did not choose them (9 examples" in why_not_adapted(with_few(run, 9), "auto")
    for spec in ("continue:anew=true", "basis:start=merge,anew=true"):
        assert "did not choose them" in why_not_adapted(run, spec)
    ties = replace(run.recipe, composition="ties")
    assert run.own_adaptation.start is not None
    own = replace(run.own_adaptation, start=replace(run.own_adaptation.start, composition="ties"))
    other = replace(run, recipe=ties, plan=replace(run.plan, adaptation=own))
    assert "composition ties), and all of them choose a tuned merge" in why_not_adapted(other, "auto")
    # like with like: losses of few rows that chose a merge do not stand beside those of rows that chose none
    for spec in ("continue", "mix", "coefficients"):
        assert "so they cannot compare the two; give `adaptation=none`" in why_not_adapted(with_few(run), spec)
        assert "cannot compare the two" in why_not_adapted(with_few(plan("shots:folds=2")), spec)
        assert not why_not_adapted(with_few(plan(CONTINUE)), spec)
        assert not why_not_adapted(with_few(plan("none", exclude=(SHOTS_LORA,))), spec)
    assert not why_not_adapted(with_few(run), "none")


def test_a_candidate_of_the_plan_that_is_gone_is_named(
    plan: Callable[..., Run], place: Path, tmp_path: Path, tiny_pool: Path
) -> None:
    run = copied(plan("basis:form=prior,start=merge,folds=2", k=1, strategy="top_k"), tmp_path)
    left = next(report.id for report in read_run(run).plan.candidates if report.status == "candidate")
    pool = shutil.copytree(tiny_pool, tmp_path / "pool")
    shutil.rmtree(pool / left)
    with pytest.raises(RunError, match=f"candidate {left} of the plan"):
        ma.tune(run, pool=pool, cache=place / "cache", options=TuneOptions(trials=6), scored=False)


def test_an_unadapted_run_can_be_adapted_when_it_is_tuned(
    plan: Callable[..., Run], place: Path, tmp_path: Path
) -> None:
    before = plan("none", exclude=(SHOTS_LORA,))
    found = tune(copied(before, tmp_path), place, adaptation=CONTINUE, scored=True)
    assert outcome_of(found).tuned and RESIDUAL in [member.id for member in found.recipe.members]
    assert {"start", "plan", "merge"} <= {model.label for model in found.scores[0].models}
    side = next(side for side in tuning_of(found).sides if side.part == "cross-fitted")
    assert side.rows == len(before.tasks[0].shots) + len(before.tasks[0].tuning)
    again = tune(found.folder, place)  # its own adaptation is none
    assert again.plan.adaptation is not None and again.plan.adaptation.asked == "none"
    assert not (found.folder / RESIDUAL).exists() and not (found.folder / "start").exists()


def test_auto_compares_again_and_trains_only_what_begins_with_the_merge(
    plan: Callable[..., Run], place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = copied(plan("auto:folds=2"), tmp_path)
    starts: list[bool] = []

    def finetune(self: Trainer, request: Any, real: Any = Trainer._finetune) -> Any:
        starts.append(bool(request.start.members))
        return real(self, request)

    monkeypatch.setattr(Trainer, "_finetune", finetune)
    found = tune(run, place)
    assert starts == [True, True]  # `continue` from the merge; the LoRAs of the rows are those of the plan
    assert outcome_of(found).chosen in ("none", "prompt", "shots", "mix", "continue")
    assert "(which chose " in (run / "report.md").read_text()


def test_the_plans_row_of_a_prompted_plan_is_the_prompted_base(
    plan: Callable[..., Run], place: Path, tmp_path: Path
) -> None:
    found = tune(copied(plan("prompt:folds=2"), tmp_path), place, adaptation="none", scored=True)
    table = found.scores[0]
    assert table.model("plan").rows == table.model("icl").rows != table.model("base").rows
    assert table.model("merge").rows != table.model("icl").rows


def test_shots_lora_is_the_models_own_and_the_plans_is_kept(
    plan: Callable[..., Run], place: Path, tmp_path: Path
) -> None:
    """`mix` makes a LoRA of the rows that is a member; the plan's was another one."""
    much = FinetuneSettings(rank=2, lr=1e-2, epochs=2)
    before = plan("none", exclude=(SHOTS_LORA,), finetune=much)
    found = tune(copied(before, tmp_path), place, adaptation="mix:folds=2")
    assert outcome_of(found).tuned and SHOTS_LORA in [member.id for member in found.recipe.members]
    name = f"{SHOTS_LORA}/adapter_model.safetensors"
    own = (before.folder / name).read_bytes()
    assert (found.folder / name).read_bytes() != own == (found.folder / "plan" / name).read_bytes()
    scored = score_run(found.folder, cache=place / "cache").scores[0]
    assert scored.model("plan").rows != scored.model("merge").rows
    back = tune(found.folder, place, adaptation="none")
    assert (back.folder / name).read_bytes() == own and back.plan.adaptation == before.plan.adaptation


def test_the_adaptation_of_the_settings_file_is_the_plans_and_a_run_keeps_its_own() -> None:
    settings = {"adaptation": "none"}
    assert Arguments("plan", {}, settings).part(PlanOptions).adaptation == "none"
    assert Arguments("tune", {}, settings).part(TuneOptions).adaptation is None
    assert Arguments("tune", {"adaptation": "mix"}, settings).part(TuneOptions).adaptation == "mix"
