"""Safetensors files without torch: strict headers, one tensor at a time as float32.

Layout (https://github.com/huggingface/safetensors#format): 8 bytes little-endian header length, a JSON header of
`{name: {"dtype", "shape", "data_offsets"}}`, then the data, without holes. Never a pickle.

Why not the safetensors package: its numpy side cannot read bfloat16 (numpy has no such type, and importing torch for
it takes seconds); and a pool's files are anyone's, so that an error has to name the file, what is wrong and the remedy.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from merge_advisor.limits import HEADER_BYTES, TENSORS
from merge_advisor.regular_files import open_regular
from merge_advisor.weights.files import FileError, read_json

SIZES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "C64": 8,
    "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1,
}  # fmt: skip
_READABLE = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
"""numpy's name of a dtype; BF16 is read as whole numbers and shifted, see `read_tensor`."""
_STORED = {"I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U64": "<u8", "U32": "<u4", "U16": "<u2", "BOOL": "?"}
"""The same of what is no float, for `read_stored`; of a dtype that numpy lacks it gives the bytes."""
_WEIGHTS = "model.safetensors"
_SHARDS = f"{_WEIGHTS}.index.json"
_BLOCK = 1 << 24
"""Bytes copied at once of a tensor that stays as it is."""


class TensorFileError(FileError):
    """A safetensors file cannot be used; the message is one line, names the file and says what to do.

    >>> read_header(Path("examples.jsonl"))
    Traceback (most recent call last):
    merge_advisor.weights.tensorfile.TensorFileError: examples.jsonl: cut short or no safetensors file (...
    """


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where one tensor lies in its file.

    >>> info = TensorInfo("BF16", (4, 8), start=128, end=192)
    >>> info.is_float, info.end - info.start
    (True, 64)
    """

    dtype: str
    """As the format writes it: "F32", "BF16", …"""
    shape: tuple[int, ...]
    start: int
    """First byte, counted from the beginning of the file."""
    end: int
    """One past the last byte."""

    @property
    def is_float(self) -> bool:
        """Whether `read_tensor` can read it."""
        return self.dtype in _READABLE


# a plain file name: an index may not lead to a file outside its folder
_SHARD = re.compile(r"[\w][\w.+ -]*\.safetensors")

Located = dict[str, tuple[Path, TensorInfo]]
"""Tensor name -> (file, place in it)."""


def read_header(path: Path) -> dict[str, TensorInfo]:
    """Return what a safetensors file's header says, checked; no weights are read.

    >>> header = read_header(Path("adapters/a0/adapter_model.safetensors"))
    >>> header["base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"].shape
    (4, 32)

    Args:
        path: the file.

    Returns:
        Where each tensor lies, by its name.

    Raises:
        TensorFileError: absent, cut short, not this format, offsets that do not cover the data exactly, or a header or
            a number of tensors beyond `HEADER_BYTES` and `TENSORS`.
    """
    try:
        size = path.stat().st_size
        with open_regular(path) as stream:
            prefix = stream.read(8)
            length = int.from_bytes(prefix, "little")
            if len(prefix) < 8 or length > size - 8:
                raise TensorFileError(f"{path.name}: cut short or no safetensors file ({size} bytes); fetch it again")
            if length > HEADER_BYTES.most:
                remedy = f"fetch it again; if it is right, {HEADER_BYTES.remedy(length)}"
                raise TensorFileError(f"{path.name}: its header has {HEADER_BYTES.over}; {remedy}")
            text = stream.read(length)
    except OSError as error:
        raise TensorFileError(f"{path.name}: cannot be read ({error.strerror}); check the folder") from error
    # before they are made: each becomes a hundred times as many bytes as it takes in the file
    if (described := text.count(b'"data_offsets"')) > TENSORS.most:
        raise TensorFileError(
            f"{path.name}: holds {TENSORS.over} tensors; save it in shards, or {TENSORS.remedy(described)}"
        )
    try:
        entries = json.loads(text.decode("utf-8"), object_pairs_hook=_no_repeats)
        if not isinstance(entries, dict):
            raise ValueError("no object")
        entries.pop("__metadata__", None)
        infos = {name: _info(name, entry, 8 + length) for name, entry in entries.items()}
        _check_cover(infos.values(), 8 + length, size)
    except (ValueError, RecursionError) as error:
        reason = "nested too deep" if isinstance(error, RecursionError) else " ".join(str(error).split())[:200]
        raise TensorFileError(f"{path.name}: bad safetensors header ({reason}); fetch it again") from error
    return infos


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    by_name = dict(pairs)
    if len(by_name) < len(pairs):  # JSON allows it, and readers differ in which of the two they take
        raise ValueError("a name is there twice")
    return by_name


def _info(name: str, entry: Any, data: int) -> TensorInfo:
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{name[:80]!r} is not described by dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in SIZES:
        raise ValueError(f"{name[:80]!r} has the unknown dtype {str(dtype)[:20]!r}")
    for numbers in (shape, offsets):
        wrong = not isinstance(numbers, list)
        for number in () if wrong else numbers:
            # type() and not isinstance(): JSON's true is an int to Python
            wrong = wrong or type(number) is not int or not 0 <= number < 2**63
        if wrong:
            raise ValueError(f"{name[:80]!r} has a shape or offsets that are no lists of whole numbers")
    if len(offsets) != 2 or offsets[1] - offsets[0] != math.prod(shape) * SIZES[dtype]:
        raise ValueError(f"{name[:80]!r} has offsets that do not match its shape")
    return TensorInfo(dtype, tuple(shape), data + offsets[0], data + offsets[1])


def _check_cover(infos: Iterable[TensorInfo], data: int, size: int) -> None:
    """Check that the tensors fill the file from byte `data` to its end, `size`, without holes or overlaps."""
    place = data
    for info in sorted(infos, key=lambda info: (info.start, info.end)):
        if info.start != place:
            raise ValueError("offsets overlap or leave a hole")
        place = info.end
    if place != size:
        raise ValueError(f"the file has {size} bytes where the header says {place}: cut short or grown")


def read_tensor(path: Path, info: TensorInfo) -> NDArray[np.float32]:
    """Return one tensor as a new float32 array of `info.shape`.

    >>> path = Path("adapters/a0/adapter_model.safetensors")
    >>> name, info = next(iter(read_header(path).items()))
    >>> read_tensor(path, info).dtype
    dtype('float32')

    Args:
        path: its file.
        info: its place there, from `read_header`; of dtype F64, F32, F16 or BF16.

    Raises:
        TensorFileError: whole numbers or 8-bit floats, or the file changed since its header was read.
    """
    if info.dtype not in _READABLE:
        raise TensorFileError(
            f"{path.name}: {info.dtype} weights are not read; save them as float32, float16 or bfloat16"
        )
    raw = _numbers(path, info, _READABLE[info.dtype], math.prod(info.shape))
    if info.dtype == "BF16":  # the upper half of a float32
        raw = (raw.astype(np.uint32) << 16).view(np.float32)
    with np.errstate(over="ignore"):  # a float64 beyond float32 becomes inf, which the checks of values name
        return raw.astype(np.float32, copy=False).reshape(info.shape)


def _numbers(path: Path, info: TensorInfo, dtype: str, count: int) -> NDArray[Any]:
    try:
        raw = np.fromfile(path, dtype=dtype, count=count, offset=info.start)
    except OSError as error:
        raise TensorFileError(f"{path.name}: cannot be read ({error.strerror}); check the folder") from error
    if raw.size != count:
        raise TensorFileError(f"{path.name}: cut short while it was read; fetch it again")
    return raw


def read_stored(path: Path, info: TensorInfo) -> NDArray[Any]:
    """Return one tensor as it is stored: whole numbers in its shape, of 8-bit floats and BF16 the bytes in a row.

    Args:
        path: its file.
        info: its place there, from `read_header`.

    Raises:
        TensorFileError: the file changed since its header was read.
    """
    dtype = _STORED.get(info.dtype) or (info.dtype != "BF16" and _READABLE.get(info.dtype)) or "u1"
    count = (info.end - info.start) // np.dtype(dtype).itemsize
    raw = _numbers(path, info, dtype, count)
    return raw.reshape(info.shape) if count == math.prod(info.shape) else raw


def write_tensor_header(stream: BinaryIO, tensors: Mapping[str, tuple[str, tuple[int, ...]]]) -> int:
    """Write the header of a safetensors file whose tensors follow in this order.

    Args:
        stream: the file, at its beginning.
        tensors: by name the dtype, as the format writes it, and the shape.

    Returns:
        The bytes of their data.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    place = 0
    for name, (dtype, shape) in tensors.items():
        end = place + math.prod(shape) * SIZES[dtype]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [place, end]}
        place = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # readers map the data: it begins at a multiple of 8 bytes
    stream.write(len(text).to_bytes(8, "little") + text)
    return place


