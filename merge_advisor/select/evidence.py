"""What a strategy may look at, and what it answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

if TYPE_CHECKING:
    from merge_advisor.weights.updates import WeightDelta

from merge_advisor.arrays import FloatingArray

K_REACHED = "k reached"
NOTHING_ADDED = "another partner adds nothing"
"""The two usual values of `Choice.stopped`."""

Resource = Literal["task_delta", "rng"]
"""What of the evidence a strategy has to say that it used: the task delta costs a finetune, `rng` makes it chance."""


class ShotLossFunction(Protocol):
    """Measures a merge on a share of the choosing rows; of a larger share only what is missing is measured."""

    def __call__(self, weights: Mapping[int, float], share: float = 1.0, /) -> float:
        """Return the mean loss on those of the rows."""
        ...


class GradientGainFunction(Protocol):
    """Ranks all candidates by one backward pass over a share of the choosing rows."""

    def __call__(self, weights: Mapping[int, float], share: float = 1.0, /) -> FloatingArray:
        """Return (n,) gains."""
        ...


@dataclass(frozen=True, eq=False)
class Evidence:
    """All a strategy may look at. Arrays are by position in `ids`, which is sorted: ties go to the smaller position.

    The callables measure on demand; what they measure is stored between runs, so a strategy may simply call them.
    """

    ids: tuple[str, ...]
    """n candidate ids, sorted."""
    deltas: FloatingArray
    """(n, d) float32, unnormalised."""
    task_delta: Callable[[], FloatingArray]
    """Return the task delta, (d,) float32: that of the LoRA finetuned on the shots. It is computed once, in the first
    call, which may cost a finetune."""
    texts: tuple[str, ...] = ()
    """Name and model card text of each candidate."""
    query: str = ""
    """The choosing rows as text, for retrieval by description."""
    rng: np.random.Generator = field(repr=False, default_factory=lambda: np.random.default_rng(0))
    """The only source of randomness."""
    anchor: int | None = None
    """Position of the anchor the user demands, or None."""
    shot_loss: ShotLossFunction = field(repr=False, default=lambda weights, share=1.0: float("nan"))
    """Mean loss on the choosing rows of the `exact` merge with weights by position; {} is the base. Nats per token, or
    of the right choice among the choices where every row has them (see `types.ChooseBy`)."""
    gradient_gain: GradientGainFunction = field(repr=False, default=lambda weights, share=1.0: np.empty(0))
    """(n,) first-order drop of the shot loss, -⟨∂L/∂W, ΔW_i⟩, of every candidate at weight 1 beside the `exact` merge
    with weights by position ({} is the base); one backward pass."""
    weights_of: Callable[[int], WeightDelta] = field(repr=False, default=lambda position: {})
    """The weight delta of one candidate."""


@dataclass(frozen=True, slots=True)
class Pick:
    """One chosen candidate."""

    position: int
    gain: float | None = None
    """What adding it gained at the time, in the strategy's own unit; None where it does not measure."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What a strategy answers: picks in the order of choosing, the anchor first; at least one, no position twice."""

    picks: tuple[Pick, ...]
    stopped: str
    """Why it stopped: "k reached" or "another partner adds nothing" or another short phrase."""
    direction: tuple[float, ...] | None = None
    """Weights by pick, summing to 1, where the strategy finds them itself; None: uniform."""
    used: frozenset[Resource] = frozenset()
    """What the strategy used: "task_delta" where it called it (the finetune is then charged), "rng" where it drew from
    it (another seed may then choose otherwise)."""


class Strategy(Protocol):
    """What the registry's strategies look like; see the package docstring for the class attributes."""

    def select(self, evidence: Evidence, k: int) -> Choice:
        """Choose at most k candidates (1 <= k <= n); `all` alone takes the pool, whatever k is."""
        ...
