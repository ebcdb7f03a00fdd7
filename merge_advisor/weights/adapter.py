"""LoRA adapters in PEFT's layout (`adapter_config.json`, `adapter_model.safetensors`), read and written without PEFT.

What an adapter means is decided by its tensors and the base's shapes; the configuration gives the scale. A setting that
makes more of it than W + scale·B·A is refused by name.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from merge_advisor.errors import InputError, PoolError
from merge_advisor.types import digest_of
from merge_advisor.weights.adapter_config import CONFIG, MERGE, RETRAIN, AdapterConfig, read_adapter_config
from merge_advisor.weights.files import FileError, Hashes, file_digest
from merge_advisor.weights.naming import Shapes, conv1d_base, find_parameter, short
from merge_advisor.weights.tensorfile import TensorInfo, read_header, read_tensor
from merge_advisor.weights.updates import LowRankUpdate, WeightDelta
from merge_advisor.whole_files import whole_folder

WEIGHTS = "adapter_model.safetensors"

_KEY = re.compile(r"(?:base_model\.model\.)?(?P<module>.+)\.lora_(?P<side>[AB])(?:\.(?!weight$)[^.]+)?\.weight")


@dataclass(frozen=True, slots=True)
class PlacedFactors:
    """The two tensors of one module and what they do to the base's parameter."""

    module: str
    """Its name in the adapter, without PEFT's prefix."""
    a: TensorInfo
    b: TensorInfo
    scale: float
    transposed: bool

    @property
    def rank(self) -> int:
        """R, the inner dimension."""
        return self.a.shape[0]


def pair_up(header: Mapping[str, TensorInfo]) -> dict[str, tuple[TensorInfo, TensorInfo]]:
    """Pair the tensors of an adapter: module (PEFT's prefix taken off) -> (A, B).

    Raises:
        PoolError: a tensor that plain LoRA does not have, a pair without its other half, or shapes that do not chain.
    """
    sides: dict[str, dict[str, TensorInfo]] = {}
    for key, info in header.items():
        match = _KEY.fullmatch(key)
        if match is None:
            raise PoolError(f"{WEIGHTS}: {_what_it_holds(key)}")
        pair = sides.setdefault(match["module"], {})
        if match["side"] in pair:
            raise PoolError(
                f"{WEIGHTS}: two tensors for lora_{match['side']} of {match['module']}; save one adapter alone"
            )
        pair[match["side"]] = info
    if not sides:
        raise PoolError(f"{WEIGHTS}: holds no tensors; save the adapter again")
    for module, pair in sides.items():
        if len(pair) < 2:
            raise PoolError(f"{WEIGHTS}: {module} has one of lora_A and lora_B only; save the adapter again")
        a, b = pair["A"], pair["B"]
        if len(a.shape) != 2 or len(b.shape) != 2:
            raise PoolError(f"{WEIGHTS}: {module} is no linear layer (A {_by(a.shape)}); {RETRAIN}")
        if a.shape[0] != b.shape[1] or not a.shape[0]:
            raise PoolError(f"{WEIGHTS}: {module} has A {_by(a.shape)} and B {_by(b.shape)}; save the adapter again")
    return {module: (pair["A"], pair["B"]) for module, pair in sides.items()}


def _what_it_holds(key: str) -> str:
    if "lora_embedding_" in key:
        return f"LoRA on an embedding ({short(key)}) is not supported; {MERGE}"
    if "lora_magnitude_vector" in key:
        return f"DoRA ({short(key)}) is more than plain LoRA; {MERGE}"
    if key.endswith(".bias"):
        return f"holds trained biases ({short(key)}); {MERGE}"
    if "modules_to_save" in key or "lora_" not in key:
        return f"holds a whole weight ({short(key)}), as modules_to_save or a resized vocabulary leave; {MERGE}"
    return f"{short(key)} belongs to no plain LoRA; {RETRAIN}"


