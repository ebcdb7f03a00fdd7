"""What modules are given: the same as hooks on plain forwards see, answers left out."""

from pathlib import Path

import numpy as np
import pytest
import torch

from merge_advisor.adapt.directions import principal_inputs
from merge_advisor.backbone.encoding import EncodedRow, encode
from merge_advisor.backbone.model import Backbone, load_backbone
from merge_advisor.backbone.module_inputs import input_moments

NAMES = ("model.layers.0.self_attn.q_proj.weight", "model.layers.1.mlp.down_proj.weight")


@pytest.fixture(scope="module")
def backbone(tiny_llama: Path) -> Backbone:
    return load_backbone(tiny_llama, threads=1)


def test_moments_are_those_of_every_token_of_the_prompts(backbone: Backbone) -> None:
    rows = encode(backbone, [("say 1", "1"), ("say 2 and then 3 as well", "2 3")], max_length=64)
    seen: dict[str, list[torch.Tensor]] = {name: [] for name in NAMES}
    handles = [
        backbone.model.get_submodule(name.removesuffix(".weight")).register_forward_pre_hook(
            lambda module, inputs, name=name: seen[name].append(inputs[0][0])
        )
        for name in NAMES
    ]
    with torch.no_grad():
        for row in rows:
            backbone.model(input_ids=torch.tensor([row.prompt]))
    for handle in handles:
        handle.remove()
    found = input_moments(backbone, rows, NAMES)
    for name in NAMES:
        tokens = torch.cat(seen[name]).numpy()
        assert len(tokens) == sum(len(row.prompt) for row in rows)
        np.testing.assert_allclose(found[name], tokens.T @ tokens / len(tokens), rtol=1e-4, atol=1e-6)
    others = [EncodedRow(row.prompt, row.completion[::-1]) for row in rows]
    assert all(np.array_equal(found[name], input_moments(backbone, others, NAMES)[name]) for name in NAMES)
    with torch.no_grad():  # nothing is left on the base
        count = len(seen[NAMES[0]])
        backbone.model(input_ids=torch.tensor([rows[0].prompt]))
    assert len(seen[NAMES[0]]) == count


def test_principal_inputs_are_the_singular_vectors_of_the_tokens() -> None:
    tokens = np.random.default_rng(0).normal(size=(50, 6)) * np.array([1, 9, 2, 6, 3, 4.0])
    moments = {"w": (tokens.T @ tokens / 50).astype(np.float32)}
    found = principal_inputs(moments, 3)["w"]
    wanted = np.linalg.svd(tokens)[2][:3]
    np.testing.assert_allclose(abs(found @ wanted.T), np.eye(3), atol=1e-4)
    assert principal_inputs(moments, 9)["w"].shape == (6, 6)
