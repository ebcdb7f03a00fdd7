"""Models whose weights are quantised as plain weights in the cache: dequantised once, one tensor after the other."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from merge_advisor.errors import RunError
from merge_advisor.progress import Progress, quiet_progress
from merge_advisor.weights.adapter_config import REWRITTEN
from merge_advisor.weights.files import FileError, read_json
from merge_advisor.weights.packed_weights import DTYPES, PackedWeight
from merge_advisor.weights.quantised import (
    find_packed,
    is_of_activations,
    quantisation,
    read_packed,
    without_quantisation,
)
from merge_advisor.weights.tensorfile import (
    SIZES,
    Located,
    TensorInfo,
    copy_tensor,
    open_folder,
    tensor_bytes,
    write_shard_index,
    write_tensor_header,
)
from merge_advisor.whole_files import whole_folder

_DTYPE_NAMES = {code: name for name, code in DTYPES.items()}
_WEIGHT_FILES = (".safetensors", ".safetensors.index.json", ".bin", ".pt", ".pth", ".gguf")
"""Ends of the names of files that are not copied with the others."""
_COPIED = 64 * 2**20
"""Largest other file that is, in bytes."""


@dataclass(frozen=True, slots=True, eq=False)
class QuantisedModel:
    """A model whose weights are quantised, looked at; nothing is dequantised yet.

    >>> look_at_quantised(Path("base")) is None
    True
    """

    folder: Path
    config: dict[str, Any]
    located: Located
    packed: dict[str, PackedWeight]

    @property
    def size(self) -> int:
        """Bytes that the dequantised weights take."""
        return sum(math.prod(shape) * SIZES[dtype] for dtype, shape in self.layout().values())

    def layout(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Return dtype and shape of each dequantised tensor, by name, in the order of the files."""
        firsts = {weight.parts[0]: weight for weight in self.packed.values()}
        parts = {part for weight in self.packed.values() for part in weight.parts}
        found: dict[str, tuple[str, tuple[int, ...]]] = {}
        for name, (_, info) in _in_order(self.located):
            if name in firsts:
                found[firsts[name].name] = (firsts[name].dtype, firsts[name].shape)
            elif name not in parts and not is_of_activations(name):
                found[name] = (info.dtype, info.shape)
        return found

    @property
    def sentence(self) -> str:
        """What is said of it: how it is quantised, and what the dequantised copy is and takes."""
        dtypes = " and ".join(sorted({_DTYPE_NAMES[weight.dtype] for weight in self.packed.values()}))
        return (
            f"its weights are quantised ({quantisation(self.config)}): dequantised once, to {dtypes}, a copy of "
            f"{gigabytes(self.size)} in the cache"
        )


def gigabytes(size: int) -> str:
    """Return a number of bytes as text.

    >>> gigabytes(2_471_645_608), gigabytes(90_000)
    ('2.5 GB', '0.0001 GB')

    Args:
        size: bytes.
    """
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{max(size, 1e5) / 1e9:.1g} GB"


def look_at_quantised(folder: Path) -> QuantisedModel | None:
    """Return what is quantised in a model's folder; None where nothing is.

    Args:
        folder: of config.json and safetensors.

    Raises:
        FileError: it cannot be read, or is quantised in a way that is not read here.
    """
    if not (folder / "config.json").is_file():
        return None
    config = read_json(folder / "config.json")
    if not quantisation(config):
        return None
    located = open_folder(folder)
    return QuantisedModel(folder, config, located, find_packed(located, config))


def dequantised_copy(model: QuantisedModel, place: Path, progress: Progress = quiet_progress) -> Path:
    """Return the folder of a model's dequantised weights; it is made if it is not there.

    Names, files and order are the model's; what is no quantised weight is copied to the byte, and so are tokenizer and
    settings.

    Args:
        model: the quantised one.
        place: the folder, named by the digest of the model.
        progress: called with (what, done, total).

    Raises:
        FileError: no room for it, or a weight that is not whole.
        RunError: it cannot be written.
    """
    if place.exists():
        return place
    free = shutil.disk_usage(next(part for part in (place, *place.parents) if part.exists())).free
    if free < model.size:
        raise FileError(
            f"{model.sentence}, where {gigabytes(free)} are free; free space, or name another folder by `cache`"
        )
    made_once(place, lambda partial: _write(model, partial, progress))
    return place


def said_of_copy(folder: Path) -> str:
    """Return the sentence of the model that a folder is the dequantised copy of; "" where it is none.

    Args:
        folder: of a model.

    Raises:
        FileError: what the copy says of itself cannot be read.
    """
    about = read_json(folder / REWRITTEN) if (folder / REWRITTEN).is_file() else {}
    return str(about.get("said") or "")


def made_once(folder: Path, make: Callable[[Path], object]) -> None:
    """Make a folder of the cache, whole or not at all; one that another process made meanwhile is as good.

    Args:
        folder: named by all that its content depends on.
        make: fills the folder that it is given.

    Raises:
        RunError: it cannot be written.
    """
    if folder.exists():
        return
    try:
        with whole_folder(folder) as partial:
            make(partial)
    except RunError:
        if not folder.exists():  # else another process was faster, with the same content
            raise


def _in_order(located: Located) -> list[tuple[str, tuple[Path, TensorInfo]]]:
    return sorted(located.items(), key=lambda item: (item[1][0], item[1][1].start))


def _write(model: QuantisedModel, folder: Path, progress: Progress) -> None:
    what = f"dequantising {model.folder.name}: {model.sentence}"
    layout, files = model.layout(), _files_of(model)
    done, total = 0, len(layout)
    progress(what, 0, total)
    for file, names in files.items():
        with (folder / file).open("wb") as stream:
            write_tensor_header(stream, {name: layout[name] for name in names})
            for name in names:
                if name in model.packed:
                    stream.write(tensor_bytes(read_packed(model.packed[name]), layout[name][0]))
                else:
                    copy_tensor(*model.located[name], stream)
                done += 1
                progress(what, done, total)
    write_shard_index(folder, {name: file for file, names in files.items() for name in names}, model.size)
    config = without_quantisation(model.config) | _dtype_said(model)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    about = {"said": model.sentence, "source": model.folder.name}
    (folder / REWRITTEN).write_text(json.dumps(about) + "\n", encoding="utf-8")
    for path in sorted(model.folder.iterdir()):
        known = path.name.endswith(_WEIGHT_FILES) or (folder / path.name).exists()
        if path.is_file() and not known and path.stat().st_size <= _COPIED and not path.name.startswith("."):
            shutil.copyfile(path, folder / path.name)


def _files_of(model: QuantisedModel) -> dict[str, list[str]]:
    """Names of the dequantised tensors by the file they go to: that of what they are made of."""
    firsts = {weight.name: weight.parts[0] for weight in model.packed.values()}
    files: dict[str, list[str]] = {}
    for name in model.layout():
        files.setdefault(model.located[firsts.get(name, name)][0].name, []).append(name)
    return files


def _dtype_said(model: QuantisedModel) -> dict[str, str]:
    """The dtype that the configuration names, or else that of the dequantised weights."""
    if model.config.get("dtype") or model.config.get("torch_dtype") or "text_config" in model.config:
        return {}
    return {"dtype": _DTYPE_NAMES[next(iter(model.packed.values())).dtype]}
