"""Plans whose model has examples in its prompt: `--adaptation prompt`, on the base, a LoRA of the rows or a merge."""

import json
import shutil
from pathlib import Path

import pytest

import merge_advisor as ma
from merge_advisor import templates
from merge_advisor.advisor import PlanOptions
from merge_advisor.advisor.measuring.in_context import with_rows
from merge_advisor.advisor.measuring.session import open_session
from merge_advisor.advisor.runs.adapted_run import way_of
from merge_advisor.advisor.runs.prompt_folder import rows_shown
from merge_advisor.advisor.runs.renderings import rendering_names
from merge_advisor.advisor.runs.run_report import summary_blocks
from merge_advisor.advisor.scoring.trying import answers
from merge_advisor.backbone.generate import generate
from merge_advisor.cli import main
from merge_advisor.errors import InputError
from merge_advisor.options import TuneOptions
from merge_advisor.report.terminal import to_text
from merge_advisor.types import SHOTS_LORA
from tests.support.adapted_plans import FAST, planned
from tests.support.task_files import write_task


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapted")
    write_task(folder / "even.jsonl")
    return folder


def test_the_model_of_a_prompt_is_the_base_with_examples(place: Path, tiny_llama: Path, tiny_pool: Path) -> None:
    run = planned(place, tiny_llama, tiny_pool, "prompt")
    assert all(member.weight == 0 for member in run.recipe.members)  # the recipe is the base
    table = run.scores[0]
    assert table.model("merge").rows == table.model("icl").rows != table.model("base").rows
    found = run.plan.adaptation
    assert found is not None and table.examples is not None
    shown, given = len(table.examples), len(run.tasks[0].shots) + len(run.tasks[0].tuning)
    assert 0 < shown < given  # its context of 512 tokens is small
    assert f"the base with {shown} of {given} examples in its prompt, as many as fit whole" in found.reason


def test_the_prompt_that_was_scored_is_in_the_run_folder(place: Path, tiny_llama: Path, tiny_pool: Path) -> None:
    run = planned(place, tiny_llama, tiny_pool, "prompt")
    task, examples = run.tasks[0], run.scores[0].examples
    assert examples is not None
    template = with_rows(templates.get(run.plan.template), rows_shown(task, examples))
    text = (run.folder / "prompt" / "0.txt").read_text()
    assert text.replace("{input}", task.heldout[0].input) == template.prompt(task.heldout[0].input)
    said = to_text(summary_blocks(run))
    for told in (said, (run.folder / "report.md").read_text()):
        assert "(icl), to paste" in told and f"cat {run.folder}/prompt/0.txt" in told
        assert f"merge-advisor merge {run.folder}" not in told
    # no rendering of a recipe is this model
    assert not any((run.folder / name).exists() for name in rendering_names())
    assert "not written: the model is the base with examples in its prompt" in said
    # without scores it is the same prompt
    unscored = planned(place, tiny_llama, tiny_pool, "prompt", "prompt-unscored", scored=False)
    assert (unscored.folder / "prompt" / "0.txt").read_text() == text


def test_try_asks_with_the_prompt(place: Path, tiny_llama: Path, tiny_pool: Path) -> None:
    run, notes = planned(place, tiny_llama, tiny_pool, "prompt"), list[str]()
    asked = run.tasks[0].heldout[0].input
    said = answers(run.folder, asked, max_new_tokens=8, on_note=notes.append, cache=place / "cache")
    assert list(said) == ["base", "icl", "anchor", "shots_lora", "merge"]
    assert said["merge"] == said["icl"] != said["base"] and not notes
    session = open_session(str(tiny_llama), template=run.plan.template, cache=place / "cache")
    with session:
        text = (run.folder / "prompt" / "0.txt").read_text().replace("{input}", asked)
        assert generate(session.model.backbone, text, max_new_tokens=8).startswith(said["icl"])
    # an input that takes most of the context takes the room of examples, which is said
    longer = answers(run.folder, "is 1 even? " * 20, max_new_tokens=8, on_note=notes.append, cache=place / "cache")
    assert set(longer) == set(said) and "examples have room beside this input" in notes[0]
    # of another run it is the row of the table alone
    other = planned(place, tiny_llama, tiny_pool, "continue")
    shown = answers(other.folder, asked, max_new_tokens=8, cache=place / "cache")
    assert shown["icl"] == said["icl"] and (other.folder / "prompt" / "0.txt").is_file()


