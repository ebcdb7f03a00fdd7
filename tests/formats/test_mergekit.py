"""mergekit in a child process gives our model; whatever goes wrong leaves nothing half done."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from merge_advisor.arrays import Float32Array
from merge_advisor.errors import ExternalError, InputError, RunError
from merge_advisor.formats import ModelPlaces
from merge_advisor.formats.full_model import write_full_model
from merge_advisor.formats.mergekit import MergekitFormat, mergekit_config
from merge_advisor.formats.mergekit_schema import parse_mergekit, to_yaml
from merge_advisor.formats.peft import PeftFormat
from merge_advisor.formats.run_mergekit import run_mergekit
from merge_advisor.types import Recipe
from merge_advisor.weights.updates import DenseUpdate
from tests.support.merges import assert_same_weights, by_plain_peft, merge_of, merged_weights, weights_of
from tests.support.models import write_lora


def text_of(recipe: Recipe, places: ModelPlaces) -> str:
    return to_yaml(mergekit_config(recipe, places))


def all_agree(
    base: Path,
    folders: list[Path],
    weights: list[float],
    place: Path,
    *,
    adapter: bool = True,
    composition: str = "exact",
    layers: tuple[Any, ...] = (),
) -> dict[str, Float32Array]:
    """Our full model, mergekit on our YAML and (for adapters) PEFT on our folder, against base + merged ΔW."""
    recipe, places = merge_of(base, folders, weights, composition, layers)
    assert MergekitFormat().refusal(recipe) == ""
    wanted = merged_weights(base, places.merged)
    run_mergekit(text_of(recipe, places), place / "mergekit", threads=1)
    write_full_model(base, places.merged, place / "ours")
    assert_same_weights(weights_of(place / "mergekit"), wanted)
    assert_same_weights(weights_of(place / "ours"), wanted)
    if adapter:
        PeftFormat().write(recipe, places, place)
        assert_same_weights(by_plain_peft(base, place / "adapter"), wanted)
    moved = max(float(np.abs(places.merged[name].dense()).max()) for name in places.merged)
    assert moved > 1e-3  # else agreement would mean nothing
    return wanted


@pytest.mark.slow
def test_the_command_that_is_told_carries_the_file_out(tiny_llama: Path, tiny_pool: Path, tmp_path: Path) -> None:
    recipe, places = merge_of(tiny_llama, [tiny_pool / "a0", tiny_pool / "b1"], [0.6, 0.4], "exact", ())
    MergekitFormat().write(recipe, places, tmp_path)
    name, *rest = MergekitFormat.runs_with.partition("  (")[0].split()
    program = Path(sys.executable).with_name(name)
    subprocess.run([program, *rest], cwd=tmp_path, check=True, capture_output=True)
    assert_same_weights(weights_of(tmp_path / "OUT"), merged_weights(tiny_llama, places.merged))


@pytest.mark.parametrize("architecture", ["MixtralForCausalLM", "Qwen3MoeForCausalLM", "GptOssForCausalLM"])
def test_a_base_with_experts_is_refused(architecture: str, tiny_llama: Path, tiny_pool: Path) -> None:
    recipe, _ = merge_of(tiny_llama, [tiny_pool / "a0"], [1.0], "exact", ())
    recipe = replace(recipe, base=replace(recipe.base, architecture=architecture))
    assert "takes the experts" in MergekitFormat().refusal(recipe)


@pytest.mark.parametrize("architecture", ["Gemma3", "Llava", "Qwen2VL", "Mistral3", "T5", "Bart"])
def test_a_base_that_reads_images_is_refused_and_an_encoder_decoder_is_not(
    architecture: str, tiny_llama: Path, tiny_pool: Path
) -> None:
    recipe, _ = merge_of(tiny_llama, [tiny_pool / "a0"], [1.0], "exact", ())
    recipe = replace(recipe, base=replace(recipe.base, architecture=f"{architecture}ForConditionalGeneration"))
    refused = "which reads more than text" in MergekitFormat().refusal(recipe)
    assert refused == (architecture not in ("T5", "Bart"))


def test_adapters_of_a_gpt_neox_are_refused_but_not_checkpoints(tiny_llama: Path, tiny_pool: Path) -> None:
    recipe, _ = merge_of(tiny_llama, [tiny_pool / "a0"], [1.0], "exact", ())
    recipe = replace(recipe, base=replace(recipe.base, architecture="GPTNeoXForCausalLM"))
    assert "masked_bias" in MergekitFormat().refusal(recipe)
    members = tuple(replace(member, kind="checkpoint") for member in recipe.members)
    assert not MergekitFormat().refusal(replace(recipe, members=members))


def test_ours_peft_and_mergekit_give_the_same_weights(tiny_llama: Path, tiny_pool: Path, tmp_path: Path) -> None:
    other = write_lora(tmp_path / "pool" / "other", {"model.layers.1.mlp.down_proj": (32, 64)}, rank=2, use_rslora=True)
    place = tmp_path / "run"
    place.mkdir()
    all_agree(tiny_llama, [tiny_pool / "a0", tiny_pool / "b1", other], [0.6, -0.3, 1.1], place)
    assert sorted(path.name for path in place.iterdir()) == ["adapter", "mergekit", "ours"]  # no cache, no log


@pytest.mark.slow
@pytest.mark.parametrize(
    ("composition", "weights", "layers"),
    [
        ("ties:density=0.4", [0.5, 0.25, 0.25], ()),
        ("ties:density=0.3", [0.6, 0.5, 0.4], (0.5, 2.0)),  # lambda, block by block
        ("ties:density=0.5,normalize=false", [0.5, -0.25, 1.0], ()),
        ("breadcrumbs:density=0.6,gamma=0.05", [0.5, -0.25, 1.0], ()),
        ("breadcrumbs:density=0.7,gamma=0.1,consensus=sum", [0.5, 0.5, 1.0], (2.0, 0.0)),
        ("magnitude:density=0.3", [0.5, -0.25, 1.0], ()),
        ("model_stock", [1 / 3] * 3, ()),
        ("model_stock:filter_wise=true", [1 / 3] * 3, ()),
        ("task_arithmetic", [0.5, -0.25, 1.0], (0.5, -1.0)),
    ],
)
def test_the_same_method_gives_the_same_weights(
    composition: str, weights: Any, layers: Any, tiny_llama: Path, tiny_pool: Path, tmp_path: Path
) -> None:
    other = write_lora(tmp_path / "pool" / "other", {"model.layers.1.mlp.down_proj": (32, 64)}, rank=2, use_rslora=True)
    folders = [tiny_pool / "a0", tiny_pool / "b1", other]
    all_agree(tiny_llama, folders, weights, tmp_path, adapter=False, composition=composition, layers=layers)


@pytest.mark.slow
@pytest.mark.parametrize("composition", ["slerp", "ties", "model_stock"])
def test_checkpoints(composition: str, tiny_llama: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:  # far from the base and each other, so that an arc is no line
        noise = {
            n: DenseUpdate(rng.normal(0, 0.1, w.shape).astype(np.float32)) for n, w in weights_of(tiny_llama).items()
        }
        write_full_model(tiny_llama, noise, folder)
    weights = [0.5, 0.5] if composition == "model_stock" else [0.7, 0.3]
    all_agree(tiny_llama, folders, weights, tmp_path, adapter=False, composition=composition)


@pytest.mark.slow
def test_layer_groups_of_an_encoder_decoder(tiny_t5: Path, tiny_t5_pool: Path, tmp_path: Path) -> None:
    folders = [tiny_t5_pool / "m0", tiny_t5_pool / "m1"]
    all_agree(tiny_t5, folders, [0.5, 0.7], tmp_path, composition="exact", layers=(0.5, 2.0))


@pytest.mark.slow
def test_ties_on_the_real_base_and_two_adapters(real_folder: Any, tmp_path: Path) -> None:
    """Equal to 1e-5 but for entries that tie a threshold or a vote within the rounding of (base + ΔW) - base."""
    pool = Path(__file__).parents[2] / "recipes" / "demo" / "pool"
    folders, density = [pool / "shelves-0", pool / "dates-1"], 0.4
    recipe, places = merge_of(real_folder, folders, [0.5, 0.5], f"ties:density={density}")
    run_mergekit(text_of(recipe, places), tmp_path / "out", threads=1)
    found, base = weights_of(tmp_path / "out"), weights_of(real_folder)
    members = [merge_of(real_folder, [folder], [1.0])[1].merged for folder in folders]
    entries = 0
    for name, wanted in merged_weights(real_folder, places.merged).items():
        apart = np.abs(found[name] - wanted) > 1e-5
        if name not in places.merged:
            assert not apart.any()
            continue
        entries += int(apart.sum())
        updates = [member[name].dense() for member in members]
        rounding = 2 * np.spacing(np.abs(base[name]).max() + np.abs(updates).max())  # a threshold is rounded as well
        kept = int(density * apart.size)
        margins = [np.abs(np.abs(u) - np.partition(np.abs(u), -kept, axis=None)[-kept]) for u in updates]
        assert (np.min([*margins, np.abs(sum(updates))], axis=0)[apart] <= rounding).all()
    assert entries < 1000  # of 13 million


@pytest.mark.slow
def test_odd_names(tiny_llama: Path, tiny_pool: Path, tmp_path: Path) -> None:
    base = shutil.copytree(tiny_llama, tmp_path / "tiny base+x@y")
    names = ["a+b", "c@d", "e f", 'g"h', "é: #"]
    folders = [
        shutil.copytree(tiny_pool / name, tmp_path / new)
        for name, new in zip(("a0", "a1", "b0", "b1", "b2"), names, strict=True)
    ]
    all_agree(base, folders, [0.5, -0.2, 0.3, 0.7, 0.1], tmp_path)


@pytest.mark.slow
def test_encoder_decoder(tiny_t5: Path, tmp_path: Path) -> None:
    modules = {f"{side}.block.1.layer.0.SelfAttention.{n}": (32, 32) for side in ("encoder", "decoder") for n in "qv"}
    folders = [write_lora(tmp_path / n, modules, seed=i, task_type="SEQ_2_SEQ_LM") for i, n in enumerate("xy")]
    all_agree(tiny_t5, folders, [0.5, 0.7], tmp_path)


@pytest.mark.slow
def test_checkpoints_beside_adapters(tiny_llama: Path, tiny_pool: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    noise = {n: DenseUpdate(rng.normal(0, 0.01, w.shape).astype(np.float32)) for n, w in weights_of(tiny_llama).items()}
    write_full_model(tiny_llama, noise, tmp_path / "tuned")
    all_agree(tiny_llama, [tiny_pool / "a0", tmp_path / "tuned"], [0.5, 0.7], tmp_path, adapter=False)


@pytest.mark.slow
def test_a_base_in_bfloat16(tiny_llama: Path, tiny_pool: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.bfloat16).save_pretrained(tmp_path / "base")
    all_agree(tmp_path / "base", [tiny_pool / "a0", tiny_pool / "b0"], [0.5, 0.7], tmp_path, adapter=False)


@pytest.mark.slow
def test_shards_and_a_vocabulary_larger_than_the_tokenizer(tiny_llama: Path, tiny_pool: Path, tmp_path: Path) -> None:
    """Rows beyond the tokenizer's tokens are kept, as many bases have them."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_llama)
    model.resize_token_embeddings(model.config.vocab_size + 24, mean_resizing=False)
    model.save_pretrained(tmp_path / "base", max_shard_size="30KB")
    for path in tiny_llama.glob("tokenizer*"):
        shutil.copyfile(path, tmp_path / "base" / path.name)
    wanted = all_agree(tmp_path / "base", [tiny_pool / "a0"], [0.5], tmp_path)
    found = weights_of(tmp_path / "mergekit")["model.embed_tokens.weight"]
    assert len(found) == len(wanted["model.embed_tokens.weight"]) == model.config.vocab_size


