"""LoraHub's own search, for comparison."""

from __future__ import annotations

import importlib
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from merge_advisor.arrays import Float64Array
from merge_advisor.errors import SpecError
from merge_advisor.tuning.samplers.history import ask_for, asked_by, single_values
from merge_advisor.tuning.space import FloatParameter, check_searchable, float_parameters
from merge_advisor.tuning.values import Ask, SearchSpace, Trial

_ENGINES = ("cobyla", "nevergrad")
_BAD = 5e20
"""What a value that is not finite counts as; nevergrad's number."""


@dataclass(frozen=True)
class LoraHubSampler:
    """Search as LoraHub does: from weights 0, without gradients, 40 steps by convention (arXiv 2307.13269).

    Its code leaves the search to nevergrad's NGOpt, which picks by size: for weights within bounds, one worker and
    fewer than 200 steps per member (at 40 steps always) that is Powell's COBYLA, a trust region with linear models, as
    SciPy has it; read in nevergrad 0.5.0, 0.12.0, 0.13.0 and 1.0.12. It is deterministic, no seed changes it: the base
    first, then each member at a sixth of the range (0.5) on top of the best so far, only then steps in all weights.
    Beyond the bounds a weight is reflected.

    >>> from merge_advisor.tuning.values import Point
    >>> LoraHubSampler(budget=40).ask(SearchSpace(Point((0.5, 0.5), "exact")), history=(), seed=0).point.weights
    (0.0, 0.0)
    """

    engine: str = "cobyla"
    """`cobyla`: SciPy's, driven as NGOpt drives it; `nevergrad`: NGOpt itself, which needs that package."""
    budget: int = 40
    """Steps that the engine plans for; asked for more, it starts again at the best."""

    name: ClassVar[str] = "lorahub"
    searches: ClassVar[frozenset[str]] = frozenset()
    cost: ClassVar[str] = "the rows of one merge"

    def __post_init__(self) -> None:
        if self.engine not in _ENGINES:
            raise ValueError(f"engine is one of {', '.join(_ENGINES)}")
        if self.budget < 1:
            raise ValueError("budget is at least 1")

    def ask(self, space: SearchSpace, history: Sequence[Trial], seed: int) -> Ask:
        """See `Sampler.ask`; the engine's next step after its own trials, others (the plan's) are not shown to it.

        Raises:
            SpecError: as all samplers, or the package nevergrad is needed and absent.
        """
        check_searchable(self, space)
        single_values(self, history)
        own = [trial.values[0] for trial in asked_by(self, history)]
        losses = [loss if math.isfinite(loss) else _BAD for loss in own]
        axes = [_Axis(box) for box in float_parameters(space)]
        values = _nevergrad(axes, losses, self.budget, seed) if self.engine == "nevergrad" else \
            _cobyla(axes, losses, self.budget)  # fmt: skip
        return ask_for(space, self, {axis.name: axis.back(float(v)) for axis, v in zip(axes, values, strict=True)})


class _Axis:
    """One number as the engines see it: the scale in its logarithm, from weight 0 or scale 1 on."""

    def __init__(self, box: FloatParameter) -> None:
        self.name, self.log, self.box = box.name, box.log, box
        self.low, self.high = (math.log(box.low), math.log(box.high)) if box.log else (box.low, box.high)
        self.start = min(max(0.0, self.low), self.high)

    def back(self, value: float) -> float:
        return self.box.clip(math.exp(value) if self.log else value)


class _AskedError(Exception):
    """Carries the first point that has no value yet out of SciPy, which cannot be asked for one point at a time."""

    def __init__(self, point: Float64Array) -> None:
        super().__init__("a point to try")
        self.point = point


def _cobyla(axes: Sequence[_Axis], losses: Sequence[float], budget: int) -> Float64Array:
    """Return the point after `losses`: COBYLA is run anew, given them, and stopped where it asks for more."""
    from scipy.optimize import minimize

    low, high, start = (np.array([getattr(axis, name) for axis in axes]) for name in ("low", "high", "start"))
    given = 0

    def reflected(z: Float64Array) -> Float64Array:
        # NGOpt's coordinates: one step of COBYLA is a sixth of the range
        values = start + z * ((high - low) / 6)
        within = np.clip(values, low, high)
        point: Float64Array = np.clip(2 * within - values, low, high)
        return point

    def loss(z: Float64Array) -> float:
        nonlocal given
        if given == len(losses):
            raise _AskedError(reflected(z))
        given += 1
        return losses[given - 1]

    best, least = np.zeros(len(axes)), math.inf
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # COBYLA's on budgets below d + 2
        while True:
            left = budget - given if given < budget else budget
            try:
                result = minimize(loss, best, method="COBYLA", options={"maxiter": left}, tol=0)
            except _AskedError as asked:
                return asked.point
            if result.fun < least:
                best, least = result.x, result.fun


def _nevergrad(axes: Sequence[_Axis], losses: Sequence[float], budget: int, seed: int) -> Float64Array:
    """Return the point NGOpt asks for after `losses`, which it is given one by one anew."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            nevergrad = importlib.import_module("nevergrad")
        except ImportError as error:
            raise SpecError(
                "sampler lorahub: engine=nevergrad needs the package nevergrad; install merge-advisor[lorahub], "
                "or take engine=cobyla"
            ) from error
        low, high, start = ([getattr(axis, name) for axis in axes] for name in ("low", "high", "start"))
        weights = nevergrad.p.Array(init=start, lower=low, upper=high)
        weights.random_state = np.random.RandomState(seed % 2**32)
        search = nevergrad.optimizers.NGOpt(parametrization=weights, budget=budget)
        for loss in losses:
            search.tell(search.ask(), loss)
        asked: Float64Array = np.asarray(search.ask().value, dtype=np.float64)
        return asked
