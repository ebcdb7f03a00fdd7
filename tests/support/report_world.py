"""A run's report from made-up values: scores, members, a map, a search."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from merge_advisor.json_form import VERSION
from merge_advisor.report.html import to_html
from merge_advisor.report.markdown import to_markdown
from merge_advisor.report.run_document import ReportInput, run_document
from merge_advisor.report.values import Side, SimilarityMap, TrialReport, TuningReport
from merge_advisor.scores import GuardScore, ModelScore, Score
from merge_advisor.types import Base, Interference, Member, Recipe, RecipeMember, RefusedModel, Row, Selection, Task
from merge_advisor.verdict import judge

NASTY = "a|b`c`<script>*x*_y_[l](u)\n# h\x1b[31m\\"
"""A name that would break Markdown."""
ROWS = tuple(Row(f"question {index}", "yes" if index % 2 else "no", ("yes", "no")) for index in range(40))
DIGESTS = tuple(row.digest for row in ROWS)
MEMBERS = (
    Member("legal", "f1", "adapter", "legal", None, "apache-2.0", "anchor", 0.75, 0.9, 0.31, None),
    Member(NASTY, "f2", "adapter", "x", None, None, "partner", 0.25, None, None, Interference(0.125, 0.5)),
)
RECIPE = Recipe(
    VERSION, Base("owner/base", "c0ffee", "d", "LlamaForCausalLM"), "alpaca", "exact", 16,
    tuple(RecipeMember(m.id, m.fingerprint, m.kind, m.source, m.revision, m.weight) for m in MEMBERS),
)  # fmt: skip


def scored(label: str, right: range) -> ModelScore:
    """A model that answered these rows right."""
    values = tuple(float(index in right) for index in range(len(ROWS)))
    answers = tuple(row.output if index in right else "neither" for index, row in enumerate(ROWS))
    return ModelScore(label, {"accuracy": sum(values) / 40, "loss": 1.5}, {"accuracy": values, "loss": values}, answers)


MODELS = (
    scored("base", range(10)),
    ModelScore("majority", {"accuracy": 0.5}, {"accuracy": (1.0, 0.0) * 20}, ("no",) * 40),
    scored("anchor", range(1, 16)),
    scored(f"member {NASTY}", range(12)),
    scored("merge", range(2, 38)),
)


def score_of(task: str, guard: GuardScore | None = None) -> Score:
    verdict, reason, comparisons = judge(MODELS, "accuracy", DIGESTS, guard=guard)
    return Score(VERSION, task, "t", "accuracy", DIGESTS, MODELS, comparisons, verdict, reason, "lm-eval 0.4.13", guard)


def task_of(name: str) -> Task:
    return Task(name, (Row("s1", "a"), Row("s2", "b")), (Row("t1", "c"),), ROWS)


def report(**changes: Any) -> ReportInput:
    """A run of one task that was scored and not tuned."""
    score = score_of("first")
    whole = ReportInput(
        recipe=RECIPE,
        selection=Selection("anchor_diverse", MEMBERS, 1.25, "k reached", 300),
        tasks=(task_of("first"),),
        pool_size=23,
        scores=(score,),
        verdict=score.verdict,
        reason=score.reason,
        refused=(RefusedModel(NASTY, "weights are a pickle | not read"),),
        conflicts=("legal (gpl-3.0) and mix (cc-by-nc-4.0)",),
        rank_error=0.0123,
        notes=("2 rows were equal",),
        forwards={"deltas": 115, "selection": 300},
        files=(("mergekit.yaml", "the merge, for mergekit-yaml"), ("lorahub.json", "not written: another composition")),
        commands=("merge-advisor merge run --out model",),
    )
    return replace(whole, **changes)


def unscored() -> ReportInput:
    """A run that was planned and no more, with nothing to remark."""
    return report(scores=(), verdict=None, reason="", refused=(), notes=(), forwards={}, conflicts=())


def full(**changes: Any) -> ReportInput:
    """A run of one task that was scored and tuned, with a map of its pool."""
    whole = report(tuning=tuning([0.9, 0.5, None, 0.7, 40.0]), map=a_map(5), similarity={"model-1": 0.5})
    return replace(whole, **changes)


def trial(
    number: int,
    value: float | tuple[float | None, ...] | None,
    weights: Sequence[float] = (0.5, 0.5),
    *,
    label: str = "tpe",
    whole: bool = True,
    forwards: int = 10,
) -> TrialReport:
    values = value if isinstance(value, tuple) else (value,)
    return TrialReport(number, label, values, tuple(weights), "exact", whole, forwards)


def tuning(
    values: Sequence[float | tuple[float | None, ...] | None],
    *,
    members: Sequence[str] = ("a", "b"),
    seed: int = 0,
    **changes: Any,
) -> TuningReport:
    """A search whose first trial is the plan, then one trial a value; every third one was stopped early."""
    draw = random.Random(seed)
    trials = [trial(0, 1.0, [1.0] * len(members), label="plan")] if len(values) else []
    trials += [
        trial(n, value, [draw.uniform(-1.5, 1.5) for _ in members], whole=n % 3 > 0)
        for n, value in enumerate(values, len(trials))
    ]
    sides = (
        Side("first", "tuning", "loss", 20, 0.5, 0.4, 0.02, 0.18),
        Side("first", "held-out", "loss", 40, 0.6, 0.58),
        Side("first", "held-out", "accuracy", 40, 0.75, None),
    )
    given = TuningReport("tpe", "mean loss", tuple(members), (1.0,) * len(members), tuple(trials), 0, "plan", sides)
    return replace(given, **changes)


def a_map(number: int, seed: int = 0) -> SimilarityMap:
    draw = random.Random(seed)
    places = {f"model-{n}": (draw.uniform(-1, 1), draw.uniform(-1, 1)) for n in range(number)}
    return SimilarityMap((0.1, 0.2), places, (0.4, 0.2))


def html_report(report: ReportInput) -> str:
    return to_html(run_document(report))


def markdown_report(report: ReportInput) -> str:
    return to_markdown(run_document(report))


def section(text: str, title: str) -> str:
    """What stands under a heading of Markdown."""
    return text.split(f"\n## {title}", 1)[1].split("\n## ", 1)[0]
