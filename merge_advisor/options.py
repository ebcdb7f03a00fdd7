"""What can be asked for: the options of every command, defined here and nowhere else.

The command line, `merge-advisor.toml`, the settings kept in a run folder, the dry run and the documents are generated
from these classes or checked against them. Nothing heavy is imported here: `--help` reads this file.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict

from merge_advisor.errors import InputError
from merge_advisor.progress import Progress
from merge_advisor.types import ChooseBy

DEFAULT_STRATEGY = "rerank"
DEFAULT_K = 4
DEFAULT_SHOTS = 20
DEFAULT_TRIALS = 40
"""LoraHub's number of steps."""
LEAST_STEPS = 8
"""Steps taken at least where no rows are watched."""
CHECK_STEPS = 4
"""Steps between two checks at least."""


@dataclass(frozen=True, slots=True)
class Machine:
    """Where and how to compute; only `dtype` changes what is computed."""

    device: str = "cpu"
    dtype: str = "float32"
    threads: int | None = None


class SessionOptions(TypedDict, total=False):
    """Where models, stores and fetched files are kept, and how to compute; what is left out has its default."""

    offline: bool
    """Never fetch."""
    cache: Path | None
    """Folder for stores and fetched models."""
    store: Path | None
    """The store's file, if not in the cache."""
    machine: Machine | None
    progress: Progress
    """Called as work goes on."""


class Where(SessionOptions, total=False):
    """Where the parts of a run are; what is left out is where the plan found it."""

    pool: str | Path | None
    """Where the members are, if not where the plan found them."""
    base: str | None
    """Where the base is, if not where the plan found it."""


class BenchWhere(SessionOptions, total=False):
    """Where the parts of a benchmark are; what is left out is where the setup says."""

    pool: str | None
    """Where the pool is, if not where the setup says."""
    base: str | None
    """Where the base is, if not where the setup says."""
    tasks: str | None
    """Where the task files are, if not where the setup says: a folder, or `hub:org/dataset[@revision]`."""


@dataclass(frozen=True, slots=True)
class FinetuneSettings:
    """How the LoRA of the shots is trained. The defaults were measured, see eval/task_embedding.md."""

    rank: int = 8
    alpha: float = 16.0
    lr: float = 2e-3
    epochs: int = 8
    """Passes over the shots at most, where the loss on watched rows tells when to stop."""
    blind_epochs: int = 2
    """Passes over the shots where no rows are watched (never under `LEAST_STEPS`, never over `epochs`)."""
    batch_size: int = 4
    steps: int | None = None
    """Optimiser steps, whatever the watched rows say; None: as above."""
    max_length: int = 256
    """Tokens of a row at most; longer prompts are cut on their left."""

    def __post_init__(self) -> None:
        counts = (self.rank, self.epochs, self.blind_epochs, self.batch_size, self.max_length, self.steps or 1)
        if min(counts) < 1 or self.lr <= 0:
            raise InputError(f"finetune settings {self} hold a number below 1 (or lr <= 0); give positive ones")

    def steps_for(self, rows: int, *, watched: bool = False) -> int:
        """Optimiser steps taken on so many rows (at most, where others are watched)."""
        epoch = math.ceil(rows / self.batch_size)
        blind = max(self.blind_epochs * epoch, LEAST_STEPS)
        return self.steps or (self.epochs * epoch if watched else min(blind, self.epochs * epoch))

    def forwards_for(self, rows: int, watched: int) -> int:
        """Forward passes over one row of a finetune on so many rows, at most; a backward pass counts as two.

        Watched rows are looked at at every check, and at the end.
        """
        steps = self.steps_for(rows, watched=watched > 0)
        return 3 * steps * min(self.batch_size, rows) + watched * (steps // CHECK_STEPS + 1)


@dataclass(frozen=True, slots=True)
class PlanOptions:
    """What `plan` may be told beside task, pool and base; every field has the default of the command line."""

    strategy: str = DEFAULT_STRATEGY
    k: int = DEFAULT_K
    shots: int = DEFAULT_SHOTS
    tuning: int | None = None
    heldout: Path | int | None = None
    composition: str = "exact"
    rank: int | None = None
    embedding: str = "delta_activations"
    template: str | None = None
    anchor: str | None = None
    choose_by: ChooseBy = "auto"
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    licence: tuple[str, ...] = ()
    seed: int = 0
    finetune: FinetuneSettings = field(default_factory=FinetuneSettings)


@dataclass(frozen=True, slots=True)
class TuneOptions:
    """What `tune` may be told; every field has the default of the command line."""

    trials: int | None = None
    forwards: int | None = None
    minutes: float | None = None
    sampler: str = "auto"
    objective: str = "auto"
    """"auto" (what the plan was chosen by: "choices" or "loss"), these, "accuracy", "delta", "lm-eval:METRIC", or one
    of LoraHub's: "lorahub", "lorahub-clean" (the loss, with that as the goal)."""
    goal: str = "mean"
    """"mean", "worst", "pareto", "lorahub" or "lorahub-clean"."""
    bounds: tuple[float, float] = (-1.5, 1.5)
    scale: tuple[float, float] | None = None
    compositions: tuple[str, ...] = ()
    drop: bool = False
    """Whether members may be left out."""
    density: tuple[float, float] | None = None
    layers: int = 0
    seed: int = 0
    storage: str | None = None
    """Optuna storage URL; None: an SQLite file in the run folder."""
    force: bool = False
    """Begin the study anew."""
