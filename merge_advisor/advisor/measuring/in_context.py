"""`icl`, the base with examples in its prompt (in-context learning): what every user tries first.

It learns from the rows that everything else learns from, shots and tuning rows, and trains nothing; in exchange each of
its answers costs the longer prompt. It is asked on our rows only: a task of lm-eval brings few shots of its own
(`num_fewshot`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from merge_advisor import registry
from merge_advisor.advisor.measuring.meter import BASE, MergeMeter, ScoredModel, finite_or_worst
from merge_advisor.advisor.measuring.model_scores import FINAL, score_models
from merge_advisor.backbone.encoding import EXAMPLE_TOKENS
from merge_advisor.errors import SpecError, TaskError
from merge_advisor.evaluators.metrics import metric_for
from merge_advisor.types import ICL, LossKind, Row, Task

if TYPE_CHECKING:
    from merge_advisor.evaluators.fast import Fast
    from merge_advisor.evaluators.lm_eval_harness import LmEval
    from merge_advisor.merges import WeightedMerge
    from merge_advisor.templates import Template


@dataclass(frozen=True, slots=True)
class InContext:
    """The base with examples in its prompt, as a model to be scored.

    >>> InContext(ScoredModel("icl", BASE), (Row("1 + 1", "2"),), given=20).note
    'icl has 1 of 20 examples in its prompt: as many as fit whole'
    """

    model: ScoredModel
    shown: tuple[Row, ...]
    """The examples in its prompt, in their order."""
    given: int
    """Examples there are."""

    @property
    def used(self) -> int:
        """Examples in its prompt."""
        return len(self.shown)

    @property
    def note(self) -> str:
        """How many examples it was shown, as a sentence."""
        fit = ": as many as fit whole" if self.used < self.given else ""
        return f"{ICL} has {self.used} of {self.given} examples in its prompt{fit}"


@dataclass(frozen=True, slots=True)
class FittingWork:
    """Examples of which a worker says how many fit into the prompt (`crew.Measurement`).

    >>> FittingWork(Task("sums", (), (), ()), (), "loss", "fast").name
    'the examples of sums'
    """

    task: Task
    rows: tuple[Row, ...]
    metric: str
    evaluator: str

    @property
    def name(self) -> str:
        """Names the task."""
        return f"the examples of {self.task.name}"

    def measure(self, meter: MergeMeter) -> None:
        """Look which fit; it is remembered.

        Args:
            meter: of the worker.
        """
        with suppress(TaskError):  # none fits: the caller says so
            in_context(meter, self.task, self.rows, self.metric, self.evaluator)


def in_context(
    meter: MergeMeter, task: Task, rows: Sequence[Row], metric: str, evaluator: str, merge: WeightedMerge = BASE
) -> InContext:
    """Return a model with as many rows that are learned from in its prompt as fit: shots, then tuning rows.

    Args:
        meter: has the base and its template; remembers which examples fit.
        task: its shots and tuning rows are the examples.
        rows: what is to be scored on.
        metric: "accuracy", "exact_match" or "loss".
        evaluator: spec of what scores.
        merge: the model; by default the base.

    Raises:
        TaskError: not one example fits, or the base's chat template takes no earlier turns.
    """
    examples, template = (*task.shots, *task.tuning), meter.model.template
    scorer: Fast | LmEval = registry.build("evaluator", evaluator)

    def measure() -> list[int]:
        from merge_advisor.evaluators.in_context import fitting_examples

        return list(fitting_examples(meter.model.backbone, examples, rows, template, metric, scorer))

    try:
        probe = template.with_examples((row.asked, row.output) for row in examples[:1])
        if examples and probe.prompt("") == template.prompt(""):
            raise TaskError("the base's chat template shows no earlier turns")
        digests = [[row.digest for row in part] for part in (examples, rows)]
        key = ["examples that fit", EXAMPLE_TOKENS, scorer.settings, metric, *digests]
        meter.have_measured([(key, FittingWork(task, tuple(rows), metric, evaluator))], "examples for the prompt")
        fitting = meter.memo.remember(key, measure)
    except SpecError as error:
        raise TaskError(str(error)) from error
    if not fitting:
        raise TaskError(
            f"not one of {len(examples)} examples fits into its prompt beside the longest row; there is room for "
            f"{EXAMPLE_TOKENS} tokens, or the base's context"
        )
    shown = tuple(examples[at] for at in fitting)
    return InContext(ScoredModel(ICL, merge, with_rows(template, shown)), shown, len(examples))


def with_rows(template: Template, rows: Iterable[Row]) -> Template:
    """Return the template whose prompts show rows before the input.

    Args:
        template: without examples.
        rows: to show, in their order.
    """
    return template.with_examples((row.asked, row.output) for row in rows)


def planned_prompt(meter: MergeMeter, task: Task) -> InContext:
    """Return the base with the prompt that a plan scores: what fits beside the held-out rows.

    Args:
        meter: has the base and its template; remembers which examples fit.
        task: its shots and tuning rows are the examples; without held-out rows they have to fit beside themselves.

    Raises:
        TaskError: not one example fits, or the base's chat template takes no earlier turns.
    """
    rows = task.heldout or (*task.shots, *task.tuning)
    return in_context(meter, task, rows, metric_for(rows, "auto"), FINAL)


def prompted_losses(
    meter: MergeMeter, shown: Sequence[Row], asked: Sequence[Row], kind: LossKind, merge: WeightedMerge = BASE
) -> list[float]:
    """Return the loss of each row under a model with other rows in its prompt, as many as fit.

    Args:
        meter: has the base and its template.
        shown: the examples.
        asked: n rows, none of the examples.
        kind: nats per token, or nats over the choices where every row has them.
        merge: the model; by default the base.

    Raises:
        TaskError: not one example fits, or the base's chat template takes no earlier turns.
    """
    metric = "accuracy" if kind == "choices" else "loss"
    model = in_context(meter, Task("examples", tuple(shown), (), tuple(asked)), asked, metric, _SCORER, merge).model
    what = "asking with examples in the prompt"
    found = score_models(meter, [model], asked, metric, what=what, evaluator=_SCORER)[0]
    return finite_or_worst(found.rows[kind])


_SCORER = "fast"
"""Evaluator of what is only compared, not reported."""
