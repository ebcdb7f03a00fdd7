"""The values of a benchmark: what a setup asks, what one arm reached on one unit, and what a comparison of arms says.

A unit is (task, shot draw, selection draw, tuner seed); all arms share it, so that differences are paired. Draws are
nested in tasks and tasks in families: the family is what generalises.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from merge_advisor.types import STRICT, VERSION, ChooseBy

View = Literal["own-in", "own-out", "family-out"]
"""Which candidates a unit may use: all; all but the task's own; all but those of the task's family."""
Metric = Literal["accuracy", "loss"]
"""Accuracy is by choice likelihood where every row has choices, exact match otherwise; loss is nats per token."""
Control = Literal["base", "majority", "majority-oracle", "random-adapters", "shots_lora", "best-single-oracle"]
LORAHUB_SAMPLER = "lorahub"
ContrastStanding = Literal["better", "worse", "equivalent", "undecided"]


@dataclass(frozen=True, slots=True)
class Tasks:
    """Where the tasks are and what is taken of each."""

    __pydantic_config__ = STRICT

    path: str
    """Folder of task files (JSONL, or BBH's own JSON), relative to the setup, or `hub:org/dataset@revision`."""
    families: str = ""
    """JSON file, task name to family; a task it lacks is a family of its own. Empty: each task is its own family."""
    only: tuple[str, ...] = ()
    """Task names; empty takes all files."""
    tried: tuple[str, ...] = ()
    """Families that strategies were tried out on: in the tables by task, but in no contrast or mean over families."""
    own: dict[str, str] = field(default_factory=dict)
    """Task name to the candidate trained on it, where the ids differ."""
    seen: float = 0.0
    """First share of each file that the pool was trained on; neither shots nor held-out rows come from it."""
    shots: int = 20
    tuning: int = 0
    heldout: int = 40


@dataclass(frozen=True, slots=True)
class Draws:
    """How often chance is drawn: units of a task are the product."""

    __pydantic_config__ = STRICT

    shots: int = 3
    selections: int = 2
    tuners: int = 1


@dataclass(frozen=True, slots=True)
class Tuner:
    """Weights tuned after choosing."""

    __pydantic_config__ = STRICT

    sampler: str
    trials: int
    objective: str = "auto"
    """As `tune` takes it; auto is "choices" where every row has them, else "loss"."""

    @property
    def begins_at_zero(self) -> bool:
        """Whether the search begins at weights 0 and so makes no use of the weights a selection came with.

        LoraHub's sampler does (arXiv 2307.13269); every other one begins with the selection's weights.
        """
        return self.sampler.partition(":")[0].strip() == LORAHUB_SAMPLER


@dataclass(frozen=True, slots=True)
class Arm:
    """A way to choose that is compared with others."""

    __pydantic_config__ = STRICT

    name: str
    strategy: str
    """Spec of a strategy."""
    composition: str = "exact"
    k: tuple[int, ...] = ()
    """Sizes; empty takes the setup's."""
    choose_by: ChooseBy = "auto"
    """What members and weights are chosen by, as `plan --choose-by`."""
    shots_lora: bool = False
    """Whether the LoRA of the shots may join as a member, under the rule of `plan`."""
    match: str = ""
    """Name of an arm whose forwards, unit by unit, this one may spend (best of m random sets); both have no tuner, or
    the same of sampler lorahub."""
    tuner: Tuner | None = None


@dataclass(frozen=True, slots=True)
class Question:
    """Arm `better` against arm `than`."""

    __pydantic_config__ = STRICT

    better: str
    than: str
    metric: Metric = "accuracy"
    view: View = "own-out"
    k: int = 4

    @property
    def text(self) -> str:
        """Who is compared with whom, and where."""
        return f"{self.better} against {self.than}, {self.view}, k = {self.k}"


@dataclass(frozen=True, slots=True)
class Setup:
    """A benchmark: `recipes/bench-*.yaml`."""

    __pydantic_config__ = STRICT

    name: str
    base: str
    pool: str
    tasks: Tasks
    arms: tuple[Arm, ...]
    primary: Question
    smallest_gain: float
    """Smallest gain that matters, by the primary's metric: points (1.0 is one row in a hundred) or nats."""
    version: int = VERSION
    secondaries: tuple[Question, ...] = ()
    controls: tuple[Control, ...] = ("base", "majority", "majority-oracle", "random-adapters", "shots_lora")
    views: tuple[View, ...] = ("own-out",)
    k: tuple[int, ...] = (4,)
    draws: Draws = field(default_factory=Draws)
    template: str = ""
    """Prompt template; empty: the pool's."""
    embedding: str = "delta_activations"
    """Spec of the representation deltas are taken in."""
    finetune: dict[str, float] = field(default_factory=dict)
    """Settings of the finetune of the shots that differ from `plan`'s: rank, epochs, lr, ..."""
    exact_match: Literal["plain", "lorahub"] = "plain"
    """When generated text is the output: as it is, or as LoraHub normalises both (see `evaluators.rules.MATCHES`)."""
    max_new_tokens: int = 64
    """Tokens generated at most for an answer."""
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Unit:
    """What all arms share."""

    __pydantic_config__ = STRICT

    task: str
    family: str
    shot_draw: int = 0
    selection_draw: int = 0
    tuner_seed: int = 0


@dataclass(frozen=True, slots=True)
class Result:
    """One arm on one unit, in one view, at one k."""

    __pydantic_config__ = STRICT

    unit: Unit
    arm: str
    """Name of an arm or of a control."""
    view: View
    k: int
    oracle: bool = False
    """Whether held-out answers were read to make it: never to be compared with."""
    status: Literal["done", "failed"] = "done"
    reason: str = ""
    """Why it failed, or why choosing stopped."""
    members: tuple[tuple[str, float], ...] = ()
    """Ids and weights, in the order of choosing."""
    merge: str = ""
    """Digest of what was merged; equal ones were computed once."""
    rows: int = 0
    accuracy: float = float("nan")
    """Share of held-out rows answered rightly, 0 to 1."""
    loss: float | None = None
    """Mean loss on the held-out rows, nats per token; None where the control has none (a label)."""
    valid: float = float("nan")
    """Share of held-out rows whose output is in a valid format."""
    accuracy_valid: float | None = None
    """Accuracy on those; None where there are none."""
    predicted: float | None = None
    """Base's loss minus the merge's on the choosing rows: what choosing promised. Nats per token, or of the right
    choice among the choices where it chose by these."""
    came: float | None = None
    """The same on the held-out rows, where it chose by choices; else `loss` tells it."""
    forwards: int = 0
    """Nominal forward passes over one row spent on choosing, finetune and tuning, where this arm needs them."""
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class LateAddition:
    """A part of the setup that came when results were there already: nobody can say it was fixed before them."""

    name: str
    results: int
    """How many were done."""


@dataclass(frozen=True, slots=True)
class Contrast:
    """What the results say on one question; differences are `better` minus `than`, losses turned so that up is good.

    In points of accuracy (hundredths) or nats per token.
    """

    question: Question
    families: tuple[str, ...]
    differences: tuple[float, ...]
    """One a family: mean over its tasks of the mean over their units."""
    mean: float
    """Over families; 0.0 where there is none (then `families` is empty)."""
    lower: float | None
    """Studentised bootstrap over families, 95%; None with fewer than two families."""
    upper: float | None
    sign_flip: float
    """Two-sided p of the sign-flip test over families."""
    wilcoxon: float
    adjusted: float
    """Holm-adjusted sign-flip p among the secondaries; of the primary, the p itself."""
    wins: int
    ties: int
    losses: int
    """Families in which the difference is above, at and below 0."""
    agree: bool
    """Whether interval and sign-flip test say the same about 0."""
    standing: ContrastStanding
    reason: str
    """The standing in one sentence with its numbers, what it cannot show included."""
    tasks: tuple[int, int, int] = (0, 0, 0)
    """Tasks in which the difference is above, at and below 0."""
    units: int = 0
    """Units on which both arms are done."""
    left_out: int = 0
    """Units on which only one of them is."""
    smallest_gain: float | None = None
    """What `standing` was judged by, in the question's metric; None: equivalence was not asked."""


@dataclass(frozen=True, slots=True)
class BenchResults:
    """A benchmark's results so far."""

    folder: Path
    setup: Setup
    results: tuple[Result, ...]
    wanted: int
    """Results the setup asks for."""
    refused: tuple[str, ...]
    """Models of the pool that were set aside, each with its reason."""
    notes: tuple[str, ...]
    """What it cannot show."""
    kin: Mapping[str, str]
    """Family of each candidate, by id."""
    added: tuple[LateAddition, ...] = ()
    """Parts of the setup that came when results were there."""

    @property
    def failed(self) -> tuple[Result, ...]:
        """The results that failed."""
        return tuple(result for result in self.results if result.status == "failed")


@dataclass(frozen=True, slots=True)
class Benchmark:
    """What `bench` found."""

    measured: BenchResults
    contrasts: tuple[Contrast, ...]
    """The primary one first."""
