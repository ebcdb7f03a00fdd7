"""Tiny models whose weights are quantised, and what the packages that quantise make of them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from merge_advisor.weights.base import resolve_base

BITSANDBYTES: Mapping[str, dict[str, Any]] = {
    "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    "nf4, scales quantised again, kept as bfloat16": {
        "load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True,
        "bnb_4bit_quant_storage": "bfloat16",
    },
    "fp4": {"load_in_4bit": True, "bnb_4bit_quant_type": "fp4"},
    "int8": {"load_in_8bit": True},
}  # fmt: skip
"""Name -> settings of `BitsAndBytesConfig`."""

AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""Which of eight columns in a row each part of a word holds, from the lowest bits on."""


def with_bitsandbytes(base: Path, folder: Path, dtype: str = "float32", name: str = "nf4", **settings: Any) -> Path:
    """Write a model quantised by bitsandbytes, as transformers saves it."""
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    own = BITSANDBYTES[name] | settings
    if "load_in_4bit" in own:
        own["bnb_4bit_compute_dtype"] = dtype
    quantised = AutoModelForCausalLM.from_pretrained(
        base, quantization_config=BitsAndBytesConfig(**own), dtype=getattr(torch, dtype)
    )
    quantised.save_pretrained(folder)
    copy_tokenizer(base, folder)
    return folder


def copy_tokenizer(base: Path, folder: Path) -> None:
    for file in (*base.glob("token*"), *base.glob("chat*")):
        shutil.copy(file, folder)


def by_hand(
    base: Path, folder: Path, compress: Callable[[Any], dict[str, Any]], settings: Mapping[str, Any], **config: Any
) -> dict[str, Any]:
    """Write a model each of whose linear layers is what `compress` makes of its weight; returns the old weights.

    `compress` gives tensors by the ends of their names behind that of the layer.
    """
    from safetensors.torch import load_file, save_file

    folder.mkdir(parents=True)
    tensors = load_file(base / "model.safetensors")
    old = {name: tensors.pop(name) for name in sorted(tensors) if name.endswith("_proj.weight")}
    for name, weight in old.items():
        made = compress(weight)
        tensors |= {f"{name.removesuffix('.weight')}.{end}": tensor.contiguous() for end, tensor in made.items()}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    own = json.loads((base / "config.json").read_text()) | {"quantization_config": dict(settings)} | config
    (folder / "config.json").write_text(json.dumps(own))
    copy_tokenizer(base, folder)
    return old


def packed_words(codes: Any, bits: int) -> Any:
    """Codes (rows, n) along the last axis in int32 words, bit by bit, the lowest first: slow, and plain to read."""
    import torch

    rows, count = codes.shape
    words = [[0] * -(-count * bits // 32) for _ in range(rows)]
    for row in range(rows):
        for place, code in enumerate(codes[row].tolist()):
            for bit in range(bits):
                at = place * bits + bit
                words[row][at // 32] |= ((code >> bit) & 1) << (at % 32)
    signed = [[word - 2**32 if word >= 2**31 else word for word in line] for line in words]
    return torch.tensor(signed, dtype=torch.int32)


def gptq_layer(
    weight: Any, bits: int, group: int, *, shuffled: bool, less_one: bool, seed: int = 0
) -> tuple[dict[str, Any], Any]:
    """A layer in GPTQ's format with asymmetric groups, and the weight (float16) that it stands for."""
    import torch

    out, width = weight.shape
    chance = torch.Generator().manual_seed(seed)
    groups = torch.arange(width) // group
    if shuffled:
        groups = groups[torch.randperm(width, generator=chance)]
    codes = torch.randint(0, 2**bits, (out, width), generator=chance)
    zeros = torch.randint(1, 2**bits, (width // group, out), generator=chance)
    scales = (torch.rand(width // group, out, generator=chance) * 0.1).half()
    meant = scales.T[:, groups] * (codes - zeros.T[:, groups]).half()
    stored = zeros - 1 if less_one else zeros
    tensors = {
        "qweight": packed_words(codes, bits).T, "qzeros": packed_words(stored, bits), "scales": scales,
        "g_idx": groups.int(),
    }  # fmt: skip
    return tensors, meant


def awq_layer(weight: Any, group: int, seed: int = 0) -> dict[str, Any]:
    """A layer in AWQ's "gemm" format."""
    import torch

    out, width = weight.shape
    chance = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, 16, (width, out), generator=chance)
    zeros = torch.randint(0, 16, (width // group, out), generator=chance)
    scales = (torch.rand(width // group, out, generator=chance) * 0.1).half()

    def ordered(columns: Any) -> Any:
        return packed_words(columns.reshape(len(columns), -1, 8)[:, :, list(AWQ_ORDER)].reshape(len(columns), -1), 4)

    return {"qweight": ordered(codes), "qzeros": ordered(zeros), "scales": scales}


def copied(folder: Path, cache: Path) -> dict[str, Any]:
    """The weights of the dequantised copy of a base."""
    from safetensors.torch import load_file

    found = resolve_base(str(folder), cache=cache)
    assert found.path.parent == cache and found.dequantised
    assert "quantization_config" not in found.config
    return dict(load_file(found.path / "model.safetensors"))


def say_quantised(folder: Path, settings: Mapping[str, Any]) -> None:
    """Have a model's config.json say how it is quantised."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": dict(settings)}))
