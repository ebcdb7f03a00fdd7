"""What a strategy may look at, and what it answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol

import numpy as np

from merge_advisor.arrays import FloatingArray

if TYPE_CHECKING:
    from merge_advisor.weights.updates import WeightDelta

K_REACHED = "k reached"
NOTHING_ADDED = "another partner adds nothing"
"""The two usual values of `Choice.stopped`."""
FEW_ROWS = 10
"""Rows under which what they choose is fitted to them by chance more than it is to the task."""

Resource = Literal["task_delta", "rng"]
"""What a strategy has to state when it uses it: the task delta costs a finetune, `rng` makes the choice random."""


class ShotLossFunction(Protocol):
    """Measure a merge on a share of the choosing rows; for a larger share only the missing rows are measured.

    >>> shot_loss: ShotLossFunction = lambda weights, share=1.0: 3.0 - sum(weights.values())
    >>> shot_loss({0: 0.5, 2: 0.5})
    2.0
    """

    def __call__(self, weights: Mapping[int, float], share: float = 1.0, /) -> float:
        """Return the mean loss of the `exact` merge with weights by position ({}: the base) on a share of the rows."""
        ...


class GradientGainFunction(Protocol):
    """Rank all candidates by one backward pass over a share of the choosing rows.

    >>> gradient_gain: GradientGainFunction = lambda weights, share=1.0: np.array([0.1, 0.3])
    >>> gradient_gain({})
    array([0.1, 0.3])
    """

    def __call__(self, weights: Mapping[int, float], share: float = 1.0, /) -> FloatingArray:
        """Return (n,) gains of the candidates beside the `exact` merge with weights by position ({}: the base)."""
        ...


@dataclass(frozen=True, eq=False)
class Evidence:
    """All a strategy may look at. Arrays are by position in `ids`, which is sorted: ties go to the smaller position.

    The callables measure on demand, and results are stored between runs, so a strategy may simply call them. What a
    strategy does not use may be left out, as in tests and examples:

    >>> evidence = Evidence(
    ...     ids=("a", "b", "c"),
    ...     deltas=np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]),
    ...     task_delta=lambda: np.array([2.0, 1.0]),
    ...     shot_loss=lambda weights, share=1.0: 3.0 - sum(weights.values()),
    ... )
    >>> evidence.deltas @ evidence.task_delta()
    array([2., 1., 3.])
    >>> evidence.shot_loss({}), evidence.shot_loss({2: 0.5})
    (3.0, 2.5)
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
    rows: int = FEW_ROWS
    """How many choosing rows there are, of all tasks."""
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
    """One chosen candidate.

    >>> Pick(position=4, gain=0.25)
    Pick(position=4, gain=0.25)
    """

    position: int
    gain: float | None = None
    """What adding it gained at the time, in the strategy's own unit; None where it does not measure."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What a strategy answers: picks in the order of choosing, the anchor first; at least one, no position twice.

    >>> choice = Choice((Pick(4), Pick(0)), K_REACHED, used=frozenset({"rng"}))
    >>> [pick.position for pick in choice.picks]
    [4, 0]
    """

    picks: tuple[Pick, ...]
    stopped: str
    """Why it stopped: "k reached" or "another partner adds nothing" or another short phrase."""
    direction: tuple[float, ...] | None = None
    """Weights by pick, summing to 1, where the strategy finds them itself; None: uniform."""
    used: frozenset[Resource] = frozenset()
    """What the strategy used: "task_delta" where it called it (the finetune is then charged), "rng" where it drew from
    it (another seed may then choose otherwise)."""


class Strategy(Protocol):
    """What the registry's strategies look like; the package docstring is the contract.

    >>> from merge_advisor import registry
    >>> strategy: Strategy = registry.build("strategy", "top_k:centre=true")
    >>> strategy.name, strategy.centres, strategy.stops
    ('top_k', 'option', 'at a similarity of 0 or less')
    """

    name: ClassVar[str]
    centres: ClassVar[str]
    cost: ClassVar[str]
    stops: ClassVar[str]

    def select(self, evidence: Evidence, k: int) -> Choice:
        """Choose the candidates to merge.

        Args:
            evidence: what the strategy may look at, of n candidates.
            k: how many to choose at most, 1 to n; `all` alone takes the pool, whatever k is.

        Returns:
            The picks with their gains, why it stopped, and what it used.
        """
        ...