@pytest.mark.slow
def test_the_real_base_and_two_adapters(real_base: Any, shared: Any, tmp_path: Path) -> None:
    if not real_base.is_dir():
        pytest.skip("the real base is a GGUF file; set MERGE_ADVISOR_BASE to its float32 folder")
    pool = shared / "pool-smollm2"
    all_agree(real_base, [pool / "math-0", pool / "medical-0"], [0.6, 0.4], tmp_path)


@pytest.mark.slow
def test_a_failing_merge_says_why_and_leaves_only_its_log(tiny_llama: Path, tiny_pool: Path, tmp_path: Path) -> None:
    recipe, places = merge_of(tiny_llama, [tiny_pool / "a0"], [1.0])
    broken = write_lora(tmp_path / "pool" / "broken", {"model.layers.0.self_attn.q_proj": (48, 48)})
    text = text_of(recipe, replace(places, members={"a0": str(broken)}))
    with pytest.raises(ExternalError, match=r"mergekit failed: .*size mismatch.*; its log: .*out\.mergekit\.log"):
        run_mergekit(text, tmp_path / "run" / "out", threads=1)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["out.mergekit.log"]
    assert "Traceback" in (tmp_path / "run" / "out.mergekit.log").read_text()


@pytest.mark.slow
def test_weights_that_are_not_finite_are_refused(tiny_llama: Path, tiny_pool: Path, tmp_path: Path) -> None:
    bad = shutil.copytree(tiny_pool / "a0", tmp_path / "bad")
    tensors = load_file(bad / "adapter_model.safetensors")
    next(iter(tensors.values()))[0, 0] = np.nan
    save_file(tensors, bad / "adapter_model.safetensors")
    recipe, places = merge_of(tiny_llama, [tiny_pool / "a0"], [1.0])
    text = text_of(recipe, replace(places, members={"a0": str(bad)}))
    with pytest.raises(ExternalError, match=r"NaN or infinity into model\.layers"):
        run_mergekit(text, tmp_path / "run" / "out", threads=1)
    assert not (tmp_path / "run" / "out").exists()


