"""A weight delta computed parameter by parameter when it is read, so that a merge needs one parameter's scratch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

from merge_advisor.errors import SpecError
from merge_advisor.weights.updates import LowRankUpdate, Update, WeightDelta


class LazyDelta(Mapping[str, Update]):
    """Maps each of `names` to what `compute` makes of it, anew at every reading."""

    def __init__(self, names: Sequence[str], compute: Callable[[str], Update]) -> None:
        self._names = dict.fromkeys(names)
        self._compute = compute

    def __getitem__(self, name: str) -> Update:
        if name not in self._names:
            raise KeyError(name)
        return self._compute(name)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def names_of(pairs: Sequence[tuple[WeightDelta, float]]) -> list[str]:
    """Parameters any member changes, sorted."""
    return sorted({name for member, _ in pairs for name in member})


def active(
    composition: str, members: Sequence[WeightDelta], weights: Sequence[float]
) -> list[tuple[WeightDelta, float]]:
    """Pair members with weights, those of weight 0 left out (they would only add to the rank).

    Raises:
        SpecError: not as many weights as members, or one that is no finite number.
    """
    if len(members) != len(weights):
        raise SpecError(f"composition {composition}: {len(members)} members but {len(weights)} weights; give one each")
    for weight in weights:
        if not math.isfinite(weight):
            raise SpecError(f"composition {composition}: weight {weight} is no finite number; correct the recipe")
    return [(member, float(weight)) for member, weight in zip(members, weights, strict=True) if weight != 0]


def same_shape(composition: str, name: str, parts: Sequence[Update]) -> None:
    """Refuse updates of one parameter whose shapes differ.

    Raises:
        SpecError: the members belong to different bases.
    """
    shapes = sorted({tuple(part.shape) for part in parts})
    if len(shapes) > 1:
        found = " and ".join(str(shape) for shape in shapes)
        raise SpecError(f"composition {composition}: {name} has shapes {found}; the members are of different bases")


def factors_of(composition: str, name: str, update: Update) -> LowRankUpdate:
    """The update as factors whose scale has a root: a negative sign moves into B.

    Raises:
        SpecError: it comes from a checkpoint.
    """
    if not isinstance(update, LowRankUpdate):
        raise SpecError(
            f"composition {composition}: {name} comes from a checkpoint; it adds LoRA factors, use exact instead"
        )
    if update.scale < 0:
        return LowRankUpdate(update.a, -update.b, -update.scale, update.transposed)
    return update


def one_rank(composition: str, names: Sequence[str], pairs: Sequence[tuple[WeightDelta, float]]) -> None:
    """Refuse members whose factors of one parameter cannot be added.

    Raises:
        SpecError: a checkpoint, other shapes, or other ranks.
    """
    for name in names:
        parts = [factors_of(composition, name, member[name]) for member, _ in pairs if name in member]
        same_shape(composition, name, parts)
        ranks = sorted({part.rank for part in parts})
        if len(ranks) > 1:
            found = ", ".join(str(rank) for rank in ranks)
            raise SpecError(
                f"composition {composition}: {name} has ranks {found}; it adds factors of one rank, use exact"
            )
