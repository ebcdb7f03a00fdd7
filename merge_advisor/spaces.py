"""Deltas, and the space that makes two of them comparable."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from merge_advisor.errors import SpaceMismatchError
from merge_advisor.json_form import STRICT, digest_of

if TYPE_CHECKING:
    from merge_advisor.arrays import Float32Array


@dataclass(frozen=True, slots=True)
class Space:
    """What makes two deltas comparable; deltas of two spaces never meet.

    >>> space = Space("b1", "delta_activations", "p1", "last", "last token", "float32", 576)
    >>> space.dim
    576
    """

    __pydantic_config__ = STRICT

    base: str
    """Digest of the base (weights, configuration, tokenizer)."""
    embedding: str
    """Registered name and parameters of the representation, e.g. "delta_activations"."""
    probes: str
    """Digest of the probe texts."""
    layer: str
    pooling: str
    dtype: str
    dim: int
    """d: length of a delta."""

    @property
    def digest(self) -> str:
        """Sha256 of all fields."""
        return digest_of(self)


@dataclass(frozen=True, slots=True, eq=False)
class Deltas:
    """Deltas of several models in one space.

    >>> import numpy as np
    >>> space = Space("b1", "delta_activations", "p1", "last", "last token", "float32", 2)
    >>> Deltas(space, ("law", "code"), np.ones((2, 2), np.float32)).ids
    ('law', 'code')
    """

    space: Space
    ids: tuple[str, ...]
    array: Float32Array
    """(n, d) float32, one row per id, unnormalised."""


def same_space(one: Space, other: Space) -> None:
    """Refuse to compare deltas of two spaces.

    Args:
        one: a space.
        other: another, or the same.

    Raises:
        SpaceMismatchError: the spaces differ; the message names in what.
    """
    differ = [name for name in Space.__slots__ if getattr(one, name) != getattr(other, name)]
    if differ:
        parts = ", ".join(f"{name}: {getattr(one, name)} and {getattr(other, name)}" for name in differ)
        raise SpaceMismatchError(f"deltas of two spaces cannot be compared ({parts}); embed both anew in one of them")
