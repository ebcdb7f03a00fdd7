"""The units of a benchmark, one after the other: each result is kept as soon as it is there, a failure as well."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from itertools import groupby, product

from merge_advisor.benchmark.running.arms import BenchContext, TaskDraw, run_arm
from merge_advisor.benchmark.running.controls import run_control
from merge_advisor.benchmark.running.ledger import Ledger, ResultKey
from merge_advisor.benchmark.running.rows import BenchTask
from merge_advisor.benchmark.setup import ORACLES, ks_of
from merge_advisor.benchmark.values import Arm, Result, Setup, Unit
from merge_advisor.errors import InputError, MergeAdvisorError

LONGEST_REASON = 300


def result_keys(setup: Setup, tasks: Sequence[str]) -> Iterator[ResultKey]:
    """All results there are to measure, an arm that matches another's cost after it.

    Draw by draw of the shots, and in each task by task: a benchmark that is not through has some units of every task.

    Args:
        setup: arms, controls and draws.
        tasks: names, in order.
    """
    arms = sorted(setup.arms, key=lambda arm: bool(arm.match))
    sizes = [(str(name), setup.k) for name in setup.controls] + [(arm.name, ks_of(arm, setup)) for arm in arms]
    draws = (range(setup.draws.selections), range(setup.draws.tuners))
    for shots, task, selection, tuner, view in product(range(setup.draws.shots), tasks, *draws, setup.views):
        for name, ks in sizes:
            for k in ks:
                yield ResultKey(task, shots, selection, tuner, view, k, name)


def select_keys(keys: Sequence[ResultKey], only: Sequence[str], setup: Setup) -> list[ResultKey]:
    """The keys that a pattern fits, and those that an arm among them has to match.

    Args:
        keys: all there are.
        only: patterns for `arm/task/view`, `arm/task/view/k` or `arm/task/view/k#shots.selection`, the last with the
            numbers of the two draws from 0; none: all keys.
        setup: tells who matches whom.

    Raises:
        InputError: a pattern that fits nothing.
    """
    if not only:
        return list(keys)
    chosen: set[ResultKey] = set()
    for pattern in only:
        fitting = {key for key in keys if any(fnmatchcase(path, pattern) for path in _paths(key))}
        if not fitting:
            example = _paths(keys[0])[0]
            raise InputError(
                f"--only '{pattern}' fits nothing; write arm/task/view, e.g. '{example}' or '*/*/own-out/4#0.*'"
            )
        chosen |= fitting
    matched = {arm.name: arm.match for arm in setup.arms if arm.match}
    chosen |= {key._replace(arm=matched[key.arm]) for key in chosen if key.arm in matched}
    return [key for key in keys if key in chosen]


def _paths(key: ResultKey) -> tuple[str, str, str]:
    path = f"{key.arm}/{key.task}/{key.view}"
    return path, f"{path}/{key.k}", f"{path}/{key.k}#{key.shot_draw}.{key.selection_draw}"


def run_units(
    world: BenchContext,
    tasks: Mapping[str, BenchTask],
    keys: Sequence[ResultKey],
    ledger: Ledger,
    tell: Callable[[], None] = lambda: None,
) -> None:
    """Measure results in the order of their keys and keep each.

    Args:
        world: what the units share.
        tasks: rows by task name.
        keys: what to measure; keys of one task and draw stand together.
        ledger: where results go.
        tell: called after each.
    """
    arms = {arm.name: arm for arm in world.setup.arms}
    for (task, number), group in groupby(keys, key=lambda key: (key.task, key.shot_draw)):
        draw = TaskDraw(world, tasks[task], number)
        for key in group:
            ledger.keep(measure_result(draw, key, arms.get(key.arm), ledger))
            if key.arm == "best-single-oracle":
                ledger.keep_singles(task, ((name, *score) for name, score in draw.alone.items()))
            tell()


def measure_result(draw: TaskDraw, key: ResultKey, arm: Arm | None, ledger: Ledger) -> Result:
    """One result; whatever is raised on the way makes it a failed one with the reason.

    Args:
        draw: the task and its shots.
        key: what to measure.
        arm: the arm of that name, None for a control.
        ledger: holds what the arm's match has spent.
    """
    unit = Unit(key.task, draw.rows.family, key.shot_draw, key.selection_draw, key.tuner_seed)
    start = time.perf_counter()
    try:
        if arm is None:
            found = run_control(draw, key.arm, unit, key.view, key.k)
        else:
            found = run_arm(draw, arm, unit, key.view, key.k, _budget(arm, key, ledger))
    except Exception as error:  # a unit that crashes must not take the others with it
        found = failed_result(key, draw.rows.family, _reason(error))
    return replace(found, seconds=round(time.perf_counter() - start, 3))


def failed_result(key: ResultKey, family: str, reason: str) -> Result:
    """What is kept of a result that could not be measured."""
    unit = Unit(key.task, family, key.shot_draw, key.selection_draw, key.tuner_seed)
    return Result(unit, key.arm, key.view, key.k, key.arm in ORACLES, "failed", reason)


def _budget(arm: Arm, key: ResultKey, ledger: Ledger) -> int | None:
    if not arm.match:
        return None
    other = ledger.find(key._replace(arm=arm.match))
    if other is None or other.status == "failed":
        raise InputError(f"arm '{arm.match}', whose cost it matches, has no result here")
    return other.forwards


def _reason(error: Exception) -> str:
    """One line: our own errors as they are, others with their type."""
    text = " ".join(str(error).split())
    told = text if isinstance(error, MergeAdvisorError) else f"{type(error).__name__}: {text}"
    return told[:LONGEST_REASON]
