"""Adapters whose embeddings or heads have more or fewer rows than the base's, with the base's own number of rows."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from merge_advisor.arrays import Float32Array
from merge_advisor.errors import PoolError
from merge_advisor.weights.adapter import ADAPTER_WEIGHTS
from merge_advisor.weights.adapter_config import ADAPTER_CONFIG
from merge_advisor.weights.base import LocalBase
from merge_advisor.weights.naming import EMBEDDINGS, HEADS, find_parameter
from merge_advisor.weights.tensorfile import (
    TensorInfo,
    copy_tensor,
    open_folder,
    read_header,
    read_tensor,
    tensor_bytes,
    write_tensor_header,
)

_ENDS = (*EMBEDDINGS, *HEADS, "embeddings.weight")
_KEY = re.compile(
    r"(?:base_model\.model\.)?(?P<name>.+?)\.(?P<part>(?:(?:base_layer|modules_to_save|token_adapter\.base_layer)\.)?"
    r"weight|lora_embedding_A|lora_B\.weight|lora_magnitude_vector(?:\.weight)?"
    r"|(?:token_adapter\.)?trainable_tokens_delta)"
)
"""Tensors that have a row (or column) for each token, or for each token that is trained."""
_TOKENS = ("trainable_token_indices", "token_indices")
"""Settings that list trained tokens: of LoRA, and of the kind that trains nothing else."""

_HEADS_TOKENS = tuple(f"{head.removesuffix('.weight')}.token_adapter.trainable_tokens_delta" for head in HEADS)


class _ByToken(NamedTuple):
    """A tensor of an embedding or head, with a row (or column) for each token."""

    key: str
    name: str
    part: str
    parameter: str
    """The base's, that it belongs to."""


def fitted_adapter(folder: Path, config: Mapping[str, Any], base: LocalBase, target: Path) -> str | None:
    """Write an adapter anew where PEFT would not load it beside the base for its rows, or for what it holds twice.

    Rows of tokens that the base does not have are left out; rows that only the base has are the base's own. Of whole
    modules (`modules_to_save`) PEFT itself saves up to three copies, of which it loads one.

    Args:
        folder: the adapter's folder.
        config: its configuration.
        base: the base.
        target: a folder that is there, for `adapter_config.json` and `adapter_model.safetensors`.

    Returns:
        What has to be said of it, perhaps nothing; None where it is loaded as it is, and nothing was written.

    Raises:
        PoolError: nothing of it is left.
        FileError: a file cannot be read.
    """
    path = folder / ADAPTER_WEIGHTS
    header = read_header(path)
    kept = {key: info for key, info in header.items() if not _is_second(path, key, header, base)}
    arrays, sizes = _fitted_tensors(path, kept, config, base)
    if not arrays and len(kept) == len(header):
        return None
    settings = dict(config)
    if sizes:
        rows = min(size[0] for size in sizes)
        settings |= {name: _first(config[name], rows) or None for name in _TOKENS if config.get(name)}
    untrained = [name for name in _TOKENS if config.get(name) and not settings[name]]
    if "token_indices" in untrained:
        raise PoolError(f"{ADAPTER_CONFIG}: trains tokens alone that the base does not have; give the base it had")
    names = {key: _without_tokens(key) if untrained else key for key in kept}
    tensors = {name: (kept[key], arrays.get(key)) for key, name in names.items() if name}
    _write(path, tensors, target / ADAPTER_WEIGHTS)
    (target / ADAPTER_CONFIG).write_text(json.dumps(settings), encoding="utf-8")
    return _note(sizes)


def _fitted_tensors(
    path: Path, header: Mapping[str, TensorInfo], config: Mapping[str, Any], base: LocalBase
) -> tuple[dict[str, Float32Array], set[tuple[int, int]]]:
    """Tensors that have other rows than the base, with the base's; and of each the base's number and their own."""
    arrays: dict[str, Float32Array] = {}
    sizes: set[tuple[int, int]] = set()
    for found in _by_token(header, base):
        info, rows = header[found.key], base.shapes[found.parameter][0]
        if len(info.shape) != (1 if found.part.startswith("lora_magnitude_vector") else 2):
            continue  # no tensor of its name: PEFT says what is wrong
        if found.part.endswith("trainable_tokens_delta"):
            tokens = _tokens(config, found.name)
            wanted = [place for place, token in enumerate(tokens) if token < rows]
            if len(wanted) < len(tokens) == info.shape[0]:
                arrays[found.key] = read_tensor(path, info)[wanted]
                sizes.add((rows, max(tokens) + 1))
            continue
        own = info.shape[1 if found.part == "lora_embedding_A" else 0]
        if own != rows and (fitted := _fitted(path, info, found, base)) is not None:
            arrays[found.key] = fitted
            sizes.add((rows, own))
    return arrays, sizes


