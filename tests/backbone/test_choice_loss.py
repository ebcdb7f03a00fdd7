"""Choosing by the choices: the cross-entropy over them, its gradient, and plans that make it small."""

import json
from pathlib import Path

import numpy as np
import pytest

import merge_advisor as ma
from merge_advisor.advisor import PlanOptions
from merge_advisor.advisor.measuring.meter import loss_kind_of
from merge_advisor.advisor.measuring.session import Session, open_session
from merge_advisor.advisor.planning.choosing_losses import ChoosingLosses
from merge_advisor.advisor.runs.run_folder import read_run
from merge_advisor.backbone.choice_loss import choice_loss_and_gradient, choice_losses
from merge_advisor.backbone.place import placed
from merge_advisor.cli import main
from merge_advisor.errors import SpecError, TaskError
from merge_advisor.merges import WeightedMerge, merge_of
from merge_advisor.options import FinetuneSettings
from merge_advisor.types import Row
from merge_advisor.weights.updates import LowRankUpdate
from tests.support.models import LLAMA_MODULES
from tests.support.run_files import unchecked
from tests.support.task_files import write_task

FAST = FinetuneSettings(rank=4, lr=1e-2, steps=12)
CHOICES = ("yes", "no", "the mat and the dog")
ROWS = [Row(f"is {number} even?", CHOICES[number % 3], CHOICES) for number in range(6)]
PLAIN = [Row(f"say {number}", str(number)) for number in range(4)]


def opened(place: Path, base: Path, pool: Path | None = None) -> Session:
    return open_session(str(base), pool, template="plain", cache=place)


