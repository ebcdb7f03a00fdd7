"""Copies of the base's embedding beside an adapter are no change; anything else there is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from merge_advisor.pool import open_pool
from merge_advisor.types import Pool
from merge_advisor.weights.base import resolve_base
from tests.support.models import LLAMA_MODULES, write_lora

EMBEDDING = "model.embed_tokens.weight"


def opened(tmp_path: Path, base: Path, extra: dict[str, torch.Tensor], modules: Any = LLAMA_MODULES) -> Pool:
    for name, seed in (("copies", 1), ("plain", 2)):
        write_lora(tmp_path / "pool" / name, modules if name == "copies" else LLAMA_MODULES, seed=seed)
    path = tmp_path / "pool" / "copies" / "adapter_model.safetensors"
    save_file(load_file(path) | {f"base_model.model.{key}": value for key, value in extra.items()}, path)
    found = open_pool(tmp_path / "pool", resolve_base(str(base), cache=tmp_path / "cache"))
    assert [item.id for item in found.candidates if item.id == "plain"]
    return found


@pytest.fixture
def embedding(tiny_llama: Path) -> torch.Tensor:
    return load_file(tiny_llama / "model.safetensors")[EMBEDDING]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("key", [EMBEDDING, "lm_head.weight", "model.embed_tokens.base_layer.weight"])
def test_an_equal_copy_is_no_change(
    key: str, dtype: torch.dtype, tiny_llama: Path, embedding: torch.Tensor, tmp_path: Path
) -> None:
    found = opened(tmp_path, tiny_llama, {key: embedding.to(dtype).clone()})
    assert [candidate.id for candidate in found.candidates] == ["copies", "plain"] and not found.refused


def test_one_entry_that_differs_is_refused_and_a_row_more_too(
    tiny_llama: Path, embedding: torch.Tensor, tmp_path: Path
) -> None:
    trained = embedding.clone()
    trained[5, 5] += 1e-6
    for number, copy in enumerate((trained, torch.cat([embedding, embedding[:1]]))):
        found = opened(tmp_path / str(number), tiny_llama, {EMBEDDING: copy})
        assert [item.id for item in found.refused] == ["copies"]
        assert "which is not the base's: it was trained or resized along; merge it into" in found.refused[0].reason


def test_a_tied_head_that_was_trained_is_refused_as_one(
    tiny_llama: Path, embedding: torch.Tensor, tmp_path: Path
) -> None:
    modules = {**LLAMA_MODULES, "lm_head": (320, 32)}
    found = opened(tmp_path, tiny_llama, {"lm_head.base_layer.weight": embedding.clone()}, modules)
    assert "changes lm_head, which in this base is the embedding" in found.refused[0].reason


def test_rounding_is_that_of_torch() -> None:
    from merge_advisor.weights.saved_copies import _rounded

    values = np.random.default_rng(0).normal(size=1000).astype(np.float32) ** 3
    wanted = torch.from_numpy(values).to(torch.bfloat16).float().numpy()
    assert np.array_equal(_rounded(values, "BF16"), wanted)