@pytest.fixture
def config(tiny_llama: Path, tiny_pool: Path) -> str:
    return text_of(*merge_of(tiny_llama, [tiny_pool / "a0"], [1.0]))


def test_what_is_in_the_way_is_kept(config: str, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(RunError, match="already"):
        run_mergekit(config, tmp_path / "out", threads=1)
    assert [path.name for path in tmp_path.rglob("*")] == ["out"]


def test_a_typo_stops_it_before_it_starts(config: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"mergekit\.yaml: models\.0\.parameters\.wieght: unknown key"):
        run_mergekit(config.replace("weight:", "wieght:"), tmp_path / "out", threads=1)
    assert not list(tmp_path.iterdir())


def test_without_mergekit_it_says_what_to_do(config: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mergekit", None)
    with pytest.raises(ExternalError, match="pip install mergekit"):
        run_mergekit(config, tmp_path / "out", threads=1)
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written(config: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        run_mergekit(config, tmp_path / "file" / "out", threads=1)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_ctrl_c_leaves_nothing(config: str, tmp_path: Path, interrupt: Callable[[float], object]) -> None:
    interrupt(1.0)
    with pytest.raises(KeyboardInterrupt):
        run_mergekit(config, tmp_path / "run" / "out", threads=1)
    assert not list((tmp_path / "run").iterdir())


def test_what_is_written_is_what_is_run(tiny_llama: Path, tiny_pool: Path, tmp_path: Path) -> None:
    recipe, places = merge_of(tiny_llama, [tiny_pool / "a0"], [1.0])
    MergekitFormat().write(recipe, places, tmp_path)
    assert parse_mergekit((tmp_path / "mergekit.yaml").read_text(), "x") == mergekit_config(recipe, places)
