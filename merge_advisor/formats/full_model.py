"""A merged model as a complete safetensors folder: base + ΔW, one tensor in memory at a time, without torch."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from merge_advisor.arrays import Float32Array
from merge_advisor.errors import BaseModelError, InputError, RunError
from merge_advisor.weights.base import TOKENIZER_FILES
from merge_advisor.weights.files import FileError, read_json
from merge_advisor.weights.naming import EMBEDDINGS, HEADS, find_parameter
from merge_advisor.weights.tensorfile import (
    Located,
    TensorInfo,
    copy_tensor,
    open_folder,
    read_tensor,
    rounded_to,
    tensor_bytes,
    write_shard_index,
    write_tensor_header,
)
from merge_advisor.weights.updates import Update, WeightDelta
from merge_advisor.whole_files import replaced_folder, whole_folder

_STACKS = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
"""Ends of the names of T5's two stacks of embeddings."""


@dataclass
class _Lost:
    """What rounding takes of a change, as sums of squares."""

    change: float = 0.0
    rounding: float = 0.0

    @property
    def share(self) -> float:
        return math.sqrt(self.rounding / self.change) if self.change else 0.0


def write_full_model(
    base_path: Path, delta: WeightDelta, out: Path, *, own_dtype: bool = False, texts: Mapping[str, str] | None = None
) -> float:
    """Write base + ΔW as a model folder that transformers loads, whole or not at all.

    Shards, names and order are the base's; configuration, generation settings and tokenizer are copied. Copies of the
    embedding that the base ties (an output head, T5's two stacks) move with it.

    Args:
        base_path: folder of the base (config.json and safetensors).
        delta: parameter name, as in the base's files, -> update; empty writes the base itself.
        out: a folder that is not there yet.
        own_dtype: write each weight in the base's dtype, rounded once; else all floats as float32, since rounding to
            half precision can be as large as ΔW.
        texts: further files of the folder by name, such as recipe.json.

    Returns:
        What rounding takes of ΔW, as a share of its Frobenius norm; 0 where nothing is rounded.

    Raises:
        RunError: `out` is there already.
        BaseModelError: the base cannot be read.
        InputError: the delta does not fit the base, a merged weight is not finite, or `out` cannot be written.

    >>> import tempfile
    >>> out = Path(tempfile.mkdtemp()) / "model"
    >>> write_full_model(Path("base"), {}, out)
    0.0
    >>> sorted(path.name for path in out.iterdir() if path.suffix in (".safetensors", ".json"))[0]
    'config.json'
    """
    if out.exists() or out.is_symlink():
        raise RunError(f"{out}: is there already; name another folder, or remove it first")
    try:
        located, config = open_folder(base_path), read_json(base_path / "config.json")
        check_fits(delta, located)
        tied = tied_copies(located, config)
        lost = _Lost()
        with whole_folder(out) as partial:
            _write_shards(partial, located, delta, tied, lost if own_dtype else None)
            _write_config(partial, config, own_dtype=own_dtype)
            for name in ("generation_config.json", *TOKENIZER_FILES):
                if (base_path / name).is_file():
                    shutil.copyfile(base_path / name, partial / name)
            for name, text in (texts or {}).items():
                (partial / name).write_text(text, encoding="utf-8", errors="surrogatepass")
        return lost.share
    except FileError as error:
        raise BaseModelError(f"base {base_path}: {error}") from error
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror or error}); free space or rename it") from error


def half_precision(base_path: Path) -> str:
    """Return the half precision that a base's weights are kept in, "bfloat16" or "float16"; "" where it is none.

    Args:
        base_path: folder of the base.
    """
    dtypes = {info.dtype for _, info in open_folder(base_path).values()}
    return "bfloat16" if "BF16" in dtypes else "float16" if "F16" in dtypes else ""


def to_own_dtype(folder: Path, base_path: Path) -> None:
    """Round a float32 model to the dtypes that the base has its weights in; the folder is replaced as a whole.

    Args:
        folder: of the model, as another program wrote it.
        base_path: folder of the base.

    Raises:
        InputError: a weight is beyond float16.
    """
    located, model = open_folder(base_path), open_folder(folder)
    dtypes = {name: _written(info, own=True) for name, (_, info) in located.items()}
    shapes = {name: info.shape for name, (_, info) in located.items()}
    with replaced_folder(folder) as partial:
        for path, infos in _by_file(model).items():
            names = {name: find_parameter(name, shapes) for name in infos}
            layout = {name: (dtypes.get(names[name] or "", info.dtype), info.shape) for name, info in infos.items()}
            with (partial / path.name).open("wb") as stream:
                write_tensor_header(stream, layout)
                for name, info in infos.items():
                    if not info.is_float:
                        copy_tensor(path, info, stream)
                        continue
                    rounded = _rounded(read_tensor(path, info), layout[name][0], f"parameter {name}: is")
                    stream.write(tensor_bytes(rounded, layout[name][0]))
        for path in folder.iterdir():
            if path.is_file() and not (partial / path.name).exists():
                shutil.copyfile(path, partial / path.name)
        config, own = read_json(folder / "config.json"), read_json(base_path / "config.json")
        kept = {key: value for key, value in config.items() if key not in ("dtype", "torch_dtype")}
        kept |= {"dtype": own.get("dtype") or own.get("torch_dtype") or half_precision(base_path)}
        (partial / "config.json").write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")


