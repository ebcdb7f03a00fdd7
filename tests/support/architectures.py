"""Tiny random models of many architectures, and adapters of theirs under the names that people's files have."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.support.models import build_tokenizer

_SMALL = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512,
}  # fmt: skip
_HEADS = {"head_dim": 8}
_MIXTURE = {"num_experts_per_tok": 2}
_IMAGES = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28,
    "patch_size": 14,
}  # fmt: skip


def _config(name: str, size: int) -> Any:
    import transformers as t

    tokens: dict[str, Any] = {"vocab_size": size, "pad_token_id": 0, "bos_token_id": None, "eos_token_id": 1}
    small = _SMALL | tokens
    made: dict[str, Callable[[], Any]] = {
        "gpt2": lambda: t.GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=512, **tokens),
        "gpt_neox": lambda: t.GPTNeoXConfig(
            **{key: value for key, value in small.items() if key != "num_key_value_heads"}
        ),
        "qwen3_moe": lambda: t.Qwen3MoeConfig(**small, **_HEADS, **_MIXTURE, num_experts=4, moe_intermediate_size=16),
        "mixtral": lambda: t.MixtralConfig(**small, **_MIXTURE, num_local_experts=4),
        "phi3": lambda: t.Phi3Config(**small),
        "gemma3_text": lambda: t.Gemma3TextConfig(**small, **_HEADS),
        "gemma3": lambda: t.Gemma3Config(
            text_config=small | _HEADS, vision_config=_IMAGES, mm_tokens_per_image=4, eos_token_id=1
        ),
        "llava": lambda: t.LlavaConfig(
            text_config=small | {"model_type": "llama"},
            vision_config=_IMAGES | {"model_type": "clip_vision_model"},
            image_token_index=7,
            vision_feature_layer=-1,
        ),
        "qwen2_vl": lambda: t.Qwen2VLConfig(
            text_config=small | {"rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2]}},
            vision_config={"depth": 1, "embed_dim": 16, "hidden_size": 32, "num_heads": 2, "patch_size": 14},
            image_token_id=7,
            video_token_id=8,
            vision_start_token_id=9,
            vision_end_token_id=10,
        ),
    }
    return made[name.removesuffix(", inner model")]()


ARCHITECTURES: Mapping[str, Mapping[str, tuple[int, int]]] = {
    "gpt2": {
        "transformer.h.0.attn.c_attn": (96, 32), "transformer.h.1.attn.c_proj": (32, 32),
        "transformer.h.1.mlp.c_fc": (128, 32),
    },
    "gpt2, inner model": {
        "transformer.h.0.attn.c_attn": (96, 32), "transformer.h.1.attn.c_proj": (32, 32),
    },
    "gpt_neox": {
        "gpt_neox.layers.0.attention.query_key_value": (96, 32), "gpt_neox.layers.1.mlp.dense_4h_to_h": (32, 48),
    },
    "qwen3_moe": {
        "model.layers.0.self_attn.q_proj": (32, 32),
        **{f"model.layers.{n}.mlp.experts.{e}.gate_proj": (16, 32) for n in range(2) for e in range(4)},
        **{f"model.layers.{n}.mlp.experts.{e}.up_proj": (16, 32) for n in range(2) for e in range(4)},
        **{f"model.layers.{n}.mlp.experts.{e}.down_proj": (32, 16) for n in range(2) for e in range(4)},
    },
    "mixtral": {
        "model.layers.0.self_attn.q_proj": (32, 32),
        **{f"model.layers.{n}.block_sparse_moe.experts.{e}.w1": (48, 32) for n in range(2) for e in range(4)},
        **{f"model.layers.{n}.block_sparse_moe.experts.{e}.w2": (32, 48) for n in range(2) for e in range(4)},
        **{f"model.layers.{n}.block_sparse_moe.experts.{e}.w3": (48, 32) for n in range(2) for e in range(4)},
    },
    "phi3": {"model.layers.0.self_attn.qkv_proj": (64, 32), "model.layers.1.mlp.gate_up_proj": (96, 32)},
    "gemma3_text": {"model.layers.0.self_attn.q_proj": (32, 32), "model.layers.1.mlp.up_proj": (48, 32)},
    "gemma3": {
        "language_model.model.layers.0.self_attn.q_proj": (32, 32),
        "language_model.model.layers.1.mlp.up_proj": (48, 32),
    },
    "llava": {
        "language_model.model.layers.0.self_attn.q_proj": (32, 32),
        "language_model.model.layers.1.mlp.up_proj": (48, 32),
    },
    "qwen2_vl": {"model.layers.0.self_attn.q_proj": (32, 32), "model.layers.1.mlp.up_proj": (48, 32)},
}  # fmt: skip
"""By architecture the modules of an adapter, as files name them, -> (out, in)."""


def build_model(name: str, folder: Path, seed: int = 0) -> Path:
    """Write a random model of an architecture, weights wide enough that a change moves the output."""
    import torch
    from safetensors.torch import load_file, save_file

    from merge_advisor.weights.by_transformers import model_class

    torch.manual_seed(seed)
    tokenizer = build_tokenizer()
    config = _config(name, len(tokenizer))
    model = model_class(config).from_config(config)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.15)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if name.endswith("inner model"):
        weights = folder / "model.safetensors"
        tensors = load_file(weights)
        save_file({key.removeprefix("transformer."): x for key, x in tensors.items()}, weights, {"format": "pt"})
    return folder
