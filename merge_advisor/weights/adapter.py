"""LoRA adapters in PEFT's layout (`adapter_config.json`, `adapter_model.safetensors`), read without PEFT.

What an adapter means is decided by its tensors and the base's shapes; the configuration gives the scale. A setting that
makes more of it than W + scale·B·A is refused by name.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from merge_advisor.errors import PoolError
from merge_advisor.json_form import digest_of
from merge_advisor.plain_text import short_name
from merge_advisor.weights.adapter_config import (
    ADAPTER_CONFIG,
    MERGE_FIRST,
    RETRAIN,
    AdapterConfig,
    NotPlainLoraError,
    read_adapter_config,
)
from merge_advisor.weights.files import FileError, Hashes, file_digest, remembered
from merge_advisor.weights.naming import EMBEDDINGS, HEADS, Shapes, find_parameter, is_conv1d
from merge_advisor.weights.parameter_map import BaseShapes
from merge_advisor.weights.saved_copies import copied_name
from merge_advisor.weights.tensorfile import TensorInfo, read_header, read_tensor
from merge_advisor.weights.updates import LowRankUpdate, WeightDelta

ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTER_PICKLE = "adapter_model.bin"
"""The older form of the weights, a pickle; never opened in this process."""

_KEY = re.compile(
    r"(?:_orig_mod\.)?(?:base_model\.model\.)?(?P<module>.+)\.lora_(?P<side>[AB])(?:\.(?!weight$)[^.]+)?\.weight"
)
_WRAPPERS = re.compile(r"(?:(?<=\.)|^)(?:_orig_mod|_checkpoint_wrapped_module|_fsdp_wrapped_module)\.")
"""What torch puts into names when a module is compiled, checkpointed or sharded: no part of the model's own names."""


@dataclass(frozen=True, slots=True)
class LoraFactors:
    """The two tensors of one module and what they do to the base's parameter.

    >>> a, b = TensorInfo("F32", (4, 32), 0, 512), TensorInfo("F32", (16, 4), 512, 768)
    >>> LoraFactors("model.layers.0.self_attn.v_proj", a, b, scale=2.0, transposed=False).rank
    4
    """

    module: str
    """Its name in the adapter, without PEFT's prefix."""
    a: TensorInfo
    b: TensorInfo
    scale: float
    """alpha / r, or alpha / sqrt(r) for rsLoRA."""
    transposed: bool
    """Whether the base stores the weight as (in, out), as GPT-2's Conv1D."""

    @property
    def rank(self) -> int:
        """The inner dimension, PEFT's r."""
        return self.a.shape[0]


def pair_factors(header: Mapping[str, TensorInfo]) -> dict[str, tuple[TensorInfo, TensorInfo]]:
    """Pair the tensors of an adapter; embeddings and heads beside them are left out, `check_copies` judges those.

    >>> header = read_weights_header(Path("adapters/a0"))
    >>> a, b = pair_factors(header)["model.layers.0.self_attn.v_proj"]
    >>> a.shape, b.shape
    ((4, 32), (16, 4))

    Args:
        header: tensor name -> its place, of `adapter_model.safetensors`.

    Returns:
        Module name, without PEFT's prefix and what torch's wrappers add, -> (A, B).

    Raises:
        NotPlainLoraError: a tensor that plain LoRA does not have.
        PoolError: a pair without its other half, or shapes that do not chain.
    """
    sides: dict[str, dict[str, TensorInfo]] = {}
    for key, info in header.items():
        part = _known_part(key) if len(key) < _LONG else _part(key)
        if part is None:
            if copied_name(key) is not None:  # no change where it equals the base's, see `check_copies`
                continue
            raise NotPlainLoraError(f"{ADAPTER_WEIGHTS}: {_what_it_holds(key)}")
        module, side = part
        pair = sides.setdefault(module, {})
        if side in pair:
            raise PoolError(
                f"{ADAPTER_WEIGHTS}: two tensors for lora_{side} of {short_name(module)}; save one adapter alone"
            )
        pair[side] = info
    if not sides:
        raise PoolError(f"{ADAPTER_WEIGHTS}: holds no tensors; save the adapter again")
    for module, pair in sides.items():
        if len(pair) < 2:
            raise PoolError(
                f"{ADAPTER_WEIGHTS}: {short_name(module)} has one of lora_A and lora_B only; save the adapter again"
            )
        a, b = pair["A"], pair["B"]
        if len(a.shape) != 2 or len(b.shape) != 2:
            raise NotPlainLoraError(
                f"{ADAPTER_WEIGHTS}: {short_name(module)} is no linear layer (A {_by(a.shape)}); {RETRAIN}"
            )
        if a.shape[0] != b.shape[1] or not a.shape[0]:
            raise PoolError(
                f"{ADAPTER_WEIGHTS}: {short_name(module)} has A {_by(a.shape)} and B {_by(b.shape)}; save the adapter "
                "again"
            )
    return {module: (pair["A"], pair["B"]) for module, pair in sides.items()}


