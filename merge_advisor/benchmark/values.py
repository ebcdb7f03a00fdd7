"""The values of a benchmark: what a setup asks, what one arm reached on one unit, and what a comparison of arms says.

A unit is (task, shot draw, selection draw, tuner seed). All arms are measured on the same units, so differences between
arms are paired. Draws are nested in tasks and tasks in families; conclusions are drawn over families.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from merge_advisor.json_form import STRICT, VERSION
from merge_advisor.types import ChooseBy

View = Literal["own-in", "own-out", "family-out"]
"""Which candidates a unit may use: all; all but the task's own; all but those of the task's family."""
Metric = Literal["accuracy", "loss", "judged"]
"""Accuracy is by choice likelihood where every row has choices, exact match otherwise; loss is nats per token; judged
is the loss that rows are judged by: nats of the right choice among the choices where every row has some, else per
token."""
Control = Literal["base", "icl", "majority", "majority-oracle", "random-adapters", "shots_lora", "best-single-oracle"]
"""The comparisons that need no strategy; those named oracle read held-out answers."""
ContrastStanding = Literal["better", "worse", "equivalent", "undecided"]
"""What a contrast says of its first arm, see `analysis.contrasts`."""
_LORAHUB_SAMPLER = "lorahub"


@dataclass(frozen=True, slots=True)
class Tasks:
    """Where the tasks are, and how the rows of each are divided.

    >>> Tasks("bench", shots=5, heldout=20).tuning
    0
    """

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
    """Rows that the task's own LoRA is finetuned on."""
    tuning: int = 0
    """Rows that members and weights are chosen by, beside shots."""
    heldout: int = 40
    """Rows for scoring alone, the same in every draw."""


@dataclass(frozen=True, slots=True)
class Draws:
    """How often everything random is drawn; a task has one unit for every combination.

    >>> draws = Draws(shots=3, selections=2)
    >>> draws.shots * draws.selections * draws.tuners
    6
    """

    __pydantic_config__ = STRICT

    shots: int = 3
    """Draws of the shots and tuning rows."""
    selections: int = 2
    """Seeds of the strategies."""
    tuners: int = 1
    """Seeds of the tuners."""


@dataclass(frozen=True, slots=True)
class Tuner:
    """How an arm tunes the weights of the members it chose.

    >>> Tuner("cmaes", 40).begins_at_zero
    False
    >>> Tuner("lorahub", 40, "lorahub").begins_at_zero
    True
    """

    __pydantic_config__ = STRICT

    sampler: str
    """Spec of a sampler."""
    trials: int
    """Weights tried, at most."""
    objective: str = "auto"
    """As `tune` takes it; auto is "choices" where every row has them, else "loss"."""

    @property
    def begins_at_zero(self) -> bool:
        """Whether the search begins at weights 0 and so makes no use of the weights a selection came with.

        LoraHub's sampler does (arXiv 2307.13269); every other one begins with the selection's weights.
        """
        return self.sampler.partition(":")[0].strip() == _LORAHUB_SAMPLER


@dataclass(frozen=True, slots=True)
class Arm:
    """A way to choose and weight members that is compared with others.

    >>> Arm("nearest", "top_k", k=(1, 4)).composition
    'exact'
    """

    __pydantic_config__ = STRICT

    name: str
    strategy: str
    """Spec of a strategy."""
    composition: str = "exact"
    k: tuple[int, ...] = ()
    """Sizes; empty takes the setup's."""
    choose_by: ChooseBy = "auto"
    """What members and weights are chosen by, as in `PlanOptions`."""
    shots_lora: bool = False
    """Whether the LoRA of the shots may join as a member, under the rule of `plan`."""
    match: str = ""
    """Name of an arm whose forward passes this one may spend, unit by unit (best of m random sets): a strategy has to
    beat chance at equal cost. Both have no tuner, or the same one of sampler lorahub."""
    tuner: Tuner | None = None
    adaptation: str = ""
    """Spec of an adaptation, which makes one model of the merge and the rows; empty: the merge as it is."""