def _is_second(path: Path, key: str, header: Mapping[str, TensorInfo], base: LocalBase) -> bool:
    """Whether a tensor is the base's own, or one that is there twice: PEFT saves a tied head with the embedding."""
    if ".original_module." in key:
        return True
    others = [key.replace(".modules_to_save.", ".")] if ".modules_to_save." in key else []
    if key.endswith(_HEADS_TOKENS) and _has_no_head(base):
        others = [other for other in header if other.endswith(".trainable_tokens_delta") and other != key]
    infos = [header[other] for other in others if other in header and header[other].is_float and header[key].is_float]
    return any(np.array_equal(read_tensor(path, header[key]), read_tensor(path, info)) for info in infos)


def _has_no_head(base: LocalBase) -> bool:
    return not any(name.endswith(HEADS) and name in base.shapes.places for name in base.shapes)


def _by_token(header: Mapping[str, TensorInfo], base: LocalBase) -> Iterator[_ByToken]:
    tied = next((name for name in base.shapes if name.endswith(EMBEDDINGS)), None)
    for key in header:
        match = _KEY.fullmatch(key)
        name = f"{match['name']}.weight" if match else ""
        if match is None or not name.endswith(_ENDS):
            continue
        found = find_parameter(name, base.shapes) or (tied if name.endswith(HEADS) else None)
        if found is not None:
            yield _ByToken(key, match["name"], match["part"], found)


def _fitted(path: Path, info: TensorInfo, found: _ByToken, base: LocalBase) -> Float32Array | None:
    """A tensor with the base's number of rows; None where it is something else than one with other rows."""
    rows, width = base.shapes[found.parameter]
    array = read_tensor(path, info)
    if found.part == "lora_embedding_A":
        return np.pad(array[:, :rows], ((0, 0), (0, max(0, rows - array.shape[1]))))
    if found.part == "lora_B.weight":
        return np.pad(array[:rows], ((0, max(0, rows - len(array))), (0, 0)))
    if found.part.startswith("lora_magnitude_vector"):
        return array[:rows] if len(array) > rows else None
    if array.shape[1] != width:
        return None
    return np.concatenate([array[:rows], read_tensor(*open_folder(base.path)[found.parameter])[len(array) :]])


def _tokens(config: Mapping[str, Any], module: str) -> list[int]:
    """The tokens that are trained in a module; a tied head is trained with its embedding."""
    found = config.get(_TOKENS[0]) or config.get(_TOKENS[1]) or []
    if isinstance(found, dict):
        named = [tokens for name, tokens in found.items() if f".{module}".endswith(f".{name}")]
        found = named[0] if named else next(iter(found.values()))
    return found if _are_tokens(found) else []


def _first(tokens: Any, rows: int) -> Any:
    if isinstance(tokens, dict):
        return {name: left for name, own in tokens.items() if (left := _first(own, rows))}
    return [token for token in tokens if token < rows] if _are_tokens(tokens) else tokens


def _are_tokens(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(token, int) for token in value)


def _without_tokens(key: str) -> str:
    """The name of a tensor where no token is trained; "" where there is none."""
    return "" if "trainable_tokens_" in key else key.replace(".token_adapter.base_layer.", ".")


def _note(sizes: set[tuple[int, int]]) -> str:
    if not sizes:
        return ""
    rows, own = max(sizes, key=lambda size: abs(size[1] - size[0]))
    if own < rows:
        return f"its vocabulary has {own} of the base's {rows} rows: the others are the base's own"
    return f"its vocabulary was resized from {rows} to {own} rows: the first {rows} count, the others are left out"


def _write(path: Path, tensors: Mapping[str, tuple[TensorInfo, Float32Array | None]], target: Path) -> None:
    layout = {key: (info.dtype, info.shape if array is None else array.shape) for key, (info, array) in tensors.items()}
    with target.open("wb") as stream:
        write_tensor_header(stream, layout)
        for info, array in tensors.values():
            if array is None:
                copy_tensor(path, info, stream)
            else:
                stream.write(tensor_bytes(array, info.dtype))
