"""`gate`: a candidate against a baseline on tasks and guards; what is measured is remembered by the model's digest."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Unpack

from merge_advisor.advisor.gating.gated_model import GatedModel, HubFinder, OpenedModel, find_gated, open_gated
from merge_advisor.advisor.measuring.model_scores import guard_losses, score_models
from merge_advisor.advisor.measuring.peak_memory import peak_memory
from merge_advisor.errors import InputError, TaskError
from merge_advisor.evaluators.guard import placed_guard
from merge_advisor.evaluators.metrics import check_rows, metric_for
from merge_advisor.gate_options import GateOptions
from merge_advisor.gate_rule import decide_gate, shown
from merge_advisor.gate_values import (
    GateCheck,
    GateCost,
    GateOutcome,
    GateReport,
    GateRow,
    GateSide,
    overall_outcome,
)
from merge_advisor.json_form import VERSION
from merge_advisor.tasks import MINIMUM_ROWS, read_rows
from merge_advisor.types import Row
from merge_advisor.weights.files import file_digest

if TYPE_CHECKING:
    from merge_advisor.advisor.measuring.memo import Timed
    from merge_advisor.advisor.measuring.meter import MergeMeter
    from merge_advisor.session_options import Where


_VOCABULARY = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "merges.txt", "vocab.txt")
"""Files that say how text is cut into tokens."""


@dataclass(frozen=True, slots=True)
class GateRows:
    """What one check measures: the rows of a task, or the texts of a guard.

    >>> GateRows("sums", "task", "exact_match", (Row("2 + 2", "4", place="sums.jsonl:1"),)).metric
    'exact_match'
    """

    name: str
    kind: Literal["task", "guard"]
    metric: str
    rows: tuple[Row, ...]
    """Of a guard, each text as an input."""


@dataclass(frozen=True, slots=True)
class _Measured:
    """One model on the rows of a check: a value a row, more is better, and what it answered."""

    values: tuple[float, ...]
    outputs: tuple[str, ...]


def gate(
    candidate: str,
    baseline: str,
    tasks: Sequence[Path] = (),
    guards: Sequence[Path] = (),
    *,
    options: GateOptions | None = None,
    metric: str = "auto",
    fields: str | None = None,
    template: str | None = None,
    find_in_hub: HubFinder | None = None,
    **where: Unpack[Where],
) -> GateReport:
    """Return whether a candidate is no worse than a baseline, by the rule of `gate_rule`, on every task and guard.

    Takes more than eight parameters because it is a command of its own: two models, on which rows, how these are read.

    >>> found = gate("adapters/a0", "adapters/a1", [Path("examples.jsonl")], metric="loss", base="base")
    >>> found.outcome, found.checks[0].rows
    (<GateOutcome.PASSED: 'passed'>, 60)

    Args:
        candidate: a run folder, an adapter's folder, a full model (folder, .gguf file, hub id), or hub:ID.
        baseline: the same.
        tasks: task files whose rows neither was trained on; rows that a run learned from are left out.
        guards: files of unrelated text.
        options: margins, least gain, least rows.
        metric: "auto", "accuracy", "exact_match" or "loss", of the tasks.
        fields: which fields of the files are input, output and choices, as `read_rows` takes it.
        template: prompt template of what is no run; None: that of the run among the two, else what the hub folder
            knows of one, else "alpaca".
        find_in_hub: finds the model of hub:ID; None: there is no hub folder.
        where: base of adapters, where stores are, and how to compute, see `Where`.

    Raises:
        MergeAdvisorError: see `merge_advisor.errors`; the message is one line.
    """
    started, options = time.perf_counter(), options or GateOptions()
    if not tasks and not guards:
        raise InputError("no rows to judge on; give `tasks=FILE`, or `guards=FILE`")
    models = [find_gated(word, find_in_hub=find_in_hub) for word in (candidate, baseline)]
    notes: list[str] = []
    asked = _read_tasks(tasks, models, metric, fields, notes.append, offline=where.get("offline", False))
    asked += [
        GateRows(path.stem, "guard", "loss", tuple(Row(text, "", place=place) for text, place in found.items()))
        for path, found in ((path, placed_guard(path, 1)) for path in guards)
    ]
    _check_names(asked)
    # a run's own template cannot be changed, so that it comes first
    known = sorted(models, key=lambda model: model.run is None)
    template = template or next((model.template for model in known if model.template), None)
    timed: list[Timed] = []
    enough = [rows for rows in asked if _has_interval(rows)]
    opened = [open_gated(models[0], template, **where)]
    try:
        opened.append(open_gated(models[1], template, **where))
        sides = [one.side for one in opened]
        if sides[0].digest == sides[1].digest:
            checks = tuple(_same_model(rows, options) for rows in asked)
        else:
            _check_comparable(opened, asked)
            measured, timed = _measure(opened, enough)
            pairs = iter(measured)
            checks = tuple(
                _check(rows, *next(pairs), options) if _has_interval(rows) else _one_row(rows, options)
                for rows in asked
            )
    finally:
        for one in opened:
            one.session.memo.store.close()
    # candidate, then baseline, each on every check
    rows = [len(one.rows) for one in enough]
    return report_of_checks(checks, sides, notes, cost_of(timed, rows, time.perf_counter() - started))


def report_of_checks(
    checks: tuple[GateCheck, ...], sides: Sequence[GateSide], notes: Sequence[str], cost: GateCost
) -> GateReport:
    """Return the report of checks.

    Args:
        checks: one or more.
        sides: candidate and baseline.
        notes: what was noticed.
        cost: of all of it.
    """
    return GateReport(VERSION, overall_outcome(checks), sides[0], sides[1], checks, tuple(notes), cost)


def cost_of(timed: Sequence[Timed], rows: Sequence[int], seconds: float) -> GateCost:
    """Return what measuring cost.

    Args:
        timed: what each measurement took: those of the candidate, a check each, then those of the baseline.
        rows: rows or texts of each check.
        seconds: from beginning to end.
    """
    now = [item.seconds or 0.0 for item in timed if item.now]
    kept = [item.seconds or 0.0 for item in timed if not item.now]
    return GateCost(
        seconds=round(seconds, 2), rows=sum(rows), scored=len(timed), run=len(now),
        forwards=sum(number for number, item in zip((*rows, *rows), timed, strict=False) if item.now),
        seconds_run=round(sum(now), 3),
        seconds_kept=round(sum(kept), 3), peak_bytes=peak_memory(),
    )  # fmt: skip


def _read_tasks(
    paths: Sequence[Path], models: Sequence[GatedModel], metric: str, fields: str | None,
    note: Callable[[str], None], *, offline: bool,
) -> list[GateRows]:  # fmt: skip
    """The tasks, without rows that either model is known to have learned from."""
    runs = [model.run for model in models if model.run is not None]
    fields = fields or next((run.plan.settings.fields for run in runs if run.plan.settings.fields), None)
    labels = next((model.labels for model in models if model.labels), ())
    asked = []
    check_judging_files(paths)
    for path in paths:
        file = read_rows(path, minimum=1, fields=fields, labels=labels, offline=offline)
        seen = frozenset[str]().union(*(model.seen for model in models))
        rows = tuple(row for row in file.rows if row.plain_input not in seen)
        for line in (file.understood, *file.notes):
            note(line)
        if not rows:
            raise TaskError(f"{path}: no rows that no run learned from; give rows that neither has seen")
        if len(rows) < len(file.rows):
            note(f"{file.name}: rows left out, as a run learned from them: {len(file.rows) - len(rows)}")
        name = metric_for(rows, metric)
        check_rows(rows, name)
        asked.append(GateRows(file.name, "task", name, rows))
    return asked


def check_judging_files(paths: Sequence[Path]) -> None:
    """Refuse tasks of lm-eval, whose prompts and metrics are its own, where rows are judged.

    >>> check_judging_files([Path("held_out.jsonl")])

    Args:
        paths: task files and data sets.

    Raises:
        TaskError: one is named as a task of lm-eval.
    """
    for path in paths:
        if (name := str(path)).startswith("lm-eval:"):
            raise TaskError(
                f"{name}: a gate judges rows, of a file or a data set (hf:NAME:SPLIT), not tasks of lm-eval; give its "
                "data set, or compare what `merge-advisor score` says of both models on it"
            )


def _check_names(asked: Sequence[GateRows]) -> None:
    """Refuse two files of one name: a log could not say which of them failed."""
    name, number = Counter(f"{rows.kind} {rows.name}" for rows in asked).most_common(1)[0]
    if number > 1:
        raise InputError(f"{number} files make a {name}; rename one, so that it is clear which of them fails")


def _check_comparable(opened: Sequence[OpenedModel], asked: Sequence[GateRows]) -> None:
    """Refuse losses of models that cut text into other tokens: nats per token are of other tokens then."""
    losses = [rows.name for rows in asked if rows.metric == "loss"]
    folders = [one.session.local.path for one in opened]
    files = [[file_digest(at / name, {}) if (at / name).is_file() else "" for name in _VOCABULARY] for at in folders]
    if losses and files[0] != files[1]:
        raise InputError(
            f"{losses[0]}: candidate and baseline have different tokenizers, so that nats per token do not compare; "
            "judge by `metric=accuracy` or `metric=exact_match`, without `guards`"
        )


def _measure(
    opened: list[OpenedModel], asked: Sequence[GateRows]
) -> tuple[list[tuple[_Measured, _Measured]], list[Timed]]:
    """What candidate and baseline do on all rows; `opened` is emptied, so that one base at a time is in memory."""
    memos = [one.session.memo for one in opened]
    shared = memos[0].context == memos[1].context
    meter, columns = opened[0].session.meter, []
    while opened:
        one = opened.pop(0)
        with one.session:
            # with the same base and prompts one base in memory does for both
            meter = meter if shared else one.session.meter
            columns.append([_values(one, meter, rows) for rows in asked])
            if shared and opened:
                other = opened.pop(0)
                with other.session:
                    columns.append([_values(other, meter, rows) for rows in asked])
    return list(zip(*columns, strict=True)), [item for memo in memos for item in memo.timed]


def _values(one: OpenedModel, meter: MergeMeter, rows: GateRows) -> _Measured:
    if rows.kind == "guard":
        losses = guard_losses(meter, one.without_prompt, [row.input for row in rows.rows])
        return _Measured(tuple(-loss for loss in losses), tuple(f"{loss:.3f}" for loss in losses))
    model = one.scored(meter, rows.rows, rows.metric)
    score = score_models(meter, [model], rows.rows, rows.metric, what=f"scoring {rows.name}")[0]
    found = score.rows[rows.metric]
    if rows.metric == "loss":
        return _Measured(tuple(-loss for loss in found), tuple(f"{loss:.3f}" for loss in found))
    return _Measured(tuple(found), score.outputs)


def _check(rows: GateRows, candidate: _Measured, baseline: _Measured, options: GateOptions) -> GateCheck:
    """Candidate against baseline on the rows of a check."""
    differences = [after - before for after, before in zip(candidate.values, baseline.values, strict=True)]
    decided = decide_gate(differences, rows.metric, options, guard=rows.kind == "guard")
    worse = [
        GateRow(row.called, row.input, row.output, before, after, round(change, 6))
        for row, change, before, after in zip(rows.rows, differences, baseline.outputs, candidate.outputs, strict=True)
        if change < 0
    ]
    sign = -1.0 if rows.metric == "loss" else 1.0
    means = [sign * sum(side.values) / len(side.values) for side in (baseline, candidate)]
    return GateCheck(
        rows.name, rows.kind, rows.metric, len(rows.rows), decided.bar, decided.outcome, decided.reason,
        baseline=means[0], candidate=means[1], difference=decided.interval.mean, lower=decided.interval.lower,
        upper=decided.interval.upper, worse=tuple(sorted(worse, key=lambda row: row.change)),
        better=sum(change > 0 for change in differences), rows_to_decide=decided.rows_to_decide,
    )  # fmt: skip


def _has_interval(rows: GateRows) -> bool:
    """Whether a check has rows enough for an interval; with fewer nothing is run."""
    return len(rows.rows) >= MINIMUM_ROWS


def _one_row(rows: GateRows, options: GateOptions) -> GateCheck:
    """The check on a single row or text, which has no interval: nothing is run."""
    bar = options.bar(rows.metric, guard=rows.kind == "guard")
    unit = "text" if rows.kind == "guard" else "row"
    reason = f"cannot tell: 1 {unit}, and at least {options.min_rows} decide; nothing was run"
    return GateCheck(
        rows.name, rows.kind, rows.metric, 1, bar, GateOutcome.CANNOT_TELL, reason, rows_to_decide=options.min_rows
    )


def _same_model(rows: GateRows, options: GateOptions) -> GateCheck:
    """The check of a model against itself, for which nothing is run: the difference is 0, without any doubt."""
    bar = options.bar(rows.metric, guard=rows.kind == "guard")
    passed = bar < 0
    what = "" if passed else f", and a gain above {shown(bar, rows.metric)} is demanded"
    reason = f"candidate and baseline are one model (the same digest){what}; nothing was run"
    outcome = GateOutcome.PASSED if passed else GateOutcome.FAILED
    return GateCheck(rows.name, rows.kind, rows.metric, len(rows.rows), bar, outcome, f"{outcome}: {reason}")
