"""Builders of tiny models: a tokenizer, and LoRA adapters in PEFT's layout."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from merge_advisor.backbone.model import Backbone
from merge_advisor.weights.base import LocalBase, resolve_base

END = "<|end|>"
TEXT = [
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.",
    "### Instruction: ### Response: Please provide a response. Input: the task described below requires",
    "the quick brown fox jumps over the lazy dog 0123456789 and a cat sat on the mat, yes or no?",
]
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}" + END + "\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def build_tokenizer() -> Any:
    """A byte-level BPE of about 300 tokens: every text round-trips."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=["<pad>", END], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token="<pad>")
    fast.chat_template = CHAT_TEMPLATE
    return fast


def build_llama(folder: Path, width: int = 32) -> Path:
    """Write a random Llama: 2 layers, grouped heads, tied embeddings."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=2 * width, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=512, tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, bos_token_id=None,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    for parameter in model.parameters():  # wider than the default 0.02, so that an adapter moves the output
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.15)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_lora(
    folder: Path,
    modules: Mapping[str, tuple[Any, Any]],
    *,
    rank: int = 4,
    alpha: float = 8,
    seed: int = 0,
    base: str = "tiny-llama",
    task_type: str | None = "CAUSAL_LM",
    std: float = 0.3,
    card: str = "",
    dtype: Any = np.float32,
    **settings: Any,
) -> Path:
    """Write a random LoRA in PEFT's layout. `modules`: name -> (out, in), or name -> (A, B)."""
    from safetensors.numpy import save_file

    rng = np.random.default_rng(seed)
    tensors = {}
    for name, shape in modules.items():
        if isinstance(shape[0], np.ndarray):
            a, b = shape
        else:
            out, width = shape
            a, b = rng.normal(0, std, (rank, width)), rng.normal(0, std, (out, rank))
        tensors[f"base_model.model.{name}.lora_A.weight"] = np.ascontiguousarray(a, dtype=dtype)
        tensors[f"base_model.model.{name}.lora_B.weight"] = np.ascontiguousarray(b, dtype=dtype)
    config = {
        "peft_type": "LORA", "task_type": task_type, "base_model_name_or_path": base, "r": rank, "lora_alpha": alpha,
        "target_modules": sorted({name.rsplit(".", 1)[-1] for name in modules}), "bias": "none", "lora_dropout": 0.0,
        "fan_in_fan_out": False, "inference_mode": True, "use_rslora": False, "use_dora": False,
        "modules_to_save": None, "rank_pattern": {}, "alpha_pattern": {}, "init_lora_weights": True,
    } | settings  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=1))
    if card:
        (folder / "README.md").write_text(card)
    return folder


LLAMA_MODULES = {
    f"model.layers.{layer}.self_attn.{name}": shape
    for layer in range(2)
    for name, shape in (("q_proj", (32, 32)), ("v_proj", (16, 32)))
}


def build_pool(root: Path) -> Path:
    """Write six adapters of the tiny Llama in two families: in a family, a shared part plus a little of one's own."""
    for number, family in enumerate("ab"):
        shared = np.random.default_rng(100 + number)
        parts = {
            name: (shared.normal(0, 0.3, (4, width)), shared.normal(0, 0.3, (out, 4)))
            for name, (out, width) in LLAMA_MODULES.items()
        }
        for index in range(3):
            own = np.random.default_rng(10 * number + index)
            modules = {
                name: (a + own.normal(0, 0.06, a.shape), b + own.normal(0, 0.06, b.shape))
                for name, (a, b) in parts.items()
            }
            card = f"---\nlicense: apache-2.0\nbase_model: tiny-llama\n---\nAdapter of family {family}.\n"
            write_lora(root / f"{family}{index}", modules, card=card)
    return root


T5_MODULES = {
    f"{stack}.block.{layer}.layer.{place}.{block}.{kind}": (32, 32)
    for stack, place, block in (
        ("encoder", 0, "SelfAttention"), ("decoder", 0, "SelfAttention"), ("decoder", 1, "EncDecAttention"),
    )
    for layer in range(2)
    for kind in ("q", "v")
}  # fmt: skip


def parameter_shapes(backbone: Backbone) -> dict[str, tuple[int, ...]]:
    """The shape of each parameter of a model in memory, as readers of adapters take them."""
    return backbone.shapes


def open_base(folder: Path, cache: Path) -> LocalBase:
    """The base in a folder, as a plan resolves it."""
    return resolve_base(str(folder), cache=cache)
