"""What needs no pool: a LoRA of the rows alone."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

from merge_advisor.adapt.folds import (
    FOLDS,
    CrossFit,
    Fold,
    check_folds,
    cross_fit,
    mean_of,
    out_of_fold,
    watched_out_of_fold,
    with_trained,
)
from merge_advisor.adapt.values import NOTHING, Adapted, Need, Trained, TrainingRequest
from merge_advisor.adapt.workbench import Workbench
from merge_advisor.arrays import Float64Array
from merge_advisor.backbone.shapes import LoraShape
from merge_advisor.backbone.training_loss import TrainingLoss
from merge_advisor.errors import TaskError
from merge_advisor.types import SHOTS_LORA

SCALES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Of the trained update; a LoRA of a handful of rows is often too large."""
RATES = {1: (1.0,), 2: (1.0, 0.5), 3: (1.0, 0.5, 0.25)}
"""Factors tried on the rate, by how many: none above 1, since a handful of rows is learnt by heart soon enough."""


@dataclass(frozen=True)
class ShotsAlone:
    """Train a LoRA on the rows alone, at the scale that suits rows it was not trained on.

    >>> ShotsAlone().needs(), ShotsAlone(folds=0).scaled
    ('nothing', True)
    """

    folds: int = FOLDS
    """LoRAs that are trained, each without one part of the rows, and averaged; 0: one, that the tuning rows stop."""
    choices: float = 1.0
    """Weight of the loss over a row's choices beside that of the right answer."""
    rate: float = 1.0
    """Factor on the finetune's rate."""
    scaled: bool = True
    """Choose one scale of 0, ¼, ½, ¾ and 1 on rows that were not trained on."""
    rates: int = 1
    """Rates tried, the best by rows that were not trained on: 2: full and half; 3: full, half and a quarter."""
    normalised: float = 0.0
    """Weight of the loss over a row's choices by their likelihood per token (T-Few, arXiv 2205.05638)."""
    unlikelihood: float = 0.0
    """Weight of the unlikelihood of a row's wrong choices (the same)."""

    name: ClassVar[str] = "shots"
    trains: ClassVar[str] = "a LoRA"
    cost: ClassVar[str] = "a finetune for each fold and rate, and 4 passes over the rows for each rate"

    def __post_init__(self) -> None:
        check_folds(self.folds)
        if self.rates not in RATES:
            raise ValueError(f"rates={self.rates}: give {', '.join(map(str, RATES))}")
        for name in ("choices", "normalised", "unlikelihood"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name}={getattr(self, name):g}: weight of a loss; give 0 or more")

    def needs(self) -> Need:
        """Return that it needs no pool and no merge."""
        return "nothing"

    def passes(self, members: int) -> tuple[int, int]:
        """See `Adaptation.passes`."""
        return self.rates, self.rates * (len(SCALES) if self.scaled else 1)

    def check_rows(self, tuning: int) -> None:
        """Refuse rows that could not choose what is to be chosen.

        Args:
            tuning: number of tuning rows.

        Raises:
            TaskError: several rates, no folds, and no tuning rows to choose among them.
        """
        if self.rates > 1 and not self.folds and not tuning:
            raise TaskError(
                f"shots: rates={self.rates} with folds=0 chooses the rate on tuning rows, and there are none; give "
                "`tuning`, or 2 folds or more"
            )

    def adapt(self, bench: Workbench) -> Adapted:
        """See `Adaptation.adapt`."""
        if not self.folds:
            return self._single(bench)
        found: dict[ShotsAlone, tuple[CrossFit, float, Float64Array]] = {}
        for how in self._tried():
            fit = cross_fit(bench, lambda fold, how=how: how.request(bench, fold), self.folds)  # type: ignore[misc]
            scale, losses = best_scale(bench, fit) if self.scaled else (1.0, watched_out_of_fold(bench, fit))
            found[how] = fit, scale, losses
        best = min(found, key=lambda how: bench.mean(found[how][2]))  # of equals the first, the full rate
        fit, scale, losses = found[best]
        request = best.request(bench, fit.folds[0])
        reason = f"the mean of {len(fit.trained)} LoRAs of the rows, each trained without one part of them"
        merge = with_trained(NOTHING, mean_of(bench, fit, SHOTS_LORA), scale)
        return Adapted(
            merge, tuple(losses.tolist()), fit.numbers,
            f"{reason}, times {scale:g}{self._at(request)}",
            self.settings(bench, request) | {"folds": len(fit.folds), "scale": scale},
            without_pool=merge,
        )  # fmt: skip

    def request(self, bench: Workbench, fold: Fold) -> TrainingRequest:
        """Return the finetune of one fold.

        Args:
            bench: says what a LoRA changes, and how it is trained.
            fold: rows to train on, and those that say when to stop.
        """
        terms = TrainingLoss(choices=self.choices, normalised=self.normalised, unlikelihood=self.unlikelihood)
        return TrainingRequest(
            LoraShape(bench.targets, bench.settings.rank, bench.settings.alpha),
            fold.rows, fold.out, settings=replace(bench.settings, lr=bench.settings.lr * self.rate),
            terms=terms, seed=bench.seed, weights=bench.weights(fold.out),
            what=fold.named("shots" if self.rate == 1 else f"shots at {self.rate:g} of the rate"),
        )  # fmt: skip

    def _tried(self) -> list[ShotsAlone]:
        """One for each rate, the full one first."""
        return [replace(self, rate=self.rate * factor, rates=1) for factor in RATES[self.rates]]

    def _at(self, request: TrainingRequest) -> str:
        return f", at a rate of {request.settings.lr:g}, the best of {self.rates}" if self.rates > 1 else ""

    def settings(self, bench: Workbench, chosen: TrainingRequest) -> dict[str, object]:
        """Return what the training can be done again by, as JSON values.

        Args:
            bench: says the rate.
            chosen: a finetune of the rate that was chosen.
        """
        tried = {"rates tried": ", ".join(f"{bench.settings.lr * how.rate:g}" for how in self._tried())}
        return finetune_settings(chosen) | (tried if self.rates > 1 else {})

    def _single(self, bench: Workbench) -> Adapted:
        """One LoRA of the shots; the tuning rows, where there are any, stop it and choose scale and rate.

        Raises:
            TaskError: several rates, and no tuning rows to choose among them.
        """
        self.check_rows(len(bench.watch))
        found: dict[ShotsAlone, tuple[TrainingRequest, Trained, float, float]] = {}
        for how in self._tried():
            request = how.request(bench, Fold(bench.shots, bench.watch))
            trained = bench.train(request)
            found[how] = request, trained, *self._scale_of(bench, trained)
        best = min(found, key=lambda how: found[how][3])
        request, trained, scale, _ = found[best]
        lora = bench.keep(bench.weights_of(trained.candidate), SHOTS_LORA)
        merge = with_trained(NOTHING, lora, scale)
        reason = f"a LoRA of {len(bench.shots)} rows, {trained.record.steps} steps, times {scale:g}{self._at(request)}"
        settings = self.settings(bench, request) | {"scale": scale}
        return Adapted(merge, (), trained.record.numbers, reason, settings, without_pool=merge)

    def _scale_of(self, bench: Workbench, trained: Trained) -> tuple[float, float]:
        """The scale of least loss on the tuning rows (the larger of equals), and that loss; 0 where nothing asks."""
        if not bench.watch or (not self.scaled and self.rates == 1):
            return 1.0, 0.0
        means = {
            scale: bench.mean(bench.losses(with_trained(NOTHING, trained.candidate, scale), bench.watch), bench.watch)
            for scale in (SCALES if self.scaled else (1.0,))
        }
        scale = min(means, key=lambda scale: (means[scale], -scale))
        return scale, means[scale]