@pytest.mark.parametrize("base", ["tiny_llama", "tiny_t5"])
def test_the_loss_is_the_share_of_the_right_choice(base: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    import torch

    with opened(tmp_path, request.getfixturevalue(base)) as session:
        model = session.model.backbone.model
        losses = choice_losses(session.model.backbone, session.model.encode_choices(ROWS))
        for row, loss in zip(ROWS, losses, strict=True):
            likelihoods = []
            for answer in session.model.encode_choices([row])[0].answers:
                prompt, wanted = list(answer.prompt), list(answer.completion)
                with torch.no_grad():
                    if session.model.encoder_decoder:
                        logits = model(input_ids=torch.tensor([prompt]), labels=torch.tensor([wanted])).logits[0]
                    else:
                        logits = model(input_ids=torch.tensor([prompt + wanted])).logits[0, len(prompt) - 1 : -1]
                likelihoods.append(float(logits.softmax(-1)[range(len(wanted)), wanted].double().prod()))
            share = likelihoods[CHOICES.index(row.output)] / sum(likelihoods)
            assert loss == pytest.approx(-np.log(share), abs=1e-4)


@pytest.mark.parametrize("base", ["tiny_llama", "tiny_t5"])
def test_its_gradient_predicts_its_change(base: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    with opened(tmp_path, request.getfixturevalue(base)) as session:
        backbone, rows = session.model.backbone, session.model.encode_choices(ROWS)
        rng = np.random.default_rng(0)
        names = [name for name in sorted(backbone.memory) if name.endswith(("q_proj.weight", "v.weight"))]
        step = {}
        for name in names:
            out, width = backbone.shapes[name]
            a, b = (rng.normal(0, 0.2, shape).astype(np.float32) for shape in ((3, width), (out, 3)))
            step[name] = LowRankUpdate(a, b, 1e-2)
        losses, gradient = choice_loss_and_gradient(backbone, rows, names)
        np.testing.assert_allclose(losses, choice_losses(backbone, rows), atol=1e-4)
        predicted = sum(float((gradient[name] * step[name].dense()).sum()) for name in names)
        found = []
        for sign in (1.0, -1.0):
            with placed(backbone, {name: update.times(sign) for name, update in step.items()}):
                found.append(float(np.mean(choice_losses(backbone, rows))))
        assert (found[0] - found[1]) / 2 == pytest.approx(predicted, rel=0.05, abs=1e-6)
        assert not any(parameter.requires_grad for parameter in backbone.memory.values())


def test_what_choosing_makes_small_follows_from_the_rows() -> None:
    assert loss_kind_of(ROWS) == loss_kind_of(ROWS, "choices") == "choices"
    assert (
        loss_kind_of(ROWS, "loss") == loss_kind_of(PLAIN) == loss_kind_of([*ROWS, *PLAIN]) == loss_kind_of([]) == "loss"
    )
    with pytest.raises(TaskError, match="has no choices to choose by; give every row choices"):
        loss_kind_of([*ROWS, *PLAIN], "choices")


def test_tasks_with_and_without_choices_each_count_by_their_own_loss(
    tiny_llama: Path, tiny_pool: Path, tmp_path: Path
) -> None:
    with opened(tmp_path, tiny_llama, tiny_pool) as session:
        candidates = session.pool.candidates
        merge = WeightedMerge(((candidates[0], 0.5),))
        losses = ChoosingLosses(session.meter, [ROWS, PLAIN])
        apart = [
            np.mean(session.meter.losses(merge, ROWS, "choices")),
            np.mean(session.meter.losses(merge, PLAIN, "loss")),
        ]
        assert losses.of(merge) == pytest.approx(np.mean(apart), abs=1e-6) and losses.forwards == 10
        assert not np.allclose(apart[0], np.mean(session.meter.losses(merge, ROWS)))
        gains = 0.5 * session.meter.gains(candidates, ROWS, merge, "choices")
        gains += 0.5 * session.meter.gains(candidates, PLAIN, merge)
        np.testing.assert_allclose(losses.gains(candidates, merge), gains, rtol=1e-5)
        assert losses.forwards == 40 and len(LLAMA_MODULES) == 4
        assert losses.of(merge) == pytest.approx(np.mean(apart), abs=1e-6) and losses.forwards == 40  # known, not paid


def test_a_task_of_few_rows_gains_as_much_as_one_of_many(tiny_llama: Path, tiny_pool: Path, tmp_path: Path) -> None:
    more = [Row(f"count to {number}", str(number)) for number in range(12)]
    with opened(tmp_path, tiny_llama, tiny_pool) as session:
        candidates, merge = session.pool.candidates, WeightedMerge()
        of_each = [session.meter.gains(candidates, rows, merge) for rows in (PLAIN, more)]
        found = ChoosingLosses(session.meter, [PLAIN, more]).gains(candidates, merge)
        np.testing.assert_allclose(found, np.mean(of_each, axis=0), rtol=1e-5)
        # of as many rows tasks go into one backward pass, as they always did
        alike = ChoosingLosses(session.meter, [PLAIN, more[:4]]).gains(candidates, merge)
        assert alike.tolist() == session.meter.gains(candidates, [*PLAIN, *more[:4]], merge).tolist()


def test_a_larger_share_of_the_rows_costs_what_is_missing(tiny_llama: Path, tiny_pool: Path, tmp_path: Path) -> None:
    rows = [Row(f"is {number} even?", ("yes", "no")[number % 2]) for number in range(20)]
    with opened(tmp_path, tiny_llama, tiny_pool) as session:
        merge = WeightedMerge(((session.pool.candidates[0], 1.0),))
        losses, turned = (ChoosingLosses(session.meter, [part]) for part in (rows, rows[::-1]))
        whole = dict(zip([row.digest for row in rows], session.meter.losses(merge, rows), strict=True))
        for share, count, paid in ((0.1, 4, 4), (0.25, 5, 5), (0.25, 5, 5), (1.0, 20, 20), (0.5, 10, 20)):
            wanted = np.mean([whole[digest] for digest in sorted(whole)[:count]])
            assert losses.of(merge, share) == pytest.approx(wanted, abs=1e-5) and losses.forwards == paid
            assert turned.of(merge, share) == pytest.approx(wanted, abs=1e-5)  # whatever the order in the file
        kept = sorted(rows, key=lambda row: row.digest)[:8]
        gains = session.meter.gains(session.pool.candidates, kept, merge)
        np.testing.assert_allclose(losses.gains(session.pool.candidates, merge, 0.4), gains, rtol=1e-5)
        assert losses.forwards == 20 + 3 * 8
        heavier = merge.with_weights([0.5])
        assert losses.of(heavier, 0.1) != losses.of(merge, 0.1) and losses.forwards == 20 + 24 + 4


def test_a_plan_chooses_by_the_choices_and_says_so(tiny_llama: Path, tiny_pool: Path, tmp_path: Path) -> None:
    runs = {}
    for by in ("auto", "loss"):
        runs[by] = ma.plan(
            write_task(tmp_path / "even.jsonl", choices=True), pool=tiny_pool, base=str(tiny_llama), out=tmp_path / by,
            cache=tmp_path / "cache", scored=False,
            options=PlanOptions(k=2, adaptation="none", finetune=FAST, choose_by=by, exclude=("shots_lora",)),
        )  # fmt: skip
    assert [run.plan.settings.choose_by for run in runs.values()] == ["auto", "loss"]
    assert any("likelihood of the right choice" in note for note in runs["auto"].plan.notes)
    assert not any("likelihood of the right choice" in note for note in runs["loss"].plan.notes)
    reached = {}
    with opened(tmp_path / "cache", tiny_llama, tiny_pool) as session:
        known = {candidate.id: candidate for candidate in session.pool.candidates}
        for by, run in runs.items():
            rows = run.tasks[0].choosing
            merge = merge_of(run.recipe, known)
            for measure in ("choices", "loss"):
                reached[by, measure] = np.mean(session.meter.losses(merge, rows, measure))
        base = np.mean(session.meter.losses(WeightedMerge(), rows, "choices"))
    assert reached["auto", "choices"] < min(base, reached["loss", "choices"])
    assert runs["auto"].recipe.digest != runs["loss"].recipe.digest


@pytest.mark.parametrize(("metric", "by"), [("auto", "auto"), ("accuracy", "auto"), ("loss", "loss")])
def test_a_plan_is_chosen_by_what_its_verdict_rests_on(
    metric: str, by: str, tiny_llama: Path, tiny_pool: Path, tmp_path: Path
) -> None:
    run = ma.plan(
        write_task(tmp_path / "even.jsonl", choices=True), pool=tiny_pool, base=str(tiny_llama), out=tmp_path / "run",
        cache=tmp_path / "cache", scored=False, metric=metric,
        options=PlanOptions(k=1, adaptation="none", finetune=FAST, strategy="random"),
    )  # fmt: skip
    assert run.plan.settings.choose_by == by


def test_an_older_plan_was_chosen_by_the_loss(tiny_llama: Path, tiny_pool: Path, tmp_path: Path) -> None:
    run = ma.plan(
        write_task(tmp_path / "even.jsonl", choices=True), pool=tiny_pool, base=str(tiny_llama), out=tmp_path / "run",
        cache=tmp_path / "cache", scored=False,
        options=PlanOptions(k=1, adaptation="none", finetune=FAST, strategy="random"),
    )  # fmt: skip
    plan = unchecked(run.folder / "plan.json")
    assert plan["settings"].pop("choose_by") == "auto"
    (run.folder / "plan.json").write_text(json.dumps(plan))
    assert read_run(run.folder).plan.settings.choose_by == "loss"


def test_bad_ways_to_choose_are_one_line(
    tiny_llama: Path, tiny_pool: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = write_task(tmp_path / "even.jsonl")
    where = ["--task", str(task), "--pool", str(tiny_pool), "--base", str(tiny_llama), "--cache", str(tmp_path / "c")]
    assert main(["plan", *where, "--choose-by", "choices", "--dry-run"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "task even: even.jsonl:" in error and "has no choices to choose by" in error
    with pytest.raises(SpecError, match="`choose_by=accuracy` is unknown; choose one of: auto, loss, choices"):
        ma.plan(task, pool=tiny_pool, base=str(tiny_llama), out=tmp_path / "run", cache=tmp_path / "c",
                options=PlanOptions(choose_by="accuracy"))  # type: ignore[arg-type]  # fmt: skip
