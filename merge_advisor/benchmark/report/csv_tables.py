"""The numbers behind a benchmark's report as CSV: one file for each table and each plot, long rather than wide.

Accuracies are shares from 0 to 1, losses nats per token; differences and gains are points of accuracy (hundredths) or
nats per token, up is better. What is not there is an empty cell.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from merge_advisor.benchmark.analysis.curves import TaskTable
from merge_advisor.benchmark.analysis.findings import ArmSummary, Findings, ResultSlice, family_differences
from merge_advisor.benchmark.analysis.means import family_means, values_by_arm
from merge_advisor.benchmark.analysis.prediction import measured_gain
from merge_advisor.benchmark.values import Metric, Question, Unit
from merge_advisor.errors import RunError
from merge_advisor.plain_text import printable
from merge_advisor.types import to_plain
from merge_advisor.whole_files import write_text

Cell = str | int | float | bool | None
FORMULA = ("=", "+", "-", "@")
"""What a spreadsheet takes for a formula at the start of a cell."""
UNITS: dict[Metric, str] = {"accuracy": "points", "loss": "nats"}
QUESTION = ("better", "than", "metric", "view", "k")
SLICE_COLUMNS = ("metric", "view", "k")


@dataclass(frozen=True, slots=True)
class CsvTable:
    """One table."""

    name: str
    """Its file is `NAME.csv`."""
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


def write_tables(folder: Path, tables: Iterable[CsvTable]) -> None:
    """Write each table as CSV into a folder, which is made; the same values give the same bytes.

    Raises:
        RunError: no permission, no room, or something else under the folder's name.
    """
    import pandas as pd

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{folder}: cannot be made ({error.strerror}); remove what is there") from error
    for table in tables:
        rows = [[safe_cell(cell) for cell in row] for row in table.rows]
        frame = pd.DataFrame(rows, columns=list(table.columns), dtype=object)
        write_text(folder / f"{table.name}.csv", frame.to_csv(index=False, lineterminator="\n"))


def safe_cell(cell: Cell) -> Cell:
    """Return a cell no spreadsheet acts on: text that looks like a formula gets an apostrophe, numbers ten digits."""
    if isinstance(cell, str):
        text = printable(cell)
        return "'" + text if text.startswith(FORMULA) else text
    if isinstance(cell, float):
        return float(f"{cell:.10g}") if math.isfinite(cell) else None
    return cell


def csv_tables(found: Findings) -> list[CsvTable]:
    """Return all tables of a report; one without rows keeps its columns."""
    return [
        _results(found),
        CsvTable(
            "arms",
            tuple(field.name for field in fields(ArmSummary)),
            tuple(astuple(level) for level in found.summaries),
        ),
        *_contrasts(found),
        *_ranks(found),
        _tasks(found),
        _families(found),
        _sweeps(found),
        _costs(found),
        *_promises(found),
        *_chosen(found),
        _failed(found),
        CsvTable("setup", ("key", "value"), tuple(setup_rows(found))),
    ]


def _arms(found: Findings) -> CsvTable:
    columns = tuple(field.name for field in fields(ArmSummary))
    return CsvTable("arms", columns, tuple(astuple(summary) for summary in found.summaries))


def _results(found: Findings) -> CsvTable:
    gain = measured_gain(found.results)
    columns = (
        *(field.name for field in fields(Unit)),
        *"arm view k oracle status reason members merge rows accuracy loss valid accuracy_valid".split(),
        *"predicted measured forwards seconds".split(),
    )
    rows = tuple(
        (
            *astuple(r.unit),
            *(r.arm, r.view, r.k, r.oracle, r.status, r.reason, members_text(r.members), r.merge, r.rows),
            *(r.accuracy, r.loss, r.valid, r.accuracy_valid, r.predicted, gain(r), r.forwards, r.seconds),
        )
        for r in found.results
    )
    return CsvTable("results", columns, rows)


def members_text(members: Sequence[tuple[str, float]]) -> str:
    """Return ids with weights on one line."""
    return "; ".join(f"{name} {weight:.4g}" for name, weight in members)


def _asked(question: Question) -> tuple[Cell, ...]:
    return question.better, question.than, question.metric, question.view, question.k


def _place(at: ResultSlice) -> tuple[Cell, ...]:
    return at.metric, at.view, at.k


def _contrasts(found: Findings) -> list[CsvTable]:
    columns = "mean lower upper sign_flip adjusted wilcoxon wins ties losses agree standing reason".split()
    rows = tuple(
        (
            "primary" if c.question == found.setup.primary else "secondary",
            *_asked(c.question),
            UNITS[c.question.metric],
            len(c.families),
            *(getattr(c, column) for column in columns),
        )
        for c in found.contrasts
    )
    single = tuple(
        (*_asked(c.question), UNITS[c.question.metric], family, difference)
        for c in found.contrasts
        for family, difference in zip(c.families, c.differences, strict=True)
    )
    return [
        CsvTable("contrasts", ("role", *QUESTION, "unit", "families", *columns), rows),
        CsvTable("contrast_families", (*QUESTION, "unit", "family", "difference"), single),
    ]


def _ranks(found: Findings) -> list[CsvTable]:
    ranking = found.ranking
    arms = () if ranking is None else tuple(zip(ranking.arms, ranking.mean_ranks, strict=True))
    pairs = () if ranking is None else ranking.pairs
    tests = tuple((p.better, p.than, UNITS[found.main.metric], p.mean, p.sign_flip, p.adjusted) for p in pairs)
    return [
        CsvTable("ranks", (*SLICE_COLUMNS, "arm", "mean_rank"), tuple((*_place(found.main), *row) for row in arms)),
        CsvTable("rank_pairs", ("better", "than", "unit", "mean", "sign_flip", "adjusted"), tests),
    ]


def task_differences(table: TaskTable, reference: str) -> list[list[float | None]]:
    """Return each arm's difference to the reference on each task, (tasks, arms)."""
    place = table.arms.index(reference) if reference in table.arms else None

    def difference(row: Sequence[float | None], value: float | None) -> float | None:
        other = None if place is None else row[place]
        return None if value is None or other is None else value - other

    return [[difference(row, value) for value in row] for row in table.values]


