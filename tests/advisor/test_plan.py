"""`plan`, `merge`, `score`, `try`, end to end on a tiny base."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import merge_advisor as ma
from merge_advisor.advisor import PlanOptions
from merge_advisor.advisor.runs.run_folder import Run, read_run
from merge_advisor.advisor.runs.run_report import html_of
from merge_advisor.arrays import Float32Array
from merge_advisor.cli import main
from merge_advisor.errors import InputError, RunError
from merge_advisor.options import FinetuneSettings
from tests.support.run_files import unchecked
from tests.support.task_files import write_task

FAST = FinetuneSettings(rank=4, lr=1e-2, steps=12)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plan")
    write_task(folder / "even.jsonl")
    return folder


@pytest.fixture(scope="module")
def run(place: Path, tiny_llama: Path, tiny_pool: Path) -> Run:
    return ma.plan(
        place / "even.jsonl", pool=tiny_pool, base=str(tiny_llama), out=place / "run", cache=place / "cache",
        options=PlanOptions(k=2, adaptation="none", finetune=FAST),
    )  # fmt: skip


def without_environment(folder: Path) -> str:
    plan = json.loads((folder / "plan.json").read_text())
    del plan["environment"]
    return json.dumps(plan)


def test_a_run_folder_holds_everything(run: Run) -> None:
    names = {path.name for path in run.folder.iterdir()}
    assert {"plan.json", "recipe.json", "adapter", "shots_lora", "tasks", "score", "report.md", "report.html"} <= names
    assert "lorahub.json" not in names  # another model under the same weights
    assert run.plan.verdict is not None and run.plan.reason
    labels = [model.label for model in run.scores[0].models]
    assert labels[:3] == ["base", "icl", "majority"] and {"anchor", "shots_lora", "uniform", "merge"} <= set(labels)
    assert len(run.scores[0].row_digests) == len(run.tasks[0].heldout) == 16
    report = run.plan.tasks[0]
    assert not set(report.shots) & set(report.heldout) and not set(report.tuning) & set(report.heldout)
    assert {c.status for c in run.plan.candidates} == {"member", "candidate"}
    assert all(c.similarity is not None and -1.001 <= c.similarity <= 1.001 for c in run.plan.candidates)


@pytest.mark.parametrize("order", ["same", "reversed"])
def test_same_inputs_same_bytes_warm_or_cold_in_any_order(
    run: Run, place: Path, tiny_llama: Path, tiny_pool: Path, tmp_path: Path, order: str
) -> None:
    pool = tmp_path / "pool"
    pool.mkdir()
    names = sorted(path.name for path in tiny_pool.iterdir())
    for name in names if order == "same" else reversed(names):
        shutil.copytree(tiny_pool / name, pool / name)
    lines = (place / "even.jsonl").read_text().splitlines()
    task = tmp_path / "even.jsonl"
    task.write_text("\n".join(lines if order == "same" else reversed(lines)))
    again = ma.plan(
        task, pool=pool, base=str(tiny_llama), out=tmp_path / "run",
        options=PlanOptions(k=2, adaptation="none", finetune=FAST),
        cache=place / "cache" if order == "same" else tmp_path / "cache",
    )  # fmt: skip
    assert without_environment(again.folder) == without_environment(run.folder)
    for name in ("recipe.json", "adapter/adapter_model.safetensors", "score/0.json"):
        assert (again.folder / name).read_bytes() == (run.folder / name).read_bytes(), name
    for name in ("report.md", "report.html"):  # they name the folder in the commands to type next, nothing else of it
        here, there = ((f / name).read_text().replace(str(f), "RUN") for f in (again.folder, run.folder))
        assert here == there, name
    if order == "same":
        assert again.plan.environment.store_misses == 0


def test_the_reports_name_no_path_but_that_of_the_run(run: Run, place: Path, tiny_llama: Path, tiny_pool: Path) -> None:
    for name in ("report.md", "report.html"):
        text = (run.folder / name).read_text().replace(str(run.folder), "RUN")
        for path in (tiny_llama, tiny_pool, place):
            assert str(path) not in text, name
        assert run.plan.environment.created not in text
    assert run.plan.map is not None
    assert set(run.plan.map.candidates) == {c.id for c in run.plan.candidates}
    assert "Similarity map" in (run.folder / "report.html").read_text()


def test_a_plan_without_a_map_is_read_as_before(run: Run, tmp_path: Path) -> None:
    shutil.copytree(run.folder, tmp_path / "run")
    plan = unchecked(tmp_path / "run" / "plan.json")
    del plan["map"]
    (tmp_path / "run" / "plan.json").write_text(json.dumps(plan))
    old = read_run(tmp_path / "run")
    assert old.plan.map is None and "Similarity map" not in html_of(old)


def test_a_warm_plan_imports_no_torch(run: Run, place: Path, tiny_llama: Path, tiny_pool: Path, tmp_path: Path) -> None:
    import subprocess
    import sys

    code = (
        "import sys\nfrom merge_advisor.cli import main\n"
        f"code = main(['plan', '--task', {str(place / 'even.jsonl')!r}, '--pool', {str(tiny_pool)!r}, '--base',"
        f" {str(tiny_llama)!r}, '--out', {str(tmp_path / 'run')!r}, '--cache', {str(place / 'cache')!r}, '--k', '2',"
        " '--no-score', '--adaptation', 'none', '--lora-rank', '4', '--lora-lr', '0.01', '--lora-steps', '12'])\n"
        "heavy = {'torch', 'transformers', 'peft', 'mergekit', 'lm_eval', 'optuna', 'pandas', 'sklearn', 'scipy'}\n"
        "print(sorted(heavy & set(sys.modules)))\nsys.exit(code)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert found.returncode == 0, found.stderr
    assert found.stdout.splitlines()[-1] == "[]"


def test_the_adapter_of_a_run_is_the_merge_in_plain_peft(run: Run, tiny_llama: Path) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from merge_advisor.weights.base import resolve_base
    from merge_advisor.weights.tensorfile import open_folder, read_tensor

    merged = run.folder.parent / "merged"
    ma.merge(run.folder, merged, cache=run.folder.parent / "cache")
    model = AutoModelForCausalLM.from_pretrained(tiny_llama)
    by_peft = PeftModel.from_pretrained(model, run.folder / "adapter").merge_and_unload().state_dict()
    local = resolve_base(str(merged), cache=run.folder.parent / "cache")
    assert local.base.architecture == "LlamaForCausalLM"
    for name, (path, info) in open_folder(merged).items():
        difference = np.abs(read_tensor(path, info) - by_peft[name].to(torch.float32).numpy()).max()
        assert difference < 1e-5, name


def test_a_run_can_be_carried_out_elsewhere(run: Run, tiny_llama: Path, tiny_pool: Path, tmp_path: Path) -> None:
    """The folder is sent to someone whose pool and base lie in other places."""
    shutil.copytree(run.folder, tmp_path / "sent")
    shutil.copytree(tiny_pool, tmp_path / "pool")
    shutil.copytree(tiny_llama, tmp_path / "tiny-llama")
    out = ma.merge(
        tmp_path / "sent", tmp_path / "adapter", adapter=True, pool=tmp_path / "pool",
        base=str(tmp_path / "tiny-llama"), cache=tmp_path / "cache",
    )  # fmt: skip
    sent, here = ((folder / "adapter_model.safetensors").read_bytes() for folder in (out, run.folder / "adapter"))
    assert sent == here


def test_another_base_or_a_missing_member_is_refused(
    run: Run, tiny_pool: Path, tiny_llama: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_llama, tmp_path / "other")
    config = json.loads((tmp_path / "other" / "config.json").read_text())
    (tmp_path / "other" / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 0.1}))
    with pytest.raises(RunError, match="other weights; name that one by `base`"):
        ma.merge(run.folder, tmp_path / "out", base=str(tmp_path / "other"), cache=tmp_path / "cache")
    anchor = run.recipe.members[0].id
    (tmp_path / "pool").mkdir()
    for path in tiny_pool.iterdir():
        if path.name != anchor:
            shutil.copytree(path, tmp_path / "pool" / path.name)
    with pytest.raises(RunError, match=f"member {anchor} .* name its `pool`"):
        ma.merge(run.folder, tmp_path / "out", pool=tmp_path / "pool", cache=tmp_path / "cache")
    assert not (tmp_path / "out").exists()


def test_a_changed_recipe_is_noticed(run: Run, tmp_path: Path) -> None:
    shutil.copytree(run.folder, tmp_path / "run")
    path = tmp_path / "run" / "recipe.json"
    recipe = json.loads(path.read_text())
    recipe["members"][0]["weight"] += 0.5
    path.write_text(json.dumps(recipe))
    with pytest.raises(RunError, match="changed after the plan"):
        read_run(tmp_path / "run")
    path.write_text(path.read_text()[:50])
    with pytest.raises(InputError, match="not JSON"):
        read_run(tmp_path / "run")


def test_scoring_other_rows(run: Run, place: Path, tmp_path: Path) -> None:
    shutil.copytree(run.folder, tmp_path / "run")
    rows = [json.dumps({"input": f"is {n} odd?", "output": "yes"}) for n in range(9)]
    rows += (place / "even.jsonl").read_text().splitlines()  # those the plan learned from must not count
    shot = run.tasks[0].shots[0]  # nor one with its input, whatever else differs
    rows.append(json.dumps({"input": f"{shot.input} ", "output": "maybe"}))
    (tmp_path / "more.jsonl").write_text("\n".join(rows))
    found = ma.score(tmp_path / "run", heldout=[tmp_path / "more.jsonl"], cache=place / "cache")
    assert len(found.scores[0].row_digests) == 9 + 16
    with pytest.raises(InputError, match="every row of it was used"):
        used = (*run.tasks[0].shots, *run.tasks[0].tuning)
        (tmp_path / "used.jsonl").write_text(
            "\n".join(json.dumps({"input": r.input, "output": r.output}) for r in used)
        )
        ma.score(tmp_path / "run", heldout=[tmp_path / "used.jsonl"], cache=place / "cache")


def test_icl_is_in_the_table_or_a_line_says_why_not(
    run: Run, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is shown whole rows that are learned from, and left out where a long held-out row leaves them no room."""
    shutil.copytree(run.folder, tmp_path / "run")
    (note,) = run.scores[0].notes
    count = len(run.tasks[0].shots) + len(run.tasks[0].tuning)
    assert re.fullmatch(rf"icl has [1-9] of {count} examples in its prompt: as many as fit whole\.", note)
    assert note in (run.folder / "report.md").read_text() and note in (run.folder / "report.html").read_text()
    assert run.scores[0].model("icl").rows != run.scores[0].model("base").rows
    row = {"input": "is it even? " * 100, "output": "yes"}
    (tmp_path / "long.jsonl").write_text("\n".join(json.dumps(row | {"output": answer}) for answer in ("yes", "no")))
    where = ["--task", str(tmp_path / "long.jsonl"), "--cache", str(place / "cache")]
    assert main(["score", str(tmp_path / "run"), *where]) == 0
    assert "icl is left out: not one of" in capsys.readouterr().out
    found = read_run(tmp_path / "run").scores[0]
    assert [model.label for model in found.models][:2] == ["base", "majority"]
    assert found.notes[0].startswith(f"icl is left out: not one of {count} examples fits into its prompt")
    old = unchecked(tmp_path / "run" / "score" / "0.json")
    del old["notes"]  # as a file written before there were any
    (tmp_path / "run" / "score" / "0.json").write_text(json.dumps(old))
    assert read_run(tmp_path / "run").scores[0].notes == ()


