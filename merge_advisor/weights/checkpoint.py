"""Full finetuned checkpoints as candidates: finetuned minus base, parameter by parameter."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from merge_advisor.arrays import Float32Array
from merge_advisor.errors import PoolError
from merge_advisor.json_form import digest_of
from merge_advisor.plain_text import short_name
from merge_advisor.weights.files import FileError, Hashes, file_digest, finite, read_json, remembered
from merge_advisor.weights.naming import EMBEDDINGS, HEADS, Shapes, find_parameter
from merge_advisor.weights.parameter_map import BaseShapes
from merge_advisor.weights.quantised import quantisation
from merge_advisor.weights.tensorfile import Located, open_folder, read_tensor
from merge_advisor.weights.updates import DenseUpdate, WeightDelta

# tensors that some versions of transformers save and others compute anew
_BUFFERS = (".inv_freq", ".masked_bias", ".attn.bias", ".position_ids")
_MASK = ".attention.bias"
"""A causal mask, (1, 1, n, n), that older transformers saved with GPT-NeoX; with two dimensions less it is a bias."""
# copies of the embedding where the base ties them
_TIED = ("lm_head.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
# keys that differ between saves of the same model
_VOLATILE = ("_name_or_path", "_model_name_or_path", "transformers_version", "torch_dtype", "dtype", "use_cache")


def config_meaning(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a model's configuration without what differs between saves of the same model: versions, paths, dtype.

    >>> config_meaning({"hidden_size": 32, "transformers_version": "5.1.0"})
    {'hidden_size': 32}

    Args:
        config: config.json.
    """
    return {key: finite(value) for key, value in config.items() if key not in _VOLATILE}


def check_checkpoint(folder: Path, base_config: Mapping[str, Any], base_shapes: Shapes) -> Located:
    """Check by configuration, names and shapes that a checkpoint is a finetuned form of the base; read no weights.

    Args:
        folder: the checkpoint's folder.
        base_config: the base's config.json.
        base_shapes: the base's parameters.

    Returns:
        Where its tensors lie, by their name.

    Raises:
        PoolError: unreadable, another architecture, quantised, other sizes, or missing or extra weights. A vocabulary
            larger than the base's is fine, see `resized_note`.
    """
    try:
        config = read_json(folder / "config.json")
        located = open_folder(folder)
    except FileError as error:
        raise PoolError(str(error)) from error
    for key in ("architectures", "model_type", "tie_word_embeddings"):
        if None not in (config.get(key), base_config.get(key)) and config[key] != base_config[key]:
            theirs, ours = short_name(str(config[key])), short_name(str(base_config[key]))
            raise PoolError(f"config.json: {key} {theirs} is not the base's {ours}; give the base it was trained on")
    if how := quantisation(config):
        raise PoolError(
            f"config.json: its weights are quantised ({how}) and have to be dequantised, which needs a folder; give "
            "`cache`"
        )
    _match(located, base_shapes)
    return located


def _match(located: Located, base_shapes: Shapes) -> dict[str, str]:
    """Map the base's names to the checkpoint's, or raise PoolError."""
    names: dict[str, str] = {}
    copies = _copies(base_shapes)
    for name, (file, info) in located.items():
        if _is_computed(name, info.shape):
            continue
        base_name = find_parameter(name, base_shapes)
        if base_name is None:
            if name.endswith(_TIED):
                continue  # a copy of the embedding: values are compared when the delta is read
            raise PoolError(f"{file.name}: {short_name(name)} is not in the base; give the base it was trained on")
        if base_name in copies:
            continue
        if info.shape != base_shapes[base_name] and not _has_more_rows(name, info.shape, base_shapes[base_name]):
            raise PoolError(f"{file.name}: {_size_differs(name, info.shape, base_shapes[base_name])}")
        if not info.is_float:
            raise PoolError(f"{file.name}: {short_name(name)} is {info.dtype}; save it as float16 or float32")
        names[base_name] = name
    kept = [name for name, shape in base_shapes.items() if not _is_computed(name, shape)]
    missing = [name for name in kept if name not in names and not name.endswith(_TIED)]
    if missing:
        raise PoolError(f"lacks {len(missing)} of the base's weights, e.g. {missing[0]}; fetch it again")
    return names


def _is_computed(name: str, shape: tuple[int, ...]) -> bool:
    """Whether a tensor is no weight, but what the model computes anew."""
    return name.endswith(_BUFFERS) or (name.endswith(_MASK) and len(shape) == 4)


def _copies(base_shapes: Shapes) -> set[str]:
    """Copies of the embedding that the base's files hold and its model ties: they have no value of their own."""
    ends = [name for name in base_shapes if name.endswith(_TIED)]
    known = base_shapes.places if ends and isinstance(base_shapes, BaseShapes) else base_shapes
    return {name for name in ends if name not in known}


def resized_note(located: Located, base_shapes: Shapes) -> str:
    """Return what is said of a checkpoint whose vocabulary is larger than the base's; "" where none is.

    Args:
        located: where its tensors lie, as of `check_checkpoint`.
        base_shapes: the base's parameters.
    """
    for base_name, name in _match(located, base_shapes).items():
        rows, ours = located[name][1].shape[:1], base_shapes[base_name][:1]
        if rows != ours:
            return (
                f"its vocabulary was resized from {ours[0]} to {rows[0]} rows: the first {ours[0]} count, the others "
                "are left out, and with them what it learnt of tokens that the base does not have"
            )
    return ""


