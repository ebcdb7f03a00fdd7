"""What can be asked for: the options of every command, defined here and nowhere else.

The command line, the keys of `merge-advisor.toml` and docs/cli.md are generated from these classes; the settings kept
in a run folder and the defaults of the API's functions are checked against them (tests/cli/test_option_definitions.py).
Nothing heavy is imported here: `--help` reads this file.

A new option is one field here and its use. A field without `option(...)` can be set from Python alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from merge_advisor.errors import InputError
from merge_advisor.option_fields import option
from merge_advisor.types import BACKWARD, ChooseBy

DEFAULT_STRATEGY = "rerank"
DEFAULT_K = 4
DEFAULT_SHOTS = 20
DEFAULT_TRIALS = 40
"""LoraHub's number of steps."""
LEAST_STEPS = 8
"""Steps taken at least where no rows are watched."""
CHECK_STEPS = 4
"""Steps between two checks at least."""

# headings of the help; options of one heading may come from several classes
_CHOOSING = "choosing"
_ROWS = "rows"
_LORA = "LoRA of the shots"
_LM_EVAL = "lm-eval"
_SCORING = "scoring"
_MODELS = "models"
_BUDGET = f"budget (the first limit reached ends the search; default {DEFAULT_TRIALS} trials)"
_SEARCH = "search"
_VARIED = "what is varied (default: the members' weights)"


