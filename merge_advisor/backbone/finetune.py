"""Finetune a LoRA on a handful of rows: the task embedding's model, kept as the `shots_lora`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from merge_advisor.backbone.forward import Encoded, batch_losses, batches
from merge_advisor.backbone.weights import LowRank, WeightDelta
from merge_advisor.errors import InputError

if TYPE_CHECKING:
    import torch

    from merge_advisor.backbone.model import Backbone


@dataclass(frozen=True, slots=True)
class FinetuneSettings:
    """How the LoRA of the shots is trained; measured defaults are still owed, see scripts/bench/task_embedding.py."""

    rank: int = 8
    alpha: float = 16.0
    lr: float = 2e-3
    epochs: int = 8
    batch_size: int = 4
    steps: int | None = None
    """Optimiser steps; None: `epochs` times the batches of the shots."""
    max_length: int = 256
    """Tokens of a row at most; longer prompts are cut on their left."""

    def __post_init__(self) -> None:
        if min(self.rank, self.epochs, self.batch_size, self.max_length) < 1 or self.lr <= 0 or (self.steps or 1) < 1:
            raise InputError(f"finetune settings {self} hold a number below 1 (or lr <= 0); give positive ones")

    def steps_for(self, rows: int) -> int:
        """Optimiser steps taken on so many rows."""
        return self.steps or self.epochs * math.ceil(rows / self.batch_size)


def finetune_lora(
    backbone: Backbone,
    rows: Sequence[Encoded],
    targets: Sequence[str],
    settings: FinetuneSettings,
    *,
    seed: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> WeightDelta:
    """Train a LoRA (arXiv 2106.09685) on the completions of `rows`; the base itself is not changed.

    A is drawn as PEFT draws it (uniform ±1/sqrt(in), Kaiming with a = sqrt(5)), B starts at zero; AdamW without weight
    decay, a linear warm-up over the first tenth of the steps, then a linear fall to a tenth of the rate; the loss of a
    batch is the mean over its rows of the mean over their tokens.

    Args:
        backbone: a bare base.
        rows: the encoded shots, at least one.
        targets: parameter names (…weight) of linear modules.
        settings: rank, rate and length.
        seed: the only randomness (initial A, order of rows).
        progress: called after each step with (done, total).

    Raises:
        InputError: the loss became NaN or infinite (lower the rate).
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    factors = _initial(backbone, targets, settings.rank, generator)
    scale = settings.alpha / settings.rank
    handles = [_attach(backbone, name, a, b, scale) for name, (a, b) in factors.items()]
    total = settings.steps_for(len(rows))
    optimiser = torch.optim.AdamW([p for pair in factors.values() for p in pair], lr=settings.lr, weight_decay=0.0)
    warmup = max(1, total // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: min((step + 1) / warmup, max(0.1, (total - step) / max(1, total - warmup)))
    )
    try:
        order: list[int] = []
        for step in range(total):
            if not order:
                order = torch.randperm(len(rows), generator=generator).tolist()
            chosen, order = order[: settings.batch_size], order[settings.batch_size :]
            value = _backward(backbone, [rows[index] for index in chosen])
            if not math.isfinite(value):
                raise InputError(f"finetuning on the shots: loss is {value} at step {step + 1}; lower --lr")
            optimiser.step()
            schedule.step()
            optimiser.zero_grad(set_to_none=True)
            progress(step + 1, total)
    finally:
        for handle in handles:
            handle.remove()
    return {name: LowRank(_numpy(a), _numpy(b), scale) for name, (a, b) in factors.items()}


def _initial(
    backbone: Backbone, targets: Sequence[str], rank: int, generator: torch.Generator
) -> dict[str, tuple[torch.nn.Parameter, torch.nn.Parameter]]:
    """Fresh float32 factors by parameter name, in the order of the names."""
    import torch

    found = {}
    for name in sorted(targets):
        out, width = backbone.parameters[name].shape
        bound = 1 / math.sqrt(width)
        a = (torch.rand(rank, width, generator=generator) * 2 - 1) * bound
        b = torch.zeros(out, rank)
        found[name] = (torch.nn.Parameter(a.to(backbone.device)), torch.nn.Parameter(b.to(backbone.device)))
    return found


def _attach(
    backbone: Backbone, name: str, a: torch.Tensor, b: torch.Tensor, scale: float
) -> torch.utils.hooks.RemovableHandle:
    import torch

    linear = torch.nn.functional.linear

    def forward(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        update = linear(linear(inputs[0].to(a.dtype), a), b)
        return output + (update * scale).to(output.dtype)

    return backbone.modules[name.removesuffix(".weight")].register_forward_hook(forward)


def _backward(backbone: Backbone, rows: Sequence[Encoded]) -> float:
    """Accumulate the gradient of the rows' mean loss, length bucket by length bucket; return the loss."""
    value = 0.0
    for batch in batches(rows):
        loss = batch_losses(backbone, [rows[index] for index in batch]).sum() / len(rows)
        loss.backward()
        value += float(loss.detach())
    return value


def _numpy(parameter: torch.Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    found: np.ndarray[tuple[int, ...], np.dtype[np.float32]] = parameter.detach().float().cpu().numpy()
    return found
