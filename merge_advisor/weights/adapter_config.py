"""What `adapter_config.json` says about the tensors beside it, and which of its settings are more than plain LoRA."""

from __future__ import annotations

import math
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from merge_advisor.errors import PoolError
from merge_advisor.weights.files import FileError, read_json

ADAPTER_CONFIG = "adapter_config.json"
REWRITTEN = "rewritten.json"
"""Lies beside an adapter that was written anew into the cache, and says what it was made of."""
RETRAIN = "take another adapter, or train it as plain LoRA"
MERGE_FIRST = "merge it into its base and list it as a checkpoint"

_T = TypeVar("_T")


class NotPlainLoraError(PoolError):
    """An adapter that is more than W + scale·B·A, which PEFT may be able to merge.

    >>> raise NotPlainLoraError("adapter_config.json: uses DoRA (use_dora), which is more than plain LoRA")
    Traceback (most recent call last):
    merge_advisor.weights.adapter_config.NotPlainLoraError: adapter_config.json: uses DoRA (use_dora), which is more ...
    """


# setting -> what it does, and what to do instead: all of these make more of an adapter than W + scale·B·A
_REFUSED = {
    "use_dora": ("DoRA (use_dora)", MERGE_FIRST),
    "modules_to_save": ("whole modules saved beside the LoRA (modules_to_save)", MERGE_FIRST),
    "lora_bias": ("a bias on B (lora_bias)", RETRAIN),
    "layer_replication": ("repeated layers (layer_replication)", RETRAIN),
    "target_parameters": ("LoRA on bare parameters (target_parameters)", RETRAIN),
    "trainable_token_indices": ("trained token embeddings (trainable_token_indices)", MERGE_FIRST),
    "use_qalora": ("QA-LoRA (use_qalora)", RETRAIN),
    "alora_invocation_tokens": ("activated LoRA (alora_invocation_tokens)", RETRAIN),
    "use_bdlora": ("block-diagonal LoRA (use_bdlora)", RETRAIN),
    "arrow_config": ("a router over adapters (arrow_config)", RETRAIN),
    "kasa_config": ("KaSA, which also changes the base (kasa_config)", MERGE_FIRST),
    "monteclora_config": ("sampled weights (monteclora_config)", RETRAIN),
    "enable_lora": ("parts of a fused layer only (enable_lora)", MERGE_FIRST),
}
_NEVER_MERGED = {"layer_replication", "alora_invocation_tokens", "arrow_config", "enable_lora"}
"""Those of them that are no change of the base's weights, or that PEFT does not know."""
_VIRTUAL_TOKENS = {"PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "CPT"}
_BESIDE_ALONE = {
    **dict.fromkeys(_VIRTUAL_TOKENS, "trains tokens before the prompt"),
    **dict.fromkeys(("PREFIX_TUNING", "CARTRIDGE"), "trains keys and values before the prompt"),
    "ADAPTION_PROMPT": "trains prompts that its own attention looks at",
    "XLORA": "chooses among adapters for each token", "POLY": "chooses among adapters for each task",
    "LILY": "routes each input through shared factors", "SHADOW": "runs a small model beside the base",
}  # fmt: skip
"""Kinds of adapters that are no change of the base's weights, and what they are instead."""
# how A and B began does not matter, unless it changed the base that they were trained on
_HARMLESS_INIT = {"True", "False", "None", "gaussian", "eva", "orthogonal", "mica"}
_REPEATED_INIT = ("pissa", "olora")
"""Initialisations that change the base by its own weights alone: PEFT does the same again where it loads them."""
_AS_PLAIN_LORA = "save it as plain LoRA (PEFT: save_pretrained with path_initial_model_for_weight_conversion)"
_BASE_CHANGING_INIT = {
    **dict.fromkeys(("pissa_niter", "corda", "lora_ga"), _AS_PLAIN_LORA),
    "loftq": "merge it into the LoftQ base it was trained on, and list the result as a checkpoint",
}
"""Those that change it by more than its weights (data, chance, a quantisation), and what to do instead."""
_KNOWN = _REFUSED.keys() | {
    "alpha_pattern", "auto_mapping", "base_model_name_or_path", "bias", "corda_config", "ensure_weight_tying",
    "eva_config", "exclude_modules", "fan_in_fan_out", "inference_mode", "init_lora_weights", "layers_pattern",
    "layers_to_transform", "loftq_config", "lora_alpha", "lora_dropout", "lora_ga_config", "megatron_config",
    "megatron_core", "merge_weights", "peft_type", "peft_version", "qalora_group_size", "r", "rank_pattern",
    "revision", "runtime_config", "target_modules", "task_type", "use_rslora", "velora_config",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class AdapterConfig:
    """What an adapter's configuration says about the meaning of its tensors.

    >>> config = read_adapter_config(Path("adapters/a0"))
    >>> config.rank, config.alpha, config.scale_of("model.layers.0.self_attn.q_proj", rank=4)
    (4, 8, 2.0)
    """

    rank: int
    alpha: float
    rslora: bool
    """Scale alpha / sqrt(r) (arXiv 2312.03732) in place of alpha / r."""
    rank_pattern: tuple[tuple[str, int], ...]
    """(pattern, rank) in the order of the file: the first that matches counts."""
    alpha_pattern: tuple[tuple[str, float], ...]
    base_name: str
    """`base_model_name_or_path`: evidence, not proof."""
    notes: tuple[str, ...] = ()
    """Settings that are unknown here: named, not refused."""

    def rank_of(self, module: str) -> int:
        """Return the rank that the configuration gives a module.

        Args:
            module: its name, e.g. `model.layers.0.self_attn.q_proj`.
        """
        return _by_pattern(self.rank_pattern, module, self.rank)

    def scale_of(self, module: str, rank: int) -> float:
        """Return a module's scale, alpha / r, or alpha / sqrt(r) for rsLoRA.

        Args:
            module: its name, e.g. `model.layers.0.self_attn.q_proj`.
            rank: the r of its tensors.
        """
        alpha = _by_pattern(self.alpha_pattern, module, self.alpha)
        return alpha / (math.sqrt(rank) if self.rslora else rank)


def read_adapter_config(folder: Path) -> AdapterConfig:
    """Return what `adapter_config.json` says.

    Args:
        folder: the adapter's folder.

    Raises:
        PoolError: absent, not JSON, or a kind that cannot be merged, named.
        NotPlainLoraError: another kind than LoRA, or a setting that makes it more than plain LoRA, named.
    """
    try:
        config = read_json(folder / ADAPTER_CONFIG)
    except FileError as error:
        raise PoolError(str(error)) from error
    _refuse_variants(config)
    rank, alpha = _number(config, "r", 8), _number(config, "lora_alpha", 8)
    rank_pattern = _pattern(config, "rank_pattern")
    if not all(float(r).is_integer() and r > 0 for r in (rank, *dict(rank_pattern).values())):
        raise PoolError(f"{ADAPTER_CONFIG}: a rank is no whole number above 0; correct r and rank_pattern")
    unknown = sorted(key for key, value in config.items() if key not in _KNOWN and value)
    return AdapterConfig(
        rank=int(rank),
        alpha=alpha,
        rslora=bool(config.get("use_rslora")),
        rank_pattern=tuple((key, int(value)) for key, value in rank_pattern),
        alpha_pattern=_pattern(config, "alpha_pattern"),
        base_name=str(config.get("base_model_name_or_path") or ""),
        notes=tuple(f"{ADAPTER_CONFIG}: {key[:60]!r} is no setting known here; it was ignored" for key in unknown),
    )


def _refuse_variants(config: dict[str, Any]) -> None:
    kind = config.get("peft_type")
    if isinstance(kind, str) and kind in _BESIDE_ALONE:
        raise PoolError(
            f"{ADAPTER_CONFIG}: {kind} {_BESIDE_ALONE[kind]}, which is no change of the base's weights and cannot be "
            "merged; take another adapter, or train it as LoRA"
        )
    if kind != "LORA":
        error = NotPlainLoraError if isinstance(kind, str) and kind else PoolError
        raise error(f"{ADAPTER_CONFIG}: peft_type is {str(kind)[:40]!r}, which is no plain LoRA; {MERGE_FIRST}")
    init = str(config.get("init_lora_weights"))
    for beginning, remedy in _BASE_CHANGING_INIT.items():
        if init.startswith(beginning):
            raise PoolError(
                f"{ADAPTER_CONFIG}: init_lora_weights={init[:40]!r} changed the base it was trained on; {remedy}"
            )
    for key in sorted(_REFUSED, key=lambda key: key not in _NEVER_MERGED):  # first what PEFT cannot merge either
        if config.get(key):
            name, remedy = _REFUSED[key]
            error = PoolError if key in _NEVER_MERGED else NotPlainLoraError
            raise error(f"{ADAPTER_CONFIG}: uses {name}, which is more than plain LoRA; {remedy}")
    bias = config.get("bias", "none")
    if bias not in ("none", None):
        raise NotPlainLoraError(f"{ADAPTER_CONFIG}: trained biases as well (bias={str(bias)[:20]!r}); {MERGE_FIRST}")
    if init.startswith(_REPEATED_INIT):
        raise NotPlainLoraError(
            f"{ADAPTER_CONFIG}: init_lora_weights={init[:40]!r} changed the base it was trained on; {MERGE_FIRST}"
        )
    if init not in _HARMLESS_INIT:
        raise PoolError(f"{ADAPTER_CONFIG}: init_lora_weights={init[:40]!r} may have changed the base; {RETRAIN}")


def is_costly_pattern(pattern: str) -> bool:
    r"""Return whether a regular expression from elsewhere may take exponential time to fail.

    >>> is_costly_pattern(r"(a+)+$"), is_costly_pattern(r".*\.q_proj")
    (True, False)

    Args:
        pattern: the expression.
    """
    return bool(len(pattern) > 300 or len(re.findall(r"(?<!\\)[*+{]", pattern)) > 4 or re.search(r"\)[*+{]", pattern))


def compiled_pattern(pattern: str) -> re.Pattern[str] | None:
    """Return a regular expression from elsewhere, compiled; None where it is none.

    >>> compiled_pattern("q{99999999999}") is None
    True

    Args:
        pattern: the expression.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of what may mean something else one day
            return re.compile(pattern)
    except (re.error, RecursionError, OverflowError, ValueError):
        return None


_LARGEST = 1e12
"""Ranks, alphas and their patterns are below it."""


def _number(config: dict[str, Any], key: str, default: float) -> float:
    value = config.get(key, default)
    # larger ones are no settings, and float32 has no place for what they scale
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not -_LARGEST <= value <= _LARGEST:
        shown = f"a number of {value.bit_length()} bits" if type(value) is int and abs(value) > _LARGEST else str(value)
        raise PoolError(f"{ADAPTER_CONFIG}: {key} is {shown[:40]!r}, not a number below {_LARGEST:g}; correct it")
    return value


def _pattern(config: dict[str, Any], key: str) -> tuple[tuple[str, float], ...]:
    """Check rank_pattern or alpha_pattern: their keys are regular expressions, from a file that may be anyone's."""
    value = config.get(key) or {}
    if not isinstance(value, dict):
        raise PoolError(f"{ADAPTER_CONFIG}: {key} is no object of module patterns; correct it")
    for pattern in value:
        if is_costly_pattern(pattern):
            raise PoolError(
                f"{ADAPTER_CONFIG}: the pattern {pattern[:60]!r} in {key} is too costly; write plain module names"
            )
        # flags may stand at the beginning alone, which it no longer is where it has to fit a whole name
        if compiled_pattern(pattern) is None or compiled_pattern(_whole_name(pattern)) is None:
            raise PoolError(f"{ADAPTER_CONFIG}: {pattern[:60]!r} in {key} is no regular expression; correct it")
    return tuple((pattern, _number(value, pattern, 0)) for pattern in value)


def _by_pattern(patterns: tuple[tuple[str, _T], ...], module: str, default: _T) -> _T:
    """PEFT's rule: the first pattern that matches the whole name, or a tail of it that begins after a dot."""
    for pattern, value in patterns:
        if re.match(_whole_name(pattern), module):
            return value
    return default


def _whole_name(pattern: str) -> str:
    return rf"(.*\.)?({pattern})$"
