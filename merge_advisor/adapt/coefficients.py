"""A coefficient for each adapter and module, by gradient: finer than a weight for each adapter, coarser than a LoRA."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from merge_advisor.adapt.continuing import Continue, start_of, train_on
from merge_advisor.adapt.folds import FOLDS, Fold, check_folds
from merge_advisor.adapt.unlabelled import lower_entropy
from merge_advisor.adapt.values import Adapted, Need
from merge_advisor.adapt.workbench import Workbench, untouched
from merge_advisor.arrays import Float32Array
from merge_advisor.backbone.shapes import CoefficientShape
from merge_advisor.types import BACKWARD
from merge_advisor.weights.updates import LowRankUpdate, along

OBJECTIVES = ("loss", "entropy")


@dataclass(frozen=True)
class Coefficients:
    """Train one number for each (adapter, module) on top of the chosen merge: ΔW_m = Σ_j c_jm ΔW_jm.

    Of each module the adapters take part whose updates change the loss of the rows trained on most to first order,
    |⟨∂L/∂W, ΔW⟩|, at the merge, picked for each fold anew: by block, a few are enough (aTLAS, arXiv 2407.02880, section
    5). A penalty keeps c near the merge's.
    With `objective=entropy` no output is trained on: c lowers the entropy of the answers (AdaMerging, arXiv 2310.02575)
    to the inputs that the plan was given, or to the rows' own. The entropy is as low where a model gives one answer to
    everything, and training goes there if it may. The pull towards the merge holds it, and the labelled rows, which say
    when to stop (the start is a candidate), pick the adapters that take part, and judge the result.

    >>> Coefficients().needs()
    'merge'
    """

    most: int = 4
    """Adapters a module."""
    pull: float = 0.01
    """λ of the penalty towards the merge."""
    folds: int = FOLDS
    """As of `shots`; on inputs that the plan was given there is one finetune, stopped by all labelled rows."""
    choices: float = 1.0
    """As of `shots`."""
    rate: float = 1.0
    """Factor on the finetune's rate."""
    objective: str = "loss"
    """"loss": of the labelled rows; "entropy": of the answers to unlabelled inputs (`plan --inputs`), else to the rows'
    own."""

    name: ClassVar[str] = "coefficients"
    trains: ClassVar[str] = "a number for each of a few adapters and module"
    cost: ClassVar[str] = "choosing the merge, a backward pass over the rows of each fold, and a finetune for each"

    def __post_init__(self) -> None:
        check_folds(self.folds)
        if self.most < 1:
            raise ValueError(f"most={self.most}: at least one adapter a module")
        if self.objective not in OBJECTIVES:
            raise ValueError(f"objective={self.objective} is none of {', '.join(OBJECTIVES)}")
        if self.objective == "entropy" and self.choices != 1:
            raise ValueError("choices weighs a loss of labelled rows, which objective=entropy does not have")

    @property
    def unlabelled(self) -> bool:
        """Whether it trains on inputs without outputs."""
        return self.objective == "entropy"

    def needs(self) -> Need:
        """Return that it needs a merge."""
        return "merge"

    def passes(self, members: int) -> tuple[int, int]:
        """See `Adaptation.passes`."""
        return 1, BACKWARD * max(self.folds - 1, 1)  # each fold's gradient is of the rows of all others

    def adapt(self, bench: Workbench) -> Adapted:
        """See `Adaptation.adapt`."""
        begun = start_of(bench, "merge")

        def shape(fold: Fold) -> CoefficientShape:
            # by the rows that are trained on alone: those left out judge the adapters that were picked as well
            return CoefficientShape(self.terms(bench, bench.gradient(begun, fold.rows)), _UNIT)

        how = Continue("merge", self.folds, self.choices, self.rate, self.pull)
        if self.unlabelled:
            words = "coefficients by module of adapters that the labelled rows picked, on top of the chosen merge"
            return lower_entropy(bench, begun, shape, how, words)
        return train_on(bench, begun, shape, how, "coefficients of adapters by module, on top of the chosen merge")

    def terms(self, bench: Workbench, gradient: Mapping[str, Float32Array]) -> dict[str, tuple[LowRankUpdate, ...]]:
        """Return the adapters' updates that take part, by parameter name.

        Args:
            bench: holds the pool.
            gradient: of the loss, by parameter name.

        Raises:
            PoolError: no adapter of the pool changes any of these weights.
        """
        best: dict[str, list[tuple[float, LowRankUpdate]]] = {}
        # one adapter after the other, of which the best are kept: together a pool's may be more than fits into memory
        for candidate in bench.candidates:
            delta = bench.weights_of(candidate)
            for name in bench.targets:
                update = delta.get(name)
                # of a full checkpoint's update the sum would be as large as the weight, for each of them
                if isinstance(update, LowRankUpdate):
                    ranked = [*best.get(name, []), (abs(along(update, gradient[name])), update)]
                    # of equal ones the first in the pool, as sorting keeps their order
                    best[name] = sorted(ranked, key=lambda pair: -pair[0])[: self.most]
        if not best:
            raise untouched()
        return {name: tuple(update for _, update in best[name]) for name in bench.targets if name in best}


_UNIT = 10.0
"""Coefficient that a trained number of 1 stands for: at a rate of 0.002 a step then moves it by 0.02."""