def test_a_lora_with_examples_in_its_prompt_is_the_lora_and_the_prompt(
    place: Path, tiny_llama: Path, tiny_pool: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("merge_advisor.adapt.prompting.SCALES", (0.5,))
        run = planned(place, tiny_llama, tiny_pool, "prompt:folds=2,on=shots", "prompt-on-half-of-shots")
    assert run.prompted and way_of(run) == "prompt on shots"
    assert [(member.id, member.weight) for member in run.recipe.members] == [(SHOTS_LORA, 0.5)]
    table = run.scores[0]
    rows = [table.model(label).rows for label in ("merge", "icl", "shots_lora", "base")]
    assert all(rows[0] != other for other in rows[1:])
    said = to_text(summary_blocks(run))
    assert f"merge-advisor merge {run.folder} --out model" in said
    assert f"cat {run.folder}/prompt/0.txt  # the prompt for this model" in said
    assert (run.folder / "adapter").is_dir() and "not written: the model is the base" not in said
    notes: list[str] = []
    out = ma.merge(run.folder, place / "lora-of-prompt", on_note=notes.append, cache=place / "cache", adapter=True)
    assert (out / "adapter_config.json").is_file()
    assert "examples in its prompt, which no weights hold" in notes[0] and "prompt/0.txt" in notes[0]
    asked = run.tasks[0].heldout[0].input
    prompts: list[str] = []

    def said_to(backbone: object, prompt: str, **_: object) -> str:
        prompts.append(prompt)
        return "said"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("merge_advisor.backbone.generate.generate", said_to)
        answered = answers(run.folder, asked, max_new_tokens=8, cache=place / "cache")
    text = (run.folder / "prompt" / "0.txt").read_text().replace("{input}", asked)
    shown = dict(zip(answered, prompts, strict=True))
    assert [label for label in shown if shown[label] == text] == ["icl", "merge"]
    assert main(["card", str(run.folder), "--base-model", "org/base", "--licence", "mit"]) == 0
    assert "with examples in its prompt" in capsys.readouterr().out


def test_a_prompt_is_no_model_to_merge_or_share(
    place: Path, tiny_llama: Path, tiny_pool: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = planned(place, tiny_llama, tiny_pool, "prompt")
    for given in (["merge", str(run.folder), "--out", str(place / "model")], ["card", str(run.folder)],
                  ["push", str(run.folder), "org/name", "--dry-run"]):  # fmt: skip
        assert main(given) == 2
        (said,) = capsys.readouterr().err.strip().splitlines()
        assert "its model is the base itself with examples in its prompt" in said and "prompt/0.txt" in said
    assert not (place / "model").exists()


@pytest.mark.slow
def test_where_no_example_fits_beside_the_held_out_rows_the_bare_base_is_scored_and_said_to_be(
    place: Path, tiny_llama: Path, tiny_pool: Path
) -> None:
    rows = [{"input": f"is {number} even?", "output": "yes"} for number in range(8)]
    (place / "learned.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (place / "longer.jsonl").write_text(
        "".join(json.dumps({"input": f"{n} " * 200, "output": "yes"}) + "\n" for n in range(2))
    )
    options = PlanOptions(k=2, finetune=FAST, adaptation="prompt:folds=2", heldout=place / "longer.jsonl")
    run = ma.plan(
        place / "learned.jsonl", pool=tiny_pool, base=str(tiny_llama), out=place / "no-room", cache=place / "cache",
        options=options,
    )  # fmt: skip
    table, found = run.scores[0], run.plan.adaptation
    assert found is not None and "though none of 8 fits beside the longest held-out row" in found.reason
    assert "; merge, which has the same prompt, is without it here." in table.notes[0] and table.examples is None
    assert table.model("merge").rows == table.model("base").rows and not list(run.folder.glob("prompt/*"))
    with pytest.raises(InputError, match=r"score\(run\) writes the prompt"):
        ma.merge(run.folder, place / "no-model")


@pytest.mark.slow
def test_a_merge_with_examples_in_its_prompt_is_tuned_and_scored_with_them(
    place: Path, tiny_llama: Path, tiny_pool: Path, tmp_path: Path
) -> None:
    before = planned(place, tiny_llama, tiny_pool, "prompt:folds=2,on=merge")
    run = shutil.copytree(before.folder, tmp_path / "run")
    found = ma.tune(run, options=TuneOptions(trials=14), cache=place / "cache")
    assert before.prompted and found.prompted and (found.folder / "prompt" / "0.txt").is_file()
    report, table = before.scores[0], found.scores[0]
    assert report.model("merge").rows != report.model("start").rows  # which has no prompt
    assert found.tuning is not None and found.tuning.adaptation is not None
    tuned = found.tuning.adaptation.tuned
    assert table.model("plan" if tuned else "merge").rows == report.model("merge").rows
    assert not tuned or table.model("merge").rows != table.model("plan").rows