def best_scale(bench: Workbench, fit: CrossFit) -> tuple[float, Float64Array]:
    """Return the scale of least loss on rows that were not trained on (the larger of equals), and the rows' losses.

    Args:
        bench: measures them.
        fit: the folds' LoRAs.
    """
    found = {
        scale: watched_out_of_fold(bench, fit)
        if scale == 1
        else out_of_fold(bench, fit, lambda trained, s=scale: with_trained(NOTHING, trained.candidate, s))  # type: ignore[misc]
        for scale in SCALES
    }
    best = min(found, key=lambda scale: (bench.mean(found[scale]), -scale))
    return best, found[best]


def finetune_settings(request: TrainingRequest) -> dict[str, object]:
    """Return what a finetune can be done again by, as JSON values.

    Args:
        request: of the finetune.
    """
    settings, terms = request.settings, request.terms
    others = {"loss over the choices per token": terms.normalised, "unlikelihood": terms.unlikelihood}
    return {
        "rate": settings.lr, "epochs at most": settings.epochs, "rows a step": settings.batch_size,
        "rank": settings.rank, "alpha": settings.alpha, "seed": request.seed, "pull": request.pull,
        "loss over the choices": terms.choices, **{name: weight for name, weight in others.items() if weight},
    }  # fmt: skip