def _tasks(found: Findings) -> CsvTable:
    rows = tuple(
        (*_place(at), family, task, arm, value, found.reference, difference)
        for at, table in found.tasks
        for family, task, values, differences in zip(
            table.families, table.tasks, table.values, task_differences(table, found.reference), strict=True
        )
        for arm, value, difference in zip(table.arms, values, differences, strict=True)
    )
    return CsvTable("tasks", (*SLICE_COLUMNS, "family", "task", "arm", "value", "reference", "difference"), rows)


def _families(found: Findings) -> CsvTable:
    rows: list[tuple[Cell, ...]] = []
    for at, _ in found.tasks:
        gains = family_differences(found.results, at, found.reference)
        for arm, values in values_by_arm(found.results, at.metric, at.view, at.k).items():
            rows += [
                (*_place(at), family, arm, value, found.reference, gains.get(arm, {}).get(family))
                for family, value in family_means(values).items()
            ]
    return CsvTable("families", (*SLICE_COLUMNS, "family", "arm", "value", "reference", "difference"), tuple(rows))


def _sweeps(found: Findings) -> CsvTable:
    rows = tuple(
        (at.metric, at.view, s.arm, s.oracle, p.k, p.mean, p.lower, p.upper, UNITS[at.metric], p.families, p.units)
        for at, sweeps in found.sweeps
        for s in sweeps
        for p in s.points
    )
    columns = ("metric", "view", "arm", "oracle", "k", "gain", "lower", "upper", "unit", "families", "units")
    return CsvTable("k_sweep", columns, rows)


def _costs(found: Findings) -> CsvTable:
    rows = tuple(
        (*_place(at), c.arm, c.oracle, c.forwards, c.mean, c.lower, c.upper, UNITS[at.metric], c.families, c.units)
        for at, costs in found.costs
        for c in costs
    )
    columns = (*SLICE_COLUMNS, "arm", "oracle", "forwards", "gain", "lower", "upper", "unit", "families", "units")
    return CsvTable("cost_gain", columns, rows)


def _promises(found: Findings) -> list[CsvTable]:
    told = found.agreement
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


def _chosen(found: Findings) -> list[CsvTable]:
    here = ("view", "k", "family", "task", "arm")
    columns = "units sets alone kin predicted measured".split()
    rows = tuple(
        (c.view, c.k, c.family, c.task, c.arm, *(getattr(c, column) for column in columns)) for c in found.chosen
    )
    members = tuple(
        (c.view, c.k, c.family, c.task, c.arm, m.id, m.family, m.units, c.units, m.weight)
        for c in found.chosen
        for m in c.members
    )
    return [
        CsvTable("chosen", (*here, *columns), rows),
        CsvTable("chosen_members", (*here, "member", "member_family", "units", "of", "weight"), members),
    ]


def _failed(found: Findings) -> CsvTable:
    columns = (*(field.name for field in fields(Unit)), "arm", "view", "k", "reason")
    return CsvTable("failed", columns, tuple((*astuple(r.unit), r.arm, r.view, r.k, r.reason) for r in found.failed))


def setup_rows(found: Findings) -> list[tuple[str, str]]:
    """Return the setup as pairs of a dotted key and its value in words."""
    return list(_flat("", to_plain(found.setup)))


def _flat(key: str, value: object) -> Iterable[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for name, part in value.items():
            yield from _flat(f"{key}.{name}" if key else str(name), part)
    elif isinstance(value, list) and any(isinstance(part, dict) for part in value):
        for number, part in enumerate(value):
            yield from _flat(f"{key}.{number}", part)
    else:
        yield key, ", ".join(map(str, value)) if isinstance(value, list) else "" if value in (None, {}) else str(value)
