"""`dare_ties`: random entries of each member, rescaled, added where the signs agree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from merge_advisor.compose.dare_linear import DareLinear
from merge_advisor.compose.sparse import check_choice


@dataclass(frozen=True)
class DareTies(DareLinear):
    """Keep random entries of each member, rescale, elect a sign for each entry, and add the members that agree.

    As in mergekit 0.1.5 those that agree are added, not averaged as TIES does; `normalize=true` averages them, the sum
    of all weights being λ as in `ties`.

    >>> import numpy as np
    >>> from merge_advisor.weights.updates import DenseUpdate
    >>> members = [{"w": DenseUpdate(np.float32(values))} for values in ([4, 3], [2, -5])]
    >>> DareTies(density=1).compose(members, [0.5, 0.5])["w"].dense()
    array([ 3. , -2.5], dtype=float32)
    """

    name: ClassVar[str] = "dare_ties"
    weight_means: ClassVar[str] = "how strongly a member is applied where it agrees with the elected sign"
    source: ClassVar[str] = "DARE, arXiv 2311.03099, with the signs of TIES, arXiv 2306.01708; as mergekit 0.1.5"

    sign: str = "sum"
    """"sum": the sign with more weight in total; "count": the sign of more members."""
    normalize: bool = False
    """Whether the members that agree are averaged; False adds them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("sign", self.sign, ("sum", "count"))

    def consensus_method(self) -> str:
        """See `SparseComposition.consensus_method`; the parameter `sign`."""
        return self.sign

    def is_normalized(self) -> bool:
        """See `SparseComposition.is_normalized`; the parameter `normalize`."""
        return self.normalize
