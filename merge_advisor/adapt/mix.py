"""A LoRA of the rows and the pool's adapters side by side, their weights chosen on rows held out of the LoRA."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from merge_advisor.adapt.continuing import start_of
from merge_advisor.adapt.folds import FOLDS, CrossFit, cross_fit, mean_of, out_of_fold, with_trained
from merge_advisor.adapt.shots import ShotsAlone, finetune_settings
from merge_advisor.adapt.values import Adapted, Need, Trained
from merge_advisor.adapt.workbench import Workbench
from merge_advisor.arrays import Float64Array
from merge_advisor.merges import WeightedMerge
from merge_advisor.types import SHOTS_LORA

FIRST = ((1.0, 0.0), (0.0, 1.0), (0.5, 0.5), (1.0, 0.5), (0.5, 1.0), (1.0, 1.0))
"""Scales (s of the LoRA, t of the merge) that are tried first."""
_STEP, _MEMBER_STEP = 0.25, 0.5
"""How far s and t move around the best of them, and the factors tried on each member."""


@dataclass(frozen=True)
class Mix:
    """Merge a LoRA of the rows with the chosen merge: ΔW = s·ΔW_rows + Σ c_j ΔW_j.

    The coefficients begin as the merge's own, times one scale t; then each is tried smaller, left out, and larger.
    Every combination is judged by LoRAs that were trained without the rows it is judged on. An L1 penalty on c keeps
    members out that the rows do not ask for. What is promised of the best is not its own loss, which is the least of
    many: each part of the rows is judged by the combination that is the best of the others.

    >>> Mix().needs()
    'merge'
    """

    folds: int = FOLDS
    """As of `shots`."""
    choices: float = 1.0
    """As of `shots`."""
    l1: float = 0.01
    """Loss that a coefficient of 1 has to be worth, in nats."""

    name: ClassVar[str] = "mix"
    trains: ClassVar[str] = "a LoRA, and a weight for it and each member"
    cost: ClassVar[str] = "choosing the merge, a finetune for each fold, and up to 22 passes over the rows"

    def __post_init__(self) -> None:
        if self.folds < 2:
            raise ValueError(f"folds={self.folds}: weights are chosen on rows held out, so at least 2")

    def needs(self) -> Need:
        """Return that it needs a merge."""
        return "merge"

    def passes(self, members: int) -> tuple[int, int]:
        """See `Adaptation.passes`."""
        return 1, len(FIRST) + 4 + 3 * members

    def adapt(self, bench: Workbench) -> Adapted:
        """See `Adaptation.adapt`."""
        start = start_of(bench, "merge")
        how = ShotsAlone(self.folds, self.choices, scaled=False)
        fit = cross_fit(bench, lambda fold: how.request(bench, fold), self.folds)
        (s, weights), losses = self._search(bench, fit, start)
        members = start.with_weights(weights).without_zeros()
        merge = with_trained(members, mean_of(bench, fit, SHOTS_LORA), s)
        kept = "nobody" if not members.members else f"{len(members.members)} members of the pool"
        reason = f"the mean of {len(fit.trained)} LoRAs of the rows times {s:g}, beside {kept}"
        settings = finetune_settings(how.request(bench, fit.folds[0])) | {"folds": len(fit.folds), "scale": s}
        return Adapted(merge, tuple(losses.tolist()), fit.numbers + len(weights) + 1, reason, settings)

    def _search(
        self, bench: Workbench, fit: CrossFit, start: WeightedMerge
    ) -> tuple[tuple[float, tuple[float, ...]], Float64Array]:
        """The best weights (of LoRA and merge together first, then of each member), and what each row is judged by."""
        found: dict[tuple[float, tuple[float, ...]], Float64Array] = {}

        def value(point: tuple[float, tuple[float, ...]]) -> float:
            if point not in found:
                s, weights = point
                members = start.with_weights(weights).without_zeros()

                def model(trained: Trained) -> WeightedMerge:
                    return with_trained(members, trained.candidate, s)

                found[point] = out_of_fold(bench, fit, model)
            return bench.mean(found[point]) + self._penalty(point)

        def at(s: float, t: float) -> tuple[float, tuple[float, ...]]:
            return s, tuple(round(t * weight, 6) for weight in start.weights)

        s, t = min(FIRST, key=lambda pair: (value(at(*pair)), pair))
        around = [(s, t)] + [(s + a, t + b) for a, b in ((_STEP, 0), (-_STEP, 0), (0, _STEP), (0, -_STEP))]
        s, t = min((pair for pair in around if min(pair) >= 0), key=lambda pair: (value(at(*pair)), pair))
        best = at(s, t)
        for place in range(len(start.members)):
            tried = [
                (best[0], (*best[1][:place], round(best[1][place] * factor, 6), *best[1][place + 1 :]))
                for factor in (0.0, 1 - _MEMBER_STEP, 1.0, 1 + _MEMBER_STEP)
            ]
            best = min(tried, key=lambda point: (value(point), point))
        return best, self._honest(bench, fit, found)

    def _penalty(self, point: tuple[float, tuple[float, ...]]) -> float:
        return self.l1 * sum(map(abs, point[1]))

    def _honest(
        self, bench: Workbench, fit: CrossFit, found: Mapping[tuple[float, tuple[float, ...]], Float64Array]
    ) -> Float64Array:
        """The loss of each row under the weights, of all that were tried, that rows of other folds would choose."""
        losses = np.zeros(len(bench.learning))
        for fold in fit.folds:
            out = {row.digest for row in fold.out}
            own = np.array([row.digest in out for row in bench.learning])
            others = [row for row in bench.learning if row.digest not in out]
            values = {point: bench.mean(of[~own], others) + self._penalty(point) for point, of in found.items()}
            losses[own] = found[min(values, key=lambda point: (values[point], point))][own]
        return losses
