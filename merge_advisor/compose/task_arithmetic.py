"""`task_arithmetic`: the weighted sum of task vectors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from merge_advisor.compose.exact import Exact


@dataclass(frozen=True)
class TaskArithmetic(Exact):
    """Add the task vectors of full checkpoints: W = W₀ + Σ wᵢ·(Wᵢ - W₀); of adapters it is `exact` by another name.

    >>> import numpy as np
    >>> from merge_advisor.weights.updates import DenseUpdate
    >>> members = [{"w": DenseUpdate(np.float32(task_vector))} for task_vector in ([1, 2], [4, 0])]
    >>> TaskArithmetic().compose(members, [1.0, -0.5])["w"].dense()
    array([-1.,  2.], dtype=float32)
    """

    name: ClassVar[str] = "task_arithmetic"
    source: ClassVar[str] = "task arithmetic, arXiv 2212.04089, section 2; mergekit's task_arithmetic"