def test_two_tasks_make_one_merge(place: Path, tiny_llama: Path, tiny_pool: Path, tmp_path: Path) -> None:
    write_task(tmp_path / "choice.jsonl", answers=("red", "blue"), choices=True)
    run = ma.plan(
        [place / "even.jsonl", tmp_path / "choice.jsonl"], pool=tiny_pool, base=str(tiny_llama), out=tmp_path / "run",
        cache=place / "cache", options=PlanOptions(k=2, adaptation="none", finetune=FAST),
    )  # fmt: skip
    assert [score.metric for score in run.scores] == ["exact_match", "accuracy"]
    assert run.plan.verdict in {score.verdict for score in run.scores}
    assert "worst of 2 tasks" in run.plan.reason
    report = (run.folder / "report.md").read_text()
    assert "## One merge for all tasks" in report and "| merge |" in report


def test_an_encoder_decoder_base(tiny_t5: Path, tiny_t5_pool: Path, tmp_path: Path) -> None:
    write_task(tmp_path / "even.jsonl", 24)
    run = ma.plan(
        tmp_path / "even.jsonl", pool=tiny_t5_pool, base=str(tiny_t5), out=tmp_path / "run",
        cache=tmp_path / "cache", options=PlanOptions(k=2, adaptation="none", finetune=FAST, template="plain"),
    )  # fmt: skip
    assert run.recipe.base.architecture == "T5ForConditionalGeneration"
    assert run.plan.verdict is not None
    assert [model.label for model in run.scores[0].models][:2] == ["base", "icl"]  # the encoder reads the examples