def save_arrays(tensors: Mapping[str, NDArray[Any]], path: Path) -> None:
    """Write arrays to a file as the safetensors package does, which says of a full disk what the system says.

    Args:
        tensors: by name.
        path: the file.

    Raises:
        OSError: no permission, or no room.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    try:
        save_file(dict(tensors), path, metadata={"format": "pt"})
    except SafetensorError as error:
        # the package has no error of the system: it stands in its text
        found = re.search(r"os error ([0-9]+)", str(error))
        if found is None:
            raise
        raise OSError(int(found[1]), os.strerror(int(found[1]))) from error


def write_shard_index(folder: Path, files: Mapping[str, str], size: int) -> None:
    """Write the index of a model's files; none where all its tensors lie in the one that needs none.

    Args:
        folder: of the files.
        files: by tensor name the name of its file.
        size: bytes of all tensors.
    """
    if set(files.values()) != {_WEIGHTS}:
        index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(files.items()))}
        (folder / _SHARDS).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def tensor_bytes(array: NDArray[np.float32], dtype: str) -> bytes:
    """Return a float32 array as a file holds it, rounded to the nearest, ties to even.

    >>> tensor_bytes(np.array([1.0], np.float32), "BF16").hex()
    '803f'

    Args:
        array: any.
        dtype: "F64", "F32", "F16" or "BF16".
    """
    if dtype != "BF16":
        return array.astype(_READABLE[dtype]).tobytes()
    bits = np.ascontiguousarray(array, dtype=np.float32).view(np.uint32)
    rounded = ((bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)) >> 16).astype("<u2")
    return np.where(np.isnan(array), np.uint16(0x7FC0), rounded).astype("<u2").tobytes()


def rounded_to(array: NDArray[np.float32], dtype: str) -> NDArray[np.float32]:
    """Return a float32 array as it is once a file has held it.

    >>> rounded_to(np.array([1.001], np.float32), "BF16").tolist()
    [1.0]

    Args:
        array: any.
        dtype: as of `tensor_bytes`.
    """
    if dtype in ("F64", "F32"):
        return array
    with np.errstate(over="ignore"):  # beyond float16 it becomes infinite
        stored = np.frombuffer(tensor_bytes(array, dtype), _READABLE[dtype]).reshape(array.shape)
    return (stored.astype(np.uint32) << 16).view(np.float32) if dtype == "BF16" else stored.astype(np.float32)


def copy_tensor(path: Path, info: TensorInfo, stream: BinaryIO) -> None:
    """Copy the bytes of a tensor.

    Args:
        path: its file.
        info: its place there.
        stream: the file that it is appended to.

    Raises:
        TensorFileError: the file changed since its header was read.
    """
    with open_regular(path) as source:
        source.seek(info.start)
        left = info.end - info.start
        while left:
            block = source.read(min(left, _BLOCK))
            if not block:
                raise TensorFileError(f"{path.name}: cut short while it was read; fetch it again")
            stream.write(block)
            left -= len(block)


def open_folder(folder: Path) -> Located:
    """Return where every tensor lies of `model.safetensors`, or of the shards in `model.safetensors.index.json`.

    >>> path, info = open_folder(Path("base"))["model.norm.weight"]
    >>> path.name, info.shape
    ('model.safetensors', (32,))

    Args:
        folder: a model's folder, as transformers writes it.

    Raises:
        TensorFileError: neither is there, a shard is bad or lies outside the folder, or index and shards disagree.
    """
    single = folder / _WEIGHTS
    index = folder / _SHARDS
    if single.exists() or not index.exists():
        if not single.exists():
            raise TensorFileError(_no_weights(folder, single.name))
        return {name: (single, info) for name, info in read_header(single).items()}
    try:
        listed = read_json(index).get("weight_map")
    except FileError as error:
        raise TensorFileError(str(error)) from error
    if not isinstance(listed, dict) or not listed or not all(isinstance(shard, str) for shard in listed.values()):
        raise TensorFileError(f"{index.name}: has no weight_map of names to files; fetch it again")
    headers = {}
    for shard in sorted(set(listed.values())):
        if not _SHARD.fullmatch(shard):
            raise TensorFileError(
                f"{index.name}: names the shard {shard[:80]!r}, not a file of this folder; fetch it again"
            )
        headers[shard] = read_header(folder / shard)
    missing = [name for name, shard in listed.items() if name not in headers[shard]]
    if missing:
        raise TensorFileError(f"{index.name}: {missing[0][:80]!r} is not in the shard it names; fetch it again")
    return {name: (folder / shard, headers[shard][name]) for name, shard in listed.items()}


def _no_weights(folder: Path, wanted: str) -> str:
    pickles = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for path in folder.glob(pattern))
    if pickles:
        return f"{pickles[0]}: pickle weights are never opened; convert it to safetensors ({wanted})"
    return f"{wanted}: not there; fetch the model again, or save it as safetensors"