@dataclass(frozen=True, slots=True)
class Places:
    """Where models, stores and fetched files are; the same as `Where`, as the command line has it.

    >>> Places(base="org/name").offline
    False
    """

    pool: str | None = option(
        None, group=_MODELS, settings=True, place=True, metavar="POOL",
        help="folder of adapters or checkpoints, manifest (.yaml), hub ids",
    )  # fmt: skip
    base: str | None = option(
        None, group=_MODELS, settings=True, place=True, metavar="BASE",
        help="hub id (org/name[@revision]), folder, or .gguf file",
    )  # fmt: skip
    offline: bool = option(False, group=_MODELS, settings=True, help="never fetch; use what is in the cache")
    # not from merge-advisor.toml: whoever wrote the pool may have written that file too
    follow_links: bool = option(
        False, group=_MODELS, help="read what links in the pool lead to outside of it too (default: set aside)"
    )
    cache: Path | None = option(
        None, group=_MODELS, settings=True, metavar="DIR",
        help="folder for stores and fetched models ($MERGE_ADVISOR_CACHE)",
    )  # fmt: skip
    store: Path | None = option(
        None, group=_MODELS, settings=True, metavar="FILE",
        help="SQLite file of measurements (default: store.sqlite in the cache)",
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class BenchPlaces(Places):
    """The same for a benchmark, whose setup names its pool and base.

    >>> BenchPlaces().pool
    """

    # not from merge-advisor.toml: called from another folder, the same setup would measure another pool
    pool: str | None = option(
        None, group=_MODELS, metavar="POOL", help="folder, manifest (.yaml) or hub ids, if not what the setup names"
    )
    base: str | None = option(
        None, group=_MODELS, metavar="BASE", help="hub id, folder or .gguf file, if not what the setup names"
    )


@dataclass(frozen=True, slots=True)
class FinetuneSettings:
    """How the LoRA of the shots is trained. The defaults were measured, see eval/task_embedding.md.

    >>> FinetuneSettings(epochs=2, batch_size=4).steps_for(20, watched=True)
    10
    """

    rank: int = option(
        8, group=_LORA, flags=("--lora-rank",), metavar="R", help="rank of its factors (default {default})"
    )
    alpha: float = 16.0
    lr: float = option(
        2e-3, group=_LORA, flags=("--lora-lr",), metavar="RATE", help="learning rate (default {default})"
    )
    epochs: int = option(
        8, group=_LORA, flags=("--lora-epochs",), metavar="N",
        help="passes over the shots at most (default {default}); the tuning rows tell when to stop",
    )  # fmt: skip
    blind_epochs: int = 2
    """Passes over the shots where no rows are watched (never under `LEAST_STEPS`, never over `epochs`)."""
    batch_size: int = 4
    steps: int | None = option(
        None, group=_LORA, flags=("--lora-steps",), metavar="N", help="exactly so many optimiser steps instead"
    )
    max_length: int = 256
    """Tokens of a row at most; longer prompts are cut on their left."""

    def __post_init__(self) -> None:
        steps = 1 if self.steps is None else self.steps
        counts = (self.rank, self.epochs, self.blind_epochs, self.batch_size, self.max_length, steps)
        if min(counts) < 1 or max(counts) > 10**9 or not (0 < self.lr < math.inf and 0 < self.alpha < math.inf):
            raise InputError(
                f"finetune settings {self} hold a number below 1 (lr, alpha: one not finite or not above 0) or above "
                "10^9; give positive, smaller ones"
            )

    def steps_for(self, rows: int, *, watched: bool = False) -> int:
        """Return the optimiser steps taken on so many rows (at most, where others are watched).

        Args:
            rows: rows trained on.
            watched: whether other rows tell when to stop.

        Returns:
            the number of steps.
        """
        epoch = math.ceil(rows / self.batch_size)
        blind = max(self.blind_epochs * epoch, LEAST_STEPS)
        return self.steps or (self.epochs * epoch if watched else min(blind, self.epochs * epoch))

    def forwards_for(self, rows: int, watched: int) -> int:
        """Return the forward passes over one row that a finetune takes, at most; a backward pass counts as two.

        Args:
            rows: rows trained on.
            watched: rows that tell when to stop; they are scored at every check and at the end.

        Returns:
            the number of passes.
        """
        steps = self.steps_for(rows, watched=watched > 0)
        return BACKWARD * steps * min(self.batch_size, rows) + watched * (steps // CHECK_STEPS + 1)


@dataclass(frozen=True, slots=True)
class PlanOptions:
    """How a plan is made: strategy, members, rows, template, composition.

    >>> PlanOptions(strategy="top_k", k=2).shots
    20
    """

    strategy: str = option(
        DEFAULT_STRATEGY, group=_CHOOSING, settings=True, registered="strategy",
        help="default {default}; one of: {names}; parameters as name:key=value",
    )  # fmt: skip
    k: int = option(
        DEFAULT_K, group=_CHOOSING, settings=True, metavar="N", help="members of the pool at most (default {default})"
    )
    anchor: str | None = option(None, group=_CHOOSING, metavar="ID", help="make this candidate the anchor")
    choose_by: ChooseBy = option(
        "auto", group=_CHOOSING, settings=True,
        help="what choosing lowers: loss of the right answer's tokens, or of the right choice among the choices "
             "(default {default}: choices where every row has them)",
    )  # fmt: skip
    include: tuple[str, ...] = option((), group=_CHOOSING, metavar="GLOB", help="only candidates of these ids")
    exclude: tuple[str, ...] = option(
        (), group=_CHOOSING, metavar="GLOB",
        help="no candidates of these ids; shots_lora leaves out the LoRA of the shots",
    )  # fmt: skip
    licence: tuple[str, ...] = option(
        (), group=_CHOOSING, flags=("--licence", "--license"), metavar="GLOB",
        help="only candidates under these licences",
    )  # fmt: skip
    adaptation: str = option(
        "auto", group=_CHOOSING, settings=True, registered="adaptation",
        help="how examples and pool become one model; default {default}; one of: {names}; parameters as name:key=value",
    )  # fmt: skip
    composition: str = option(
        "exact", group=_CHOOSING, settings=True, registered="composition", help="default {default}; one of: {names}"
    )
    rank: int | None = option(
        None, group=_CHOOSING, settings=True, metavar="R", help="cut the merged adapter to this rank by SVD"
    )
    embedding: str = option(
        "delta_activations", group=_CHOOSING, settings=True, registered="embedding",
        help="default {default}; one of: {names}",
    )  # fmt: skip
    seed: int = option(0, group=_CHOOSING, settings=True, help="the only randomness (default {default})")
    shots: int = option(
        DEFAULT_SHOTS, group=_ROWS, settings=True, metavar="N",
        help="rows the task LoRA is finetuned on, at most (default {default})",
    )  # fmt: skip
    tuning: int | None = option(
        None, group=_ROWS, metavar="N", help="rows that choose members and weights (default: a fifth)"
    )
    heldout: Path | int | None = option(
        None, group=_ROWS, metavar="N|FILE", help="rows kept for scoring, or a file of them (default: the rest)"
    )
    inputs: Path | None = option(
        None, group=_ROWS, metavar="FILE",
        help="further inputs, without outputs, for an adaptation that trains on such (coefficients:objective=entropy)",
    )  # fmt: skip
    fields: str | None = option(
        None, group=_ROWS, flags=("--map",), metavar="FIELDS",
        help="fields of the task files: input=A,output=B[,choices=C][,labels=NAME|NAME]; several inputs as A+B, nested "
             "ones as A.B or A.0",
    )  # fmt: skip
    template: str | None = option(
        None, group=_ROWS, settings=True, help="alpaca, plain, bare or chat (default: the pool's)"
    )
    finetune: FinetuneSettings = field(default_factory=FinetuneSettings)


@dataclass(frozen=True, slots=True)
class TuneOptions:
    """How the weights of a run's members are searched.

    >>> TuneOptions(sampler="random", trials=8).bounds
    (-1.5, 1.5)
    """

    trials: int | None = option(None, group=_BUDGET, metavar="N", help="trials in all, earlier sessions included")
    forwards: int | None = option(
        None, group=_BUDGET, flags=("--forward-budget",), metavar="N",
        help="forward passes over one row in all; a backward pass counts as two",
    )  # fmt: skip
    minutes: float | None = option(None, group=_BUDGET, metavar="N", help="minutes of this session")
    sampler: str = option(
        "auto", group=_SEARCH, registered="sampler",
        help="default {default}; one of: {names}; parameters as name:key=value",
    )  # fmt: skip
    objective: str = option(
        "auto", group=_SEARCH,
        help="loss, choices, accuracy, delta, lm-eval:METRIC (acc, exact_match, loss), lorahub, lorahub-clean "
             "(default {default}: choices or loss, as the plan was chosen)",
    )  # fmt: skip
    goal: str = option(
        "mean", group=_SEARCH,
        help="mean (default), worst or pareto over several tasks, lorahub, lorahub-clean",
    )  # fmt: skip
    seed: int = option(0, group=_SEARCH, settings=True, help="the only randomness (default {default})")
    # not from merge-advisor.toml: its `adaptation` is the plan's, which the run holds already
    adaptation: str | None = option(
        None, group=_SEARCH, metavar="SPEC", registered="adaptation",
        help="what is made of the examples and the tuned merge (default: the run's own adaptation, begun anew; none: "
             "the tuned merge as it is); one of: {names}; parameters as name:key=value",
    )  # fmt: skip
    storage: str | None = option(
        None, group=_SEARCH, metavar="URL", help="Optuna storage (default: study.sqlite in the run folder)"
    )
    share: bool = option(
        False, group=_SEARCH,
        help="let other processes search the same study at the same time, each with --share and the same --storage",
    )  # fmt: skip
    force: bool = option(False, group=_SEARCH, help="begin anew, whatever was tried before")
    bounds: tuple[float, float] = option(
        (-1.5, 1.5), group=_VARIED, metavar="LOW:HIGH", help="range of a weight (default {default})"
    )
    scale: tuple[float, float] | None = option(
        None, group=_VARIED, metavar="LOW:HIGH", help="one factor on all weights"
    )
    compositions: tuple[str, ...] = option(
        (), group=_VARIED, flags=("--composition",), metavar="SPEC", registered="composition",
        help="try this one beside the plan's; one of: {names}",
    )  # fmt: skip
    drop: bool = option(False, group=_VARIED, help="members may be left out")
    density: tuple[float, float] | None = option(
        None, group=_VARIED, metavar="LOW:HIGH", help="share of entries kept, of compositions that have one"
    )
    layers: int = option(0, group=_VARIED, metavar="G", help="a factor for each of G groups of layers")


@dataclass(frozen=True, slots=True)
class ScoringOptions:
    """What a verdict rests on.

    >>> ScoringOptions(metric="exact_match").guard
    """

    guard: Path | None = option(
        None, group=_SCORING, settings=True, metavar="FILE",
        help="unrelated text (JSONL) that a merge must not get worse on",
    )  # fmt: skip
    metric: str = option(
        "auto", group=_SCORING, metavar="NAME",
        help="what the verdict rests on: accuracy, exact_match, loss, or one of an lm-eval task's "
             "(default {default}: by the rows)",
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class MayScoreOptions(ScoringOptions):
    """The same for a command that may leave scoring for later.

    >>> MayScoreOptions().scored
    True
    """

    scored: bool = option(True, group=_SCORING, flags=("--no-score",), help="leave scoring to `merge-advisor score`")


@dataclass(frozen=True, slots=True)
class LmEvalOptions:
    """Tasks of lm-eval, and what they may do.

    >>> LmEvalOptions(lm_eval=("arc_easy",)).trusted
    False
    """

    lm_eval: tuple[str, ...] = option(
        (), group=_LM_EVAL, flags=("--lm-eval-task",), metavar="NAME",
        help="plan for a task (or group) of lm-eval: its test split is held out, others are learned from",
    )  # fmt: skip
    lm_eval_include: Path | None = option(
        None, group=_LM_EVAL, metavar="DIR", help="folder with the YAML of lm-eval tasks of your own"
    )
    trusted: bool = option(
        False, group=_LM_EVAL, flags=("--trust-task-code",),
        help="let a task run Python of its own (!function in its YAML, and the like)",
    )  # fmt: skip

    def __post_init__(self) -> None:
        if not self.lm_eval and (self.lm_eval_include or self.trusted):
            raise InputError("`lm_eval_include` and `trusted` go with `lm_eval`; name a task")


@dataclass(frozen=True, slots=True)
class LmEvalScoreOptions(LmEvalOptions):
    """The same for scoring.

    >>> LmEvalScoreOptions(lm_eval=("arc_easy",), limit=100).limit
    100
    """

    lm_eval: tuple[str, ...] = option(
        (), group=_LM_EVAL, flags=("--lm-eval-task",), metavar="NAME",
        help="score on a task (or group) of lm-eval, with its own prompts and metric",
    )  # fmt: skip
    limit: int | None = option(
        None, group=_LM_EVAL, metavar="N", help="documents of each lm-eval task at most, the first ones"
    )


@dataclass(frozen=True, slots=True)
class EmbedOptions:
    """What `embed` computes.

    >>> EmbedOptions(include=("a*",)).embedding
    'delta_activations'
    """

    embedding: str = option(
        "delta_activations", settings=True, registered="embedding", help="default {default}; one of: {names}"
    )
    include: tuple[str, ...] = option((), metavar="GLOB", help="only candidates of these ids")
    exclude: tuple[str, ...] = option((), metavar="GLOB", help="no candidates of these ids")


@dataclass(frozen=True, slots=True)
class MergeOptions:
    """How the merged model is written.

    >>> MergeOptions(adapter=True, rank=16).engine
    'memory'
    """

    engine: Literal["memory", "mergekit"] = option(
        "memory", flags=("--with",), help="memory (default): this program; mergekit: in a child process"
    )
    adapter: bool = option(False, help="write the merged LoRA (PEFT) instead of a full model")
    gguf: bool = option(False, help="write one .gguf file by llama.cpp's converter ($LLAMA_CPP, or on PATH)")
    # not from merge-advisor.toml: its `rank` is the plan's, which the recipe holds already
    rank: int | None = option(None, metavar="R", help="with --adapter: cut it to this rank by SVD")


@dataclass(frozen=True, slots=True)
class BenchOptions:
    """Which part of a benchmark is measured, and on which task files.

    >>> BenchOptions(only=("default/*",)).tasks
    """

    only: tuple[str, ...] = option(
        (), metavar="GLOB",
        help="only results whose arm/task/view, arm/task/view/k or arm/task/view/k#shots.selection "
             "(numbers of the draws) fits, e.g. 'default/*', '*/own-out/4' or '*#0.*'",
    )  # fmt: skip
    tasks: str | None = option(None, metavar="DIR", help="folder of task files, if not where the setup says")