def check_and_map(
    settings: AdapterConfig, header: Mapping[str, TensorInfo], base_shapes: Shapes
) -> dict[str, PlacedFactors]:
    """Decide by keys and shapes whether an adapter fits, and map the base's parameter names to its tensors.

    A weight counts as stored (in, out) where its shape says so; a square one where the base's other layers do (GPT-2's
    Conv1D). `fan_in_fan_out` is not asked: PEFT, too, overrules it by the kind of layer.

    Raises:
        PoolError: tensors `pair_up` refuses, a module the base lacks, another size, or another rank than the
            configuration's.
    """
    placed: dict[str, PlacedFactors] = {}
    pairs = pair_up(header)
    conv1d = conv1d_base(base_shapes)
    absent = []
    for module, (a, b) in pairs.items():
        name = find_parameter(f"{module}.weight", base_shapes)
        if name is None:
            absent.append(module)
            continue
        shape, base_shape = (b.shape[0], a.shape[1]), base_shapes[name]
        if base_shape not in (shape, shape[::-1]):
            raise PoolError(
                f"{WEIGHTS}: {module} is {_by(shape)}, the base's is {_by(base_shape)}: another base or size; "
                "name the base it was trained on"
            )
        rank = a.shape[0]
        if settings.rank_of(module) != rank:
            wanted = settings.rank_of(module)
            raise PoolError(f"{WEIGHTS}: {module} has rank {rank}, {CONFIG} says {wanted}; correct r or rank_pattern")
        if name in placed:
            raise PoolError(f"{WEIGHTS}: {module} and {placed[name].module} both change {name}; save the adapter again")
        transposed = conv1d if shape[0] == shape[1] else base_shape != shape
        placed[name] = PlacedFactors(module, a, b, settings.scale_of(module, rank), transposed)
    if absent:
        raise PoolError(
            f"{WEIGHTS}: {len(absent)} of its {len(pairs)} modules are not in the base, e.g. {absent[0]}: "
            "another base, or a layer tied to the embedding; name the base it was trained on"
        )
    if not any(place.scale for place in placed.values()):
        raise PoolError(f"{CONFIG}: lora_alpha is 0, it changes nothing; correct it or take another adapter")
    return placed


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(str(length) for length in shape)


class AdapterDelta(Mapping[str, LowRankUpdate]):
    """The weight delta of an adapter, read from its file anew at each access; `dict(delta)` keeps it in memory."""

    def __init__(self, path: Path, placed: Mapping[str, PlacedFactors]) -> None:
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
    """Open an adapter as a lazy mapping of the base's parameter names to `LowRank` in float32.

    Raises:
        PoolError: it cannot be read, does not fit the base, or is more than plain LoRA; the message names the folder.
    """
    try:
        settings = read_adapter_config(folder)
        return AdapterDelta(folder / WEIGHTS, check_and_map(settings, read_weights_header(folder), base_shapes))
    except PoolError as error:
        raise PoolError(f"{folder.name}: {error}") from error


def read_weights_header(folder: Path) -> dict[str, TensorInfo]:
    """Read the header of `adapter_model.safetensors`.

    Raises:
        PoolError: absent, cut short, or pickle weights alone.
    """
    try:
        if not (folder / WEIGHTS).exists() and (folder / "adapter_model.bin").exists():
            raise PoolError(
                "adapter_model.bin: pickle weights are never opened; convert it to safetensors by "
                "`merge-advisor convert SOURCE --out DIR`"
            )
        return read_header(folder / WEIGHTS)
    except FileError as error:
        raise PoolError(str(error)) from error


def check_values(folder: Path, header: Mapping[str, TensorInfo], hashes: Hashes) -> None:
    """Refuse weights that hold NaN or infinity, or that change nothing; the answer is kept in `hashes` by content.

    Raises:
        PoolError: such values, with the module named.
    """
    path = folder / WEIGHTS
    try:
        key = f"values|{file_digest(path, hashes)}"
        if key not in hashes:
            hashes[key] = _bad_values(path, pair_up(header))
    except FileError as error:
        raise PoolError(str(error)) from error
    if hashes[key]:
        raise PoolError(f"{WEIGHTS}: {hashes[key]}")