def _part(key: str) -> tuple[str, str] | None:
    """The module that a tensor is a factor of, and which: A or B; None where it is none."""
    match = _KEY.fullmatch(key)
    return None if match is None else (_WRAPPERS.sub("", match["module"]), match["side"])


_LONG = 300
"""Characters of a name that is not remembered."""
_known_part = functools.lru_cache(maxsize=1 << 14)(_part)
"""All adapters of a pool have the same names, and reading these is most of opening one that is known."""


def _what_it_holds(key: str) -> str:
    if "lora_embedding_" in key:
        return f"LoRA on an embedding ({short_name(key)}) is not supported; {MERGE_FIRST}"
    if "lora_magnitude_vector" in key:
        return f"DoRA ({short_name(key)}) is more than plain LoRA; {MERGE_FIRST}"
    if key.endswith(".bias"):
        return f"holds trained biases ({short_name(key)}); {MERGE_FIRST}"
    if "modules_to_save" in key or "lora_" not in key:
        return (
            f"holds a whole weight ({short_name(key)}), as modules_to_save or a resized vocabulary leave; {MERGE_FIRST}"
        )
    return f"{short_name(key)} belongs to no plain LoRA; {RETRAIN}"


def map_factors(
    settings: AdapterConfig, header: Mapping[str, TensorInfo], base_shapes: Shapes
) -> dict[str, LoraFactors]:
    """Decide by names and shapes whether an adapter fits its base, and map the base's parameter names to its tensors.

    A weight counts as stored (in, out) where its shape says so; a square one where the base's other layers do (GPT-2's
    Conv1D). `fan_in_fan_out` does not count: PEFT, too, overrules it by the kind of layer.

    Args:
        settings: the adapter's configuration.
        header: tensor name -> its place, of `adapter_model.safetensors`.
        base_shapes: the base's parameters.

    Returns:
        The base's parameter name -> factors.

    Raises:
        PoolError: tensors that `pair_factors` refuses, a module the base lacks, another size, or another rank than the
            configuration's.
    """
    placed: dict[str, LoraFactors] = {}
    pairs = pair_factors(header)
    conv1d = is_conv1d(base_shapes)
    absent = []
    for module, (a, b) in pairs.items():
        name = find_parameter(f"{module}.weight", base_shapes)
        if name is None or _is_tied_copy(name, base_shapes):
            absent.append(module)
            continue
        shape, base_shape = (b.shape[0], a.shape[1]), base_shapes[name]
        if base_shape not in (shape, shape[::-1]):
            shown = short_name(module)
            if f"{module}.weight".endswith(HEADS) and base_shape[1:] == shape[1:]:
                raise NotPlainLoraError(
                    f"{ADAPTER_WEIGHTS}: {shown} has {shape[0]} rows, the base's {base_shape[0]}: its vocabulary was "
                    f"resized; {MERGE_FIRST}"
                )
            raise PoolError(
                f"{ADAPTER_WEIGHTS}: {shown} is {_by(shape)}, the base's is {_by(base_shape)}: another base or size; "
                "give the base it was trained on"
            )
        rank = a.shape[0]
        if settings.rank_of(module) != rank:
            shown, wanted = short_name(module), settings.rank_of(module)
            raise PoolError(
                f"{ADAPTER_WEIGHTS}: {shown} has rank {rank}, {ADAPTER_CONFIG} says {wanted}; correct r or rank_pattern"
            )
        if name in placed:
            shown, other = short_name(module), short_name(placed[name].module)
            raise PoolError(f"{ADAPTER_WEIGHTS}: {shown} and {other} both change {name}; save the adapter again")
        transposed = conv1d if shape[0] == shape[1] else base_shape != shape
        placed[name] = LoraFactors(module, a, b, settings.scale_of(module, rank), transposed)
    if absent and all(_is_tied_head(module, pairs[module][0], base_shapes) for module in absent):
        raise PoolError(
            f"{ADAPTER_WEIGHTS}: changes {short_name(absent[0])}, which in this base is the embedding: merged, it "
            "would change what the model reads as well; train it without the head, or on a base that has one of its own"
        )
    if absent:
        raise PoolError(
            f"{ADAPTER_WEIGHTS}: {len(absent)} of its {len(pairs)} modules are not in the base, e.g. "
            f"{short_name(absent[0])}: another base; give the one it was trained on"
        )
    if not any(place.scale for place in placed.values()):
        raise PoolError(f"{ADAPTER_CONFIG}: lora_alpha is 0, it changes nothing; correct it or take another adapter")
    return placed


def _is_tied_copy(name: str, base_shapes: Shapes) -> bool:
    """Whether a head of the files is a copy that the model in memory does not have apart from its embedding."""
    return name.endswith(HEADS) and isinstance(base_shapes, BaseShapes) and name not in base_shapes.places


