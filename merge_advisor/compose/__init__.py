"""Compositions: the rule that turns weights and weight deltas into one model. One file each, numpy alone.

A composition is a frozen dataclass (its fields are its parameters, see `registry`) with class attributes and a method:

    name: ClassVar[str]           the registered name
    weight_means: ClassVar[str]   what a weight means in it: the same numbers give another model elsewhere
    source: ClassVar[str]         paper or code the formula comes from, and where it departs from it
    takes: ClassVar[Takes]        "adapters", "checkpoints" or "both"
    deterministic: ClassVar[bool] False: it draws at random, from its parameter `seed` and nothing else
    memory: ClassVar[str]         scratch beside the members' own weights, in words
    linear: ClassVar[bool]        True: ΔW is Σ wᵢ·ΔWᵢ
    low_rank: ClassVar[bool]      True: adapters in, LoRA factors out (it can be written as a PEFT adapter exactly)
    most: ClassVar[int]           optional: members it can take at most
    def compose(self, members: Sequence[WeightDelta], weights: Sequence[float]) -> WeightDelta

The result maps parameter names to updates lazily (one parameter's scratch at a time). Inputs are never changed, and the
order of members does not matter. Everything is computed in float32 on ΔW = s·BA, never on A and B apart, except where a
composition says so. A member of weight 0 counts as absent. Each parameter is merged on its own, so that
`layers.compose_layers` can give any composition weights by layer group.

`lazy_delta` and `sparse` hold what compositions share, `truncate` cuts a merge to a rank, `mask_cache` keeps what a
search would compute again at every trial.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol

if TYPE_CHECKING:
    from merge_advisor.weights.updates import WeightDelta

__all__ = ["Composition", "MergeRule", "Takes"]

Takes = Literal["adapters", "checkpoints", "both"]
"""Kinds of candidates a composition can merge."""


class MergeRule(Protocol):
    """What merges weight deltas: a composition, or a cache around one.

    >>> from merge_advisor import registry
    >>> rule: MergeRule = registry.build("composition", "exact")
    """

    def compose(self, members: Sequence[WeightDelta], weights: Sequence[float]) -> WeightDelta:
        """Return the merged weight delta.

        Args:
            members: k weight deltas of one base.
            weights: (k,) finite numbers; member i counts with weights[i], 0 leaves it out.

        Returns:
            Parameter name -> merged update, for every parameter that a member with a weight changes. An update is
            computed when it is read, so errors about one parameter may come then.

        Raises:
            SpecError: members this composition cannot take (a checkpoint, factors whose ranks differ), members of
                different bases, another number of weights than of members, or a weight that is no finite number.
        """
        ...


class Composition(MergeRule, Protocol):
    """What the registry's compositions look like.

    >>> from merge_advisor import registry
    >>> composition: Composition = registry.build("composition", "ties:density=0.4")
    >>> composition.takes, composition.linear, composition.low_rank
    ('both', False, False)
    """

    name: ClassVar[str]
    weight_means: ClassVar[str]
    source: ClassVar[str]
    takes: ClassVar[Takes]
    deterministic: ClassVar[bool]
    memory: ClassVar[str]
    linear: ClassVar[bool]
    low_rank: ClassVar[bool]
