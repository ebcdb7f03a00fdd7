"""Every parameter of a base's files is found in memory, for adapters, checkpoints, merging and what is written."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from merge_advisor.advisor.measuring.shots_lora import target_parameters
from merge_advisor.backbone.model import load_backbone
from merge_advisor.backbone.place import placed
from merge_advisor.errors import PoolError
from merge_advisor.formats.full_model import write_full_model
from merge_advisor.weights import parameter_map
from merge_advisor.weights.adapter import read_adapter
from merge_advisor.weights.adapter_writing import write_adapter
from merge_advisor.weights.base import resolve_base
from merge_advisor.weights.by_transformers import build_skeleton, model_class
from merge_advisor.weights.checkpoint import read_checkpoint_delta
from merge_advisor.weights.naming import find_parameter
from merge_advisor.weights.parameter_map import _SAME, map_parameters
from merge_advisor.weights.tensorfile import open_folder, read_tensor
from merge_advisor.weights.updates import WeightDelta
from tests.support.architectures import ARCHITECTURES, build_model
from tests.support.models import open_base, write_lora

IDS = [[5, 9, 20, 33, 41, 7, 12]]


QUICK = ("gpt2, inner model", "gpt_neox", "mixtral")
"""Architectures that are tested in every run; the others take as long again."""


@pytest.fixture(
    scope="module",
    params=[name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in ARCHITECTURES],
)
def architecture(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def base(architecture: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_model(architecture, tmp_path_factory.mktemp("models") / "base")


@pytest.fixture(scope="module")
def adapter(architecture: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_lora(tmp_path_factory.mktemp("adapters") / "x", ARCHITECTURES[architecture], seed=1, std=0.2)


def logits_of(model: Any) -> np.ndarray[Any, Any]:
    import torch

    with torch.inference_mode():
        found: np.ndarray[Any, Any] = model(torch.tensor(IDS)).logits.float().numpy()
    return found


def loaded(folder: Path) -> Any:
    import torch
    from transformers import AutoConfig

    kind = model_class(AutoConfig.from_pretrained(folder))
    return kind.from_pretrained(folder, dtype=torch.float32).eval()


def logits_placed(base: Path, delta: WeightDelta) -> np.ndarray[Any, Any]:
    backbone = load_backbone(base, threads=1)
    bare = logits_of(backbone.model)
    with placed(backbone, delta):
        found = logits_of(backbone.model)
    assert np.array_equal(logits_of(backbone.model), bare), "taking it off leaves a trace"
    assert np.abs(found - bare).max() > 0.05, "the update changes nothing"
    return found


def test_every_weight_is_found_where_transformers_loads_it(base: Path) -> None:
    located = open_folder(base)
    shapes = {name: info.shape for name, (_, info) in located.items()}
    model = loaded(base)
    memory = dict(model.named_parameters())
    places = map_parameters(build_skeleton(base), shapes)
    assert places == map_parameters(model, shapes) and set(places) == set(shapes)
    for name, place in places.items():
        there = place.view(memory[place.parameter].data).numpy()
        assert np.array_equal(there, read_tensor(*located[name])), name
    assert {place.parameter for place in places.values()} == set(memory)


def test_an_adapter_placed_is_the_merged_model(base: Path, adapter: Path, tmp_path: Path) -> None:
    delta = read_adapter(adapter, open_base(base, tmp_path).shapes)
    found = logits_placed(base, delta)
    write_full_model(base, delta, tmp_path / "merged")
    assert np.allclose(found, logits_of(loaded(tmp_path / "merged")), atol=1e-4)


@pytest.mark.filterwarnings("ignore")  # PEFT's own, about patterns that it made of the experts
def test_plain_peft_makes_the_same_of_an_adapter_that_is_written(
    architecture: str, base: Path, adapter: Path, tmp_path: Path
) -> None:
    from peft import PeftModel

    shapes = open_base(base, tmp_path).shapes
    delta = read_adapter(adapter, shapes)
    write_adapter(tmp_path / "again", delta, base_name="x", task_type="CAUSAL_LM", dtype="float32", base_shapes=shapes)
    by_peft = PeftModel.from_pretrained(loaded(base), str(tmp_path / "again")).eval()
    assert np.allclose(logits_placed(base, delta), logits_of(by_peft), atol=1e-4)


def test_a_checkpoint_placed_is_that_model(architecture: str, base: Path, tmp_path: Path) -> None:
    tuned = build_model(architecture, tmp_path / "tuned", seed=1)
    delta = read_checkpoint_delta(tuned, base)
    assert np.allclose(logits_placed(base, delta), logits_of(loaded(tuned)), atol=1e-4)
    write_full_model(base, delta, tmp_path / "merged")
    assert np.allclose(logits_of(loaded(tmp_path / "merged")), logits_of(loaded(tuned)), atol=1e-4)


@pytest.mark.parametrize("where", ["tuned", "base"])
def test_a_causal_mask_that_older_exports_hold_is_no_weight(where: str, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    folders = {name: build_model("gpt_neox", tmp_path / name, seed) for seed, name in enumerate(("base", "tuned"))}
    plain = dict(read_checkpoint_delta(folders["tuned"], folders["base"]))
    file = folders[where] / "model.safetensors"
    masks = {
        "gpt_neox.layers.0.attention.bias": np.ones((1, 1, 8, 8), bool),
        "gpt_neox.layers.0.attention.masked_bias": np.array(-1e9, np.float32),
    }
    save_file(load_file(file) | masks, file)
    delta = dict(read_checkpoint_delta(folders["tuned"], folders["base"]))
    assert sorted(delta) == sorted(plain)
    assert all(np.array_equal(delta[name].dense(), plain[name].dense()) for name in plain)
    save_file(load_file(file) | {"gpt_neox.layers.0.attention.bias": np.ones(8, np.float32)}, file)
    with pytest.raises(PoolError, match=r"attention\.bias"):  # a bias is a weight
        read_checkpoint_delta(folders["tuned"], folders["base"])


@pytest.mark.parametrize(
    ("architecture", "ends"),
    [
        ("gpt2", "attn.c_attn.weight"),
        ("gpt_neox", "attention.query_key_value.weight"),
        ("phi3", "self_attn.qkv_proj.weight"),
    ],
)
def test_a_lora_of_the_rows_finds_attention_where_no_adapter_of_the_pool_names_it(
    architecture: str, ends: str, tmp_path: Path
) -> None:
    base = build_model(architecture, tmp_path / "base")
    targets = target_parameters(resolve_base(str(base), cache=tmp_path / "cache"), ())
    assert targets and all(name.endswith(ends) for name in targets)


def test_a_head_that_files_and_memory_name_differently(tmp_path: Path) -> None:
    base = build_model("gpt_neox", tmp_path / "base")
    shapes = open_base(base, tmp_path).shapes
    assert shapes.module_of("embed_out.weight") == "lm_head"
    size = shapes["embed_out.weight"]
    one, other = (
        read_adapter(write_lora(tmp_path / name, {name: (size[0], size[1])}, seed=2), shapes)
        for name in ("embed_out", "lm_head")
    )
    assert list(one) == list(other) == ["embed_out.weight"]
    assert np.array_equal(one["embed_out.weight"].dense(), other["embed_out.weight"].dense())


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", sorted(_SAME))
def test_types_that_need_no_model_to_be_built_have_equal_names(
    kind: str, tied: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoConfig

    sizes = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 1, "num_heads": 4} if kind == "t5" else {
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 8,
    }  # fmt: skip
    config = AutoConfig.for_model(kind, vocab_size=64, pad_token_id=0, tie_word_embeddings=tied, **sizes)
    model_class(config).from_config(config).save_pretrained(tmp_path / "model")
    expected = map_parameters(build_skeleton(tmp_path / "model"), open_base(tmp_path / "model", tmp_path).shapes)
    monkeypatch.setattr(parameter_map, "build_skeleton", None)  # no model is built
    places = open_base(tmp_path / "model", tmp_path).shapes.places
    assert places == expected and all(name == place.parameter for name, place in places.items())


def test_a_head_that_the_files_have_and_the_model_ties_is_no_place_of_its_own(tiny_llama: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    folder = Path(shutil.copytree(tiny_llama, tmp_path / "copied"))
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    shapes = open_base(folder, tmp_path).shapes
    assert "lm_head.weight" in shapes and "lm_head.weight" not in shapes.places
    out, width = shapes["lm_head.weight"]
    adapter = write_lora(tmp_path / "x", {"lm_head": (out, width)})
    with pytest.raises(PoolError, match="changes lm_head, which in this base is the embedding"):
        read_adapter(adapter, shapes)
    tuned = Path(shutil.copytree(folder, tmp_path / "tuned"))
    tensors["model.norm.weight"] = tensors["model.norm.weight"] * 3
    save_file(tensors, tuned / "model.safetensors", {"format": "pt"})
    delta = read_checkpoint_delta(tuned, folder)
    assert np.allclose(logits_placed(folder, delta), logits_of(loaded(tuned)), atol=1e-4)


def test_names_of_a_type_with_equal_names_saved_from_its_inner_model(tiny_llama: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    inner = Path(shutil.copytree(tiny_llama, tmp_path / "inner"))
    tensors = load_file(inner / "model.safetensors")
    renamed = {name.removeprefix("model."): x for name, x in tensors.items()}
    save_file(renamed, inner / "model.safetensors", {"format": "pt"})
    shapes = open_base(inner, tmp_path).shapes
    assert shapes.module_of("layers.0.self_attn.q_proj.weight") == "model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize("architecture", ["gemma3", "qwen2_vl"])
def test_older_names_fit_files_that_have_the_newer_ones(architecture: str, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    old = build_model(architecture, tmp_path / "old")
    new = shutil.copytree(old, tmp_path / "new")
    places, tensors = open_base(old, tmp_path).shapes.places, load_file(old / "model.safetensors")
    renamed = {places[name].parameter: tensor for name, tensor in tensors.items() if name in places}
    save_file(renamed, new / "model.safetensors", {"format": "pt"})
    shapes = open_base(new, tmp_path).shapes
    names = {name: find_parameter(name, shapes) for name in places}
    assert names == {name: place.parameter for name, place in places.items()}
    if architecture == "gemma3":  # as its published files have it
        oldest = "vision_tower.vision_model.encoder.layers.0.self_attn.q_proj.weight"
        assert find_parameter(oldest, shapes) == "model.vision_tower.encoder.layers.0.self_attn.q_proj.weight"
