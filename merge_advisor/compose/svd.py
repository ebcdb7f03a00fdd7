"""`svd`: the weighted sum, cut to a rank."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from merge_advisor.compose import Takes
from merge_advisor.compose.exact import total
from merge_advisor.compose.lazy_delta import LazyDelta, active, names_of, same_shape
from merge_advisor.compose.truncate import cut
from merge_advisor.errors import SpecError
from merge_advisor.weights.updates import LowRankUpdate, Update, WeightDelta


@dataclass(frozen=True)
class Svd:
    """Add the updates as `exact` does and cut the sum to a rank by SVD, each parameter for itself."""

    name: ClassVar[str] = "svd"
    weight_means: ClassVar[str] = "how strongly a member's update is applied before the cut"
    source: ClassVar[str] = "Eckart-Young theorem; PEFT's combination_type svd"
    takes: ClassVar[Takes] = "both"
    deterministic: ClassVar[bool] = True
    memory: ClassVar[str] = "the factors of one parameter in float64; with checkpoints one parameter three times"
    linear: ClassVar[bool] = False
    low_rank: ClassVar[bool] = True

    rank: int = 0
    """Rank of the sum in each parameter; 0 is the largest of the members'. Vectors are not cut."""

    def __post_init__(self) -> None:
        if self.rank < 0:
            raise ValueError(f"rank={self.rank} is no rank; give 1 or more, or 0 for the largest of the members'")

    def compose(self, members: Sequence[WeightDelta], weights: Sequence[float]) -> WeightDelta:
        """Add, then cut.

        Raises:
            SpecError: members of different bases, or checkpoints where no rank is given.
        """
        pairs = active(self.name, members, weights)

        def merged(name: str) -> Update:
            parts = [member[name].times(w) for member, w in pairs if name in member]
            same_shape(self.name, name, parts)
            rank = self.rank or max((part.rank for part in parts if isinstance(part, LowRankUpdate)), default=0)
            if not rank:
                raise SpecError(f"composition svd: {name} comes from checkpoints, which have no rank; give svd:rank=R")
            return cut(total(parts), rank)[0]

        return LazyDelta(names_of(pairs), merged)
