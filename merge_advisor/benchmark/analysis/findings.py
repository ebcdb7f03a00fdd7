"""All that a benchmark's report shows, as values: what each arm reached, and what the statistics make of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from merge_advisor.benchmark.analysis.calibration import Calibration, calibrations
from merge_advisor.benchmark.analysis.choices import NO_FAMILIES, TaskChoices, choices_by_task
from merge_advisor.benchmark.analysis.curves import CostPoint, Sweep, TaskTable, cost_gain, k_sweep, task_table
from merge_advisor.benchmark.analysis.means import (
    base_values,
    family_means,
    mean,
    metric_value,
    paired_differences,
    values_by_arm,
    without_tried,
)
from merge_advisor.benchmark.analysis.prediction import Agreement, agreement
from merge_advisor.benchmark.analysis.ranks import Ranking, rank_arms
from merge_advisor.benchmark.values import Contrast, LateAddition, Metric, Result, Setup, Unit, View

_METRICS: tuple[Metric, ...] = ("accuracy", "loss")
"""Metrics that sweeps and costs are shown by."""


@dataclass(frozen=True, slots=True)
class ArmSummary:
    """What one arm reached in one view at one k: means over families; None where nothing was measured.

    >>> from merge_advisor.benchmark.values import Arm, Question, Tasks
    >>> setup = Setup("mine", "base", "adapters", Tasks("bench"), (Arm("a", "top_k"),), Question("a", "base"), 1.0)
    >>> (summary,) = arm_summaries(setup, [Result(Unit("dates", "time"), "a", "own-out", 4, accuracy=0.5, loss=1.0)])
    >>> summary.accuracy, summary.over_base, summary.done
    (0.5, None, 1)
    """

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
    judged: float | None
    """Loss that rows are judged by, nats: over the choices where there are some, else per token."""
    valid: float | None
    """Share of outputs in a valid format."""
    accuracy_valid: float | None
    """Accuracy on the rows with such an output."""
    forwards: float | None
    """Nominal forward passes over one row."""
    families: int
    tasks: int
    done: int
    """Results that are done."""
    failed: int
    """Results that failed."""


@dataclass(frozen=True, slots=True)
class ResultSlice:
    """Which results a table or a plot shows: one metric in one view at one k.

    >>> ResultSlice("accuracy", "own-out", 4).view
    'own-out'
    """

    metric: Metric
    view: View
    k: int


@dataclass(frozen=True, slots=True)
class Findings:
    """All that a report shows; `make_findings` computes it.

    >>> from merge_advisor.benchmark.values import Arm, Question, Tasks
    >>> setup = Setup("mine", "base", "adapters", Tasks("bench"), (Arm("a", "top_k"),), Question("a", "base"), 1.0)
    >>> results = [Result(Unit("dates", "time"), arm, "own-out", 4, accuracy=0.5) for arm in ("a", "base")]
    >>> findings = make_findings(setup, results, contrasts=())
    >>> [summary.arm for summary in findings.summaries], findings.reference
    (['a', 'base'], 'base')
    """

    setup: Setup
    results: tuple[Result, ...]
    contrasts: tuple[Contrast, ...]
    """The primary first."""
    main: ResultSlice
    """The slice that the primary question is about."""
    reference: str
    """Arm that the tables of tasks and families show differences to; empty: no arm has results."""
    summaries: tuple[ArmSummary, ...]
    """By view, k and arm, arms in the order of `arm_order`."""
    ranking: Ranking | None
    tasks: tuple[tuple[ResultSlice, TaskTable], ...]
    """One table a view, the main one first, at the main metric and k."""
    sweeps: tuple[tuple[ResultSlice, tuple[Sweep, ...]], ...]
    """The main metric in every view, then the other one in the main view; of arms with several k."""
    costs: tuple[tuple[ResultSlice, tuple[CostPoint, ...]], ...]
    """In the order of `sweeps`."""
    agreement: Agreement | None
    chosen: tuple[TaskChoices, ...]
    """What the arms chose; arms without members are left out."""
    added: tuple[LateAddition, ...] = ()
    """Parts of the setup that came when results were there, in the order they came."""
    calibrations: tuple[Calibration, ...] = ()
    """How good the chances are that arms of `auto` state, in the main slice."""
    own: bool = True
    """Whether the pool has an adapter trained on one of the tasks; True where the pool is not known."""

    @property
    def primary(self) -> Contrast | None:
        """The answer to the primary question; None where its arms have no results."""
        return next((contrast for contrast in self.contrasts if contrast.question == self.setup.primary), None)

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
    families: Mapping[str, str] = NO_FAMILIES,
    added: Sequence[LateAddition] = (),
) -> Findings:
    """Compute all tables of a report; results may be few, of one family, or failed throughout.

    Args:
        setup: what was asked.
        results: those there are.
        contrasts: answers to the setup's questions.
        families: family of each candidate, by id; empty: not known.
        added: parts of the setup that came when results were there.

    Returns:
        Tables that nothing is there for are empty or None.
    """
    asked = setup.primary
    main = ResultSlice(asked.metric, asked.view, asked.k)
    fresh = _averaged(setup, results)
    slices = _slices(setup, results, main)
    with_base = [at for at in slices if base_values(fresh, at.metric)]
    tables = [(at, task_table(results, *_place(at))) for at in slices if at.metric == main.metric]
    reached = values_by_arm(results, *_place(main))
    promising = _promising_arms(setup, results, fresh, main)
    comparable = len(values_by_arm(fresh, *_place(main))) > 1
    return Findings(
        setup=setup,
        results=tuple(results),
        contrasts=tuple(sorted(contrasts, key=lambda contrast: contrast.question != asked)),
        main=main,
        reference=next((arm for arm in (asked.than, "base") if arm in reached), next(iter(reached), "")),
        summaries=tuple(arm_summaries(setup, results)),
        ranking=rank_arms(fresh, *_place(main), seed=setup.seed) if comparable else None,
        tasks=tuple((at, table) for at, table in tables if table.tasks),
        sweeps=tuple((at, sweeps) for at in with_base if (sweeps := k_sweep(fresh, at.metric, at.view))),
        costs=tuple((at, costs) for at in with_base if (costs := cost_gain(fresh, *_place(at)))),
        agreement=agreement(_with_base(fresh, main), promising, seed=setup.seed) if promising else None,
        chosen=choices_by_task(results, families, setup.tasks.own),
        added=tuple(added),
        calibrations=calibrations(setup, fresh, main.view, main.k),
        own=not families or any(setup.tasks.own.get(task, task) in families for task in {r.unit.task for r in results}),
    )


def _slices(setup: Setup, results: Sequence[Result], main: ResultSlice) -> list[ResultSlice]:
    """Return the slices to show: the main metric in every view, the main view first, then the other metric there."""
    done = [result for result in results if result.status == "done"]
    views = [view for view in _views(setup, results) if any(result.view == view for result in done)]
    views.sort(key=lambda view: view != main.view)
    slices = [ResultSlice(main.metric, view, main.k) for view in views]
    other = next(metric for metric in _METRICS if metric != main.metric)
    if main.view in views and values_by_arm(results, other, main.view, main.k):
        slices.append(ResultSlice(other, main.view, main.k))
    return slices


def _promising_arms(setup: Setup, results: Sequence[Result], fresh: Sequence[Result], main: ResultSlice) -> list[str]:
    """Return the arms with a predicted gain in the main slice; what an oracle predicts is no prediction."""
    here = [r for r in fresh if r.status == "done" and (r.view, r.k) == (main.view, main.k) and not r.oracle]
    arms = {result.arm for result in here if result.predicted is not None}
    return [arm for arm in arm_order(setup, results) if arm in arms]


def arm_order(setup: Setup, results: Sequence[Result]) -> list[str]:
    """Return the arms that have results: the setup's, then its controls, then others by name.

    Args:
        setup: holds the order of arms and controls.
        results: those there are.
    """
    known = dict.fromkeys([*(arm.name for arm in setup.arms), *setup.controls])
    there = {result.arm for result in results}
    return [arm for arm in known if arm in there] + sorted(there - known.keys())


def arm_summaries(setup: Setup, results: Sequence[Result]) -> list[ArmSummary]:
    """Return what each arm reached in each view at each k.

    Families that strategies were tried out on count only where there are no others.

    Args:
        setup: holds those families and the order of views and arms.
        results: those there are.
    """
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
        judged=over(lambda result: result.judged),
        valid=over(lambda result: result.valid),
        accuracy_valid=over(lambda result: result.accuracy_valid),
        forwards=over(lambda result: result.forwards),
        families=len({result.unit.family for result in done}),
        tasks=len({result.unit.task for result in done}),
        done=len(done),
        failed=len(group) - len(done),
    )


def _averaged(setup: Setup, results: Sequence[Result]) -> Sequence[Result]:
    """Return the results that means are taken over: of families that nothing was tried out on; all where none is."""
    # a benchmark of such families alone still has numbers to look at; its contrasts are empty
    return without_tried(results, setup.tasks.tried) or results


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def family_differences(results: Sequence[Result], at: ResultSlice, reference: str) -> dict[str, dict[str, float]]:
    """Return for every arm the difference to the reference, family by family, on the units that both have.

    Args:
        results: of all arms.
        at: which results, and by which metric.
        reference: name of an arm; nothing is returned where it has no results.
    """
    values = values_by_arm(results, at.metric, at.view, at.k)
    if reference not in values:
        return {}
    return {arm: family_means(paired_differences(mine, values[reference])) for arm, mine in values.items()}


def _with_base(results: Sequence[Result], at: ResultSlice) -> list[Result]:
    """Return the results of one slice, and the base's, which gains are measured from."""
    return [r for r in results if (r.view == at.view and r.k == at.k) or r.arm == "base"]


def _views(setup: Setup, results: Sequence[Result]) -> list[View]:
    return list(dict.fromkeys([*setup.views, *(result.view for result in results)]))


def _place(at: ResultSlice) -> tuple[Metric, View, int]:
    return at.metric, at.view, at.k
