"""Weight deltas computed when they are read, and the checks that all compositions share."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

from merge_advisor.errors import SpecError
from merge_advisor.weights.updates import LowRankUpdate, Update, WeightDelta


class LazyDelta(Mapping[str, Update]):
    """A weight delta computed parameter by parameter when it is read, anew each time.

    A merge of any size so needs scratch for one parameter only.

    >>> import numpy as np
    >>> from merge_advisor.weights.updates import DenseUpdate
    >>> delta = LazyDelta(["norm.weight"], lambda name: DenseUpdate(np.ones(2, dtype=np.float32)))
    >>> delta["norm.weight"].dense()
    array([1., 1.], dtype=float32)
    """

    def __init__(self, names: Sequence[str], compute: Callable[[str], Update]) -> None:
        self._names = dict.fromkeys(names)  # a set that keeps the order of the names
        self._compute = compute

    def __getitem__(self, name: str) -> Update:
        if name not in self._names:
            raise KeyError(name)
        return self._compute(name)

    # Mapping's own `in` reads the item: that would merge a parameter to say whether it is there
    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def parameter_names(pairs: Sequence[tuple[WeightDelta, float]]) -> list[str]:
    """Return the names of the parameters that any member changes, sorted.

    Args:
        pairs: members with their weights.
    """
    return sorted({name for member, _ in pairs for name in member})


def weighted_members(
    composition: str, members: Sequence[WeightDelta], weights: Sequence[float]
) -> list[tuple[WeightDelta, float]]:
    """Return the members with their weights, without those of weight 0 (they would only add to the rank).

    Args:
        composition: name of the composition, for messages.
        members: k weight deltas.
        weights: (k,).

    Raises:
        SpecError: not as many weights as members, or one that is no finite number.
    """
    if len(members) != len(weights):
        raise SpecError(f"composition {composition}: {len(members)} members but {len(weights)} weights; give one each")
    for weight in weights:
        if not math.isfinite(weight):
            raise SpecError(f"composition {composition}: weight {weight} is no finite number; correct the recipe")
    return [(member, float(weight)) for member, weight in zip(members, weights, strict=True) if weight != 0]


def check_shapes(composition: str, name: str, updates: Sequence[Update]) -> None:
    """Refuse updates of one parameter whose shapes differ.

    Args:
        composition: name of the composition, for messages.
        name: name of the parameter.
        updates: of the members that change it.

    Raises:
        SpecError: the members belong to different bases.
    """
    shapes = sorted({tuple(update.shape) for update in updates})
    if len(shapes) > 1:
        listed = " and ".join(str(shape) for shape in shapes)
        raise SpecError(f"composition {composition}: {name} has shapes {listed}; the members are of different bases")


def lora_factors(composition: str, name: str, update: Update) -> LowRankUpdate:
    """Return an update as LoRA factors with a scale of 0 or more.

    A negative sign moves into B, because compositions that add factors take the root of the scale.

    Args:
        composition: name of the composition, for messages.
        name: name of the parameter.
        update: of one member.

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


def check_ranks(composition: str, names: Sequence[str], pairs: Sequence[tuple[WeightDelta, float]]) -> None:
    """Refuse members whose factors of one parameter cannot be added.

    Args:
        composition: name of the composition, for messages.
        names: parameters to look at.
        pairs: members with their weights.

    Raises:
        SpecError: a checkpoint, shapes that differ, or ranks that differ.
    """
    for name in names:
        factors = [lora_factors(composition, name, member[name]) for member, _ in pairs if name in member]
        check_shapes(composition, name, factors)
        ranks = sorted({part.rank for part in factors})
        if len(ranks) > 1:
            listed = ", ".join(str(rank) for rank in ranks)
            raise SpecError(
                f"composition {composition}: {name} has ranks {listed}; it adds factors of one rank, use exact"
            )
