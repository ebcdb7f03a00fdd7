"""`svd`: the weighted sum, cut to a rank."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from merge_advisor.compose import Takes
from merge_advisor.compose.exact import sum_updates
from merge_advisor.compose.lazy_delta import LazyDelta, check_shapes, parameter_names, weighted_members
from merge_advisor.compose.truncate import truncated_svd
from merge_advisor.errors import SpecError
from merge_advisor.weights.updates import LowRankUpdate, Update, WeightDelta


@dataclass(frozen=True)
class Svd:
    """Add the updates as `exact` does and cut the sum to a rank by SVD, each parameter for itself.

    >>> import numpy as np
    >>> one = {"w": LowRankUpdate(np.float32([[3, 0]]), np.float32([[1], [0]]))}
    >>> other = {"w": LowRankUpdate(np.float32([[0, 1]]), np.float32([[0], [1]]))}
    >>> Svd(rank=1).compose([one, other], [1.0, 1.0])["w"].dense()  # the sum is diag(3, 1)
    array([[3., 0.],
           [0., 0.]], dtype=float32)
    """

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
        """See `MergeRule.compose`; checkpoints have no rank, so with them `rank` must be given."""
        pairs = weighted_members(self.name, members, weights)

        def merged(name: str) -> Update:
            parts = [member[name].times(w) for member, w in pairs if name in member]
            check_shapes(self.name, name, parts)
            rank = self.rank or max((part.rank for part in parts if isinstance(part, LowRankUpdate)), default=0)
            if not rank:
                raise SpecError(f"composition svd: {name} comes from checkpoints, which have no rank; give svd:rank=R")
            return truncated_svd(sum_updates(parts), rank)[0]

        return LazyDelta(parameter_names(pairs), merged)
