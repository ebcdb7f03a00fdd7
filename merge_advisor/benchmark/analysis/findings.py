"""All that a benchmark's report tells, as values: what each arm reached, and what the statistics make of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from merge_advisor.benchmark.analysis.choices import NO_KIN, TaskChoices, choices_by_task
from merge_advisor.benchmark.analysis.means import (
    base_values,
    family_means,
    mean,
    metric_value,
    paired_differences,
    values_by_arm,
    without_tried,
)
from merge_advisor.benchmark.analysis.prediction import (
    Agreement,
    CostPoint,
    Sweep,
    TaskTable,
    agreement,
    cost_gain,
    k_sweep,
    task_table,
)
from merge_advisor.benchmark.analysis.ranks import Ranking, rank_arms
from merge_advisor.benchmark.values import Contrast, LateAddition, Metric, Result, Setup, Unit, View

REPORTED_METRICS: tuple[Metric, ...] = ("accuracy", "loss")


@dataclass(frozen=True, slots=True)
class ArmSummary:
    """What one arm reached in one view at one k: means over families; None where nothing was measured."""

    arm: str
    view: View
    k: int
    oracle: bool
    accuracy: float | None
    """Share of the held-out rows, 0 to 1."""
    over_base: float | None
    """Accuracy over the base's on the units that both have, points: arms that were not run on the same ones can be
    read side by side."""
    loss: float | None
    """Nats per token."""
    valid: float | None
    """Share of outputs in a valid format."""
    accuracy_valid: float | None
    forwards: float | None
    families: int
    tasks: int
    done: int
    """Results."""
    failed: int


@dataclass(frozen=True, slots=True)
class ResultSlice:
    """Where a table or a plot is taken: one metric in one view at one k."""

    metric: Metric
    view: View
    k: int


@dataclass(frozen=True, slots=True)
class Findings:
    """A benchmark, found out; `make_findings` makes it."""

    setup: Setup
    results: tuple[Result, ...]
    contrasts: tuple[Contrast, ...]
    """The primary first."""
    main: ResultSlice
    """Where the primary question is asked."""
    reference: str
    """Arm that the tables of tasks and families are told against; empty: no arm is there."""
    summaries: tuple[ArmSummary, ...]
    """By view, k and arm, arms in the order of `arm_order`."""
    ranking: Ranking | None
    tasks: tuple[tuple[ResultSlice, TaskTable], ...]
    """One a view, the main one first, at the main metric and k."""
    sweeps: tuple[tuple[ResultSlice, tuple[Sweep, ...]], ...]
    """The main metric in every view, then the other one in the main view; of arms with several k."""
    costs: tuple[tuple[ResultSlice, tuple[CostPoint, ...]], ...]
    """As `sweeps`."""
    agreement: Agreement | None
    chosen: tuple[TaskChoices, ...]
    """What the arms chose, those without members left out."""
    added: tuple[LateAddition, ...] = ()
    """Parts of the setup that came when results were there, in the order they came."""
    own: bool = True
    """Whether the pool has an adapter trained on one of the tasks; True where the pool is not known."""

    @property
    def primary(self) -> Contrast | None:
        """The answer to the primary question; None where its arms have no results."""
        return next((found for found in self.contrasts if found.question == self.setup.primary), None)

    @property
    def failed(self) -> tuple[Result, ...]:
        """The results that failed."""
        return tuple(result for result in self.results if result.status == "failed")

    @property
    def oracles(self) -> frozenset[str]:
        """The arms that read held-out answers."""
        return frozenset(result.arm for result in self.results if result.oracle)


def make_findings(
    setup: Setup,
    results: Sequence[Result],
    contrasts: Sequence[Contrast],
    kin: Mapping[str, str] = NO_KIN,
    added: Sequence[LateAddition] = (),
) -> Findings:
    """Compute all tables of a report; results may be few, of one family, or failed throughout.

    Args:
        setup: what was asked.
        results: those there are.
        contrasts: answers to the setup's questions.
        kin: family of each candidate, by id; empty: not known.
        added: parts of the setup that came when results were there.
    """
    asked = setup.primary
    main = ResultSlice(asked.metric, asked.view, asked.k)
    fresh = _averaged(setup, results)
    done = [result for result in results if result.status == "done"]
    views = [view for view in _views(setup, results) if any(result.view == view for result in done)]
    place = _place(main)
    here = values_by_arm(results, *place)
    views.sort(key=lambda view: view != main.view)
    places = [ResultSlice(main.metric, view, main.k) for view in views]
    other = next(metric for metric in REPORTED_METRICS if metric != main.metric)
    if main.view in views and values_by_arm(results, other, main.view, main.k):
        places.append(ResultSlice(other, main.view, main.k))
    tables = [(at, task_table(results, *_place(at))) for at in places if at.metric == main.metric]
    promised = [r for r in fresh if r.status == "done" and (r.view, r.k) == (main.view, main.k) and not r.oracle]
    arms = [arm for arm in arm_order(setup, results) if any(r.arm == arm and r.predicted is not None for r in promised)]
    based = [at for at in places if base_values(fresh, at.metric)]
    return Findings(
        setup=setup,
        results=tuple(results),
        contrasts=tuple(sorted(contrasts, key=lambda found: found.question != asked)),
        main=main,
        reference=next((arm for arm in (asked.than, "base") if arm in here), next(iter(here), "")),
        summaries=tuple(arm_summaries(setup, results)),
        ranking=rank_arms(fresh, *_place(main), seed=setup.seed)
        if len(values_by_arm(fresh, *_place(main))) > 1
        else None,
        tasks=tuple((at, table) for at, table in tables if table.tasks),
        sweeps=tuple((at, sweeps) for at in based if (sweeps := k_sweep(fresh, at.metric, at.view))),
        costs=tuple((at, costs) for at in based if (costs := cost_gain(fresh, *_place(at)))),
        agreement=agreement(_with_base(fresh, main), arms, seed=setup.seed) if arms else None,
        chosen=choices_by_task(results, kin, setup.tasks.own),
        added=tuple(added),
        own=not kin or any(setup.tasks.own.get(task, task) in kin for task in {r.unit.task for r in results}),
    )


def arm_order(setup: Setup, results: Sequence[Result]) -> list[str]:
    """Return the arms that have results: the setup's, then its controls, then others by name."""
    known = dict.fromkeys([*(arm.name for arm in setup.arms), *setup.controls])
    there = {result.arm for result in results}
    return [arm for arm in known if arm in there] + sorted(there - known.keys())


