"""Whether PEFT itself loads an adapter whole: it drops, without an error, tensors whose names it does not expect.

Names are read here more kindly than PEFT reads them (`_orig_mod.`, no inner `model.`, the adapter's own name in its
keys), so a file that stands for the right update may be a base without a change to mergekit, LoraHub and PEFT.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from merge_advisor.weights.adapter import LoraFactors, map_factors, read_weights_header
from merge_advisor.weights.adapter_config import (
    ADAPTER_CONFIG,
    compiled_pattern,
    is_costly_pattern,
    read_adapter_config,
)
from merge_advisor.weights.files import read_json
from merge_advisor.weights.naming import HEADS
from merge_advisor.weights.parameter_map import BaseShapes

_BEGIN_AT_ZERO = (True, "gaussian", "eva")
"""Values of `init_lora_weights` with which B begins at zero: a module without tensors in the file is no change then."""


def peft_loads(folder: Path, base_shapes: BaseShapes) -> bool:
    """Return whether PEFT finds every tensor of an adapter in the place that is meant, by names and configuration.

    >>> from merge_advisor.weights.base import resolve_base
    >>> peft_loads(Path("adapters/a0"), resolve_base("base", cache=Path("cache")).shapes)
    True

    Args:
        folder: an adapter of this base, in safetensors.
        base_shapes: the base's parameters; PEFT names modules as they are called in memory.

    Raises:
        PoolError: it cannot be read, or does not fit the base.
    """
    header = read_weights_header(folder)
    placed = map_factors(read_adapter_config(folder), header, base_shapes)
    modules = {name: base_shapes.module_of(name) for name in placed}
    wanted = {f"base_model.model.{module}.lora_{side}.weight" for module in modules.values() for side in "AB"}
    config = read_json(folder / ADAPTER_CONFIG)
    if wanted != set(header) or not _same_scales(placed, modules, config):
        return False
    picks = _picker(config)
    if picks is None or not all(picks(module) for module in modules.values()):
        return False
    if config.get("init_lora_weights", True) in _BEGIN_AT_ZERO:
        return True
    # what the file lacks stays as PEFT begins it, which is a change at random here
    targets = config.get("target_modules")
    others = {base_shapes.module_of(name) for name in base_shapes if name.endswith(".weight")} - set(modules.values())
    tied = [head for head in HEADS if head not in base_shapes and picks(head.removesuffix(".weight"))]
    return isinstance(targets, list) and not tied and not any(picks(module) for module in others)


def _picker(config: Mapping[str, Any]) -> Callable[[str], bool] | None:
    """Which modules the configuration makes a LoRA of; None where that is not plain to see."""
    if any(config.get(name) not in (None, []) for name in ("layers_to_transform", "exclude_modules")):
        return None
    targets = config.get("target_modules")
    if isinstance(targets, list) and all(isinstance(target, str) for target in targets):
        ends = tuple(f".{target}" for target in targets)
        return lambda module: module in targets or module.endswith(ends)
    if not isinstance(targets, str) or is_costly_pattern(targets):
        return None
    if targets == "all-linear":  # all but the head, which is no layer of the inner model
        return lambda module: "." in module
    pattern = compiled_pattern(targets)
    return None if pattern is None else lambda module: pattern.fullmatch(module) is not None


def _same_scales(placed: Mapping[str, LoraFactors], modules: Mapping[str, str], config: Mapping[str, Any]) -> bool:
    """Whether patterns of ranks and scales mean the same by PEFT's name of a module as by the one they were read by."""
    patterned = config.get("rank_pattern") or config.get("alpha_pattern")
    return not patterned or all(placed[name].module == module for name, module in modules.items())
