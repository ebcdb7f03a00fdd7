"""Arrays as bytes that a browser reads without parsing: a header in JSON, then each array as it lies in memory."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAGIC = b"MAEX"
_ALIGNED = 8
_KINDS = {"float32", "uint8", "uint16", "uint32", "int32"}


def pack_arrays(said: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Return a header and arrays as bytes: magic, length of the header (uint32), header, then arrays on 8 bytes each.

    >>> packed = pack_arrays({"points": 2}, {"x": np.array([1, 2], np.float32)})
    >>> packed[:4], len(packed) % 8
    (b'MAEX', 0)

    Args:
        said: what stands in the header beside the arrays' places.
        arrays: float32, int32 or unsigned integers of up to 32 bits, by name.

    Raises:
        ValueError: an array of another type.
    """
    places, offset = {}, 0
    for name, array in arrays.items():
        if array.dtype.name not in _KINDS:
            raise ValueError(f"{name}: {array.dtype}; one of {', '.join(sorted(_KINDS))}")
        places[name] = {"type": array.dtype.name, "length": int(array.size), "offset": offset}
        offset += -(-array.nbytes // _ALIGNED) * _ALIGNED
    header = json.dumps({**said, "arrays": places}, ensure_ascii=True, allow_nan=False).encode()
    header += b" " * (-(len(MAGIC) + 4 + len(header)) % _ALIGNED)
    parts = [MAGIC, np.uint32(len(header)).astype("<u4").tobytes(), header]
    for array in arrays.values():
        data = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()
        parts += [data, b"\0" * (-len(data) % _ALIGNED)]
    return b"".join(parts)


def unpack_arrays(data: bytes) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Return the header and the arrays that `pack_arrays` wrote.

    >>> unpack_arrays(pack_arrays({}, {"x": np.array([1, 2], np.uint8)}))[1]["x"].tolist()
    [1, 2]

    Args:
        data: the bytes.

    Raises:
        ValueError: something else.
    """
    if data[:4] != MAGIC:
        raise ValueError("no packed arrays")
    length = int(np.frombuffer(data, "<u4", 1, 4)[0])
    said = json.loads(data[8 : 8 + length])
    arrays = {
        name: np.frombuffer(data, np.dtype(place["type"]).newbyteorder("<"), place["length"],
                            8 + length + place["offset"])
        for name, place in said["arrays"].items()
    }  # fmt: skip
    return said, arrays
