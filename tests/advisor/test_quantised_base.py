"""Plans on a quantised base: deltas and merged weights are those of plain transformers and PEFT on the same base."""

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

import merge_advisor as ma
from merge_advisor.advisor import PlanOptions
from merge_advisor.arrays import Float32Array
from merge_advisor.cli.doctor import diagnose
from merge_advisor.embeddings import PROBES
from merge_advisor.errors import PoolError
from merge_advisor.pool import open_pool
from merge_advisor.pool.candidate import examine_candidate
from merge_advisor.pool.sources import FoundModel
from merge_advisor.weights.base import resolve_base
from merge_advisor.weights.hub import Snapshot
from merge_advisor.weights.opened import read_candidate
from tests.support.models import write_lora
from tests.support.quantised_models import with_bitsandbytes

MODULES = {
    f"model.layers.{layer}.self_attn.{name}": shape
    for layer in range(2)
    for name, shape in (("q_proj", (64, 64)), ("v_proj", (32, 64)))
}
SAID = "its weights are quantised (bitsandbytes nf4, 4 bits): dequantised once, to float32, a copy of "


@pytest.fixture(scope="module")
def quantised(wide_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_bitsandbytes(wide_llama, tmp_path_factory.mktemp("quantised") / "wide-llama-bnb-4bit")


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("qlora")
    for number in range(3):
        write_lora(folder / f"m{number}", MODULES, seed=number, base="unsloth/wide-llama-bnb-4bit", std=0.2)
    return folder


def loaded(base: Path, adapter: Path | None = None) -> Any:
    """The base by its quantization_config, an adapter beside it; in training mode nothing is rounded to bfloat16."""
    import peft
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype="auto")
    assert model.is_quantized
    with warnings.catch_warnings(action="ignore"):
        return (model if adapter is None else peft.PeftModel.from_pretrained(model, adapter)).train()


def mean_state(model: Any, base: Path) -> Float32Array:
    import torch
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    states = []
    for probe in PROBES:
        ids = tokenizer(probe, return_tensors="pt", truncation=True, max_length=256).input_ids
        with torch.no_grad():
            states.append(model(ids, output_hidden_states=True).hidden_states[-1][0, -1].numpy())
    mean: Float32Array = np.mean(states, axis=0)
    return mean


def test_deltas_are_those_of_peft_beside_the_quantised_base(
    quantised: Path, adapters: Path, wide_llama: Path, tmp_path: Path
) -> None:
    found = ma.embed(pool=adapters, base=str(quantised), cache=tmp_path)
    before = mean_state(loaded(quantised), quantised)
    for name, delta in zip(found.ids, found.array, strict=True):
        expected = mean_state(loaded(quantised, adapters / name), quantised) - before
        np.testing.assert_allclose(delta, expected, atol=2e-5, err_msg=name)
    of_full = ma.embed(pool=adapters, base=str(wide_llama), cache=tmp_path)
    assert np.abs(of_full.array - found.array).max() > 1e-2, "the full base is another one"


