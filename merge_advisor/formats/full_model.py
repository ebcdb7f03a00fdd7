"""A merged model as a complete safetensors folder: base + ΔW, one tensor in memory at a time, without torch."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from merge_advisor.errors import BaseModelError, InputError, RunError, SpecError
from merge_advisor.weights.base import TOKENIZER_FILES
from merge_advisor.weights.files import FileError, read_json
from merge_advisor.weights.tensorfile import SIZES, Located, TensorInfo, open_folder, read_tensor
from merge_advisor.weights.updates import Update, WeightDelta
from merge_advisor.whole_files import whole_folder

Dtype = Literal["float32", "float16", "bfloat16"]

_CODES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
_EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "shared.weight", "word_embeddings.weight", "embed_in.weight")
_HEADS = ("lm_head.weight", "embed_out.weight")
_STACKS = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
_INDEX = "model.safetensors.index.json"
_BLOCK = 1 << 24


def write_full_model(base_path: Path, delta: WeightDelta, out: Path, dtype: Dtype = "float32") -> None:
    """Write base + ΔW as a model folder that transformers loads, whole or not at all.

    Shards, names and order are the base's; configuration, generation settings and tokenizer are copied. All float
    weights are written as `dtype`: rounding to half precision can be as large as ΔW, so float32 is the default. Copies
    of the embedding that the base ties (an output head, T5's two stacks) move with it.

    Args:
        base_path: folder of the base (config.json and safetensors).
        delta: parameter name, as in the base's files, -> update; empty writes the base itself.
        out: a folder that is not there yet.
        dtype: "float32", "float16" or "bfloat16" (rounded to nearest, ties to even).

    Raises:
        RunError: `out` is there already.
        SpecError: another dtype.
        BaseModelError: the base cannot be read.
        InputError: the delta does not fit the base, a merged weight is not finite in `dtype`, or `out` cannot be
            written.
    """
    if dtype not in get_args(Dtype):
        raise SpecError(f"dtype {dtype}: a model is written as float32, float16 or bfloat16; choose one of them")
    if out.exists() or out.is_symlink():
        raise RunError(f"{out}: is there already; name another folder, or remove it first")
    try:
        located, config = open_folder(base_path), read_json(base_path / "config.json")
        check_fits(delta, located)
        tied = tied_copies(located, config)
        with whole_folder(out) as partial:
            _write_shards(partial, located, delta, tied, dtype)
            _write_config(partial, config, dtype)
            for name in ("generation_config.json", *TOKENIZER_FILES):
                if (base_path / name).is_file():
                    shutil.copyfile(base_path / name, partial / name)
    except FileError as error:
        raise BaseModelError(f"base {base_path}: {error}") from error
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror or error}); free space or rename it") from error


def check_fits(delta: WeightDelta, located: Located) -> None:
    """Refuse a delta that names parameters the base does not have; shapes are checked when they are added.

    Raises:
        InputError: a name that the base's files lack, or that holds whole numbers there.
    """
    for name in delta:
        if name not in located:
            raise InputError(f"parameter {name} is not in the base; these members belong to another base")
        if not located[name][1].is_float:
            raise InputError(f"parameter {name} is {located[name][1].dtype} in the base; name an unquantised base")


def tied_copies(located: Located, config: Mapping[str, Any]) -> dict[str, str]:
    """Return copy -> embedding for stored tensors that the base keeps equal to its embedding.

    A head counts as tied unless the configuration says otherwise, T5's stacks always; both only where the values are
    equal, as a head that was trained apart is not.
    """
    tails = _STACKS if config.get("tie_word_embeddings") is False else (*_HEADS, *_STACKS)
    copies = [name for name in located if name.endswith(tails)]
    sources = [name for name in located if name.endswith(_EMBEDDINGS) and name not in copies]
    found: dict[str, str] = {}
    for copy in copies:
        for source in sources:
            if located[copy][1].shape == located[source][1].shape and np.array_equal(
                read_tensor(*located[copy]), read_tensor(*located[source])
            ):
                found[copy] = source
                break
    return found


def _updates_of(name: str, delta: WeightDelta, tied: Mapping[str, str]) -> list[Update]:
    """The updates of a parameter and of every other one that is tied to it."""
    source = tied.get(name, name)
    group = {source, *(copy for copy, other in tied.items() if other == source)}
    return [delta[member] for member in sorted(group) if member in delta]


def _write_shards(folder: Path, located: Located, delta: WeightDelta, tied: Mapping[str, str], dtype: Dtype) -> None:
    shards: dict[Path, dict[str, TensorInfo]] = {}
    for name, (path, info) in located.items():
        shards.setdefault(path, {})[name] = info
    size = 0
    for path, infos in sorted(shards.items()):
        in_order = dict(sorted(infos.items(), key=lambda item: item[1].start))
        with (folder / path.name).open("wb") as stream:
            size += _write_header(stream, in_order, dtype)
            for name, info in in_order.items():
                if info.is_float:
                    stream.write(_merged(name, path, info, _updates_of(name, delta, tied), dtype).tobytes())
                else:
                    _copy(path, info, stream)
    if [path.name for path in shards] != ["model.safetensors"]:
        weight_map = {name: path.name for name, (path, _) in sorted(located.items())}
        index = {"metadata": {"total_size": size}, "weight_map": weight_map}
        (folder / _INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _write_header(stream: BinaryIO, infos: Mapping[str, TensorInfo], dtype: Dtype) -> int:
    """Write the safetensors header of one shard; returns the bytes of its data."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    place = 0
    for name, info in infos.items():
        code = _CODES[dtype] if info.is_float else info.dtype
        end = place + math.prod(info.shape) * SIZES[code]
        header[name] = {"dtype": code, "shape": list(info.shape), "data_offsets": [place, end]}
        place = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # readers map the data: it begins at a multiple of 8 bytes
    stream.write(len(text).to_bytes(8, "little") + text)
    return place


def _merged(name: str, path: Path, info: TensorInfo, updates: list[Update], dtype: Dtype) -> NDArray[Any]:
    """Base + ΔW of one parameter in the layout of the file."""
    weight = read_tensor(path, info)
    for update in updates:
        if update.shape != info.shape:
            raise InputError(f"parameter {name}: update is {update.shape}, base is {info.shape}; another base or size")
        weight += update.dense()
    stored = to_dtype(weight, dtype)
    # bfloat16 comes as bits: with all exponent bits set it is infinity or NaN
    finite = (stored & 0x7F80) != 0x7F80 if dtype == "bfloat16" else np.isfinite(stored)
    if not finite.all():
        raise InputError(f"parameter {name}: base + merge is not finite in {dtype}; use smaller weights or float32")
    return stored


def to_dtype(array: NDArray[np.float32], dtype: Dtype) -> NDArray[Any]:
    """Round float32 to what the file holds, little-endian; bfloat16 comes as its 16 bits, uint16."""
    if dtype == "bfloat16":  # the upper half of a float32, rounded to nearest, ties to even
        bits = np.ascontiguousarray(array, dtype="<f4").view("<u4")
        rounded = (bits + (((bits >> 16) & 1) + np.uint32(0x7FFF))) >> 16
        return np.where(np.isnan(array), np.uint32(0x7FC0), rounded).astype("<u2")
    with np.errstate(over="ignore"):  # too large for float16 becomes inf, which is refused by name
        return array.astype("<f4" if dtype == "float32" else "<f2")


def _copy(path: Path, info: TensorInfo, stream: BinaryIO) -> None:
    """Copy the bytes of a tensor that is no float."""
    with path.open("rb") as source:
        source.seek(info.start)
        left = info.end - info.start
        while left:
            block = source.read(min(left, _BLOCK))
            if not block:
                raise FileError(f"{path.name}: cut short while it was read; fetch it again")
            stream.write(block)
            left -= len(block)


def _write_config(folder: Path, config: Mapping[str, Any], dtype: Dtype) -> None:
    """Copy config.json, saying what dtype the weights have now."""
    kept = {key: value for key, value in config.items() if key != "torch_dtype"} | {"dtype": dtype}
    (folder / "config.json").write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")