def _is_tied_head(module: str, a: TensorInfo, base_shapes: Shapes) -> bool:
    """Whether a module that the base's files lack is an output head as wide as its embedding, of any vocabulary."""
    return f"{module}.weight".endswith(HEADS) and any(
        shape[1:] == a.shape[1:] and name.endswith(EMBEDDINGS) for name, shape in base_shapes.items()
    )


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(str(length) for length in shape)


class AdapterDelta(Mapping[str, LowRankUpdate]):
    """The weight delta of an adapter, read from its file at each access; `dict(delta)` keeps it in memory.

    >>> from merge_advisor.weights.tensorfile import open_folder
    >>> shapes = {name: info.shape for name, (_, info) in open_folder(Path("base")).items()}
    >>> delta = read_adapter(Path("adapters/a0"), shapes)
    >>> len(delta), delta["model.layers.0.self_attn.v_proj.weight"].shape
    (4, (16, 32))
    """

    def __init__(self, path: Path, placed: Mapping[str, LoraFactors]) -> None:
        self._path = path
        self._placed = placed

    def __getitem__(self, name: str) -> LowRankUpdate:
        place = self._placed[name]
        try:
            a, b = read_tensor(self._path, place.a), read_tensor(self._path, place.b)
        except FileError as error:  # it changed since it was opened
            raise PoolError(f"{self._path.parent.name}: {error}") from error
        return LowRankUpdate(a, b, place.scale, place.transposed)

    def __iter__(self) -> Iterator[str]:
        return iter(self._placed)

    def __len__(self) -> int:
        return len(self._placed)


def read_adapter(folder: Path, base_shapes: Shapes) -> WeightDelta:
    """Return an adapter as a lazy mapping of the base's parameter names to `LowRankUpdate` in float32.

    Embeddings and heads that were saved beside its factors are not looked at; opening a pool refuses trained ones.

    Args:
        folder: the adapter's folder.
        base_shapes: the base's parameters.

    Raises:
        PoolError: it cannot be read, does not fit the base, or is more than plain LoRA; the message names the folder.
    """
    try:
        settings = read_adapter_config(folder)
        return AdapterDelta(folder / ADAPTER_WEIGHTS, map_factors(settings, read_weights_header(folder), base_shapes))
    except PoolError as error:
        raise PoolError(f"{folder.name}: {error}") from error


def read_weights_header(folder: Path) -> dict[str, TensorInfo]:
    """Return the header of `adapter_model.safetensors`: tensor name -> its place.

    Args:
        folder: the adapter's folder.

    Raises:
        PoolError: absent, cut short, or pickle weights alone.
    """
    try:
        if not (folder / ADAPTER_WEIGHTS).exists() and (folder / ADAPTER_PICKLE).exists():
            raise PoolError(
                f"{ADAPTER_PICKLE}: pickle weights are never opened; convert it to safetensors by "
                "`convert(source, out=DIR)`"
            )
        return read_header(folder / ADAPTER_WEIGHTS)
    except FileError as error:
        raise PoolError(str(error)) from error


def check_values(folder: Path, header: Mapping[str, TensorInfo], hashes: Hashes) -> None:
    """Refuse weights that hold NaN or infinity, or that change nothing.

    Args:
        folder: the adapter's folder.
        header: tensor name -> its place, of `adapter_model.safetensors`.
        hashes: the memo, in which the result is kept under the file's hash.

    Raises:
        PoolError: such values, with the module named.
    """
    path = folder / ADAPTER_WEIGHTS
    try:
        # reading all weights takes minutes for a large pool: what was seen once is kept by content
        key = f"values|{file_digest(path, hashes)}"
        bad = remembered(hashes, key, lambda: _bad_values(path, pair_factors(header)))
    except FileError as error:
        raise PoolError(str(error)) from error
    if bad:
        raise PoolError(f"{ADAPTER_WEIGHTS}: {bad}")


def _bad_values(path: Path, pairs: Mapping[str, tuple[TensorInfo, TensorInfo]]) -> str:
    changes = False
    for module, (a_info, b_info) in pairs.items():
        a, b = read_tensor(path, a_info), read_tensor(path, b_info)
        if not (np.isfinite(a).all() and np.isfinite(b).all()):
            return f"{short_name(module)} holds NaN or infinity; its training failed, take another adapter"
        changes = changes or bool(a.any() and b.any())
    return "" if changes else "all zero, it changes nothing; it was saved before training, take another adapter"


def adapter_fingerprint(folder: Path, scales: Mapping[str, float], hashes: Hashes) -> str:
    """Return a sha256 (hex) that is equal for equal adapters of any name: weights, and the scale of each module.

    Args:
        folder: the adapter's folder.
        scales: by module, as of `map_factors`.
        hashes: a memo of file hashes.

    Raises:
        PoolError: the file cannot be read.
    """
    try:
        return digest_of([file_digest(folder / ADAPTER_WEIGHTS, hashes), dict(scales)])
    except FileError as error:
        raise PoolError(str(error)) from error
