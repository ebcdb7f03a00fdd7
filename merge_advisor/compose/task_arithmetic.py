"""`task_arithmetic`: the weighted sum of task vectors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from merge_advisor.compose.exact import Exact


@dataclass(frozen=True)
class TaskArithmetic(Exact):
    """Add the task vectors of full checkpoints: W = W₀ + Σ wᵢ·(Wᵢ - W₀); of adapters it is `exact` by another name."""

    name: ClassVar[str] = "task_arithmetic"
    source: ClassVar[str] = "task arithmetic, arXiv 2212.04089, section 2; mergekit's task_arithmetic"
