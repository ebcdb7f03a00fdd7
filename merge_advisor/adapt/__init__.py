"""Adaptations: how a handful of rows and a pool become one model. One file each, numpy on a `Workbench`.

An adaptation is a frozen dataclass, registered under its name (see `registry`). Its fields are its parameters and have
defaults. It has class attributes and three methods:

    name: ClassVar[str]      the registered name
    trains: ClassVar[str]    what is trained, in words
    cost: ClassVar[str]      what it costs beside choosing, in words
    def passes(self, members: int) -> tuple[int, int]   finetunes in each fold, and passes over all rows, at most
    def needs(self) -> Need                        whether a merge has to be chosen, or the pool is enough, or neither
    def adapt(self, bench: Workbench) -> Adapted

One that needs tuning rows has `check_rows(tuning)`, which refuses too few before anything is measured, one that takes
few tasks `check_tasks(count)`; one that can compare a merge that nothing is trained on top of says so by an attribute
`any_merge`, and one that has merges chosen again by some of the rows by `anew`. One that trains on inputs without
outputs says so by an attribute `unlabelled`: a plan gives inputs (`bench.inputs`) to no other. The labelled rows then
judge it.

`adapt` keeps to this, for every workbench:

- The result is a merge of the pool's candidates plus at most one trained adapter, so that every tool that merges or
  serves adapters can carry it out: what was trained on top of a merge at weight 1, a LoRA of the rows at its scale.
- Nothing is judged on rows it was trained on: `Adapted.losses` are of rows held out of the training behind them.
- A mean of losses is `bench.mean`: a task counts as much as another, however many rows it has.
- The same workbench and seed give the same result; chance comes from `bench.seed` alone.
- With one row a fold, no tuning rows, a pool of one, checkpoints or mixed modules it works or raises one clear line.
"""

from __future__ import annotations

from merge_advisor.adapt.values import Adapted, Need, Trained, TrainingRecord, TrainingRequest
from merge_advisor.adapt.workbench import Adaptation, Workbench

__all__ = ["Adaptation", "Adapted", "Need", "Trained", "TrainingRecord", "TrainingRequest", "Workbench"]