def test_try_answers_side_by_side(run: Run, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["try", str(run.folder), "is 4 even?", "--json", "--cache", str(place / "cache")]) == 0
    assert set(json.loads(capsys.readouterr().out)) >= {"base", "anchor", "shots_lora", "merge"}


def test_fewer_rows_than_can_be_held_out(place: Path, tiny_llama: Path, tiny_pool: Path, tmp_path: Path) -> None:
    write_task(tmp_path / "few.jsonl", 5)
    run = ma.plan(
        tmp_path / "few.jsonl", pool=tiny_pool, base=str(tiny_llama), out=tmp_path / "run", cache=place / "cache",
        options=PlanOptions(k=2, adaptation="none", finetune=FAST),
    )  # fmt: skip
    assert run.scores == () and run.plan.verdict is None
    assert all(member.id != "shots_lora" for member in run.plan.selection.members)
    assert any("no tuning rows" in note for note in run.plan.notes)


@pytest.fixture(scope="module")
def ties(run: Run, place: Path, tiny_llama: Path, tiny_pool: Path) -> Run:
    return ma.plan(
        place / "even.jsonl", pool=tiny_pool, base=str(tiny_llama), out=place / "ties", cache=place / "cache",
        options=PlanOptions(k=2, adaptation="none", finetune=FAST, composition="ties:density=0.5"),
    )  # fmt: skip


