"""What scoring a run comes to: the table of its models, how the merge compares with each, and the verdict."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from merge_advisor.json_form import STRICT


class Verdict(StrEnum):
    """What to do.

    >>> Verdict("use-anchor").name
    'USE_ANCHOR'
    """

    MERGE = "merge"
    """The merge is better than base, `icl`, anchor and `shots_lora`, each beyond noise."""
    USE_ANCHOR = "use-anchor"
    """The anchor alone is as good as anything measured."""
    TRAIN_ON_EXAMPLES = "train-on-examples"
    """The LoRA finetuned on the shots alone is as good as anything measured."""
    TRAIN_FROM_MERGE = "train-from-merge"
    """An adapter trained on top of the merge is better than all that is cheaper, beyond noise."""
    TRAIN_IN_BASIS = "train-in-basis"
    """An adapter trained in the pool's directions is better than all that is cheaper, beyond noise."""
    PROMPT_WITH_EXAMPLES = "prompt-with-examples"
    """The base with the examples in its prompt is as good as anything measured."""
    NO_GAIN = "no-gain"
    """The base is as good as anything measured."""
    UNDECIDED = "undecided"
    """Too few held-out rows to tell."""


@dataclass(frozen=True, slots=True)
class ModelScore:
    """One model on the held-out rows of one task.

    >>> ModelScore("base", {"exact_match": 0.5}, {"exact_match": (1.0, 0.0)}, ("4", "6")).metrics["exact_match"]
    0.5
    """

    __pydantic_config__ = STRICT

    label: str
    """"base", "icl", "majority", "anchor", "member <id>", "shots_lora", "uniform" or "merge"."""
    metrics: dict[str, float]
    """Mean over the rows: "accuracy" (choice likelihood) and "choices" (nats of the right choice among the choices), or
    "exact_match"; and "loss" (nats per token)."""
    rows: dict[str, tuple[float, ...]]
    """The same per row, in the order of the score's `row_digests`."""
    outputs: tuple[str, ...] = ()
    """What the model answered, row by row (the chosen choice, or the generated text)."""


