"""The values of a search, and the protocols of what it is made of: a problem, a sampler, a goal.

Less is better in all values. Fields of `Point`, `Trial` and `SearchSpace` are keys of stored studies: `to_plain` writes
a trial as it is, and a study is known by the digest of its space. A field renamed makes older studies unreadable.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from merge_advisor.arrays import Float64Array


@dataclass(frozen=True, slots=True)
class Point:
    """One merge of the members.

    >>> Point((0.8, 0.0), "ties:density=0.4").layers
    ()
    """

    weights: tuple[float, ...]
    """(k,), in the order of the members; 0 leaves a member out, all 0 is the base."""
    composition: str
    """Spec of the composition, its density included: "exact", "ties:density=0.4"."""
    layers: tuple[float, ...] = ()
    """Factor on all weights in each layer group, from the first layers to the last; empty: 1 everywhere."""


class Goal(Protocol):
    """How the losses of a trial become its value; `goals.goal_named` makes one of a name.

    >>> from merge_advisor.tuning.goals import goal_named
    >>> goal_named("mean", tasks=(0, 0, 1))
    MeanGoal()
    """

    name: ClassVar[str]
    relative: ClassVar[bool]
    """Whether it needs the losses of the base: the base is then tried first."""

    def values(self, means: Float64Array, weights: Sequence[float], base: Float64Array | None) -> tuple[float, ...]:
        """Return the values of a trial: one, or one for each task.

        Args:
            means: (t,) float64, mean loss of each task.
            weights: (k,) of the merge.
            base: (t,) float64, mean losses of the base, where the goal is `relative`.
        """
        ...

    def loss_gradient(self, means: Float64Array, base: Float64Array | None) -> Float64Array:
        """Return ∂ value / ∂ means, (t,) float64.

        Args:
            means: (t,) float64, mean loss of each task.
            base: (t,) float64, mean losses of the base, where the goal is `relative`.

        Raises:
            SpecError: there is more than one value.
        """
        ...

    def weight_gradient(self, weights: Sequence[float]) -> Float64Array:
        """Return ∂ value / ∂ weights at fixed losses, (k,) float64."""
        ...


@dataclass(frozen=True, slots=True)
class SearchSpace:
    """What may be varied; what is not is as in `start`.

    >>> SearchSpace(Point((0.5, 0.5), "exact"), members=True).bounds
    (-1.5, 1.5)
    """

    start: Point
    """The planned merge: where a search begins and what it shrinks towards."""
    bounds: tuple[float, float] = (-1.5, 1.5)
    """Range of a weight (LoraHub's by default)."""
    scale: tuple[float, float] | None = None
    """Range of one factor on all weights, searched in the logarithm; None: there is none."""
    compositions: tuple[str, ...] = ()
    """Specs to choose among; empty: the start's."""
    members: bool = False
    """Whether members may be left out (weight exactly 0)."""
    density: tuple[float, float] | None = None
    """Range of the density of compositions that have one; None: the start's."""
    layers: int = 0
    """Layer groups with a factor of their own; 0: none."""
    smooth: bool = True
    """Whether the problem has gradients in the weights."""
    tasks: tuple[int, ...] = (0,)
    """(n,), the task each row belongs to; the coordinator fills it in for the samplers."""
    goal: Goal | None = None
    """What the losses of a trial make it worth, filled in too; None: their mean."""


@dataclass(frozen=True, slots=True)
class Trial:
    """A merge that was tried: an `optuna.trial.FrozenTrial` with the losses that its values were made of.

    >>> trial = Trial(0, "plan", Point((0.5,), "exact"), (1.0, 2.0), (1.5,), whole=True, forwards=2)
    >>> trial.values
    (1.5,)
    """

    number: int
    """Its place among the finished trials, from 0."""
    label: str
    """"plan", "uniform", "anchor", "base" for the first ones, the sampler's name after."""
    point: Point
    losses: tuple[float | None, ...]
    """(n,), by row; None for rows it was not run on."""
    values: tuple[float, ...]
    """What it is judged by: one number, or one for each task in a Pareto search. Estimated from the rows seen where
    racing stopped it early."""
    whole: bool
    """Whether it saw all rows; False where it was pruned, or a loss was not finite."""
    forwards: int
    """Forward passes over one row that it cost; a backward pass counts as `types.BACKWARD` - 1."""
    gradient: tuple[float, ...] | None = None
    """(k,), ∂ mean loss of the rows in `sloped` / ∂ weights, where the sampler asked for it."""
    sloped: tuple[int, ...] = ()
    """The rows whose mean loss `gradient` is of."""
    notes: Mapping[str, Any] = field(default_factory=dict)
    """What the sampler put beside its ask (JSON values), to be read again in the history."""


@dataclass(frozen=True, slots=True)
class Ask:
    """What a sampler wants tried next.

    >>> Ask(Point((0.5, 0.5), "exact"), notes={"sampler": "random"}).gradient
    ()
    """

    point: Point
    gradient: tuple[int, ...] = ()
    """Rows the gradient of whose mean loss is wanted as well: `types.BACKWARD` forwards each instead of one, and the
    trial is never pruned."""
    notes: Mapping[str, Any] = field(default_factory=dict)


class Sampler(Protocol):
    """What chooses the next trial: one of the registry's samplers.

    >>> from merge_advisor import registry
    >>> sampler = registry.build("sampler", "tpe:startup=12")
    >>> sampler.name, sorted(sampler.searches)
    ('tpe', ['composition', 'density', 'layers', 'members'])
    """

    name: ClassVar[str]
    searches: ClassVar[frozenset[str]]
    cost: ClassVar[str]

    def ask(self, space: SearchSpace, history: Sequence[Trial], seed: int) -> Ask:
        """Return what to try after the finished trials; the same three arguments always give the same answer.

        Args:
            space: what may be varied.
            history: the finished trials, by number.
            seed: of the search.

        Raises:
            SpecError: the space holds a part this sampler cannot search, the trials are not of this space, or they have
                several values where the sampler searches for one.
        """
        ...


class Problem(Protocol):
    """What is tuned: losses of merges on rows. The advisor makes one of a run; tests make one of a function.

    >>> class Bowl:
    ...     members, tasks, forwards = ("math", "law"), (0, 0), 1
    ...     def losses(self, point, rows):
    ...         return [sum((weight - 0.5) ** 2 for weight in point.weights) for row in rows]
    >>> Bowl().losses(Point((0.5, 1.0), "exact"), rows=(0, 1))
    [0.25, 0.25]
    """

    @property
    def members(self) -> tuple[str, ...]:
        """Ids of the k members, the anchor first."""
        ...

    @property
    def tasks(self) -> tuple[int, ...]:
        """(n,), the task each row belongs to, 0 for all where there is one task."""
        ...

    @property
    def forwards(self) -> int:
        """Forward passes that the loss of one row costs."""
        ...

    def losses(self, point: Point, rows: Sequence[int]) -> list[float]:
        """Return the loss of a merge on each row; NaN and infinity are possible.

        Args:
            point: the merge.
            rows: which, from 0 to n - 1.
        """
        ...

    def gradient(self, point: Point, rows: Sequence[int]) -> tuple[list[float], NDArray[np.float64]]:
        """Return the loss on each row, and ∂ mean loss / ∂ weights, (k,) float64.

        Args:
            point: the merge.
            rows: which, from 0 to n - 1; the gradient is of their mean.

        Raises:
            SpecError: the composition, or the loss, has no gradient.
        """
        ...

    def guard(self, point: Point) -> float:
        """Return by how much a merge is worse than allowed on unrelated text; at most 0 where it is allowed."""
        ...