def test_a_nonlinear_composition_end_to_end(
    ties: Run, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.support.merges import by_plain_peft

    assert ties.recipe.composition == "ties:density=0.5" and ties.recipe.rank is None and ties.plan.rank_error == 0
    names = {path.name for path in ties.folder.iterdir()}
    assert "mergekit.yaml" in names and not {"adapter", "lorahub.json"} & names
    assert any("gives no LoRA factors" in note for note in ties.plan.notes)
    assert ties.plan.verdict is not None and ties.scores[0].model("merge").rows
    out = tmp_path / "adapter"
    assert main(["merge", str(ties.folder), "--out", str(out), "--adapter", "--rank", "3", "--json",
                 "--cache", str(place / "cache")]) == 0  # fmt: skip
    note = json.loads(capsys.readouterr().out)["notes"][0]
    error = float(note.split("relative error ")[1].split()[0])
    assert 0 < error < 1 and f"relative error {error:.3g}" in (out / "README.md").read_text()
    base = Path(ties.plan.environment.paths["base"])
    close, exact = (by_plain_peft(base, folder) for folder in (out, whole_adapter(ties, place, tmp_path)))
    full = weights_in(ma.merge(ties.folder, tmp_path / "model", cache=place / "cache"))
    bare = weights_in(base)
    lost, moved = (
        sum(float(np.sum((one[name] - other[name]) ** 2)) for name in full)
        for one, other in ((full, close), (full, bare))
    )
    assert np.sqrt(lost / moved) == pytest.approx(error, rel=0.01)
    assert max(float(np.abs(full[name] - exact[name]).max()) for name in full) < 1e-5


def whole_adapter(run: Run, place: Path, tmp_path: Path) -> Path:
    """The adapter of a rank so large that nothing is lost: the default of 256 is more than the tiny base is wide."""
    return ma.merge(run.folder, tmp_path / "whole", adapter=True, cache=place / "cache")


def weights_in(folder: Path) -> dict[str, Float32Array]:
    from merge_advisor.weights.tensorfile import open_folder, read_tensor

    return {name: read_tensor(*found) for name, found in open_folder(folder).items()}


def test_a_nonlinear_composition_with_a_rank_is_the_cut_one(
    place: Path, tiny_llama: Path, tiny_pool: Path, tmp_path: Path
) -> None:
    from tests.support.merges import by_plain_peft

    run = ma.plan(
        place / "even.jsonl", pool=tiny_pool, base=str(tiny_llama), out=tmp_path / "run", cache=place / "cache",
        scored=False,
        options=PlanOptions(k=2, adaptation="none", finetune=FAST, composition="ties:density=0.5", rank=5),
    )  # fmt: skip
    assert run.recipe.rank == 5 and 0 < run.plan.rank_error < 1
    assert (run.folder / "adapter").is_dir() and not (run.folder / "mergekit.yaml").exists()
    full = weights_in(ma.merge(run.folder, tmp_path / "model", cache=place / "cache"))
    found = by_plain_peft(tiny_llama, run.folder / "adapter")
    assert max(float(np.abs(full[name] - found[name]).max()) for name in full) < 1e-5
    assert "relative error" in (run.folder / "report.md").read_text()


def test_a_recipe_with_layer_groups(run: Run, place: Path, tmp_path: Path) -> None:
    """What the tuner writes: read, merged and told from the recipe without."""
    from dataclasses import replace

    from merge_advisor.json_form import from_json, to_json
    from merge_advisor.types import Recipe

    recipe = replace(run.recipe, layers=(0.0, 2.0))
    assert recipe.digest != run.recipe.digest
    older = json.loads(to_json(run.recipe))
    assert older.pop("layers") == []
    assert from_json(Recipe, json.dumps(older), "recipe.json") == run.recipe
    shutil.copytree(run.folder, tmp_path / "run")
    (tmp_path / "run" / "recipe.json").write_text(to_json(recipe))
    plan = unchecked(tmp_path / "run" / "plan.json")
    (tmp_path / "run" / "plan.json").write_text(json.dumps(plan | {"recipe_digest": recipe.digest}))
    base = weights_in(Path(run.plan.environment.paths["base"]))
    whole, grouped = (
        weights_in(ma.merge(folder, tmp_path / f"out{i}", cache=place / "cache"))
        for i, folder in enumerate((run.folder, tmp_path / "run"))
    )
    for name, array in base.items():
        factor = 2.0 if ".layers.1." in name else 0.0 if ".layers.0." in name else 1.0
        np.testing.assert_allclose(grouped[name] - array, factor * (whole[name] - array), atol=1e-5)


def test_what_a_composition_cannot_take(place: Path, tiny_llama: Path, tiny_pool: Path, tmp_path: Path) -> None:
    from merge_advisor.errors import PoolError, SpecError

    for options, error, why in (
        (PlanOptions(k=2, composition="slerp"), PoolError, "slerp takes checkpoints, and the pool has none"),
        (PlanOptions(k=3, composition="slerp"), SpecError, "at most 2 members; give `k=2`"),
        (PlanOptions(composition="ties:density=2"), SpecError, "density=2"),
    ):
        with pytest.raises(error, match=why):
            ma.plan(
                place / "even.jsonl", pool=tiny_pool, base=str(tiny_llama), out=tmp_path / "run",
                cache=place / "cache", options=options,
            )  # fmt: skip
    assert not (tmp_path / "run").exists()


def test_checkpoints_are_candidates_too(place: Path, tiny_llama: Path, tiny_pool: Path, tmp_path: Path) -> None:
    (tmp_path / "pool").mkdir()
    shutil.copytree(tiny_pool / "a0", tmp_path / "pool" / "a0")
    made = ma.plan(
        place / "even.jsonl", pool=tmp_path / "pool", base=str(tiny_llama), out=tmp_path / "first",
        cache=place / "cache", options=PlanOptions(k=1, adaptation="none", finetune=FAST), scored=False,
    )  # fmt: skip
    ma.merge(made.folder, tmp_path / "pool" / "full", cache=place / "cache")
    run = ma.plan(
        place / "even.jsonl", pool=tmp_path / "pool", base=str(tiny_llama), out=tmp_path / "run",
        cache=place / "cache", options=PlanOptions(strategy="all", adaptation="none", finetune=FAST),
    )  # fmt: skip
    assert {member.kind for member in run.plan.selection.members} == {"adapter", "checkpoint"}
    assert not (run.folder / "adapter").exists()  # no adapter holds a checkpoint
    with pytest.raises(InputError, match="full is a checkpoint, no LoRA holds that"):
        ma.merge(run.folder, tmp_path / "adapter", adapter=True, cache=place / "cache")
    assert Path(run.folder / "mergekit.yaml").is_file()


def test_merge_as_gguf(
    run: Run, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """llama.cpp's converter is given the whole merged model; a stand-in copies it."""
    (tmp_path / "convert_hf_to_gguf.py").write_text(
        "import pathlib, sys\n"
        "data = (pathlib.Path(sys.argv[1]) / 'model.safetensors').read_bytes()\n"
        "pathlib.Path(sys.argv[-1]).write_bytes(b'GGUF' + data)\n"
    )
    monkeypatch.setenv("LLAMA_CPP", str(tmp_path))
    whole = ma.merge(run.folder, tmp_path / "model", cache=place / "cache")
    merge = ["merge", str(run.folder), "--cache", str(place / "cache"), "--out"]
    assert main([*merge, str(tmp_path / "m.gguf"), "--gguf"]) == 0
    assert (tmp_path / "m.gguf").read_bytes() == b"GGUF" + (whole / "model.safetensors").read_bytes()
    assert main([*merge, str(tmp_path / "n.gguf"), "--gguf", "--adapter"]) == 2
    assert "leave out" in capsys.readouterr().err


def test_a_lora_of_another_rank_does_not_stop_a_composition_that_adds_factors(
    place: Path, tiny_llama: Path, tiny_pool: Path, tmp_path: Path
) -> None:
    found = ma.plan(
        place / "even.jsonl", pool=tiny_pool, base=str(tiny_llama), out=tmp_path / "run", cache=place / "cache",
        scored=False,
        options=PlanOptions(
            k=2, adaptation="none", strategy="top_k", composition="lorahub", finetune=replace(FAST, rank=2)
        ),
    )  # fmt: skip
    assert "shots_lora cannot join" in found.plan.selection.stopped
    assert "shots_lora" not in [member.id for member in found.recipe.members]