@dataclass(frozen=True, slots=True)
class RowLog:
    """What models were asked on a row: enough to ask again, and to check what they answered.

    >>> RowLog("2 + 2 =", "4").choices is None
    True
    """

    __pydantic_config__ = STRICT

    prompt: str
    """The whole text a model is given, before it is cut to the context; empty where each choice has its own."""
    wanted: str
    choices: tuple[str, ...] | None = None
    answers: tuple[str, ...] | None = field(default=None, metadata={"json": "if set"})
    """All answers that count as right, `wanted` the first; None where it is the only one."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """The merge against one other model on the same rows; positive is better for the merge, whatever the metric.

    >>> against_base = Comparison("base", 0.2, 0.05, 0.35, won=("d0", "d1"), lost=(), rows_to_decide=None)
    >>> against_base.lower > 0  # better beyond noise
    True
    """

    __pydantic_config__ = STRICT

    against: str
    """Label of the other model."""
    difference: float
    """Mean over the rows."""
    lower: float
    """Lower end of the paired 95% interval of the difference."""
    upper: float
    won: tuple[str, ...]
    """Digests of the rows on which the merge is better."""
    lost: tuple[str, ...]
    rows_to_decide: int | None
    """About how many held-out rows would separate the two at this difference; None: separated, or equal."""


@dataclass(frozen=True, slots=True)
class GuardScore:
    """Loss on unrelated text: what the merge costs elsewhere.

    >>> GuardScore(rows=40, base=2.5, merge=2.9, lower=0.3, upper=0.5, regressed=True).regressed
    True
    """

    __pydantic_config__ = STRICT

    rows: int
    """Texts it was measured on."""
    base: float
    """Mean loss of the base, nats per token."""
    merge: float
    lower: float
    """Lower end of the paired 95% interval of merge - base, nats per token."""
    upper: float
    regressed: bool
    """Whether `lower` is above what a merge may lose (`evaluators.guard.TOLERANCE`)."""


@dataclass(frozen=True, slots=True)
class ScoringCost:
    """What scoring one task took, in measured figures.

    >>> ScoringCost("sums", rows=70, models=9, run=2, seconds_run=24.0, seconds_model=12.0, peak_bytes=None).for_all(59)
    708.0
    """

    __pydantic_config__ = STRICT

    task: str
    rows: int
    models: int
    run: int
    """Models run now; the others were in the store."""
    seconds_run: float
    """Of these, loading the base left out; of all workers together, where some measured."""
    seconds_model: float | None
    """Median over the models, those in the store with what they took then; None where none is known."""
    peak_bytes: int | None
    """Peak memory of the process; None where the system does not tell."""

    def for_all(self, candidates: int) -> float | None:
        """Return the seconds that as many candidates would take on the same rows; None where none is known.

        Args:
            candidates: of the pool.
        """
        return None if self.seconds_model is None else self.seconds_model * candidates


@dataclass(frozen=True, slots=True)
class RunCost:
    """What a run took, and what its alternatives would have, in measured figures; None where nothing was measured.

    >>> RunCost(1204, 61.5, peak_bytes=2**31).every_candidate_seconds
    """

    __pydantic_config__ = STRICT

    forwards: int
    """Nominal forward passes over one row, of the plan."""
    seconds: float
    """Of the plan and of scoring, what was in the store left out."""
    peak_bytes: int | None = None
    """Peak memory of the process that planned or scored, the larger."""
    every_candidate_seconds: float | None = None
    """What scoring every candidate on the same rows would have taken; None unless scored."""
    candidates: int = 0
    """How many that is: of a plan from a hub folder all of its models that fit, whether or not they were opened."""
    shots_forwards: int | None = None
    """Forward passes of training the LoRA of the shots alone."""
    shots_seconds: float | None = None
    """What that took in this run; 0 where it was there already."""
    every_candidate_forwards: int | None = None
    """Forward passes of scoring every candidate, a row each, nominally; None unless scored."""


@dataclass(frozen=True, slots=True)
class Score:
    """All models of a run on one task's held-out rows.

    >>> base = ModelScore("base", {"loss": 2.5}, {"loss": (2.0, 3.0)})
    >>> score = Score(1, "sums", "", "loss", ("d0", "d1"), (base,), (), Verdict.NO_GAIN, "no merge", "fast 1")
    >>> score.model("base").metrics["loss"]
    2.5
    """

    __pydantic_config__ = STRICT

    version: int
    task: str
    task_digest: str
    metric: str
    """The metric the verdict rests on: "accuracy", "exact_match" or "loss"."""
    row_digests: tuple[str, ...]
    models: tuple[ModelScore, ...]
    comparisons: tuple[Comparison, ...]
    verdict: Verdict
    reason: str
    """What to do, and the numbers that say so, in one sentence."""
    evaluator: str
    """Name and version of what measured, e.g. "lm-eval 0.4.13"."""
    guard: GuardScore | None = None
    template: str = ""
    """Prompt template of the rows; of an lm-eval task, its name and its few shots."""
    logs: tuple[RowLog, ...] = ()
    """What was asked on each row, in the order of `row_digests`; `icl` was shown examples before it."""
    notes: tuple[str, ...] = ()
    """What else has to be known of the table, a sentence each: how many examples `icl` was shown, or why it is out."""
    examples: tuple[str, ...] | None = field(default=None, metadata={"json": "if set"})
    """Digests of the rows that `icl` was shown, in their order; None where it is out, and in scores made before it was
    kept."""

    def model(self, label: str) -> ModelScore:
        """Return the row of the table named `label`.

        Args:
            label: as in `ModelScore.label`.

        Raises:
            KeyError: no model of that label was scored.
        """
        for model in self.models:
            if model.label == label:
                return model
        raise KeyError(label)
