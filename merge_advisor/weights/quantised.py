"""Which weights of a model's files are quantised, by its config.json, and their checked reading."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from merge_advisor.arrays import Float32Array
from merge_advisor.plain_text import short_name
from merge_advisor.weights.files import FileError
from merge_advisor.weights.packed_weights import METHODS, PackedWeight, packed_weights
from merge_advisor.weights.tensorfile import Located

_CODES = {"I8", "U8", "I16", "U16", "I32", "U32", "F8_E4M3", "F8_E5M2", "F8_E8M0"}
"""Dtypes that mean nothing without scales."""
_OF_ACTIVATIONS = (".input_scale", ".input_zero_point", ".input_global_scale", ".activation_scale", ".input_scale_ub",
                   ".output_scale", ".k_scale", ".v_scale", ".q_scale")  # fmt: skip
"""Ends of the names of what inputs are rounded by: no part of the weights."""


def quantisation(config: Mapping[str, Any]) -> str:
    """Return how a model's weights are quantised, by its configuration; "" where they are not.

    >>> quantisation({"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}})
    'bitsandbytes, 4 bits'

    Args:
        config: config.json.
    """
    settings = _settings(config)
    if settings is None:
        return ""
    kind = next((settings[key] for key in ("bnb_4bit_quant_type", "format") if isinstance(settings.get(key), str)), "")
    kind = f" {short_name(kind)}" if kind and not settings.get("load_in_8bit") else ""
    bits = 4 if settings.get("load_in_4bit") else 8 if settings.get("load_in_8bit") else settings.get("bits")
    method = short_name(_method(settings)) or "of an unknown kind"
    return f"{method}{kind}, {bits} bits" if isinstance(bits, int) else f"{method}{kind}"


def _settings(config: Mapping[str, Any]) -> dict[str, Any] | None:
    inner = config.get("text_config")
    places = (config, inner if isinstance(inner, dict) else {})
    for place in places:
        for key in ("quantization_config", "compression_config"):
            if found := place.get(key):
                return found if isinstance(found, dict) else {}
    return None


def _method(settings: Mapping[str, Any]) -> str:
    named = settings.get("quant_method")
    if not named and (settings.get("load_in_4bit") or settings.get("load_in_8bit")):
        named = "bitsandbytes"
    return str(named or "").lower().removesuffix("_4bit").removesuffix("_8bit")


def without_quantisation(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return config.json as that of plain weights.

    Args:
        config: config.json.
    """
    marks = ("quantization_config", "compression_config", "_pre_quantization_dtype")
    plain = {key: value for key, value in config.items() if key not in marks}
    if isinstance(plain.get("text_config"), dict):
        plain["text_config"] = {key: value for key, value in plain["text_config"].items() if key not in marks}
    return plain


def find_packed(located: Located, config: Mapping[str, Any]) -> dict[str, PackedWeight]:
    """Return the quantised weights of a model by name; no weights are read.

    Args:
        located: where its tensors lie.
        config: config.json, which says how they are quantised.

    Raises:
        FileError: quantised in a way that is not read here, without quantised weights, or with a tensor that nothing
            says the meaning of.
    """
    settings = _settings(config) or {}
    method = _method(settings)
    if method not in METHODS:
        raise FileError(
            f"config.json: its weights are quantised ({quantisation(config)}), of which only "
            f"{', '.join(METHODS)} are dequantised here; give the model it was made of, or load it with "
            "transformers and that method's package and save it dequantised (model.dequantize(), save_pretrained)"
        )
    try:
        found = {weight.name: weight for weight in packed_weights(method, located, settings, config)}
    except (KeyError, ValueError, IndexError, TypeError) as error:
        if isinstance(error, FileError):
            raise
        raise FileError(f"its {method} weights are not whole ({_reason(error)}); fetch it again") from error
    if not found:
        raise FileError(
            f"config.json: says that its weights are quantised ({quantisation(config)}), its files hold none that are; "
            "give the model it was made of"
        )
    used = {part for weight in found.values() for part in weight.parts}
    for name, (path, info) in located.items():
        if info.dtype in _CODES and name not in used and not name.endswith(_OF_ACTIVATIONS):
            raise FileError(
                f"{path.name}: {short_name(name)} is {info.dtype}, and no scales of {method} lie beside it; give the "
                "model it was made of"
            )
    return found


def is_of_activations(name: str) -> bool:
    """Return whether a tensor beside a quantised weight says how inputs are rounded, and is no part of the weights.

    Args:
        name: its name.
    """
    return name.endswith(_OF_ACTIVATIONS)


def read_packed(weight: PackedWeight) -> Float32Array:
    """Return a quantised weight as float32.

    Args:
        weight: from `find_packed`.

    Raises:
        FileError: its parts do not fit each other, or it is not finite.
    """
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            values = weight.read()
    except FileError:
        raise
    except (ValueError, IndexError, TypeError) as error:
        raise FileError(f"{short_name(weight.name)}: is not whole ({_reason(error)}); fetch it again") from error
    if values.shape != weight.shape or not np.isfinite(values).all():
        raise FileError(
            f"{short_name(weight.name)}: has another shape than its parts say, or holds NaN; fetch it again"
        )
    return values


def _reason(error: Exception) -> str:
    missing = f"{error.args[0]} is not there" if isinstance(error, KeyError) else str(error)
    return " ".join(missing.split())[:160]