@dataclass(frozen=True, slots=True)
class Question:
    """Whether arm `better` is better than arm `than`; either may be a control.

    >>> Question("default", "random").text
    'default against random, own-out, k = 4'
    """

    __pydantic_config__ = STRICT

    better: str
    than: str
    metric: Metric = "accuracy"
    view: View = "own-out"
    k: int = 4

    @property
    def text(self) -> str:
        """The two arms, the view and k in one line."""
        return f"{self.better} against {self.than}, {self.view}, k = {self.k}"


@dataclass(frozen=True, slots=True)
class Setup:
    """All that a benchmark is asked for, as it is written in `recipes/bench-*.yaml`.

    >>> arms = (Arm("default", "rerank"), Arm("random", "random", match="default"))
    >>> setup = Setup("mine", "base", "adapters", Tasks("bench"), arms, Question("default", "random"), 1.0)
    >>> setup.views, setup.k, setup.draws
    (('own-out',), (4,), Draws(shots=3, selections=2, tuners=1))
    """

    __pydantic_config__ = STRICT

    name: str
    base: str
    pool: str
    tasks: Tasks
    arms: tuple[Arm, ...]
    primary: Question
    smallest_gain: float
    """Smallest gain that matters, in the primary's metric: points (1.0 is one row in a hundred) or nats."""
    version: int = VERSION
    secondaries: tuple[Question, ...] = ()
    controls: tuple[Control, ...] = ("base", "icl", "majority", "majority-oracle", "random-adapters", "shots_lora")
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
    """When a generated answer counts as right: equal as it is, or after LoraHub's normalisation of both (see
    `evaluators.metrics.EXACT_MATCH_RULES`)."""
    max_new_tokens: int = 64
    """Tokens generated at most for an answer."""
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Unit:
    """One task with one draw of everything random; every arm is measured on it.

    >>> Unit("dates", "time", shot_draw=1)
    Unit(task='dates', family='time', shot_draw=1, selection_draw=0, tuner_seed=0)
    """

    __pydantic_config__ = STRICT

    task: str
    family: str
    shot_draw: int = 0
    selection_draw: int = 0
    tuner_seed: int = 0


@dataclass(frozen=True, slots=True)
class Result:
    """What one arm reached on one unit, in one view, at one k.

    >>> result = Result(Unit("dates", "time"), "nearest", "own-out", 4, rows=40, accuracy=0.55, loss=1.2)
    >>> result.status, result.oracle
    ('done', False)
    """

    __pydantic_config__ = STRICT

    unit: Unit
    arm: str
    """Name of an arm or of a control."""
    view: View
    k: int
    oracle: bool = False
    """Whether held-out answers were read to make it; it is an upper bound, and no question compares with it."""
    status: Literal["done", "failed"] = "done"
    reason: str = ""
    """Why it failed, or why choosing stopped."""
    members: tuple[tuple[str, float], ...] = ()
    """Ids and weights, in the order of choosing."""
    merge: str = ""
    """Digest of what was merged; equal merges are computed once."""
    rows: int = 0
    """Held-out rows scored."""
    accuracy: float = float("nan")
    """Share of held-out rows answered rightly, 0 to 1."""
    loss: float | None = None
    """Mean loss on the held-out rows, nats per token; None where the control has none (a label)."""
    judged: float | None = None
    """Mean of the loss that rows are judged by, on the held-out rows; None where the control has none."""
    valid: float = float("nan")
    """Share of held-out rows whose output is in a valid format."""
    accuracy_valid: float | None = None
    """Accuracy on those; None where there are none."""
    predicted: float | None = None
    """The predicted gain: the base's loss minus the merge's on the choosing rows. Nats per token, or nats of the right
    choice among the choices where the arm chose by choices."""
    came: float | None = None
    """The measured gain: the same on the held-out rows, where the arm chose by choices. Elsewhere it follows from
    `loss` of this result and the base's."""
    forwards: int = 0
    """Nominal forward passes over one row that choosing, finetune and tuning cost; what a store or another arm had
    measured already counts in full, so that costs do not depend on the order of arms."""
    adapted: str = ""
    """What an adaptation made of merge and rows: the name of what `auto` chose, or its own."""
    options: tuple[tuple[str, float, float], ...] = ()
    """What `auto` compared, the best first: name, cross-fitted loss, standard error of its difference to the best."""
    chance: float | None = None
    """Of `auto`: stated probability that what it took has less loss than the best that needs no pool; None where that
    is what it took."""
    seconds: float = 0.0
    """Time on the wall, as it was: less where others had measured the same."""


