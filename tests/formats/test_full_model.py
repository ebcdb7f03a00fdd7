"""A merge written as a full model: the weights, and what it does not overwrite."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from merge_advisor.errors import BaseModelError, InputError, RunError
from merge_advisor.formats.full_model import write_full_model
from merge_advisor.weights.base import resolve_base
from merge_advisor.weights.tensorfile import open_folder
from merge_advisor.weights.updates import DenseUpdate, LowRankUpdate, WeightDelta
from tests.support.merges import (
    assert_same_weights,
    merge_of,
    merged_weights,
    state_of,
    weights_of,
)


class TestFullModel:
    def test_is_base_plus_delta_and_loads(self, tiny_llama: Path, four: list[Path], tmp_path: Path) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        _, places = merge_of(tiny_llama, four, [0.6, -0.3, 0.5, 1.2])
        write_full_model(tiny_llama, places.merged, tmp_path / "out")
        wanted = merged_weights(tiny_llama, places.merged)
        assert_same_weights(weights_of(tmp_path / "out"), wanted, atol=0)
        assert_same_weights(state_of(AutoModelForCausalLM.from_pretrained(tmp_path / "out")), wanted, atol=0)
        text = "### Response:\nyes"
        both = [AutoTokenizer.from_pretrained(folder)(text).input_ids for folder in (tiny_llama, tmp_path / "out")]
        assert both[0] == both[1]
        assert [path.name for path in tmp_path.iterdir()] == ["out"]

    def test_checkpoints_and_adapters(self, tiny_llama: Path, tiny_pool: Path, tuned: Path, tmp_path: Path) -> None:
        _, places = merge_of(tiny_llama, [tiny_pool / "a0", tuned], [0.5, 0.5])
        write_full_model(tiny_llama, places.merged, tmp_path / "out")
        assert_same_weights(weights_of(tmp_path / "out"), merged_weights(tiny_llama, places.merged), atol=1e-6)

    def test_an_empty_delta_is_the_base_to_the_bit(self, tiny_llama: Path, tmp_path: Path) -> None:
        write_full_model(tiny_llama, {}, tmp_path / "out")
        assert_same_weights(weights_of(tmp_path / "out"), weights_of(tiny_llama), atol=0)

    def test_shards_stay_shards(self, tiny_llama: Path, tiny_pool: Path, tmp_path: Path) -> None:
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(tiny_llama)
        model.save_pretrained(tmp_path / "base", max_shard_size="30KB")
        shards = sorted(path.name for path in (tmp_path / "base").glob("*.safetensors"))
        assert len(shards) > 1
        _, places = merge_of(tmp_path / "base", [tiny_pool / "a0"], [1.0])
        write_full_model(tmp_path / "base", places.merged, tmp_path / "out")
        assert sorted(path.name for path in (tmp_path / "out").glob("*.safetensors")) == shards
        found = state_of(AutoModelForCausalLM.from_pretrained(tmp_path / "out"))
        assert_same_weights(found, merged_weights(tiny_llama, places.merged), atol=0)

    def test_a_base_in_half_precision_is_written_in_float32(
        self, tiny_llama: Path, tiny_pool: Path, tmp_path: Path
    ) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.bfloat16).save_pretrained(tmp_path / "base")
        _, places = merge_of(tmp_path / "base", [tiny_pool / "a0"], [1.0])
        write_full_model(tmp_path / "base", places.merged, tmp_path / "out")
        assert {info.dtype for _, info in open_folder(tmp_path / "out").values()} == {"F32"}
        assert_same_weights(weights_of(tmp_path / "out"), merged_weights(tmp_path / "base", places.merged), atol=0)
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
        assert next(loaded.parameters()).dtype == torch.float32

    @pytest.mark.parametrize(("tie", "follows"), [(True, True), (None, True), (False, False)])
    def test_a_stored_copy_of_the_embedding_follows_it(
        self, tiny_llama: Path, tmp_path: Path, tie: Any, follows: Any
    ) -> None:
        from safetensors.numpy import save_file

        base = tmp_path / "base"
        base.mkdir()
        config = json.loads((tiny_llama / "config.json").read_text()) | {"tie_word_embeddings": tie}
        (base / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
        weights = weights_of(tiny_llama)
        embedding = weights["model.embed_tokens.weight"]
        save_file(weights | {"lm_head.weight": embedding.copy()}, base / "model.safetensors")
        write_full_model(base, {"model.embed_tokens.weight": DenseUpdate(np.ones_like(embedding))}, tmp_path / "out")
        found = weights_of(tmp_path / "out")
        np.testing.assert_array_equal(found["model.embed_tokens.weight"], embedding + 1)
        np.testing.assert_array_equal(found["lm_head.weight"], embedding + 1 if follows else embedding)

    def test_a_head_of_its_own_does_not(self, tiny_llama: Path, tmp_path: Path) -> None:
        from safetensors.numpy import save_file

        (tmp_path / "base").mkdir()
        (tmp_path / "base" / "config.json").write_text("{}")
        weights = weights_of(tiny_llama)
        embedding = weights["model.embed_tokens.weight"]
        save_file(weights | {"lm_head.weight": embedding * 2}, tmp_path / "base" / "model.safetensors")
        delta = {"model.embed_tokens.weight": DenseUpdate(np.ones_like(embedding))}
        write_full_model(tmp_path / "base", delta, tmp_path / "out")
        np.testing.assert_array_equal(weights_of(tmp_path / "out")["lm_head.weight"], embedding * 2)

    def test_whole_numbers_are_copied(self, tmp_path: Path) -> None:
        from safetensors.numpy import load_file, save_file

        (tmp_path / "base").mkdir()
        (tmp_path / "base" / "config.json").write_text("{}")
        tensors = {"ids": np.arange(7), "w.weight": np.ones((2, 3), np.float16), "flag": np.array([True, False])}
        save_file(tensors, tmp_path / "base" / "model.safetensors")
        write_full_model(tmp_path / "base", {}, tmp_path / "out")
        found = load_file(tmp_path / "out" / "model.safetensors")
        assert found["w.weight"].dtype == np.float32
        np.testing.assert_array_equal(found["ids"], np.arange(7))
        np.testing.assert_array_equal(found["flag"], [True, False])

    def test_bad_input_leaves_nothing(self, tiny_llama: Path, tmp_path: Path) -> None:
        name, shape = "model.layers.0.self_attn.q_proj.weight", (32, 32)
        huge = np.full(shape, 1e5, np.float32)
        bad: list[tuple[WeightDelta, str]] = [
            ({"nothing.weight": DenseUpdate(huge)}, "nothing.weight is not in the base"),
            ({name: DenseUpdate(huge[:4])}, r"\(4, 32\), base is \(32, 32\)"),
            ({name: DenseUpdate(huge * np.nan)}, "not finite"),
            ({name: LowRankUpdate(huge[:1], huge[:, :1], np.inf)}, "not finite"),
        ]
        for delta, why in bad:
            with pytest.raises(InputError, match=why), np.errstate(all="ignore"):
                write_full_model(tiny_llama, delta, tmp_path / "out")
            assert not list(tmp_path.iterdir())

    def test_a_folder_in_the_way_is_kept(self, tiny_llama: Path, tmp_path: Path) -> None:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "mine").write_text("x")
        with pytest.raises(RunError, match="already"):
            write_full_model(tiny_llama, {}, tmp_path / "out")
        assert [path.name for path in tmp_path.rglob("*")] == ["out", "mine"]

    def test_no_base_and_no_permission(self, tiny_llama: Path, tmp_path: Path) -> None:
        with pytest.raises(BaseModelError, match=r"model\.safetensors"):
            write_full_model(tmp_path, {}, tmp_path / "out")
        (tmp_path / "file").write_text("")
        with pytest.raises(InputError, match="cannot be written"):
            write_full_model(tiny_llama, {}, tmp_path / "file" / "out")
        if os.geteuid():
            (tmp_path / "closed").mkdir(mode=0o500)
            with pytest.raises(InputError, match="cannot be written"):
                write_full_model(tiny_llama, {}, tmp_path / "closed" / "out")

    def test_what_it_writes_is_a_base(self, tiny_llama: Path, tmp_path: Path) -> None:
        write_full_model(tiny_llama, {}, tmp_path / "out")
        local = resolve_base(str(tmp_path / "out"), cache=tmp_path / "cache")
        assert local.shapes == resolve_base(str(tiny_llama), cache=tmp_path / "cache").shapes