def arm_summaries(setup: Setup, results: Sequence[Result]) -> list[ArmSummary]:
    """Return what each arm reached in each view at each k; families that ideas were tried out on only if alone."""
    results = _averaged(setup, results)
    groups: dict[tuple[View, int, str], list[Result]] = {}
    for result in results:
        groups.setdefault((result.view, result.k, result.arm), []).append(result)
    views, arms, base = _views(setup, results), arm_order(setup, results), base_values(results, "accuracy")
    keys = sorted(groups, key=lambda key: (views.index(key[0]), key[1], arms.index(key[2])))
    return [_level(groups[key], base) for key in keys]


def _level(group: Sequence[Result], base: Mapping[Unit, float]) -> ArmSummary:
    done = [result for result in group if result.status == "done"]

    def over(read: Callable[[Result], float | None]) -> float | None:
        values = {result.unit: value for result in done if (value := _finite(read(result))) is not None}
        return mean([*family_means(values).values()]) if values else None

    def gain(result: Result) -> float | None:
        reached = metric_value(result, "accuracy")
        return None if reached is None or result.unit not in base else reached - base[result.unit]

    first = group[0]
    return ArmSummary(
        arm=first.arm,
        view=first.view,
        k=first.k,
        oracle=any(result.oracle for result in group),
        accuracy=over(lambda result: result.accuracy),
        over_base=over(gain) if first.arm != "base" else None,
        loss=over(lambda result: result.loss),
        valid=over(lambda result: result.valid),
        accuracy_valid=over(lambda result: result.accuracy_valid),
        forwards=over(lambda result: result.forwards),
        families=len({result.unit.family for result in done}),
        tasks=len({result.unit.task for result in done}),
        done=len(done),
        failed=len(group) - len(done),
    )


def _averaged(setup: Setup, results: Sequence[Result]) -> Sequence[Result]:
    """The results that means are taken over: those of families that nothing was tried out on, all where none is."""
    return without_tried(results, setup.tasks.tried) or results


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def family_differences(results: Sequence[Result], at: ResultSlice, reference: str) -> dict[str, dict[str, float]]:
    """Return for every arm the difference to the reference, family by family, on the units both have."""
    values = values_by_arm(results, at.metric, at.view, at.k)
    if reference not in values:
        return {}
    return {arm: family_means(paired_differences(found, values[reference])) for arm, found in values.items()}


def _with_base(results: Sequence[Result], at: ResultSlice) -> list[Result]:
    """The results of one place, and the base's, which gains are measured from."""
    return [r for r in results if (r.view == at.view and r.k == at.k) or r.arm == "base"]


def _views(setup: Setup, results: Sequence[Result]) -> list[View]:
    return list(dict.fromkeys([*setup.views, *(result.view for result in results)]))


def _place(at: ResultSlice) -> tuple[Metric, View, int]:
    return at.metric, at.view, at.k