@dataclass(frozen=True, slots=True)
class LateAddition:
    """A part of the setup that was added when there were results: it cannot be shown that it was fixed before them.

    >>> LateAddition("arm nearest", results=120).name
    'arm nearest'
    """

    name: str
    results: int
    """How many results were done when it came."""


@dataclass(frozen=True, slots=True)
class Contrast:
    """The answer to one question; differences are `better` minus `than`, of losses `than` minus `better`.

    Differences are in points of accuracy (hundredths) or nats per token, and more is better.

    >>> from merge_advisor.benchmark.analysis.contrasts import contrast
    >>> unit = Unit("dates", "time")
    >>> results = [Result(unit, "a", "own-out", 4, accuracy=0.6), Result(unit, "b", "own-out", 4, accuracy=0.5)]
    >>> answer = contrast(Question("a", "b"), results, smallest_gain=1.0)
    >>> answer.mean, answer.lower, answer.standing
    (10.0, None, 'undecided')
    """

    question: Question
    families: tuple[str, ...]
    differences: tuple[float, ...]
    """One a family: mean over its tasks of the mean over their units."""
    mean: float
    """Over families; 0.0 where there is none (then `families` is empty)."""
    lower: float | None
    """Lower end of the 95% studentised bootstrap interval over families; None with fewer than two families."""
    upper: float | None
    """Upper end."""
    sign_flip: float
    """Two-sided p of the sign-flip test over families."""
    wilcoxon: float
    """Two-sided p of Wilcoxon's signed-rank test over families; shown beside, `standing` does not use it."""
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
    """Smallest gain that matters, in the question's metric; None: equivalence was not asked."""


@dataclass(frozen=True, slots=True)
class BenchResults:
    """All results of a benchmark so far, and what belongs to them.

    >>> arms = (Arm("default", "rerank"), Arm("random", "random", match="default"))
    >>> setup = Setup("mine", "base", "adapters", Tasks("bench"), arms, Question("default", "random"), 1.0)
    >>> crashed = Result(Unit("dates", "time"), "default", "own-out", 4, status="failed", reason="MemoryError")
    >>> BenchResults(Path("out"), setup, (crashed,), 12, (), (), {}).failed[0].reason
    'MemoryError'
    """

    folder: Path
    """Holds the ledger and the report."""
    setup: Setup
    results: tuple[Result, ...]
    wanted: int
    """Number of results that the setup asks for."""
    refused: tuple[str, ...]
    """Models of the pool that were set aside, each with its reason."""
    notes: tuple[str, ...]
    """What the benchmark cannot show, one line each."""
    families: Mapping[str, str]
    """Family of each candidate, by id."""
    added: tuple[LateAddition, ...] = ()
    """Parts of the setup that were added when there were results."""

    @property
    def failed(self) -> tuple[Result, ...]:
        """The results that failed."""
        return tuple(result for result in self.results if result.status == "failed")


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A benchmark's results with the answers to its questions.

    >>> arms = (Arm("default", "rerank"), Arm("random", "random", match="default"))
    >>> setup = Setup("mine", "base", "adapters", Tasks("bench"), arms, Question("default", "random"), 1.0)
    >>> Benchmark(BenchResults(Path("out"), setup, (), 12, (), (), {}), contrasts=()).measured.wanted
    12
    """

    measured: BenchResults
    contrasts: tuple[Contrast, ...]
    """The primary one first."""
