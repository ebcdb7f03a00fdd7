"""Merges of models that lie in folders, and their weights as other libraries compute them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from merge_advisor import registry
from merge_advisor.arrays import Float32Array
from merge_advisor.compose.layers import compose_layers
from merge_advisor.formats import ModelPlaces
from merge_advisor.types import Base, Kind, Recipe, RecipeMember
from merge_advisor.weights.adapter import read_adapter
from merge_advisor.weights.checkpoint import read_checkpoint_delta
from merge_advisor.weights.naming import count_blocks
from merge_advisor.weights.parameter_map import BaseShapes
from merge_advisor.weights.tensorfile import open_folder, read_tensor
from merge_advisor.weights.updates import WeightDelta


def merge_of(
    base: Path,
    folders: Sequence[Path],
    weights: Sequence[float],
    composition: str = "exact",
    layers: tuple[float, ...] = (),
) -> tuple[Recipe, ModelPlaces]:
    """A recipe of adapters and checkpoints lying in folders, and where they are."""
    located = open_folder(base)
    config = json.loads((base / "config.json").read_text())
    shapes = BaseShapes({name: info.shape for name, (_, info) in located.items()}, base, config)
    deltas: list[WeightDelta] = []
    members: list[RecipeMember] = []
    for folder, weight in zip(folders, weights, strict=True):
        is_adapter = (folder / "adapter_config.json").exists()
        kind: Kind = "adapter" if is_adapter else "checkpoint"
        deltas.append(read_adapter(folder, shapes) if is_adapter else read_checkpoint_delta(folder, base))
        members.append(RecipeMember(folder.name, "0" * 64, kind, folder.name, None, weight))
    about = Base(base.name, None, "1" * 64, config["architectures"][0])
    recipe = Recipe(1, about, "alpaca", composition, None, tuple(members), layers)
    rule = registry.build("composition", composition)
    merged = compose_layers(rule, deltas, weights, layers, count_blocks(shapes))
    where = {folder.name: str(folder) for folder in folders}
    return recipe, ModelPlaces(str(base), None, where, dict.fromkeys(where), merged, shapes=shapes)


def weights_of(folder: Path) -> dict[str, Float32Array]:
    """The float tensors of a model folder."""
    return {name: read_tensor(path, info) for name, (path, info) in open_folder(folder).items() if info.is_float}


def merged_weights(base: Path, delta: WeightDelta) -> dict[str, Float32Array]:
    """The base's weights with a delta added."""
    return {n: w + delta[n].dense() if n in delta else w for n, w in weights_of(base).items()}


def assert_same_weights(
    found: Mapping[str, NDArray[Any]], wanted: Mapping[str, NDArray[Any]], atol: float = 1e-5
) -> None:
    """Every wanted tensor is there and equal up to rounding."""
    assert wanted.keys() <= found.keys()
    for name, array in wanted.items():
        np.testing.assert_allclose(found[name], array, atol=atol, err_msg=name)


def state_of(model: Any) -> dict[str, NDArray[Any]]:
    """The weights of a model in memory."""
    return {name: tensor.detach().float().numpy() for name, tensor in model.state_dict().items()}


def by_plain_peft(base: Path, adapter: Path) -> dict[str, NDArray[Any]]:
    """The weights of base + adapter as PEFT alone loads and merges them."""
    from peft import PeftConfig, PeftModel
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    seq2seq = PeftConfig.from_pretrained(adapter).task_type == "SEQ_2_SEQ_LM"
    model = (AutoModelForSeq2SeqLM if seq2seq else AutoModelForCausalLM).from_pretrained(base)
    return state_of(PeftModel.from_pretrained(model, adapter).merge_and_unload())
