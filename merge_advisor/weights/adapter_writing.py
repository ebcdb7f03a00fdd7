"""Weight deltas with factors as folders that plain PEFT loads."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from merge_advisor.errors import InputError
from merge_advisor.weights.adapter import ADAPTER_WEIGHTS
from merge_advisor.weights.adapter_config import ADAPTER_CONFIG
from merge_advisor.weights.naming import Shapes
from merge_advisor.weights.parameter_map import BaseShapes
from merge_advisor.weights.tensorfile import save_arrays
from merge_advisor.weights.updates import LowRankUpdate, WeightDelta
from merge_advisor.whole_files import whole_folder


def write_adapter(
    folder: Path,
    delta: WeightDelta,
    *,
    base_name: str,
    task_type: str,
    dtype: Literal["float16", "float32"] = "float16",
    texts: Mapping[str, str] | None = None,
    base_shapes: Shapes | None = None,
) -> None:
    """Write a low-rank weight delta as a PEFT folder that plain PEFT loads to the same weights, whole or not at all.

    Scales are folded into B, so that every module has alpha = r; modules of another rank than the commonest are listed
    in `rank_pattern` and `alpha_pattern`.

    Args:
        folder: the folder to make.
        delta: the base's parameter name -> update, all of them low-rank.
        base_name: what `base_model_name_or_path` says.
        task_type: PEFT's "CAUSAL_LM" or "SEQ_2_SEQ_LM".
        dtype: of the tensors.
        texts: further files of the folder by name, such as README.md.
        base_shapes: the base's parameters; if given, modules are called as in memory where these know it, and
            `target_modules` are short names where these pick the same modules.

    Raises:
        RunError: `folder` is there already, or cannot be written.
        InputError: a member is a checkpoint, nothing is changed, or a value is too large for float16.
    """
    tensors: dict[str, NDArray[np.floating]] = {}
    ranks: dict[str, int] = {}
    transposed = False
    for name in sorted(delta):
        update = delta[name]
        if not isinstance(update, LowRankUpdate) or not name.endswith(".weight"):
            raise InputError(f"{folder}: {name} has no LoRA factors; write a merge with checkpoints as a full model")
        if update.rank:
            module = _module(name, base_shapes)
            a, b = _stored(update, dtype, f"{folder}: {name}")
            tensors |= {f"base_model.model.{module}.lora_A.weight": a, f"base_model.model.{module}.lora_B.weight": b}
            ranks[module] = update.rank
            transposed = transposed or update.transposed
    if not ranks:
        raise InputError(f"{folder}: an adapter that changes nothing is not written; choose other members or weights")
    counts = Counter(ranks.values())
    rank = max(counts, key=lambda r: (counts[r], r))
    others = {f"^{re.escape(module)}": r for module, r in ranks.items() if r != rank}
    config = {
        "peft_type": "LORA", "task_type": task_type, "base_model_name_or_path": base_name, "inference_mode": True,
        "r": rank, "lora_alpha": rank, "rank_pattern": others, "alpha_pattern": others, "lora_dropout": 0.0,
        "target_modules": _targets(ranks, base_shapes), "bias": "none", "modules_to_save": None,
        "fan_in_fan_out": transposed, "use_rslora": False, "use_dora": False, "init_lora_weights": True,
    }  # fmt: skip
    with whole_folder(folder) as partial:
        save_arrays(tensors, partial / ADAPTER_WEIGHTS)
        (partial / ADAPTER_CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        for name, text in (texts or {}).items():
            (partial / name).write_text(text, encoding="utf-8", errors="surrogatepass")


def _stored(update: LowRankUpdate, dtype: str, where: str) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """A and scale·B in `dtype`; for float16 each row of A and column of B are balanced by 2^n, which is exact.

    Without that, an A of tiny values beside a B of large ones would lose its digits to float16's narrow range.
    """
    a, b = update.a.astype(np.float64), update.b.astype(np.float64) * update.scale
    if dtype == "float16":
        a_size, b_size = np.abs(a).max(axis=1, initial=0), np.abs(b).max(axis=0, initial=0)
        both = (a_size > 0) & (b_size > 0)
        ratio = np.divide(b_size, a_size, out=np.ones_like(a_size), where=both)
        power = np.rint(np.log2(ratio) / 2).astype(int)
        a, b = np.ldexp(a, power[:, None]), np.ldexp(b, -power[None, :])
    with np.errstate(over="ignore"):
        stored = np.ascontiguousarray(a, dtype=dtype), np.ascontiguousarray(b, dtype=dtype)
    if not all(np.isfinite(array).all() for array in stored):
        raise InputError(f"{where} holds values that {dtype} cannot; write float32, or use smaller weights")
    return stored


def _module(name: str, base_shapes: Shapes | None) -> str:
    return base_shapes.module_of(name) if isinstance(base_shapes, BaseShapes) else name.removesuffix(".weight")


def _targets(modules: Iterable[str], base_shapes: Shapes | None) -> list[str]:
    """Return the last parts of the names where PEFT would pick just these modules by them, else full names."""
    wanted = set(modules)
    names = {module.rsplit(".", 1)[-1] for module in wanted}
    weights = (name for name in base_shapes or () if name.endswith(".weight"))
    picked = {_module(name, base_shapes) for name in weights if name.split(".")[-2] in names}
    return sorted(names if picked == wanted else wanted)
