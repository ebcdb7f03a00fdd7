"""Embeddings and heads that PEFT saves beside an adapter though nothing trained them: copies of the base's own."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from merge_advisor.errors import PoolError
from merge_advisor.plain_text import short_name
from merge_advisor.weights.adapter_config import NotPlainLoraError
from merge_advisor.weights.files import FileError, Hashes, file_digest, remembered
from merge_advisor.weights.naming import EMBEDDINGS, HEADS, find_parameter
from merge_advisor.weights.tensorfile import Located, TensorInfo, open_folder, read_tensor

_KEY = re.compile(r"(?:_orig_mod\.)?(?:base_model\.model\.)?(?P<name>.+?)(?:\.base_layer)?\.weight")


def copied_name(key: str) -> str | None:
    """Return the parameter that a whole tensor of an adapter may be a copy of; None where it is none of these.

    >>> copied_name("base_model.model.lm_head.base_layer.weight"), copied_name("base_model.model.model.norm.weight")
    ('lm_head.weight', None)

    Args:
        key: name of the tensor.
    """
    if "lora_" in key or "modules_to_save" in key:
        return None
    match = _KEY.fullmatch(key)
    name = f"{match['name']}.weight" if match else ""
    return name if name.endswith((*EMBEDDINGS, *HEADS)) else None


def check_copies(path: Path, header: Mapping[str, TensorInfo], base: Path, base_digest: str, hashes: Hashes) -> None:
    """Refuse an embedding or head beside an adapter's factors that differs from the base's anywhere, or has more rows.

    Args:
        path: the adapter's weights.
        header: tensor name -> its place in there.
        base: folder of the base.
        base_digest: of its weights.
        hashes: the memo, in which the result is kept under both digests.

    Raises:
        NotPlainLoraError: one that differs, with the remedy.
        PoolError: a file that cannot be read.
    """
    names = {key: name for key in header if (name := copied_name(key)) is not None}
    if not names:
        return
    try:
        memo = f"copied rows|{file_digest(path, hashes)}|{base_digest}"
        other = remembered(hashes, memo, lambda: _first_other(path, header, names, base))
    except FileError as error:
        raise PoolError(str(error)) from error
    if other:
        raise NotPlainLoraError(
            f"{path.name}: holds {short_name(other)}, which is not the base's: it was trained or resized along; "
            "merge it into its base and list it as a checkpoint"
        )


def _first_other(path: Path, header: Mapping[str, TensorInfo], names: Mapping[str, str], base: Path) -> str:
    """The first of these tensors that is another than the base's; "" where there is none."""
    ours = open_folder(base)
    return next((key for key, name in names.items() if not _same(path, header[key], ours, name)), "")


def _same(path: Path, info: TensorInfo, located: Located, name: str) -> bool:
    shapes = {parameter: place.shape for parameter, (_, place) in located.items()}
    there = find_parameter(name, shapes)
    # the base's files lack a head that is tied: it is the embedding then
    tied = [parameter for parameter in shapes if parameter.endswith(EMBEDDINGS)] if name.endswith(HEADS) else []
    for parameter in [there] if there is not None else tied:
        rows, width = shapes[parameter]
        if info.shape[1:] == (width,) and info.shape[0] <= rows:  # a base may have rows beyond its tokens
            ours, theirs = read_tensor(*located[parameter]), read_tensor(path, info)
            return bool(np.array_equal(_rounded(ours[: len(theirs)], info.dtype), theirs))
    return False


def _rounded(values: NDArray[np.float32], dtype: str) -> NDArray[np.float32]:
    """The values as a file of that dtype would have them: an adapter may be saved in fewer bits than its base."""
    if dtype == "F16":
        return values.astype(np.float16).astype(np.float32)
    if dtype == "BF16":
        bits = np.ascontiguousarray(values).view(np.uint32)
        # to the nearest, of two equally near to the even one
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)).view(np.float32)
    return values
