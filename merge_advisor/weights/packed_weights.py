"""What each way to quantise keeps a weight in, by the names and sizes of a model's tensors, and how that is read.

One function for each method that config.json may name; the formulas are those of `unpacking`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from merge_advisor.arrays import Float32Array
from merge_advisor.plain_text import short_name
from merge_advisor.weights import unpacking
from merge_advisor.weights.files import FileError
from merge_advisor.weights.tensorfile import Located, read_stored, read_tensor

DTYPES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
"""Dtypes of a dequantised weight, as the format writes them."""
_TURNED = frozenset({"gpt2", "openai-gpt", "imagegpt", "decision_transformer"})
"""Values of `model_type` whose weights are (in, out), and which bitsandbytes keeps as (out, in)."""


@dataclass(frozen=True, slots=True, eq=False)
class PackedWeight:
    """A quantised weight: what it is once it is dequantised.

    >>> weight = PackedWeight("a.weight", ("a.weight",), (1,), "F16", lambda: np.ones(1, np.float32))
    >>> weight.read().shape
    (1,)
    """

    name: str
    parts: tuple[str, ...]
    """Names of the tensors that it is kept in, the first of them the largest."""
    shape: tuple[int, ...]
    dtype: str
    """As the format writes it."""
    read: Callable[[], Float32Array]


class _Files:
    """The tensors of a model, read by name."""

    def __init__(self, located: Located) -> None:
        self.located = located

    def __contains__(self, name: str) -> bool:
        return name in self.located

    def ending(self, end: str) -> list[str]:
        """Names that end so, without the end."""
        return sorted(name.removesuffix(end) for name in self.located if name.endswith(end))

    def shape(self, name: str) -> tuple[int, ...]:
        return self.located[name][1].shape

    def dtype(self, name: str) -> str:
        return self.located[name][1].dtype

    def codes(self, name: str) -> Any:
        """Whole numbers, or the bytes of 8-bit floats in their shape."""
        path, info = self.located[name]
        return read_stored(path, info)

    def floats(self, name: str) -> Float32Array:
        """Float32 of floats of any size; bytes are exponents of 2."""
        path, info = self.located[name]
        if info.is_float:
            return read_tensor(path, info)
        return unpacking.from_float8(read_stored(path, info), "F8_E8M0" if info.dtype == "U8" else info.dtype)

    def present(self, *names: str) -> tuple[str, ...]:
        return tuple(name for name in names if name in self.located)


def _own_dtype(config: Mapping[str, Any], default: str = "BF16") -> str:
    """The dtype that the configuration says the model computes in."""
    for place in (config, config.get("text_config") or {}):
        own = str(place.get("dtype") or place.get("torch_dtype") or "").removeprefix("torch.")
        if own in DTYPES:
            return DTYPES[own]
    return default


def _bitsandbytes(files: _Files, settings: Mapping[str, Any], config: Mapping[str, Any]) -> Iterator[PackedWeight]:
    turned = config.get("model_type") in _TURNED
    for kind in ("nf4", "fp4"):
        for name in files.ending(f".quant_state.bitsandbytes__{kind}"):
            yield _bitsandbytes_4bit(files, name, f"{name}.quant_state.bitsandbytes__{kind}", turned)
    for module in files.ending(".SCB"):
        yield _bitsandbytes_8bit(files, module, config, turned)


def _bitsandbytes_4bit(files: _Files, name: str, state_name: str, turned: bool) -> PackedWeight:
    state = json.loads(files.codes(state_name).tobytes())
    shape = tuple(int(length) for length in state["shape"])
    ends = ("absmax", "quant_map", "nested_absmax", "nested_quant_map")
    absmax, code, nested_absmax, nested_code = (f"{name}.{end}" for end in ends)

    def read() -> Float32Array:
        if nested_absmax in files:
            scales = unpacking.nested_scales(
                files.codes(absmax), files.floats(nested_code), files.floats(nested_absmax),
                int(state["nested_blocksize"]), float(state["nested_offset"]),
            )  # fmt: skip
        else:
            scales = files.floats(absmax)
        packed = np.frombuffer(files.codes(name).tobytes(), np.uint8)  # kept in whatever dtype it was stored as
        values = unpacking.from_bitsandbytes_4bit(packed, files.floats(code), scales, int(state["blocksize"]), shape)
        return values.T if turned else values

    parts = (name, *files.present(absmax, code, nested_absmax, nested_code), state_name)
    needed = (name, absmax, code, *((nested_absmax, nested_code) if "nested_blocksize" in state else ()))
    if missing := [part for part in needed if part not in files]:
        raise KeyError(missing[0])
    return PackedWeight(name, parts, shape[::-1] if turned else shape, DTYPES[state["dtype"]], read)


def _bitsandbytes_8bit(files: _Files, module: str, config: Mapping[str, Any], turned: bool) -> PackedWeight:
    name, rows, layout = f"{module}.weight", f"{module}.SCB", f"{module}.weight_format"
    if layout in files and int(files.codes(layout).reshape(-1)[0]) != 0:
        raise ValueError(f"{name} lies in the order of a GPU; save it again with bitsandbytes 0.45 or newer")

    def read() -> Float32Array:
        values = unpacking.from_bitsandbytes_8bit(files.codes(name), files.floats(rows))
        return values.T if turned else values

    shape = files.shape(name)
    parts = (name, rows, *files.present(layout))
    return PackedWeight(name, parts, shape[::-1] if turned else shape, _own_dtype(config, "F16"), read)


def _half_of(files: _Files, scales: str, config: Mapping[str, Any]) -> str:
    """Of kernels that compute in the dtype of their scales: that, where it is a half precision."""
    return files.dtype(scales) if files.dtype(scales) in ("F16", "BF16") else _own_dtype(config, "F16")


def _gptq(files: _Files, settings: Mapping[str, Any], config: Mapping[str, Any]) -> Iterator[PackedWeight]:
    layout = str(settings.get("checkpoint_format") or settings.get("format") or "gptq").lower()
    if layout not in ("gptq", "gptq_v2"):
        raise FileError(
            f"config.json: GPTQ in the layout {short_name(layout)} is not read; take one in the layout gptq"
        )
    for module in files.ending(".qweight"):
        yield _gptq_weight(files, module, settings, config, layout == "gptq")


def _gptq_weight(
    files: _Files, module: str, settings: Mapping[str, Any], config: Mapping[str, Any], less_one: bool
) -> PackedWeight:
    qweight, qzeros, scales, groups = (f"{module}.{end}" for end in ("qweight", "qzeros", "scales", "g_idx"))
    words, out = files.shape(qweight)
    width = files.shape(groups)[0] if groups in files else words * 32 // int(settings["bits"])
    bits = words * 32 // width  # by module: some have a number of bits of their own
    if files.dtype(qweight) != "I32" or not 2 <= bits <= 8 or math.ceil(width * bits / 32) != words:
        raise ValueError(f"{qweight} {files.dtype(qweight)} of {words} x {out} does not hold {width} inputs")

    def read() -> Float32Array:
        own = files.codes(groups) if groups in files else None
        return unpacking.from_gptq(
            files.codes(qweight), files.codes(qzeros), files.floats(scales), own, bits, stored_less_one=less_one
        )

    parts = (qweight, qzeros, scales, *files.present(groups))
    return PackedWeight(f"{module}.weight", parts, (out, width), _half_of(files, scales, config), read)


def _awq(files: _Files, settings: Mapping[str, Any], config: Mapping[str, Any]) -> Iterator[PackedWeight]:
    layout = str(settings.get("version") or settings.get("format") or "gemm").lower()
    if layout != "gemm" or int(settings.get("bits") or settings.get("w_bit") or 4) != 4:
        raise FileError(f"config.json: AWQ in the layout {short_name(layout)} is not read; take one in gemm, 4 bits")
    for module in files.ending(".qweight"):
        yield _awq_weight(files, module, config)


def _awq_weight(files: _Files, module: str, config: Mapping[str, Any]) -> PackedWeight:
    qweight, qzeros, scales = (f"{module}.{end}" for end in ("qweight", "qzeros", "scales"))
    width, out = files.shape(qweight)[0], files.shape(scales)[1]
    if files.shape(qweight)[1] * 8 != out:
        raise ValueError(f"{qweight} and {scales} are of different sizes")

    def read() -> Float32Array:
        zeros = files.codes(qzeros) if qzeros in files else None
        return unpacking.from_awq(files.codes(qweight), zeros, files.floats(scales))

    parts = (qweight, *files.present(qzeros), scales)
    return PackedWeight(f"{module}.weight", parts, (out, width), _half_of(files, scales, config), read)


def _compressed(files: _Files, settings: Mapping[str, Any], config: Mapping[str, Any]) -> Iterator[PackedWeight]:
    for name in files.ending("_packed"):
        if files.dtype(f"{name}_packed") == "U8":
            yield _float4(files, name, config)
        else:
            yield _packed_integers(files, name, settings, config)
    for name in files.ending("_scale"):
        if name in files and files.dtype(name) in ("I8", "F8_E4M3", "F8_E5M2"):
            yield _scaled(files, name, f"{name}_scale", settings, config)


def _float4(files: _Files, name: str, config: Mapping[str, Any]) -> PackedWeight:
    """Nvfp4 or mxfp4: the scales of blocks of 16 have a common one, those of 32 are powers of 2."""
    packed, scale, common = f"{name}_packed", f"{name}_scale", f"{name}_global_scale"
    shape = (*files.shape(packed)[:-1], 2 * files.shape(packed)[-1])

    def read() -> Float32Array:
        scales = files.floats(scale)
        if common in files:
            scales = scales / files.floats(common)
        return unpacking.from_float4(files.codes(packed)) * unpacking.spread(scales, shape)

    return PackedWeight(name, (packed, scale, *files.present(common)), shape, _own_dtype(config), read)


def _packed_integers(files: _Files, name: str, settings: Mapping[str, Any], config: Mapping[str, Any]) -> PackedWeight:
    ends = ("_packed", "_scale", "_shape", "_zero_point", "_g_idx")
    packed, scale, size, zero, groups = (name + end for end in ends)
    shape = tuple(int(length) for length in files.codes(size))
    if len(shape) != 2 or files.dtype(packed) != "I32":
        raise ValueError(f"{packed} is {files.dtype(packed)} of {shape}")
    fits = [bits for bits in range(1, 9) if math.ceil(shape[1] * bits / 32) == files.shape(packed)[1]]
    groups_said = (settings.get("config_groups") or {}).values()
    said = [(group.get("weights") or {}).get("num_bits") for group in groups_said]
    bits = next((bits for bits in fits if bits in said), 0)  # rows that are short fit several
    if not bits:
        raise ValueError(f"{packed} has {fits or 'no whole number of'} bits, config.json says {said}")

    def read() -> Float32Array:
        codes = unpacking.unpack_bits(files.codes(packed), bits, shape[1]).astype(np.int16)
        scales = files.floats(scale)
        zeros: Any = np.full(scales.shape, 2 ** (bits - 1), np.int16)
        if zero in files:  # packed along the outputs
            zeros = unpacking.unpack_bits(files.codes(zero).T, bits, shape[0]).T.astype(np.int16)
        if groups in files and int(files.codes(groups).min()) >= 0:
            own = files.codes(groups)
            values: Float32Array = (codes - zeros[:, own]).astype(np.float32) * scales[:, own]
            return values
        offsets = unpacking.spread(zeros.astype(np.float32), shape)
        return (codes - offsets).astype(np.float32) * unpacking.spread(scales, shape)

    parts = (packed, scale, size, *files.present(zero, groups))
    return PackedWeight(name, parts, (shape[0], shape[1]), _own_dtype(config), read)


def _scaled(
    files: _Files, name: str, scale: str, settings: Mapping[str, Any], config: Mapping[str, Any]
) -> PackedWeight:
    """8-bit floats or whole numbers with a scale for all, for rows or for blocks."""
    shape, zero = files.shape(name), f"{name}_zero_point"
    block = settings.get("weight_block_size") or _block_of(settings)

    def read() -> Float32Array:
        if files.dtype(name).startswith("F8"):
            values = unpacking.from_float8(files.codes(name), files.dtype(name))
        else:
            values = files.codes(name).astype(np.float32)
            if zero in files:
                values = values - unpacking.spread(files.codes(zero).astype(np.float32), shape, block)
        return values * unpacking.spread(files.floats(scale), shape, block)

    return PackedWeight(name, (name, scale, *files.present(zero)), shape, _own_dtype(config), read)


def _block_of(settings: Mapping[str, Any]) -> tuple[int, int] | None:
    for group in (settings.get("config_groups") or {}).values():
        block = (group.get("weights") or {}).get("block_structure")
        if isinstance(block, list) and len(block) == 2:
            return int(block[0]), int(block[1])
    return None


def _fp8(files: _Files, settings: Mapping[str, Any], config: Mapping[str, Any]) -> Iterator[PackedWeight]:
    for end in ("_scale_inv", "_scale"):
        for name in files.ending(f"weight{end}"):
            if files.dtype(f"{name}weight") in ("F8_E4M3", "F8_E5M2"):
                yield _scaled(files, f"{name}weight", f"{name}weight{end}", settings, config)


def _mxfp4(files: _Files, settings: Mapping[str, Any], config: Mapping[str, Any]) -> Iterator[PackedWeight]:
    for name in files.ending("_blocks"):
        parts = (f"{name}_blocks", f"{name}_scales")
        experts, out, groups, half = files.shape(parts[0])

        def read(parts: tuple[str, str] = parts) -> Float32Array:
            return unpacking.from_mxfp4(files.codes(parts[0]), files.codes(parts[1]))

        yield PackedWeight(name, parts, (experts, groups * half * 2, out), _own_dtype(config), read)


_Finder = Callable[[_Files, Mapping[str, Any], Mapping[str, Any]], Iterator[PackedWeight]]
_FINDERS: dict[str, _Finder] = {
    "bitsandbytes": _bitsandbytes, "gptq": _gptq, "awq": _awq, "compressed-tensors": _compressed, "fp8": _fp8,
    "fbgemm_fp8": _fp8, "mxfp4": _mxfp4,
}  # fmt: skip
"""By the method that config.json names."""
METHODS = tuple(sorted(_FINDERS))
"""Those that are read here, as config.json names them."""


def packed_weights(
    method: str, located: Located, settings: Mapping[str, Any], config: Mapping[str, Any]
) -> Iterator[PackedWeight]:
    """Yield the quantised weights of a model; none is read.

    Args:
        method: one of `METHODS`.
        located: where its tensors lie.
        settings: of the quantisation, from config.json.
        config: config.json.

    Raises:
        FileError: a layout of the method that is not read here.
        KeyError: a part of a weight that is not there.
        ValueError: parts that do not fit each other.
    """
    yield from _FINDERS[method](_Files(located), settings, config)
