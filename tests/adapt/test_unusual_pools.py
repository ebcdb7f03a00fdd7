"""Adaptations where something is out of the ordinary: each works, or is one clear line."""

import json
import shutil
from pathlib import Path

import pytest

import merge_advisor as ma
from merge_advisor.advisor import PlanOptions
from merge_advisor.advisor.runs.run_folder import Run
from merge_advisor.errors import InputError, MergeAdvisorError
from merge_advisor.options import FinetuneSettings
from tests.support.architectures import build_model
from tests.support.models import LLAMA_MODULES, write_lora
from tests.support.task_files import write_task

pytestmark = pytest.mark.slow  # half a minute of small plans in all

FAST = FinetuneSettings(rank=2, lr=1e-2, epochs=2)
WITH_POOL = (
    "basis:form=prior,start=merge,folds=2", "coefficients:folds=2", "coefficients:folds=2,objective=entropy",
    "continue:folds=2", "mix:folds=2",
)  # fmt: skip


def planned(task: Path, base: Path, pool: Path, spec: str, **more: int | str) -> Run:
    options = PlanOptions(k=2, finetune=FAST, adaptation=spec, **more)  # type: ignore[arg-type]
    return ma.plan(
        task, pool=pool, base=str(base), out=task.parent / f"run-{spec.partition(':')[0]}", cache=task.parent / "cache",
        options=options, scored=False, force=True,
    )  # fmt: skip


OTHERS = (
    "basis:folds=2", "basis:form=first,source=inputs,folds=2", "continue:form=refactored,folds=2", "shots:folds=2",
    "prompt:folds=2",
)  # fmt: skip


@pytest.mark.parametrize("spec", (*WITH_POOL, *OTHERS))
def test_an_encoder_decoder(spec: str, tmp_path: Path, tiny_t5: Path, tiny_t5_pool: Path) -> None:
    found = planned(write_task(tmp_path / "even.jsonl", 12), tiny_t5, tiny_t5_pool, spec, template="bare")
    assert found.plan.adaptation is not None and found.plan.adaptation.predicted is not None


@pytest.mark.parametrize(
    "spec",
    (
        "basis:form=prior,folds=2",
        "basis:start=merge,folds=2",
        "continue:folds=2",
        "mix:folds=2",
        "continue:form=refactored,folds=2",
    ),
)
def test_a_pool_of_full_checkpoints(spec: str, tmp_path: Path, tiny_llama: Path, tiny_pool: Path) -> None:
    pool = checkpoints(tmp_path, tiny_llama, tiny_pool)
    found = planned(write_task(tmp_path / "even.jsonl", 12), tiny_llama, pool, spec)
    assert found.plan.adaptation is not None and found.plan.adaptation.predicted is not None


def test_checkpoints_of_a_base_that_stores_its_weights_the_other_way_round(tmp_path: Path) -> None:
    base, pool = build_model("gpt2", tmp_path / "gpt2"), tmp_path / "checkpoints"
    for seed in (1, 2):
        build_model("gpt2", pool / f"c{seed}", seed)
    found = planned(write_task(tmp_path / "even.jsonl", 12), base, pool, "basis:form=first,folds=2")
    assert found.plan.adaptation is not None and found.plan.adaptation.predicted is not None


def test_coefficients_of_checkpoints_are_refused_in_one_line(tmp_path: Path, tiny_llama: Path, tiny_pool: Path) -> None:
    pool = checkpoints(tmp_path, tiny_llama, tiny_pool)
    with pytest.raises(MergeAdvisorError, match="no adapter of the pool changes the weights"):
        planned(write_task(tmp_path / "even.jsonl", 12), tiny_llama, pool, "coefficients:folds=2")


def checkpoints(tmp_path: Path, base: Path, pool: Path) -> Path:
    """Two full models: the base merged with an adapter each."""
    folder = tmp_path / "checkpoints"
    for name in sorted(path.name for path in pool.iterdir() if path.is_dir())[:2]:
        run = ma.plan(
            write_task(tmp_path / f"{name}.jsonl", 12), pool=pool, base=str(base), out=tmp_path / f"made-{name}",
            cache=tmp_path / "cache", scored=False,
            options=PlanOptions(k=1, finetune=FAST, adaptation="none", include=(name,), anchor=name),
        )  # fmt: skip
        ma.merge(run.folder, folder / name, pool=pool, base=str(base), cache=tmp_path / "cache")
    return folder


@pytest.mark.parametrize("spec", (*WITH_POOL, "basis:form=output,folds=2", "continue:form=refactored,folds=2"))
def test_mixed_ranks_and_modules(spec: str, tmp_path: Path, tiny_llama: Path, tiny_pool: Path) -> None:
    pool = tmp_path / "mixed"
    shutil.copytree(tiny_pool, pool)
    some = {name: size for name, size in LLAMA_MODULES.items() if "layers.0" in name}
    write_lora(pool / "wide", {"model.layers.1.mlp.up_proj": (64, 32)}, seed=9, rank=7)
    write_lora(pool / "thin", some, seed=8, rank=1)
    found = planned(write_task(tmp_path / "even.jsonl", 12), tiny_llama, pool, spec)
    assert found.plan.adaptation is not None and found.plan.adaptation.predicted is not None


@pytest.mark.parametrize("spec", (*WITH_POOL, "auto:folds=2"))
def test_choices_of_one_token_and_outputs_that_are_all_equal(
    spec: str, tmp_path: Path, tiny_llama: Path, tiny_pool: Path
) -> None:
    rows = [{"input": f"is {2 * n} even?", "output": "y", "choices": ["y", "n"]} for n in range(12)]
    (tmp_path / "equal.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = planned(tmp_path / "equal.jsonl", tiny_llama, tiny_pool, spec)
    assert found.plan.adaptation is not None and found.plan.adaptation.predicted is not None


@pytest.mark.parametrize("spec", ("auto:folds=2", "continue:folds=2", "prompt:folds=2"))
def test_rows_longer_than_the_context(spec: str, tmp_path: Path, tiny_llama: Path, tiny_pool: Path) -> None:
    rows = [{"input": f"{n} " * 900 + "?", "output": f"{n % 2}"} for n in range(12)]
    (tmp_path / "long.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if spec.startswith("prompt"):
        with pytest.raises(MergeAdvisorError, match="not one of 2 examples fits"):
            planned(tmp_path / "long.jsonl", tiny_llama, tiny_pool, spec, shots=2, tuning=2)
        return
    found = planned(tmp_path / "long.jsonl", tiny_llama, tiny_pool, spec).plan.adaptation
    assert found is not None and ("prompt cannot be" in found.reason) == spec.startswith("auto")


def test_no_tuning_rows(tmp_path: Path, tiny_llama: Path, tiny_pool: Path) -> None:
    found = planned(write_task(tmp_path / "even.jsonl", 12), tiny_llama, tiny_pool, "auto:folds=2", tuning=0)
    assert found.plan.adaptation is not None and found.plan.adaptation.predicted is not None


def test_a_rate_that_is_far_too_high_is_one_line(tmp_path: Path, tiny_llama: Path, tiny_pool: Path) -> None:
    with pytest.raises(InputError, match="lower `lr`"):
        planned(write_task(tmp_path / "even.jsonl", 12), tiny_llama, tiny_pool, "continue:folds=2,rate=1e30")