def _has_more_rows(name: str, shape: tuple[int, ...], base_shape: tuple[int, ...]) -> bool:
    """Whether a tensor is an embedding or head with tokens behind those of the base."""
    known = name.endswith((*EMBEDDINGS, *HEADS))
    return known and len(shape) == len(base_shape) == 2 and shape[1] == base_shape[1] and shape[0] > base_shape[0]


def _size_differs(name: str, shape: tuple[int, ...], base_shape: tuple[int, ...]) -> str:
    if len(shape) == len(base_shape) == 2 and shape[1] == base_shape[1] and ("embed" in name or "lm_head" in name):
        return f"the vocabulary was cut from {base_shape[0]} to {shape[0]}; take a checkpoint of the base's vocabulary"
    return f"{short_name(name)} is {shape}, the base's is {base_shape}; give the base it was trained on"


class CheckpointDelta(Mapping[str, DenseUpdate]):
    """Finetuned minus base, read from both at each access; `dict(delta)` keeps it in memory.

    >>> delta = read_checkpoint_delta(Path("base"), Path("base"))
    >>> bool(delta["model.norm.weight"].dense().any())
    False
    """

    def __init__(self, tuned: Located, base: Located, names: Mapping[str, str]) -> None:
        self._tuned = tuned
        self._base = base
        self._names = names

    def __getitem__(self, name: str) -> DenseUpdate:
        tuned, base = self._tuned[self._names[name]], self._base[name]
        try:
            ours, theirs = read_tensor(*base), read_tensor(*tuned)
            return DenseUpdate(theirs[: len(ours)] - ours)  # a resized vocabulary has its new tokens behind the base's
        except FileError as error:  # one of them changed since it was opened
            raise PoolError(f"{tuned[0].parent.name}: {error}") from error

    def base_weight(self, name: str) -> Float32Array:
        """Return the base's own weight of a parameter, float32.

        Args:
            name: the parameter.
        """
        return read_tensor(*self._base[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def read_checkpoint_delta(folder: Path, base_path: Path) -> WeightDelta:
    """Return a checkpoint as a lazy mapping of the base's parameter names to `DenseUpdate`, float32.

    Parameters that the finetuning left alone are in it, as zeros: to leave them out, both models would have to be read.

    Args:
        folder: the checkpoint's folder.
        base_path: the base's folder.

    Raises:
        PoolError: it cannot be read or does not fit the base; the message names the folder.
    """
    try:
        tuned, base = open_folder(folder), open_folder(base_path)
        floats = {name: info.shape for name, (_, info) in base.items() if info.is_float}
        names = _match(tuned, BaseShapes(floats, base_path, read_json(base_path / "config.json")))
    except (FileError, PoolError) as error:
        raise PoolError(f"{folder.name}: {error}") from error
    return CheckpointDelta(tuned, base, dict(sorted(names.items())))


def check_checkpoint_values(folder: Path, located: Located, base_path: Path, base_digest: str, hashes: Hashes) -> None:
    """Refuse a checkpoint with NaN or infinity, an untied head, or no change at all.

    Args:
        folder: the checkpoint's folder.
        located: where its tensors lie, as of `check_checkpoint`.
        base_path: the base's folder.
        base_digest: the base's digest.
        hashes: the memo, in which the result is kept under the files' hashes.

    Raises:
        PoolError: such values, with the parameter named.
    """
    try:
        key = f"values|{digest_of(weights_digests(located, hashes))}|{base_digest}"
        bad = remembered(hashes, key, lambda: _bad_values(read_checkpoint_delta(folder, base_path), located))
    except FileError as error:
        raise PoolError(str(error)) from error
    if bad:
        raise PoolError(bad)


def _bad_values(delta: WeightDelta, located: Located) -> str:
    changes = False
    for name in delta:
        update = delta[name].dense()
        if not np.isfinite(update).all():
            return f"{name} holds NaN or infinity; its training failed, take another checkpoint"
        changes = changes or bool(update.any())
    copies = [
        name for name in located if name.endswith(_TIED) and find_parameter(name, dict.fromkeys(delta, ())) is None
    ]
    embeddings = [name for name in located if name.endswith(("embed_tokens.weight", "wte.weight", "shared.weight"))]
    embeddings = [name for name in embeddings if name not in copies]
    for name in copies:  # the base has no parameter that could take a head of its own
        copy = read_tensor(*located[name])
        if not any(np.array_equal(copy, read_tensor(*located[other])) for other in embeddings):
            return (
                f"{short_name(name)} differs from the embedding, the base ties them; it cannot be merged into this base"
            )
    return "" if changes else "its weights are the base's, it changes nothing; take another checkpoint"


def weights_digests(located: Located, hashes: Hashes) -> list[str]:
    """Return the sha256 (hex) of each weight file of a model, in the order of the file names.

    Args:
        located: where its tensors lie.
        hashes: a memo of file hashes.

    Raises:
        FileError: a file cannot be read.
    """
    return [file_digest(path, hashes) for path in sorted({path for path, _ in located.values()})]


def checkpoint_fingerprint(folder: Path, located: Located, hashes: Hashes) -> str:
    """Return a sha256 (hex) that is equal for equal checkpoints of any name: weights and configuration.

    Args:
        folder: the checkpoint's folder.
        located: where its tensors lie.
        hashes: a memo of file hashes.

    Raises:
        PoolError: a file cannot be read.
    """
    try:
        return digest_of([weights_digests(located, hashes), config_meaning(read_json(folder / "config.json"))])
    except FileError as error:
        raise PoolError(str(error)) from error
