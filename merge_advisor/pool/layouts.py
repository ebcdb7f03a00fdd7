"""Adapters in other layouts than PEFT's one file: shards and MLX's own, written anew into the cache as PEFT's."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from merge_advisor.errors import PoolError, RunError
from merge_advisor.json_form import VERSION, digest_of, to_json
from merge_advisor.plain_text import short_name
from merge_advisor.pool.gguf_lora import read_gguf_lora
from merge_advisor.weights.adapter import ADAPTER_WEIGHTS
from merge_advisor.weights.adapter_config import ADAPTER_CONFIG, REWRITTEN
from merge_advisor.weights.base import LocalBase
from merge_advisor.weights.files import FileError, Hashes, file_digest, finite, read_json
from merge_advisor.weights.naming import EMBEDDINGS
from merge_advisor.weights.tensorfile import read_header, read_tensor, save_arrays
from merge_advisor.whole_files import whole_folder

SHARD_INDEX = f"{ADAPTER_WEIGHTS}.index.json"
MLX_WEIGHTS = "adapters.safetensors"
_SHARD = re.compile(r"adapter_model-\d+-of-\d+\.safetensors")
_MLX_KEY = re.compile(r"(?P<module>.+)\.(?P<part>lora_a|lora_b|m)")
_IMAGE = re.compile(
    r"(unet|text_encoder(_\d+)?|lora_unet_|lora_te\d?_|transformer\.(single_)?transformer_blocks|diffusion_model)[._]?.*"
)
"""How keys of adapters of image models begin, as Diffusers, kohya and ComfyUI write them."""


def folder_layout(folder: Path) -> str:
    """Return the layout of an adapter that has to be written anew: "shards", "MLX", or "" for PEFT's own or none.

    >>> folder_layout(Path("adapters/a0"))
    ''

    Args:
        folder: any folder.
    """
    if not (folder / ADAPTER_CONFIG).is_file() or (folder / ADAPTER_WEIGHTS).is_file():
        return ""
    if (folder / SHARD_INDEX).is_file():
        return "shards"
    return "MLX" if (folder / MLX_WEIGHTS).is_file() else ""


def in_peft_layout(folder: Path, layout: str, cache: Path, hashes: Hashes) -> Path:
    """Return a folder in the cache with an adapter in PEFT's layout; it is written if it is not there.

    Args:
        folder: the adapter's folder.
        layout: as `folder_layout` says.
        cache: folder of what was written.
        hashes: a memo of file hashes.

    Raises:
        PoolError: it cannot be read, or has no form in PEFT's layout.
    """
    try:
        config = read_json(folder / ADAPTER_CONFIG)
        files = _shards(folder) if layout == "shards" else [folder / MLX_WEIGHTS]
        place = cache / digest_of([VERSION, layout, finite(config), [file_digest(file, hashes) for file in files]])
        if not place.is_dir():
            tensors, settings = _joined(files), config
            if layout == "MLX":
                tensors, settings = _from_mlx(tensors, config)
            try:
                _write(place, tensors, settings, folder, layout)
            except RunError:
                if not place.is_dir():  # else another process was faster, with the same weights
                    raise
    except FileError as error:
        raise PoolError(str(error)) from error
    return place


def gguf_in_peft_layout(file: Path, base: LocalBase, cache: Path, hashes: Hashes) -> Path:
    """Return a folder in the cache with the LoRA of a GGUF file in PEFT's layout; it is written if it is not there.

    Args:
        file: the file.
        base: the base.
        cache: folder of what was written.
        hashes: a memo of file hashes.

    Raises:
        PoolError: as `read_gguf_lora`.
    """
    try:
        place = cache / digest_of([VERSION, "GGUF", file_digest(file, hashes), base.base.digest])
    except FileError as error:
        raise PoolError(str(error)) from error
    if not place.is_dir():
        tensors, settings = read_gguf_lora(file, base)
        try:
            _write(place, tensors, settings, file, "GGUF")
        except RunError:
            if not place.is_dir():  # else another process was faster, with the same weights
                raise
    return place


def foreign_adapter(folder: Path) -> str:
    """Return what a folder without a configuration of ours holds, if it is a known kind of adapter; else "".

    Args:
        folder: any folder.
    """
    for file in sorted(folder.glob("*.safetensors")):
        try:
            key = next(iter(read_header(file)), "")
        except FileError:
            continue
        if _IMAGE.fullmatch(key):
            return (
                f"{file.name}: holds {short_name(key)}, an adapter of an image model; only language models are merged, "
                "remove it"
            )
    if (folder / "adapters.npz").is_file():
        return "adapters.npz: MLX's older layout; train or save it again with mlx_lm, which writes adapters.safetensors"
    if any(folder.glob("*.distcp")):
        return "shards of a distributed checkpoint (.distcp); join them (accelerate merge-weights) and list the result"
    if (folder / "snapshots").is_dir():
        return "the hub's cache has no one commit of it (no refs/main); name the folder of one below its snapshots/"
    return ""


def _shards(folder: Path) -> list[Path]:
    listed = read_json(folder / SHARD_INDEX).get("weight_map")
    names = sorted(set(listed.values())) if isinstance(listed, dict) and listed else []
    for name in names:
        if not isinstance(name, str) or not _SHARD.fullmatch(name):
            raise PoolError(f"{SHARD_INDEX}: names {str(name)[:80]!r}, no shard of this folder; fetch it again")
    if not names:
        raise PoolError(f"{SHARD_INDEX}: has no weight_map of names to files; fetch it again")
    return [folder / name for name in names]


def _joined(files: list[Path]) -> dict[str, NDArray[np.float32]]:
    tensors: dict[str, NDArray[np.float32]] = {}
    for file in files:
        for key, info in read_header(file).items():
            if key in tensors:
                raise PoolError(f"{file.name}: holds {short_name(key)}, which another shard has; fetch it again")
            tensors[key] = read_tensor(file, info)
    return tensors


def _from_mlx(
    tensors: Mapping[str, NDArray[np.float32]], config: Mapping[str, Any]
) -> tuple[dict[str, NDArray[np.float32]], dict[str, Any]]:
    """MLX's factors and scale in PEFT's words: y = Wx + scale · (x A) B with A (in, r) and B (r, out)."""
    parameters = config.get("lora_parameters")
    if config.get("fine_tune_type", "lora") == "full" or not isinstance(parameters, dict):
        raise PoolError(
            f"{MLX_WEIGHTS}: whole weights or an older form of MLX's; fuse it (mlx_lm.fuse) and list the checkpoint"
        )
    scale = parameters.get("scale")
    if isinstance(scale, bool) or not isinstance(scale, (int, float)) or not math.isfinite(scale):
        raise PoolError(f"{ADAPTER_CONFIG}: lora_parameters.scale is {str(scale)[:40]!r}, not a number; correct it")
    found: dict[str, NDArray[np.float32]] = {}
    ranks, dora = {}, False
    for key, array in tensors.items():
        match = _MLX_KEY.fullmatch(key)
        if match is None or array.ndim != (1 if match["part"] == "m" else 2):
            raise PoolError(
                f"{MLX_WEIGHTS}: {short_name(key)} is no LoRA of a linear layer; fuse it (mlx_lm.fuse) and list the "
                "checkpoint"
            )
        name = f"base_model.model.{match['module']}"
        embedding = f"{match['module']}.weight".endswith(EMBEDDINGS)
        if match["part"] == "m":
            dora = True
            found[f"{name}.lora_magnitude_vector"] = array
            continue
        side = match["part"][-1].upper()
        ending = f"lora_embedding_{side}" if embedding else f"lora_{side}.weight"
        found[f"{name}.{ending}"] = np.ascontiguousarray(array.T)
        if side == "A":
            ranks[match["module"]] = array.shape[1]
    if len(set(ranks.values())) != 1:
        raise PoolError(f"{MLX_WEIGHTS}: its modules have no one rank; fuse it (mlx_lm.fuse) and list the checkpoint")
    rank = next(iter(ranks.values()))
    settings = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": scale * rank, "lora_dropout": 0.0,
        "base_model_name_or_path": str(config.get("model") or ""), "target_modules": sorted(ranks), "bias": "none",
        "use_dora": dora, "inference_mode": True, "init_lora_weights": True, "fan_in_fan_out": False,
    }  # fmt: skip
    return found, settings


def _write(
    place: Path, tensors: Mapping[str, NDArray[np.float32]], config: Mapping[str, Any], folder: Path, layout: str
) -> None:
    with whole_folder(place) as partial:
        save_arrays(tensors, partial / ADAPTER_WEIGHTS)
        (partial / ADAPTER_CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        (partial / REWRITTEN).write_text(to_json({"version": VERSION, "layout": layout, "source": folder.name}))
        if (folder / "README.md").is_file():
            shutil.copyfile(folder / "README.md", partial / "README.md")
