"""A plan with members that are no plain LoRA: what its files carry, and what they say they do not."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

import merge_advisor as ma
from merge_advisor.advisor import PlanOptions
from merge_advisor.advisor.runs.run_folder import Run
from merge_advisor.errors import InputError
from merge_advisor.pool.merged_by_peft import PeftMerges
from merge_advisor.weights.base import resolve_base
from tests.support.merges import by_plain_peft, weights_of
from tests.support.peft_adapters import KINDS, in_this_process, make_adapter
from tests.support.task_files import write_task


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path, tiny_pool: Path) -> Path:
    """A pool of a LoRA, a LoHa and a DoRA, the latter two merged already."""
    import peft

    folder = tmp_path_factory.mktemp("kinds")
    shutil.copytree(tiny_pool / "a0", folder / "pool" / "plain")
    odd = [make_adapter(tiny_llama, folder / "pool" / name, KINDS[name](peft), size=0.3) for name in ("loha", "dora")]
    base = resolve_base(str(tiny_llama), cache=folder / "cache" / "base")
    PeftMerges(base, folder / "cache" / "pool" / "merged", {}, run=in_this_process).prepare(odd)
    return folder


def planned(place: Path, base: Path, *wanted: str) -> Run:
    return ma.plan(
        write_task(place / "even.jsonl", 12), pool=place / "pool", base=str(base), out=place / "-".join(wanted),
        cache=place / "cache", scored=False,
        options=PlanOptions(k=2, strategy="top_k", adaptation="none", include=wanted, exclude=("shots_lora",)),
    )  # fmt: skip


def test_a_change_with_factors_is_a_lora_in_every_file(place: Path, tiny_llama: Path) -> None:
    run = planned(place, tiny_llama, "plain", "loha")
    assert {member.id: member.kind for member in run.recipe.members} == {"plain": "adapter", "loha": "adapter"}
    (copied,) = (run.folder / "members").iterdir()
    assert copied.name.startswith("loha-")
    ours, theirs = by_plain_peft(tiny_llama, copied), by_plain_peft(tiny_llama, place / "pool" / "loha")
    for name in ours:
        np.testing.assert_allclose(ours[name], theirs[name], atol=1e-6)
    assert f"members/{copied.name}" in (run.folder / "mergekit.yaml").read_text()
    assert (run.folder / "adapter" / "adapter_model.safetensors").is_file()


def test_a_dense_change_is_written_where_a_format_carries_it(place: Path, tiny_llama: Path) -> None:
    run = planned(place, tiny_llama, "plain", "dora")
    kinds = {member.id: member.kind for member in run.recipe.members}
    assert kinds == {"plain": "adapter", "dora": "dense"}
    config = yaml.safe_load((run.folder / "mergekit.yaml").read_text())
    assert str((place / "pool" / "dora").resolve()) in json.dumps(config)  # mergekit has PEFT merge it, as we do
    assert not (run.folder / "adapter").exists()
    report = (run.folder / "report.md").read_text()
    assert "dora is an adapter of another kind, its change has no LoRA factors" in report
    where = {"pool": place / "pool", "base": str(tiny_llama), "cache": place / "cache"}
    with pytest.raises(InputError, match=r"dora is an adapter of another kind, no LoRA holds that"):
        ma.merge(run.folder, place / "as-adapter", adapter=True, **where)  # type: ignore[arg-type]
    ma.merge(run.folder, place / "merged", **where)  # type: ignore[arg-type]
    weights, before = weights_of(place / "merged"), weights_of(tiny_llama)
    parts = {m.id: by_plain_peft(tiny_llama, place / "pool" / m.id) for m in run.recipe.members}
    for name in before:
        total = sum(m.weight * (parts[m.id][name] - before[name]) for m in run.recipe.members if name in parts[m.id])
        np.testing.assert_allclose(weights[name], before[name] + total, atol=1e-5)


@pytest.mark.slow
def test_mergekit_merges_a_dense_change_to_the_same_model(place: Path, tiny_llama: Path) -> None:
    run = planned(place, tiny_llama, "dora", "loha")
    where = {"pool": place / "pool", "base": str(tiny_llama), "cache": place / "cache"}
    ma.merge(run.folder, place / "theirs", engine="mergekit", **where)  # type: ignore[arg-type]
    assert weights_of(place / "theirs")  # it was compared weight by weight, or nothing would be there


@pytest.mark.slow
@pytest.mark.parametrize("adaptation", ["auto", "basis", "continue", "coefficients"])
def test_every_adaptation_works_with_such_members(place: Path, tiny_llama: Path, adaptation: str) -> None:
    run = ma.plan(
        write_task(place / "odd.jsonl", 20), pool=place / "pool", base=str(tiny_llama), out=place / adaptation,
        cache=place / "cache", scored=False, options=PlanOptions(k=2, adaptation=adaptation),
    )  # fmt: skip
    assert run.plan.version == 1