def check_fits(delta: WeightDelta, located: Located) -> None:
    """Refuse a delta that names parameters the base does not have; shapes are checked when they are added.

    Args:
        delta: parameter name -> update.
        located: the base's tensors.

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

    Args:
        located: the base's tensors.
        config: its config.json.
    """
    # transformers ties by default: only an explicit false frees the head
    tails = _STACKS if config.get("tie_word_embeddings") is False else (*HEADS, *_STACKS)
    copies = [name for name in located if name.endswith(tails)]
    sources = [name for name in located if name.endswith(EMBEDDINGS) and name not in copies]
    tied: dict[str, str] = {}
    for copy in copies:
        for source in sources:
            if located[copy][1].shape == located[source][1].shape and np.array_equal(
                read_tensor(*located[copy]), read_tensor(*located[source])
            ):
                tied[copy] = source
                break
    return tied


def _updates_of(name: str, delta: WeightDelta, tied: Mapping[str, str]) -> list[Update]:
    """Return the updates of a parameter and of every other one that is tied to it."""
    source = tied.get(name, name)
    group = {source, *(copy for copy, other in tied.items() if other == source)}
    return [delta[member] for member in sorted(group) if member in delta]


def _write_shards(
    folder: Path, located: Located, delta: WeightDelta, tied: Mapping[str, str], lost: _Lost | None
) -> None:
    """Write the weights: in the base's own dtypes, counting what that loses, or all in float32 (`lost` is None)."""
    size = 0
    for path, infos in sorted(_by_file(located).items()):
        # one tensor after the other, in the order of the base's file: both files are read and written from end to end
        in_order = dict(sorted(infos.items(), key=lambda item: item[1].start))
        layout = {name: (_written(info, own=lost is not None), info.shape) for name, info in in_order.items()}
        with (folder / path.name).open("wb") as stream:
            size += write_tensor_header(stream, layout)
            for name, info in in_order.items():
                updates = _updates_of(name, delta, tied)
                if info.is_float and (updates or info.dtype != layout[name][0]):
                    stream.write(tensor_bytes(_merged(name, path, info, updates, lost), layout[name][0]))
                else:
                    copy_tensor(path, info, stream)
    write_shard_index(folder, {name: path.name for name, (path, _) in located.items()}, size)


def _by_file(located: Located) -> dict[Path, dict[str, TensorInfo]]:
    """The tensors of each file, in the order they were given in."""
    files: dict[Path, dict[str, TensorInfo]] = {}
    for name, (path, info) in located.items():
        files.setdefault(path, {})[name] = info
    return files


def _rounded(weight: Float32Array, dtype: str, what: str) -> Float32Array:
    """Return a weight as a file of this dtype holds it, or raise InputError that begins with `what`."""
    rounded = rounded_to(weight, dtype)
    if not np.isfinite(rounded).all():
        raise InputError(f"{what} beyond float16; write it in float32 (`dtype=float32`)")
    return rounded


def _written(info: TensorInfo, *, own: bool) -> str:
    return info.dtype if not info.is_float or (own and info.dtype in ("BF16", "F16")) else "F32"


def _merged(name: str, path: Path, info: TensorInfo, updates: list[Update], lost: _Lost | None) -> Float32Array:
    """Return base + ΔW of one parameter; `lost` gets what its dtype loses of that."""
    weight = read_tensor(path, info)
    before = weight.copy() if updates and lost else weight
    for update in updates:
        if update.shape != info.shape:
            raise InputError(f"parameter {name}: update is {update.shape}, base is {info.shape}; another base or size")
        weight += update.dense()
    if not np.isfinite(weight).all():
        raise InputError(f"parameter {name}: base + merge is not finite; use smaller weights")
    if updates and lost:
        rounded = _rounded(weight, _written(info, own=True), f"parameter {name}: base + merge is")
        lost.change += float(np.square(weight - before, dtype=np.float64).sum())
        lost.rounding += float(np.square(rounded - weight, dtype=np.float64).sum())
    return weight


def _write_config(folder: Path, config: Mapping[str, Any], *, own_dtype: bool) -> None:
    """Copy config.json, saying what dtype the weights have now."""
    kept = dict(config)
    if not own_dtype:
        kept = {key: value for key, value in config.items() if key != "torch_dtype"} | {"dtype": "float32"}
    (folder / "config.json").write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")
