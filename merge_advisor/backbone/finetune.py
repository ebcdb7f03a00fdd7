"""Finetune on a handful of rows: a LoRA of the shots, or whatever else is trainable, from the base or from a merge."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from merge_advisor.backbone.encoding import EncodedRow
from merge_advisor.backbone.losses import row_losses
from merge_advisor.backbone.memory import within_memory
from merge_advisor.backbone.model import release_memory
from merge_advisor.backbone.precision import quick_products
from merge_advisor.backbone.trainable import Trainable
from merge_advisor.backbone.trainable_lora import TrainableLora
from merge_advisor.backbone.training_loss import ANSWER_ALONE, TrainingLoss, backward, watched_losses
from merge_advisor.errors import InputError
from merge_advisor.options import CHECK_STEPS, FinetuneSettings
from merge_advisor.weights.updates import WeightDelta

if TYPE_CHECKING:
    import torch

    from merge_advisor.backbone.model import Backbone
    from merge_advisor.backbone.training_loss import Example


_PATIENCE = 2
"""Checks without a better loss on the watched rows after which training stops."""


@dataclass(frozen=True, slots=True, eq=False)
class FinetuneResult:
    """A trained update and how it came about.

    >>> FinetuneResult({}, steps=20, taken=40, watched=(2.1, 1.9, 2.0, 2.2)).taken
    40
    """

    delta: WeightDelta
    """Of the least watched loss; of the last step where no rows are watched."""
    steps: int
    """Optimiser steps behind `delta`; 0: what it began with was best."""
    taken: int
    """Optimiser steps taken in all; those after `steps` made the watched loss worse."""
    watched: tuple[float, ...]
    """Mean loss on the watched rows at each check."""
    rows: tuple[float, ...] = ()
    """Loss of each watched row at the least mean."""


@dataclass(frozen=True, slots=True)
class Pull:
    """A penalty towards where training began (L2-SP, arXiv 1802.01483): strength / 2 · ‖ΔW - ΔW₀‖², in all modules.

    >>> Pull(0.1).strength
    0.1
    """

    strength: float = 0.0


def finetune_lora(
    backbone: Backbone,
    rows: Sequence[EncodedRow],
    targets: Sequence[str],
    settings: FinetuneSettings,
    *,
    seed: int,
    watch: Sequence[EncodedRow] = (),
    weights: Sequence[float] = (),
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> FinetuneResult:
    """Train a LoRA (arXiv 2106.09685) on the completions of `rows`; the base itself is not changed.

    A is drawn as PEFT draws it (uniform ±1/sqrt(in), Kaiming with a = sqrt(5)), B starts at zero; see `finetune` for
    the rest.

    Args:
        backbone: a bare base, or a base with something placed.
        rows: the encoded shots, at least one.
        targets: parameter names (…weight) of linear modules.
        settings: rank, rate and length.
        seed: the only randomness (initial A, order of rows).
        watch: rows that are not trained on and say when to stop; without them all steps are taken.
        weights: as of `finetune`.
        progress: called after each step with (done, total).

    Returns:
        The LoRA as a weight delta, and its history.

    Raises:
        InputError: the loss became NaN or infinite (lower the rate).
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    lora = TrainableLora(backbone, targets, rank=settings.rank, alpha=settings.alpha, generator=generator)
    return finetune(
        backbone, lora, rows, settings, generator=generator, progress=progress,
        watch=(lambda: row_losses(backbone, watch)) if watch else None, weights=weights,
    )  # fmt: skip


