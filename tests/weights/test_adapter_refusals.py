"""Adapters that are more than plain LoRA, or do not fit: refused by name."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from merge_advisor.errors import PoolError
from merge_advisor.weights.adapter import (
    read_adapter,
)  # fmt: skip
from merge_advisor.weights.adapter_config import NotPlainLoraError, read_adapter_config
from tests.support.models import LLAMA_MODULES, open_base, write_lora

REFUSED = {
    "DoRA": {"use_dora": True},
    "modules_to_save": {"modules_to_save": ["lm_head"]},
    "nested too deep": {"x": json.loads("[" * 300 + "]" * 300)},
    "lora_bias": {"lora_bias": True},
    "trained biases": {"bias": "lora_only"},
    "layer_replication": {"layer_replication": [[0, 2], [1, 2]]},
    "target_parameters": {"target_parameters": ["experts.w1"]},
    "trainable_token_indices": {"trainable_token_indices": [1, 2]},
    "use_qalora": {"use_qalora": True},
    "activated LoRA": {"alora_invocation_tokens": [3]},
    "arrow_config": {"arrow_config": {"top_k": 1}},
    "KaSA": {"kasa_config": {"x": 1}},
    "peft_type is 'IA3'": {"peft_type": "IA3"},
    "peft_type is 'None'": {"peft_type": None},
    "peft_type is \"['LORA']\"": {"peft_type": ["LORA"]},
    "init_lora_weights='pissa_niter_4' changed the base": {"init_lora_weights": "pissa_niter_4"},
    "init_lora_weights='olora' changed the base": {"init_lora_weights": "olora"},
    "init_lora_weights='loftq' changed the base": {"init_lora_weights": "loftq"},
    "init_lora_weights='unheard' may have changed": {"init_lora_weights": "unheard"},
    "lora_alpha is 0": {"lora_alpha": 0},
    "lora_alpha is 'nan', not a number": {"lora_alpha": float("nan")},
    "lora_alpha is 'a number of 1329 bits', not a number below": {"lora_alpha": int("9" * 400)},
    "lora_alpha is '1e+308', not a number below": {"lora_alpha": 1e308},
    "x is '1e+20', not a number below": {"alpha_pattern": {"x": 1e20}},
    "lora_alpha is 'many', not a number": {"lora_alpha": "many"},
    "a rank is no whole number": {"r": 0},
    "a rank is no whole number above": {"rank_pattern": {"q_proj": 1.5}},
    "says 3; correct r or rank_pattern": {"rank_pattern": {"v_proj": 3}},
    "rank_pattern is no object": {"rank_pattern": [4]},
    "is no regular expression": {"alpha_pattern": {"q_proj(": 4}},
    "'(?i)q_proj' in alpha_pattern is no regular expression": {"alpha_pattern": {"(?i)q_proj": 4}},
    "'q{99999999999}' in rank_pattern is no regular expression": {"rank_pattern": {"q{99999999999}": 4}},
    "is too costly": {"alpha_pattern": {"(a+)+$": 4}},
}


@pytest.mark.parametrize(("message", "settings"), REFUSED.items(), ids=REFUSED)
def test_settings_that_are_more_than_plain_lora_are_refused_by_name(
    tiny_llama: Path, tmp_path: Path, message: str, settings: dict[str, Any]
) -> None:
    folder = write_lora(tmp_path / "odd one", LLAMA_MODULES, **settings)
    with pytest.raises(PoolError) as caught:
        read_adapter(folder, open_base(tiny_llama, tmp_path).shapes)
    assert message in str(caught.value)
    assert str(caught.value).startswith("odd one: adapter_")
    assert any(mark in str(caught.value) for mark in ("; ", ", "))


@pytest.mark.parametrize(
    ("init", "remedy"),
    [
        ("pissa_niter_16", "save it as plain LoRA"), ("corda", "save it as plain LoRA"),
        ("loftq", "merge it into the LoftQ base it was trained on, and list the result as a checkpoint"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("settings", [{}, {"use_dora": True}, {"modules_to_save": ["norm"]}])
def test_what_changed_the_base_by_more_than_its_weights_is_not_for_peft_to_merge(
    init: str, remedy: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(PoolError, match=remedy) as caught:
        read_adapter_config(write_lora(tmp_path / "x", LLAMA_MODULES, init_lora_weights=init, **settings))
    assert not isinstance(caught.value, NotPlainLoraError)


@pytest.mark.parametrize("init", [True, False, None, "gaussian", "eva", "orthogonal", "mica"])
def test_initialisations_that_leave_the_base_alone_are_fine(
    tiny_llama: Path, tmp_path: Path, init: bool | str | None
) -> None:
    folder = write_lora(tmp_path / "x", LLAMA_MODULES, init_lora_weights=init)
    assert read_adapter(folder, open_base(tiny_llama, tmp_path).shapes)


def test_a_setting_nobody_knows_is_noted(tmp_path: Path) -> None:
    folder = write_lora(tmp_path / "x", LLAMA_MODULES, use_tomorrow=True, new_but_off=False)
    assert read_adapter_config(folder).notes == (
        "adapter_config.json: 'use_tomorrow' is no setting known here; it was ignored",
    )


KEY = "base_model.model.model.layers.0.self_attn.q_proj"
TENSORS = {
    "LoRA on an embedding": {"base_model.model.model.embed_tokens.lora_embedding_A": (4, 32)},
    "DoRA": {f"{KEY}.lora_magnitude_vector.weight": (32,)},
    "holds trained biases": {f"{KEY}.lora_B.bias": (32,)},
    "holds a whole weight": {"base_model.model.model.norm.weight": (32,)},
    "has one of lora_A and lora_B only": {f"{KEY.replace('q_proj', 'k_proj')}.lora_A.weight": (4, 32)},
    "two tensors for lora_A": {f"{KEY}.lora_A.second.weight": (4, 32)},
    "belongs to no plain LoRA": {f"{KEY}.lora_E": (4, 1)},
}


@pytest.mark.parametrize(("message", "extra"), TENSORS.items(), ids=TENSORS)
def test_tensors_that_plain_lora_does_not_have(
    tiny_llama: Path, tmp_path: Path, message: str, extra: dict[str, tuple[int, ...]]
) -> None:
    folder = write_lora(tmp_path / "x", LLAMA_MODULES)
    path = folder / "adapter_model.safetensors"
    save_file(load_file(path) | {key: np.ones(shape, np.float32) for key, shape in extra.items()}, path)
    with pytest.raises(PoolError, match=message):
        read_adapter(folder, open_base(tiny_llama, tmp_path).shapes)


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        ({"model.layers.0.self_attn.q_proj": (64, 64)}, "is 64x64, the base's is 32x32: another base or size"),
        ({"model.layers.7.self_attn.q_proj": (32, 32)}, "1 of its 1 modules are not in the base"),
        ({"transformer.h.0.attn.c_attn": (96, 32)}, "are not in the base, e.g. transformer.h.0.attn.c_attn"),
        ({"lm_head": (320, 32)}, "changes lm_head, which in this base is the embedding: merged, it would change what"),
        ({"lm_head": (320, 32), **LLAMA_MODULES}, "train it without the head, or on a base that has one of its own"),
        ({"lm_head": (322, 32)}, "changes lm_head, which in this base is the embedding"),
        ({"lm_head": (320, 48)}, "1 of its 1 modules are not in the base, e.g. lm_head: another base"),
    ],
)
def test_what_fits_is_decided_by_keys_and_shapes(
    tiny_llama: Path, tmp_path: Path, modules: dict[str, tuple[int, int]], message: str
) -> None:
    folder = write_lora(tmp_path / "x", modules)
    with pytest.raises(PoolError, match=message):
        read_adapter(folder, open_base(tiny_llama, tmp_path).shapes)


def test_factors_that_do_not_chain(tiny_llama: Path, tmp_path: Path) -> None:
    pair = (np.ones((4, 32)), np.ones((32, 5)))
    folder = write_lora(tmp_path / "x", {"model.layers.0.self_attn.q_proj": pair})
    with pytest.raises(PoolError, match="has A 4x32 and B 32x5"):
        read_adapter(folder, open_base(tiny_llama, tmp_path).shapes)
