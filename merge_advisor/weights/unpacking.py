"""Quantised weights as float32: what bitsandbytes, GPTQ, AWQ, compressed-tensors, fp8 and mxfp4 store, in numpy.

Why not their packages: most need a GPU and hold the whole model in memory. What is stored is documented and short:
codes of a few bits, scales for blocks of them, perhaps zero points. `tests/weights/test_dequantised.py` compares each
with bitsandbytes, compressed-tensors or transformers, or (GPTQ, AWQ) with a packer written from the format.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from numpy.typing import NDArray

from merge_advisor.arrays import Float32Array

Codes = NDArray[np.integer]
"""Whole numbers as they are stored."""

_E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], dtype=np.float32)
_AWQ_ORDER = (0, 4, 1, 5, 2, 6, 3, 7)
"""Place in a word of each of eight columns in a row."""


@cache
def _float8_table(exponent_bits: int) -> Float32Array:
    """Values of all codes of E4M3 (without infinities), E5M2 or, of 8 exponent bits, E8M0."""
    codes = np.arange(256)
    if exponent_bits == 8:
        return np.where(codes == 255, np.nan, np.ldexp(1.0, codes - 127)).astype(np.float32)
    mantissa_bits = 7 - exponent_bits
    bias = 2 ** (exponent_bits - 1) - 1
    exponent, mantissa = (codes & 0x7F) >> mantissa_bits, codes & (2**mantissa_bits - 1)
    fraction = mantissa / 2**mantissa_bits
    value = np.where(exponent == 0, np.ldexp(fraction, 1 - bias), np.ldexp(1 + fraction, exponent - bias))
    if exponent_bits == 4:
        value[(codes & 0x7F) == 0x7F] = np.nan
    else:
        top = exponent == 31
        value[top] = np.where(mantissa[top] == 0, np.inf, np.nan)
    signed: Float32Array = np.where(codes & 0x80, -value, value).astype(np.float32)
    return signed


def from_float8(codes: Codes, dtype: str) -> Float32Array:
    """Return 8-bit floats as float32.

    >>> from_float8(np.array([0x38, 0xC0], np.uint8), "F8_E4M3").tolist()
    [1.0, -2.0]

    Args:
        codes: their bytes.
        dtype: "F8_E4M3", "F8_E5M2" or "F8_E8M0".
    """
    return _float8_table({"F8_E4M3": 4, "F8_E5M2": 5, "F8_E8M0": 8}[dtype])[codes]


def unpack_bits(words: Codes, bits: int, count: int) -> Codes:
    """Return numbers of a few bits that lie one after the other in words along the last axis, the lowest bits first.

    >>> unpack_bits(np.array([[0x21]], "<i4"), bits=4, count=3).tolist()
    [[1, 2, 0]]

    Args:
        words: (..., n), little-endian.
        bits: of a number, 1 to 8.
        count: numbers in a row.
    """
    stream = np.ascontiguousarray(words).view(np.uint8)
    if 8 % bits == 0:
        shifts = np.arange(0, 8, bits, dtype=np.uint8)
        codes = (stream[..., None] >> shifts) & np.uint8(2**bits - 1)
        return codes.reshape(*stream.shape[:-1], -1)[..., :count]
    flat = np.unpackbits(stream, axis=-1, bitorder="little")[..., : count * bits]
    return np.packbits(flat.reshape(*stream.shape[:-1], count, bits), axis=-1, bitorder="little")[..., 0]


def from_float4(packed: Codes) -> Float32Array:
    """Return 4-bit floats (E2M1), two in a byte, the first one in its lower half.

    Args:
        packed: (..., n) bytes.
    """
    codes = unpack_bits(packed, 4, 2 * packed.shape[-1])
    values: Float32Array = np.where(codes & 8, -_E2M1[codes & 7], _E2M1[codes & 7])
    return values


def spread(scales: Float32Array, shape: tuple[int, ...], block: tuple[int, ...] | None = None) -> Float32Array:
    """Return scales of blocks as a scale for each entry, or as what numpy stretches to it.

    >>> spread(np.array([[1.0, 2.0]], np.float32), (2, 4)).tolist()
    [[1.0, 1.0, 2.0, 2.0], [1.0, 1.0, 2.0, 2.0]]

    Args:
        scales: one number, one of each row, or one of each block.
        shape: of the weight.
        block: rows and columns of a block; None: all blocks are of one size.

    Raises:
        ValueError: the blocks do not make the weight.
    """
    if scales.size == 1:
        return scales.reshape(())
    if scales.ndim == 1 and scales.size == shape[0]:
        return scales[:, None]
    if scales.ndim != len(shape) or scales.shape[:-2] != shape[:-2]:
        raise ValueError(f"scales {scales.shape} do not fit a weight {shape}")
    for axis in (-2, -1):
        count, length = scales.shape[axis], shape[axis]
        if count in (1, length):
            continue
        size = block[axis] if block and math.ceil(length / block[axis]) == count else length // count
        if size == 0 or math.ceil(length / size) != count:
            raise ValueError(f"{count} scales do not fit {length} entries")
        scales = np.repeat(scales, size, axis=axis).take(range(length), axis=axis)
    return np.broadcast_to(scales, shape)


def from_bitsandbytes_4bit(
    packed: Codes, code: Float32Array, absmax: Float32Array, block: int, shape: tuple[int, ...]
) -> Float32Array:
    """Return nf4 or fp4 weights: two codes in a byte, the first one in its upper half, and a scale for each block.

    Args:
        packed: bytes.
        code: (16,) the value of each code.
        absmax: a scale for each block.
        block: entries of a block.
        shape: of the weight.

    Raises:
        ValueError: these do not fit each other.
    """
    count = math.prod(shape)
    codes = unpack_bits(packed.reshape(-1), 4, 2 * packed.size).reshape(-1, 2)[:, ::-1].reshape(-1)[:count]
    if codes.size != count or len(absmax) != math.ceil(count / block):
        raise ValueError(f"{codes.size} codes and {len(absmax)} scales do not fit a weight {shape}")
    values = code[codes]
    whole = count - count % block
    values[:whole] = (values[:whole].reshape(-1, block) * absmax[: whole // block, None]).reshape(-1)
    values[whole:] *= absmax[-1]
    return values.reshape(shape)


def nested_scales(codes: Codes, code: Float32Array, absmax: Float32Array, block: int, offset: float) -> Float32Array:
    """Return scales that bitsandbytes has quantised once more ("double quantisation").

    Args:
        codes: bytes, one for each scale.
        code: (256,) the value of each code.
        absmax: a scale for each block of these.
        block: scales of a block.
        offset: what was taken off before.
    """
    return code[codes] * np.repeat(absmax, block)[: codes.size] + np.float32(offset)


def from_bitsandbytes_8bit(codes: Codes, row_max: Float32Array) -> Float32Array:
    """Return LLM.int8() weights.

    Args:
        codes: (out, in) int8.
        row_max: (out,) the largest absolute value of each row.
    """
    return codes.astype(np.float32) * row_max[:, None] * np.float32(7.874015718698502e-3)  # 1/127, as bitsandbytes has


def from_gptq(
    qweight: Codes, qzeros: Codes, scales: Float32Array, groups: Codes | None, bits: int, *, stored_less_one: bool
) -> Float32Array:
    """Return GPTQ weights as (out, in).

    Args:
        qweight: (in·bits/32, out) int32, packed along the inputs.
        qzeros: (groups, out·bits/32) int32, packed along the outputs.
        scales: (groups, out).
        groups: (in,) the group of each input; None: they follow each other.
        bits: of a code.
        stored_less_one: whether zero points are kept less 1, as the first format ("gptq") has them.
    """
    count, out = scales.shape
    width = len(groups) if groups is not None else qweight.shape[0] * 32 // bits
    codes = unpack_bits(qweight.T, bits, width).astype(np.int16)
    zeros = unpack_bits(qzeros, bits, out).astype(np.int16)
    if stored_less_one:
        zeros = (zeros + 1) & (2**bits - 1)
    if groups is None:
        groups = np.arange(width) // math.ceil(width / count)
    return (codes - zeros.T[:, groups]).astype(np.float32) * scales.T[:, groups]


def from_awq(qweight: Codes, qzeros: Codes | None, scales: Float32Array) -> Float32Array:
    """Return AWQ weights ("gemm" layout, 4 bits) as (out, in).

    Args:
        qweight: (in, out/8) int32, packed along the outputs in AWQ's order.
        qzeros: (groups, out/8) int32, packed likewise; None: 8, in the middle.
        scales: (groups, out).
    """
    count, out = scales.shape
    width = len(qweight)

    def columns(words: Codes) -> NDArray[np.int16]:
        codes = unpack_bits(words, 4, out).reshape(len(words), -1, 8)[:, :, list(_AWQ_ORDER)]
        return codes.reshape(len(words), out).astype(np.int16)

    codes = columns(qweight)
    zeros = np.full((count, out), 8, np.int16) if qzeros is None else columns(qzeros)
    groups = np.arange(width) // (width // count)
    values: Float32Array = ((codes - zeros[groups]).astype(np.float32) * scales[groups]).T
    return values


def from_mxfp4(blocks: Codes, exponents: Codes) -> Float32Array:
    """Return the experts of gpt-oss as (experts, in, out).

    Args:
        blocks: (experts, out, groups, 16) bytes of two 4-bit floats.
        exponents: (experts, out, groups) bytes, of powers of 2 less 127.
    """
    values = np.ldexp(from_float4(blocks), exponents.astype(np.int32)[..., None] - 127)
    return values.reshape(*exponents.shape[:2], -1).swapaxes(1, 2).astype(np.float32)