def test_what_a_plan_merges_is_the_dequantised_base_and_what_peft_adds(
    quantised: Path, adapters: Path, tmp_path: Path
) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    rows = [{"input": f"say {n} twice", "output": f"{n} {n}"} for n in range(30)]
    (tmp_path / "task.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    where: Any = {"cache": tmp_path / "cache"}
    run = ma.plan(
        tmp_path / "task.jsonl", pool=str(adapters), base=str(quantised), out=tmp_path / "run", scored=False,
        options=PlanOptions(strategy="random", k=2, adaptation="none", composition="exact"), **where,
    )  # fmt: skip
    assert run.plan.notes[0].startswith(f"base wide-llama-bnb-4bit: {SAID}")
    assert "merges are written into these weights, and are not quantised again" in run.plan.notes[0]
    copy = resolve_base(str(quantised), cache=tmp_path / "cache" / "base").path
    assert f"base_model: {copy}" in (tmp_path / "run" / "mergekit.yaml").read_text()

    said: list[str] = []
    out = ma.merge(tmp_path / "run", tmp_path / "merged", on_note=said.append, **where)
    assert SAID in said[0]
    # a recipe of weights 0 would test nothing
    members = {member.id: member.weight for member in run.recipe.members if member.weight}
    wanted = loaded(quantised).dequantize().state_dict()
    for name, weight in members.items():
        place = adapters / name if (adapters / name).is_dir() else tmp_path / "run" / name
        for key, module in loaded(quantised, place).base_model.model.named_modules():
            if hasattr(module, "get_delta_weight"):
                wanted[f"{key}.weight"] = wanted[f"{key}.weight"] + weight * module.get_delta_weight("default")
    ours = load_file(out / "model.safetensors")
    for key, tensor in ours.items():
        torch.testing.assert_close(tensor, wanted[key], rtol=1e-5, atol=1e-6, msg=key)
    assert "quantization_config" not in json.loads((out / "config.json").read_text())

    single = ma.merge(tmp_path / "run", tmp_path / "adapter", adapter=True, **where)
    ids = torch.randint(0, 300, (2, 16), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        beside = loaded(quantised, single)(input_ids=ids).logits
        merged = AutoModelForCausalLM.from_pretrained(out)(input_ids=ids).logits
    torch.testing.assert_close(merged, beside, rtol=1e-4, atol=2e-4)
    assert members, "the merge is not the base"


def test_adapters_of_a_quantised_copy_go_with_it_and_with_the_full_base(
    quantised: Path, adapters: Path, wide_llama: Path, tmp_path: Path
) -> None:
    on_quantised = open_pool(adapters, resolve_base(str(quantised), cache=tmp_path), cache=tmp_path)
    assert [candidate.notes for candidate in on_quantised.candidates] == [(), (), ()]
    on_full = open_pool(adapters, resolve_base(str(wide_llama), cache=tmp_path), cache=tmp_path)
    (note,) = on_full.candidates[0].notes
    assert note.startswith("it was trained on 'unsloth/wide-llama-bnb-4bit', a quantised copy of the base: ")
    assert not on_quantised.refused and not on_full.refused


@pytest.mark.parametrize(("named", "base", "words"), [
    ("unsloth/llama-3.2-1b-unsloth-bnb-4bit", "meta/Llama-3.2-1B", "a quantised copy of the base"),
    ("meta/Llama-3.2-1B", "acme/Llama-3.2-1B-GPTQ-Int4", "the base is a quantised copy of that"),
    ("neural/Llama-3.2-1B-FP8-dynamic", "meta/Llama-3.2-1B", "a quantised copy of the base"),
    ("meta/Llama-3.2-3B", "acme/Llama-3.2-1B-AWQ", "keys and shapes fit"),
])  # fmt: skip
def test_names_of_copies(named: str, base: str, words: str, wide_llama: Path, tmp_path: Path) -> None:
    from dataclasses import replace

    local = resolve_base(str(wide_llama), cache=tmp_path)
    local = replace(local, base=replace(local.base, id=base))
    folder = write_lora(tmp_path / "m", MODULES, base=named)
    candidate = examine_candidate(FoundModel("m", folder), Snapshot(folder, ""), local, {})
    assert len(candidate.notes) == 1 and words in candidate.notes[0]


def test_a_quantised_checkpoint_is_dequantised_and_subtracted(wide_llama: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    tuned = AutoModelForCausalLM.from_pretrained(wide_llama)
    with torch.no_grad():
        tuned.model.layers[0].mlp.up_proj.weight.add_(0.05)
    tuned.save_pretrained(tmp_path / "tuned")
    folder = with_bitsandbytes(tmp_path / "tuned", tmp_path / "pool" / "tuned-8bit", name="int8")
    local = resolve_base(str(wide_llama), cache=tmp_path / "cache")
    pool = open_pool(tmp_path / "pool", local, cache=tmp_path / "cache")
    (candidate,) = pool.candidates
    assert candidate.kind == "checkpoint" and Path(candidate.path).is_relative_to(tmp_path / "cache")
    assert candidate.notes[0].startswith("its weights are quantised (bitsandbytes, 8 bits): dequantised once, to float")
    again = open_pool(tmp_path / "pool", local, cache=tmp_path / "cache").candidates[0]
    assert again == candidate
    theirs, base = loaded(folder).dequantize().state_dict(), load_file(wide_llama / "model.safetensors")
    delta = read_candidate(candidate, local)
    assert sorted(delta) == sorted(base)
    for name, update in delta.items():
        np.testing.assert_array_equal(update.dense(), (theirs[name] - base[name]).numpy(), name)
    with pytest.raises(PoolError, match=r"quantised \(bitsandbytes, 8 bits\) and have to be dequantised, .* `cache`"):
        open_pool(tmp_path / "pool", local)


def test_a_checkpoint_that_cannot_be_dequantised_is_set_aside_with_what_to_do(
    wide_llama: Path, adapters: Path, tmp_path: Path
) -> None:
    import shutil

    shutil.copytree(adapters / "m0", tmp_path / "pool" / "m0")
    odd = shutil.copytree(wide_llama, tmp_path / "pool" / "odd")
    config = json.loads((odd / "config.json").read_text()) | {"quantization_config": {"quant_method": "hqq"}}
    (odd / "config.json").write_text(json.dumps(config))
    local = resolve_base(str(wide_llama), cache=tmp_path / "cache")
    pool = open_pool(tmp_path / "pool", local, cache=tmp_path / "cache")
    assert [candidate.id for candidate in pool.candidates] == ["m0"]
    (refused,) = pool.refused
    assert "quantised (hqq), of which only awq" in refused.reason and "save_pretrained" in refused.reason


def test_doctor_says_what_a_quantised_base_becomes(quantised: Path, wide_llama: Path, tmp_path: Path) -> None:
    def of(base: Path) -> list[dict[str, Any]]:
        (tmp_path / "merge-advisor.toml").write_text(f'base = "{base}"\ncache = "{tmp_path / "cache"}"\n')
        return [finding for finding in diagnose(tmp_path) if finding["what"] == "base"]

    (finding,) = of(quantised)
    assert finding["ok"] and SAID in finding["says"] and str(quantised) in finding["says"]
    assert of(wide_llama) == []
    config = quantised / "config.json"
    text = config.read_text()
    config.write_text(text.replace('"bitsandbytes"', '"quanto"'))
    try:
        (finding,) = of(quantised)
    finally:
        config.write_text(text)
    assert not finding["ok"] and "of which only awq" in finding["says"]
