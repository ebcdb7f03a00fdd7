"""LoRA adapters in GGUF, as llama.cpp's convert_lora_to_gguf.py writes them, read back into PEFT's names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from merge_advisor.errors import PoolError
from merge_advisor.plain_text import short_name
from merge_advisor.weights.base import LocalBase
from merge_advisor.weights.files import FileError
from merge_advisor.weights.gguf_header import check_gguf_header
from merge_advisor.weights.naming import count_blocks

_AS_THEY_ARE = ("qwen2", "qwen3", "gemma", "gemma2", "gemma3", "phi3")
"""Architectures whose linear layers the converter only renames."""
_PERMUTED = "llama"
"""The one known here whose rows of query and key it puts into another order."""
_ALPHA = "adapter.lora.alpha"


def read_gguf_lora(file: Path, base: LocalBase) -> tuple[dict[str, NDArray[np.float32]], dict[str, Any]]:
    """Return the tensors of a LoRA in GGUF under PEFT's names, and the configuration that goes with them.

    Args:
        file: the file.
        base: the base, whose names and heads say what is where.

    Raises:
        PoolError: no LoRA, of an architecture whose names are not known here, it does not fit the base, or its header
            is beyond the limits.
    """
    import gguf

    try:
        check_gguf_header(file)
    except FileError as error:
        raise PoolError(str(error)) from error
    try:
        reader = gguf.GGUFReader(file)
        told = {name: reader.fields[name].contents() for name in reader.fields if name.split(".")[0] != "tokenizer"}
        arrays = {
            part.name: np.asarray(gguf.dequantize(part.data, part.tensor_type), np.float32) for part in reader.tensors
        }
    except Exception as error:  # on a bad file the reader may raise anything
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise PoolError(f"{file.name}: cannot be read as GGUF ({reason}); fetch it again") from error
    architecture = _checked(told, file)
    modules = _modules(architecture, base)
    tensors: dict[str, NDArray[np.float32]] = {}
    ranks = {}
    for name, array in arrays.items():
        place, _, side = name.rpartition(".lora_")
        module = modules.get(place)
        if module is None or side not in ("a", "b") or array.ndim != 2:
            raise PoolError(
                f"{file.name}: {short_name(name)} is no LoRA of a linear layer of this base; give the PEFT folder "
                "it was converted from"
            )
        if side == "b" and architecture == _PERMUTED:
            array = _in_order(array, module, base)
        named = base.shapes.module_of(f"{module}.weight")
        tensors[f"base_model.model.{named}.lora_{side.upper()}.weight"] = np.ascontiguousarray(array)
        if side == "a":
            ranks[named] = array.shape[0]
    alpha = told.get(_ALPHA)
    if not ranks or not isinstance(alpha, float):
        raise PoolError(f"{file.name}: lacks {_ALPHA if ranks else 'tensors'}; convert the adapter again")
    rank = max(ranks.values())
    settings = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": alpha, "lora_dropout": 0.0,
        "rank_pattern": {module: r for module, r in ranks.items() if r != rank},
        "base_model_name_or_path": "", "target_modules": sorted(ranks), "bias": "none", "inference_mode": True,
        "init_lora_weights": True, "fan_in_fan_out": False,
    }  # fmt: skip
    return tensors, settings


def _checked(told: Mapping[str, Any], file: Path) -> str:
    """The architecture of a file that is a LoRA whose names are known."""
    if told.get("general.type") != "adapter" or told.get("adapter.type") != "lora":
        raise PoolError(
            f"{file.name}: a whole model in GGUF, which is no candidate; give the safetensors it was converted from"
        )
    architecture = str(told.get("general.architecture"))
    if architecture not in (_PERMUTED, *_AS_THEY_ARE):
        raise PoolError(
            f"{file.name}: a LoRA in GGUF of architecture {short_name(architecture)}, whose names are not known here; "
            "give the PEFT folder that llama.cpp's convert_lora_to_gguf.py read"
        )
    if "adapter.alora.invocation_tokens" in told:
        raise PoolError(f"{file.name}: an activated LoRA, which is no change of the weights; take another adapter")
    return architecture


def _modules(architecture: str, base: LocalBase) -> dict[str, str]:
    """GGUF's name of a weight -> the base's module."""
    import gguf

    kind = next(kind for kind, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    names = gguf.get_tensor_name_map(kind, count_blocks(base.shapes))
    modules = {}
    for name, shape in base.shapes.items():
        module = name.removesuffix(".weight")
        there = names.get_name(module) if len(shape) == 2 and module != name else None
        if there is not None:
            modules[f"{there}.weight"] = module
    return modules


def _in_order(b: NDArray[np.float32], module: str, base: LocalBase) -> NDArray[np.float32]:
    """The rows of a query's or key's B as transformers has them: halves of each head, where llama.cpp has pairs."""
    heads = int(base.config.get("num_attention_heads") or 0)
    if module.endswith("k_proj"):
        heads = int(base.config.get("num_key_value_heads") or heads)
    elif not module.endswith("q_proj"):
        return b
    if not heads or len(b) % (2 * heads):
        raise PoolError(f"{module}: {len(b)} rows are not those of {heads} heads; give the base it was trained on")
    return b.reshape(heads, len(b) // heads // 2, 2, -1).swapaxes(1, 2).reshape(b.shape)