def finetune(
    backbone: Backbone,
    trainable: Trainable,
    examples: Sequence[Example],
    settings: FinetuneSettings,
    *,
    generator: torch.Generator,
    watch: Callable[[], Sequence[float]] | None = None,
    weights: Sequence[float] = (),
    terms: TrainingLoss = ANSWER_ALONE,
    pull: Pull = Pull(),
    start_counts: bool = False,
    check_rows: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> FinetuneResult:
    """Train what is trainable on rows; the base, and what is placed on it, are not changed.

    AdamW without weight decay, a linear warm-up over the first tenth of the steps, then a linear fall to a tenth of the
    rate; the loss of a batch is the mean over its rows. A handful of long rows is learnt by heart within a few passes,
    a handful of short ones takes many: where rows are watched, the result is what had the least loss on them. Weights
    and optimiser are float32; products are of the base's dtype (`precision.quick_products`), on an accelerator torch's
    "medium".

    Takes more than eight parameters because each is a part of a finetune that one adaptation varies and another leaves.

    Args:
        backbone: a bare base, or a base with something placed.
        trainable: what is trained; it is changed.
        examples: the encoded rows, at least one.
        settings: rate, batch and length.
        generator: draws the order of the rows.
        watch: gives the loss of rows that are not trained on and say when to stop; None: all steps are taken.
        weights: what each of these counts, summing to 1; empty: all the same.
        terms: what is lowered on each row.
        pull: a penalty towards where it began.
        start_counts: whether what it began with is a candidate for the least watched loss.
        check_rows: rows trained on between two checks of the watched ones, at most; None: all of them.
        progress: called after each step with (done, total).

    Returns:
        The update, and its history.

    Raises:
        InputError: the loss became NaN or infinite (lower the rate).
    """
    handles = trainable.attach(backbone)
    total = settings.steps_for(len(examples), watched=watch is not None)
    optimiser, schedule = _optimiser(trainable, settings.lr, total)
    # not more often than once a pass over the rows: a check runs all watched rows
    every = max(CHECK_STEPS, math.ceil(min(len(examples), check_rows or len(examples)) / settings.batch_size))
    watched = partial(within_memory, backbone, watch) if watch and settings.steps is None else None
    best, step = _Best(trainable, weights), 0
    try:
        with _precision(backbone), quick_products(backbone):
            drawn = _drawn_batches(len(examples), settings.batch_size, generator)
            if watched is not None and start_counts:
                best.check(0, watched())
            for step in range(1, total + 1):
                batch = [examples[index] for index in next(drawn)]
                value = within_memory(backbone, partial(backward, backbone, batch, terms), optimiser.zero_grad)
                value += _pulled(trainable, pull)
                if not math.isfinite(value):
                    raise InputError(f"finetuning on the shots: loss is {value} at step {step}; lower `lr`")
                optimiser.step()
                schedule.step()
                optimiser.zero_grad(set_to_none=True)
                progress(step, total)
                if watched is not None and (step % every == 0 or step == total):
                    best.check(step, watched())
                    if best.over:
                        break
    finally:
        for handle in handles:
            handle.remove()
        release_memory()
    if best.delta is None:  # nothing was watched
        return FinetuneResult(trainable.delta(), step, step, tuple(best.losses))
    return FinetuneResult(best.delta, best.step, step, tuple(best.losses), best.rows)


def watcher(backbone: Backbone, examples: Sequence[Example]) -> Callable[[], Sequence[float]] | None:
    """Return what gives the loss of each watched row, None where there are none.

    Args:
        backbone: the base that is trained on.
        examples: the watched rows.
    """
    return (lambda: watched_losses(backbone, examples)) if examples else None


def _pulled(trainable: Trainable, pull: Pull) -> float:
    """Accumulate the gradient of the penalty; return it."""
    if not pull.strength:
        return 0.0
    import torch

    distances = [trainable.distance(name) for name in trainable.names]
    # the weights may be on several devices
    penalty = pull.strength / 2 * torch.stack([distance.to(distances[0].device) for distance in distances]).sum()
    penalty.backward()
    return float(penalty.detach())


def _drawn_batches(count: int, size: int, generator: torch.Generator) -> Iterator[list[int]]:
    """Yield positions of `count` rows, `size` at a time, pass after pass, each in an order of its own."""
    import torch

    while True:
        order = torch.randperm(count, generator=generator).tolist()
        for start in range(0, count, size):
            yield order[start : start + size]


@dataclass(eq=False)
class _Best:
    """The update of the least watched loss so far."""

    trainable: Trainable
    weights: Sequence[float] = ()
    losses: list[float] = field(default_factory=list)
    delta: WeightDelta | None = None
    rows: tuple[float, ...] = ()
    step: int = 0
    _least: float = math.inf
    _since: int = 0

    def check(self, step: int, rows: Sequence[float]) -> None:
        loss = float(np.dot(self.weights, rows) if len(self.weights) else np.mean(rows))
        if not math.isfinite(loss):
            raise InputError(f"finetuning on the shots: watched loss is {loss} at step {step}; lower `lr`")
        self.losses.append(loss)
        self._since += 1
        if loss < self._least:
            self._least, self._since, self.step, self.rows = loss, 0, step, tuple(rows)
            self.delta = self.trainable.delta()

    @property
    def over(self) -> bool:
        return self._since >= _PATIENCE


def _optimiser(trainable: Trainable, lr: float, total: int) -> tuple[Any, Any]:
    import torch

    optimiser = torch.optim.AdamW(trainable.parameters, lr=lr, weight_decay=0.0)
    warmup = max(1, total // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: min((step + 1) / warmup, max(0.1, (total - step) / max(1, total - warmup)))
    )
    return optimiser, schedule


@contextmanager
def _precision(backbone: Backbone) -> Iterator[None]:
    """Allow an accelerator to round float32 on both sides of a product; on a CPU `quick_products` says it."""
    import torch

    before = torch.get_float32_matmul_precision()
    if backbone.device.type != "cpu":
        torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