def _bad_values(path: Path, pairs: Mapping[str, tuple[TensorInfo, TensorInfo]]) -> str:
    changes = False
    for module, (a_info, b_info) in pairs.items():
        a, b = read_tensor(path, a_info), read_tensor(path, b_info)
        if not (np.isfinite(a).all() and np.isfinite(b).all()):
            return f"{module} holds NaN or infinity; its training failed, take another adapter"
        changes = changes or bool(a.any() and b.any())
    return "" if changes else "all zero, it changes nothing; it was saved before training, take another adapter"


def adapter_fingerprint(folder: Path, settings: AdapterConfig, header: Mapping[str, TensorInfo], hashes: Hashes) -> str:
    """Sha256 over the bytes of the weights and the scale of each module: equal for the same adapter under any name.

    Raises:
        PoolError: the file cannot be read.
    """
    try:
        weights = file_digest(folder / WEIGHTS, hashes)
    except FileError as error:
        raise PoolError(str(error)) from error
    scales = {module: settings.scale_of(module, a.shape[0]) for module, (a, _) in pair_up(header).items()}
    return digest_of([weights, scales])


def write_adapter(
    folder: Path,
    delta: WeightDelta,
    *,
    base_name: str,
    task_type: str,
    dtype: Literal["float16", "float32"] = "float16",
    card: str = "",
    base_shapes: Shapes | None = None,
    prefix: str = "",
) -> None:
    """Write a low-rank weight delta as a PEFT folder that plain PEFT loads to the same weights, whole or not at all.

    Scales are folded into B, so that every module has alpha = r; modules of another rank than the commonest are listed
    in `rank_pattern` and `alpha_pattern`. `task_type` is "CAUSAL_LM" or "SEQ_2_SEQ_LM"; `card` becomes README.md. With
    `base_shapes`, `target_modules` are short names where those pick the same modules. `prefix`: see
    `naming.model_prefix`.

    Raises:
        InputError: `folder` is there or cannot be written, a member is a checkpoint, nothing is changed, or a value is
            too large for float16.
    """
    from safetensors.numpy import save_file

    tensors: dict[str, NDArray[np.floating]] = {}
    ranks: dict[str, int] = {}
    transposed = False
    for name in sorted(delta):
        update = delta[name]
        if not isinstance(update, LowRankUpdate) or not name.endswith(".weight"):
            raise InputError(f"{folder}: {name} has no LoRA factors; write a merge with checkpoints as a full model")
        if update.rank:
            module = prefix + name.removesuffix(".weight")
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
        "target_modules": _targets(ranks, base_shapes, prefix), "bias": "none", "modules_to_save": None,
        "fan_in_fan_out": transposed, "use_rslora": False, "use_dora": False, "init_lora_weights": True,
    }  # fmt: skip
    with whole_folder(folder) as partial:
        save_file(tensors, partial / WEIGHTS, metadata={"format": "pt"})
        (partial / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        if card:
            (partial / "README.md").write_text(card, encoding="utf-8")


def _stored(update: LowRankUpdate, dtype: str, where: str) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """A and scale·B; for float16 each pair of a row of A and a column of B is balanced by 2^n, exactly."""
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


def _targets(modules: Iterable[str], base_shapes: Shapes | None, prefix: str) -> list[str]:
    """Last parts of the names where PEFT's rule would pick these modules by them and no others, else full names."""
    wanted = set(modules)
    names = {module.rsplit(".", 1)[-1] for module in wanted}
    weights = (name for name in base_shapes or () if name.endswith(".weight"))
    picked = {prefix + name.removesuffix(".weight") for name in weights if name.split(".")[-2] in names}
    return sorted(names if picked == wanted else wanted)
