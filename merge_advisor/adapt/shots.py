"""What needs no pool: a LoRA of the rows alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from merge_advisor.adapt.folds import (
    FOLDS,
    CrossFit,
    Fold,
    cross_fit,
    mean_of,
    out_of_fold,
    watched_out_of_fold,
    with_trained,
)
from merge_advisor.adapt.workbench import NOTHING, Adapted, Need, TrainingRequest, Workbench
from merge_advisor.backbone.shapes import LoraShape
from merge_advisor.backbone.training_loss import TrainingLoss
from merge_advisor.types import SHOTS_LORA

SCALES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Of the trained update; a LoRA of a handful of rows is often too large."""


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

    name: ClassVar[str] = "shots"
    trains: ClassVar[str] = "a LoRA"
    cost: ClassVar[str] = "a finetune for each fold, and 4 passes over the rows"

    def needs(self) -> Need:
        """Return that it needs no pool and no merge."""
        return "nothing"

    def passes(self, members: int) -> tuple[int, int]:
        """See `Adaptation.passes`."""
        return 1, len(SCALES) if self.scaled else 0

    def adapt(self, bench: Workbench) -> Adapted:
        """See `Adaptation.adapt`."""
        if not self.folds:
            return self._single(bench)
        fit = cross_fit(bench, lambda fold: self.request(bench, fold), self.folds)
        scale, losses = best_scale(bench, fit) if self.scaled else (1.0, watched_out_of_fold(bench, fit, NOTHING))
        lora = mean_of(bench, fit, SHOTS_LORA)
        return Adapted(
            with_trained(NOTHING, lora, scale), tuple(losses.tolist()), fit.numbers,
            f"the mean of {len(fit.trained)} LoRAs of the rows, each trained without one part of them, times {scale:g}",
            finetune_settings(self.request(bench, fit.folds[0])) | {"folds": len(fit.folds), "scale": scale},
        )  # fmt: skip

    def request(self, bench: Workbench, fold: Fold) -> TrainingRequest:
        """Return the finetune of one fold.

        Args:
            bench: says what a LoRA changes, and how it is trained.
            fold: rows to train on, and those that say when to stop.
        """
        return TrainingRequest(
            LoraShape(bench.targets, bench.settings.rank, bench.settings.alpha),
            fold.rows, fold.out, settings=replace(bench.settings, lr=bench.settings.lr * self.rate),
            terms=TrainingLoss(choices=self.choices), seed=bench.seed,
        )  # fmt: skip

    def _single(self, bench: Workbench) -> Adapted:
        """One LoRA of the shots; the tuning rows, where there are any, stop it and choose the scale."""
        request = self.request(bench, Fold(bench.shots, bench.watch))
        trained = bench.train(request)
        scale = 1.0
        if bench.watch and self.scaled:
            means = {
                s: float(bench.losses(with_trained(NOTHING, trained.candidate, s), bench.watch).mean()) for s in SCALES
            }
            scale = min(means, key=lambda s: (means[s], -s))
        merge = with_trained(NOTHING, trained.candidate, scale)
        reason = f"a LoRA of {len(bench.shots)} rows, {trained.record.steps} steps, times {scale:g}"
        return Adapted(merge, (), trained.record.numbers, reason, finetune_settings(request) | {"scale": scale})


def best_scale(bench: Workbench, fit: CrossFit) -> tuple[float, np.ndarray[tuple[int], np.dtype[np.float64]]]:
    """Return the scale of least loss on rows that were not trained on (the larger of equals), and the rows' losses.

    Args:
        bench: measures them.
        fit: the folds' LoRAs.
    """
    found = {
        scale: watched_out_of_fold(bench, fit, NOTHING)
        if scale == 1
        else out_of_fold(bench, fit, lambda trained, s=scale: with_trained(NOTHING, trained.candidate, s))  # type: ignore[misc]
        for scale in SCALES
    }
    best = min(found, key=lambda scale: (float(found[scale].mean()), -scale))
    return best, found[best]


def finetune_settings(request: TrainingRequest) -> dict[str, object]:
    """Return what a finetune can be done again by, as JSON values.

    Args:
        request: of the finetune.
    """
    settings, terms = request.settings, request.terms
    return {
        "rate": settings.lr, "epochs at most": settings.epochs, "rows a step": settings.batch_size,
        "rank": settings.rank, "alpha": settings.alpha, "seed": request.seed, "pull": request.pull,
        "loss over the choices": terms.choices,
    }  # fmt: skip
