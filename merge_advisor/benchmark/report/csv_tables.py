"""The numbers behind a benchmark's report as CSV: one file for each table and each plot, long rather than wide.

Accuracies are shares from 0 to 1, losses nats per token; differences and gains are points of accuracy (hundredths) or
nats per token, up is better. What is not there is an empty cell.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import astuple, fields

from merge_advisor.benchmark.analysis.curves import TaskTable
from merge_advisor.benchmark.analysis.findings import ArmSummary, Findings, ResultSlice, family_differences
from merge_advisor.benchmark.analysis.means import family_means, values_by_arm
from merge_advisor.benchmark.analysis.prediction import measured_gain
from merge_advisor.benchmark.report.csv_files import CsvCell, CsvTable
from merge_advisor.benchmark.values import Metric, Question, Unit
from merge_advisor.json_form import to_plain

_UNITS: dict[Metric, str] = {"accuracy": "points", "loss": "nats", "judged": "nats"}
_QUESTION = ("better", "than", "metric", "view", "k")
_SLICE = ("metric", "view", "k")
"""Columns that say where a number is taken."""


def csv_tables(findings: Findings) -> list[CsvTable]:
    """Return all tables of a report; one without rows keeps its columns.

    Args:
        findings: all that the report says.
    """
    return [
        _results(findings),
        _arms(findings),
        *_contrasts(findings),
        *_ranks(findings),
        _tasks(findings),
        _families(findings),
        _sweeps(findings),
        _costs(findings),
        *_promises(findings),
        *_chosen(findings),
        _failed(findings),
        CsvTable("setup", ("key", "value"), tuple(_flat("", to_plain(findings.setup)))),
    ]


def _arms(findings: Findings) -> CsvTable:
    columns = tuple(field.name for field in fields(ArmSummary))
    return CsvTable("arms", columns, tuple(astuple(summary) for summary in findings.summaries))


def _results(findings: Findings) -> CsvTable:
    gain = measured_gain(findings.results)
    columns = (
        *(field.name for field in fields(Unit)),
        *"arm view k oracle status reason members merge rows accuracy loss valid accuracy_valid".split(),
        *"predicted measured forwards seconds".split(),
    )
    rows = tuple(
        (
            *astuple(r.unit),
            *(r.arm, r.view, r.k, r.oracle, r.status, r.reason, _members_text(r.members), r.merge, r.rows),
            *(r.accuracy, r.loss, r.valid, r.accuracy_valid, r.predicted, gain(r), r.forwards, r.seconds),
        )
        for r in findings.results
    )
    return CsvTable("results", columns, rows)


def _members_text(members: Sequence[tuple[str, float]]) -> str:
    """Ids with weights on one line."""
    return "; ".join(f"{name} {weight:.4g}" for name, weight in members)


def _asked(question: Question) -> tuple[CsvCell, ...]:
    return question.better, question.than, question.metric, question.view, question.k


def _place(at: ResultSlice) -> tuple[CsvCell, ...]:
    return at.metric, at.view, at.k


def _contrasts(findings: Findings) -> list[CsvTable]:
    # named as the fields of a contrast, so that a reader of the code finds them in the file
    columns = "mean lower upper sign_flip adjusted wilcoxon wins ties losses agree standing reason".split()
    rows = tuple(
        (
            "primary" if c.question == findings.setup.primary else "secondary",
            *_asked(c.question),
            _UNITS[c.question.metric],
            len(c.families),
            *(getattr(c, column) for column in columns),
        )
        for c in findings.contrasts
    )
    single = tuple(
        (*_asked(c.question), _UNITS[c.question.metric], family, difference)
        for c in findings.contrasts
        for family, difference in zip(c.families, c.differences, strict=True)
    )
    return [
        CsvTable("contrasts", ("role", *_QUESTION, "unit", "families", *columns), rows),
        CsvTable("contrast_families", (*_QUESTION, "unit", "family", "difference"), single),
    ]


def _ranks(findings: Findings) -> list[CsvTable]:
    ranking = findings.ranking
    arms = () if ranking is None else tuple(zip(ranking.arms, ranking.mean_ranks, strict=True))
    pairs = () if ranking is None else ranking.pairs
    tests = tuple((p.better, p.than, _UNITS[findings.main.metric], p.mean, p.sign_flip, p.adjusted) for p in pairs)
    return [
        CsvTable("ranks", (*_SLICE, "arm", "mean_rank"), tuple((*_place(findings.main), *row) for row in arms)),
        CsvTable("rank_pairs", ("better", "than", "unit", "mean", "sign_flip", "adjusted"), tests),
    ]


def task_differences(table: TaskTable, reference: str) -> list[list[float | None]]:
    """Return each arm's difference to the reference on each task, up is better; None where one of the two is absent.

    Args:
        table: values by task and arm.
        reference: name of an arm; where the table does not have it, all differences are None.

    Returns:
        (tasks, arms).
    """
    place = table.arms.index(reference) if reference in table.arms else None

    def difference(row: Sequence[float | None], value: float | None) -> float | None:
        other = None if place is None else row[place]
        return None if value is None or other is None else value - other

    return [[difference(row, value) for value in row] for row in table.values]


def _tasks(findings: Findings) -> CsvTable:
    rows = tuple(
        (*_place(at), family, task, arm, value, findings.reference, difference)
        for at, table in findings.tasks
        for family, task, values, differences in zip(
            table.families, table.tasks, table.values, task_differences(table, findings.reference), strict=True
        )
        for arm, value, difference in zip(table.arms, values, differences, strict=True)
    )
    return CsvTable("tasks", (*_SLICE, "family", "task", "arm", "value", "reference", "difference"), rows)


def _families(findings: Findings) -> CsvTable:
    rows: list[tuple[CsvCell, ...]] = []
    for at, _ in findings.tasks:
        gains = family_differences(findings.results, at, findings.reference)
        for arm, values in values_by_arm(findings.results, at.metric, at.view, at.k).items():
            rows += [
                (*_place(at), family, arm, value, findings.reference, gains.get(arm, {}).get(family))
                for family, value in family_means(values).items()
            ]
    return CsvTable("families", (*_SLICE, "family", "arm", "value", "reference", "difference"), tuple(rows))


def _sweeps(findings: Findings) -> CsvTable:
    rows = tuple(
        (at.metric, at.view, s.arm, s.oracle, p.k, p.mean, p.lower, p.upper, _UNITS[at.metric], p.families, p.units)
        for at, sweeps in findings.sweeps
        for s in sweeps
        for p in s.points
    )
    columns = ("metric", "view", "arm", "oracle", "k", "gain", "lower", "upper", "unit", "families", "units")
    return CsvTable("k_sweep", columns, rows)


def _costs(findings: Findings) -> CsvTable:
    rows = tuple(
        (*_place(at), c.arm, c.oracle, c.forwards, c.mean, c.lower, c.upper, _UNITS[at.metric], c.families, c.units)
        for at, costs in findings.costs
        for c in costs
    )
    columns = (*_SLICE, "arm", "oracle", "forwards", "gain", "lower", "upper", "unit", "families", "units")
    return CsvTable("cost_gain", columns, rows)


def _promises(findings: Findings) -> list[CsvTable]:
    told = findings.agreement
    promises = () if told is None else told.promises
    bins = () if told is None else told.bins
    return [
        CsvTable(
            "reliability",
            ("arm", "family", "task", "predicted", "measured"),
            tuple((p.arm, p.family, p.task, p.predicted, p.measured) for p in promises),
        ),
        CsvTable(
            "reliability_bins",
            ("lowest", "highest", "predicted", "measured", "count", "families"),
            tuple((b.lowest, b.highest, b.predicted, b.measured, b.count, "; ".join(b.families)) for b in bins),
        ),
    ]


def _chosen(findings: Findings) -> list[CsvTable]:
    here = ("view", "k", "family", "task", "arm")
    columns = "units sets alone kin predicted measured".split()
    rows = tuple(
        (c.view, c.k, c.family, c.task, c.arm, *(getattr(c, column) for column in columns)) for c in findings.chosen
    )
    members = tuple(
        (c.view, c.k, c.family, c.task, c.arm, m.id, m.family, m.units, c.units, m.weight)
        for c in findings.chosen
        for m in c.members
    )
    return [
        CsvTable("chosen", (*here, *columns), rows),
        CsvTable("chosen_members", (*here, "member", "member_family", "units", "of", "weight"), members),
    ]


def _failed(findings: Findings) -> CsvTable:
    columns = (*(field.name for field in fields(Unit)), "arm", "view", "k", "reason")
    return CsvTable("failed", columns, tuple((*astuple(r.unit), r.arm, r.view, r.k, r.reason) for r in findings.failed))


def _flat(key: str, value: object) -> Iterable[tuple[str, str]]:
    """A nested value as pairs of a dotted key, "arms.2.tuner.trials", and its value as text."""
    if isinstance(value, dict) and value:
        for name, part in value.items():
            yield from _flat(f"{key}.{name}" if key else str(name), part)
    elif isinstance(value, list) and any(isinstance(part, dict) for part in value):
        for number, part in enumerate(value):
            yield from _flat(f"{key}.{number}", part)
    else:
        yield key, ", ".join(map(str, value)) if isinstance(value, list) else "" if value in (None, {}) else str(value)
