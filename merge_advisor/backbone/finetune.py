"""Finetune a LoRA on a handful of rows: the model whose delta embeds the task, kept as `shots_lora`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from merge_advisor.backbone.encoding import EncodedRow, batches
from merge_advisor.backbone.losses import batch_losses, row_losses
from merge_advisor.backbone.model import release_memory
from merge_advisor.errors import InputError
from merge_advisor.options import CHECK_STEPS, FinetuneSettings
from merge_advisor.weights.updates import LowRankUpdate, WeightDelta

if TYPE_CHECKING:
    import torch

    from merge_advisor.backbone.model import Backbone

    Factors = Mapping[str, tuple[torch.nn.Parameter, torch.nn.Parameter]]


_PATIENCE = 2
"""Checks without a better loss on the watched rows after which training stops."""


@dataclass(frozen=True, slots=True, eq=False)
class FinetuneResult:
    """A trained LoRA and how it came about.

    >>> FinetuneResult({}, steps=20, taken=40, watched=(2.1, 1.9, 2.0, 2.2)).taken
    40
    """

    delta: WeightDelta
    """Of the least watched loss; of the last step where no rows are watched."""
    steps: int
    """Optimiser steps behind `delta`."""
    taken: int
    """Optimiser steps taken in all; those after `steps` made the watched loss worse."""
    watched: tuple[float, ...]
    """Mean loss on the watched rows at each check, nats per token."""


def finetune_lora(
    backbone: Backbone,
    rows: Sequence[EncodedRow],
    targets: Sequence[str],
    settings: FinetuneSettings,
    *,
    seed: int,
    watch: Sequence[EncodedRow] = (),
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> FinetuneResult:
    """Train a LoRA (arXiv 2106.09685) on the completions of `rows`; the base itself is not changed.

    A is drawn as PEFT draws it (uniform ±1/sqrt(in), Kaiming with a = sqrt(5)), B starts at zero; AdamW without weight
    decay, a linear warm-up over the first tenth of the steps, then a linear fall to a tenth of the rate; the loss of a
    batch is the mean over its rows of the mean over their tokens. A handful of long rows is learnt by heart within a
    few passes, a handful of short ones takes many: with watched rows, the result is the LoRA of the least loss on them.
    Matrix products may be taken in bfloat16 (torch's "medium" precision), weights and optimiser are float32.

    Args:
        backbone: a bare base.
        rows: the encoded shots, at least one.
        targets: parameter names (…weight) of linear modules.
        settings: rank, rate and length.
        seed: the only randomness (initial A, order of rows).
        watch: rows that are not trained on and say when to stop; without them all steps are taken.
        progress: called after each step with (done, total).

    Returns:
        The LoRA as a weight delta, and its history.

    Raises:
        InputError: the loss became NaN or infinite (lower the rate).
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    factors = _initial(backbone, targets, settings.rank, generator)
    scale = settings.alpha / settings.rank
    handles = [_attach(backbone, name, a, b, scale) for name, (a, b) in factors.items()]
    total = settings.steps_for(len(rows), watched=bool(watch))
    optimiser, schedule = _optimiser(factors, settings.lr, total)
    # not more often than once a pass over the rows: a check runs all watched rows
    every = max(CHECK_STEPS, math.ceil(len(rows) / settings.batch_size))
    best = _Best(scale)
    try:
        with _medium_precision():
            drawn = _drawn_batches(len(rows), settings.batch_size, generator)
            for step in range(1, total + 1):
                value = _backward(backbone, [rows[index] for index in next(drawn)])
                if not math.isfinite(value):
                    raise InputError(f"finetuning on the shots: loss is {value} at step {step}; lower `lr`")
                optimiser.step()
                schedule.step()
                optimiser.zero_grad(set_to_none=True)
                progress(step, total)
                if watch and settings.steps is None and (step % every == 0 or step == total):
                    best.check(step, float(np.mean(row_losses(backbone, watch))), factors)
                    if best.over:
                        break
    finally:
        for handle in handles:
            handle.remove()
        release_memory()
    if best.delta is None:  # nothing was watched, or nothing finite
        return FinetuneResult(_as_delta(factors, scale), step, step, tuple(best.losses))
    return FinetuneResult(best.delta, best.step, step, tuple(best.losses))


def _drawn_batches(count: int, size: int, generator: torch.Generator) -> Iterator[list[int]]:
    """Yield positions of `count` rows, `size` at a time, pass after pass, each in an order of its own."""
    import torch

    while True:
        order = torch.randperm(count, generator=generator).tolist()
        for start in range(0, count, size):
            yield order[start : start + size]


@dataclass(eq=False)
class _Best:
    """The LoRA of the least watched loss so far."""

    scale: float
    losses: list[float] = field(default_factory=list)
    delta: WeightDelta | None = None
    step: int = 0
    _least: float = math.inf
    _since: int = 0

    def check(self, step: int, loss: float, factors: Factors) -> None:
        self.losses.append(loss)
        self._since += 1
        if loss < self._least:
            self._least, self._since, self.step = loss, 0, step
            self.delta = _as_delta(factors, self.scale)

    @property
    def over(self) -> bool:
        return self._since >= _PATIENCE


def _as_delta(factors: Factors, scale: float) -> WeightDelta:
    return {name: LowRankUpdate(_numpy(a), _numpy(b), scale) for name, (a, b) in factors.items()}


def _optimiser(factors: Factors, lr: float, total: int) -> tuple[Any, Any]:
    import torch

    optimiser = torch.optim.AdamW([p for pair in factors.values() for p in pair], lr=lr, weight_decay=0.0)
    warmup = max(1, total // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: min((step + 1) / warmup, max(0.1, (total - step) / max(1, total - warmup)))
    )
    return optimiser, schedule


@contextmanager
def _medium_precision() -> Iterator[None]:
    import torch

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _initial(
    backbone: Backbone, targets: Sequence[str], rank: int, generator: torch.Generator
) -> dict[str, tuple[torch.nn.Parameter, torch.nn.Parameter]]:
    """Fresh float32 factors by parameter name, in the order of the names."""
    import torch

    factors = {}
    for name in sorted(targets):
        out, width = backbone.parameters[name].shape
        bound = 1 / math.sqrt(width)  # sqrt(6 / ((1 + 5) · width)): Kaiming's bound for a = sqrt(5)
        a = (torch.rand(rank, width, generator=generator) * 2 - 1) * bound
        b = torch.zeros(out, rank)
        factors[name] = (torch.nn.Parameter(a.to(backbone.device)), torch.nn.Parameter(b.to(backbone.device)))
    return factors


def _attach(
    backbone: Backbone, name: str, a: torch.Tensor, b: torch.Tensor, scale: float
) -> torch.utils.hooks.RemovableHandle:
    import torch

    linear = torch.nn.functional.linear

    def forward(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        update = linear(linear(inputs[0].to(a.dtype), a), b)
        return output + (update * scale).to(output.dtype)

    return backbone.modules[name.removesuffix(".weight")].register_forward_hook(forward)


def _backward(backbone: Backbone, rows: Sequence[EncodedRow]) -> float:
    """Accumulate the gradient of the rows' mean loss, length bucket by length bucket; return the loss."""
    value = 0.0
    for batch in batches(rows):
        loss = batch_losses(backbone, [rows[index] for index in batch]).sum() / len(rows)
        loss.backward()
        value += float(loss.detach())
    return value


def _numpy(parameter: torch.Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    array: np.ndarray[tuple[int, ...], np.dtype[np.float32]] = parameter.detach().float().cpu().numpy().copy()
    return array
