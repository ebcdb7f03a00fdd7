"""A weight delta in a folder of its own: factors where an update has some, arrays where it has none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from merge_advisor.errors import InputError, PoolError
from merge_advisor.json_form import STRICT, from_json, to_json
from merge_advisor.regular_files import read_regular_text
from merge_advisor.weights.files import FileError
from merge_advisor.weights.naming import Shapes
from merge_advisor.weights.tensorfile import TensorInfo, read_header, read_tensor
from merge_advisor.weights.updates import DenseUpdate, LowRankUpdate, Update

STORED_WEIGHTS = "delta.safetensors"
"""Tensors `N.a` (r, in) and `N.b` (out, r), or `N.dense`, float32; N is what the index says."""
STORED_INDEX = "delta.json"


@dataclass(frozen=True, slots=True)
class StoredUpdate:
    """Where the update of one parameter lies.

    >>> StoredUpdate(0, transposed=False).transposed
    False
    """

    __pydantic_config__ = STRICT

    place: int
    """N of its tensors."""
    transposed: bool
    """Of factors: whether the base stores the weight as (in, out)."""


@dataclass(frozen=True, slots=True)
class StoredIndex:
    """What `delta.json` holds.

    >>> StoredIndex(1, {"model.norm.weight": StoredUpdate(0, False)}, "PEFT 0.21.2", ()).made_by
    'PEFT 0.21.2'
    """

    __pydantic_config__ = STRICT

    version: int
    updates: dict[str, StoredUpdate]
    """By the base's parameter name."""
    made_by: str
    notes: tuple[str, ...]


class StoredDelta(Mapping[str, Update]):
    """A weight delta read from its folder at each access; `dict(delta)` keeps it in memory.

    >>> from merge_advisor.whole_files import whole_folder
    >>> from safetensors.numpy import save_file
    >>> import numpy as np
    >>> with whole_folder(Path("stored")) as folder:
    ...     save_file({"0.dense": np.ones(32, np.float32)}, folder / STORED_WEIGHTS)
    ...     write_index(folder, StoredIndex(1, {"model.norm.weight": StoredUpdate(0, False)}, "hand", ()))
    >>> delta = read_stored_delta(Path("stored"), {"model.norm.weight": (32,)})
    >>> delta["model.norm.weight"].shape, delta.rank_of("model.norm.weight")
    ((32,), 0)
    """

    def __init__(self, folder: Path, header: Mapping[str, TensorInfo], index: StoredIndex) -> None:
        self._path = folder / STORED_WEIGHTS
        self._header = header
        self._updates = dict(sorted(index.updates.items()))
        self.made_by = index.made_by
        self.notes = index.notes

    def __getitem__(self, name: str) -> Update:
        update = self._updates[name]
        try:
            if self.rank_of(name):
                a, b = (read_tensor(self._path, self._header[f"{update.place}.{side}"]) for side in "ab")
                return LowRankUpdate(a, b, 1.0, update.transposed)
            return DenseUpdate(read_tensor(self._path, self._header[f"{update.place}.dense"]))
        except FileError as error:
            raise PoolError(f"{self._path}: {error}; remove its folder, it is made anew") from error

    def __iter__(self) -> Iterator[str]:
        return iter(self._updates)

    def __len__(self) -> int:
        return len(self._updates)

    def rank_of(self, name: str) -> int:
        """Return the rank of an update's factors, without reading them; 0 where it has none.

        Args:
            name: the parameter.
        """
        factor = self._header.get(f"{self._updates[name].place}.a")
        return factor.shape[0] if factor else 0

    def shape_of(self, name: str) -> tuple[int, ...]:
        """Return the shape of an update in the base's layout, without reading it.

        Args:
            name: the parameter.
        """
        update = self._updates[name]
        if not self.rank_of(name):
            return self._header[f"{update.place}.dense"].shape
        shape = (self._header[f"{update.place}.b"].shape[0], self._header[f"{update.place}.a"].shape[1])
        return shape[::-1] if update.transposed else shape


def write_index(folder: Path, index: StoredIndex) -> None:
    """Write the index beside the tensors of a stored weight delta.

    Args:
        folder: its folder.
        index: what to write.
    """
    (folder / STORED_INDEX).write_text(to_json(index), encoding="utf-8")


def read_stored_delta(folder: Path, base_shapes: Shapes) -> StoredDelta:
    """Return the weight delta that is stored in a folder, lazily.

    Args:
        folder: the folder.
        base_shapes: the base's parameters.

    Raises:
        PoolError: it cannot be read, or does not fit the base; the message names the folder.
    """
    try:
        text = read_regular_text(folder / STORED_INDEX)
        delta = StoredDelta(folder, read_header(folder / STORED_WEIGHTS), from_json(StoredIndex, text, STORED_INDEX))
        for name in delta:
            if delta.shape_of(name) != base_shapes.get(name):
                raise PoolError(f"{name} is {delta.shape_of(name)}, the base's is {base_shapes.get(name)}")
    except (OSError, UnicodeDecodeError, KeyError, FileError, InputError) as error:
        raise PoolError(f"{folder}: cannot be read ({error}); remove this folder, it is made anew") from error
    return delta
