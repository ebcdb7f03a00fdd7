"""Which results there are to measure, and measuring one: a failure is a result as well."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from itertools import product

from merge_advisor.benchmark.running.arms import run_arm
from merge_advisor.benchmark.running.controls import run_control
from merge_advisor.benchmark.running.ledger import ResultKey
from merge_advisor.benchmark.running.task_draw import ResultPlace, TaskDraw
from merge_advisor.benchmark.setup import ORACLES, ks_of
from merge_advisor.benchmark.values import Arm, Result, Setup, Unit
from merge_advisor.errors import InputError, MergeAdvisorError, RunError

_MOST_RESULTS = 1_000_000
"""Results of a benchmark at most."""
_LONGEST_REASON = 300
"""Characters of an error that are kept."""


def result_keys(setup: Setup, tasks: Sequence[str]) -> Iterator[ResultKey]:
    """Yield the keys of all results there are to measure.

    Draw by draw of the shots, within a draw task by task: a benchmark that is stopped early has units of every task.

    Args:
        setup: arms, controls and draws.
        tasks: names, in order.

    Raises:
        InputError: more than a million.

    >>> from merge_advisor.benchmark.values import Draws, Question, Tasks
    >>> arms = (Arm("random", "random", match="a"), Arm("a", "top_k"))
    >>> question = Question("a", "random")
    >>> setup = Setup("mine", "b", "pool", Tasks("bench"), arms, question, 1.0, controls=("base",), draws=Draws(2, 1))
    >>> [(key.shot_draw, key.arm) for key in result_keys(setup, ["dates"])]
    [(0, 'base'), (0, 'a'), (0, 'random'), (1, 'base'), (1, 'a'), (1, 'random')]
    """
    # an arm that matches another's cost comes after it, since it has to know what the other spent
    arms = sorted(setup.arms, key=lambda arm: bool(arm.match))
    sizes = [(str(name), setup.k) for name in setup.controls] + [(arm.name, ks_of(arm, setup)) for arm in arms]
    draws = (range(setup.draws.selections), range(setup.draws.tuners))
    number = (
        setup.draws.shots * len(tasks) * math.prod(map(len, draws)) * len(setup.views) * sum(len(ks) for _, ks in sizes)
    )
    if number > _MOST_RESULTS:
        raise InputError(f"setup {setup.name}: asks for {number} results; lower draws, or name fewer arms, k or tasks")
    for shots, task, selection, tuner, view in product(range(setup.draws.shots), tasks, *draws, setup.views):
        for name, ks in sizes:
            for k in ks:
                yield ResultKey(task, shots, selection, tuner, view, k, name)


def select_keys(keys: Sequence[ResultKey], only: Sequence[str], setup: Setup) -> list[ResultKey]:
    """Return the keys that a pattern fits, and those whose cost an arm among them has to match.

    Args:
        keys: all there are.
        only: patterns for `arm/task/view`, `arm/task/view/k` or `arm/task/view/k#shots.selection`, the last with the
            numbers of the two draws from 0; none: all keys.
        setup: says which arm matches which.

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
                f"`only={pattern}` fits nothing; write arm/task/view, e.g. '{example}' or '*/*/own-out/4#0.*'"
            )
        chosen |= fitting
    # without the matched arm's result there is no budget to spend
    matched = {arm.name: arm.match for arm in setup.arms if arm.match}
    chosen |= {key._replace(arm=matched[key.arm]) for key in chosen if key.arm in matched}
    return [key for key in keys if key in chosen]


def _paths(key: ResultKey) -> tuple[str, str, str]:
    path = f"{key.arm}/{key.task}/{key.view}"
    return path, f"{path}/{key.k}", f"{path}/{key.k}#{key.shot_draw}.{key.selection_draw}"


def measure_result(draw: TaskDraw, key: ResultKey, arm: Arm | None, matched: Result | None = None) -> Result:
    """Return one result; whatever is raised on the way makes it a failed one with the reason.

    Args:
        draw: the task and its shots.
        key: what to measure.
        arm: the arm of that name, None for a control.
        matched: the result of the arm whose cost it matches; None where there is none.

    Raises:
        RunError: what is measured cannot be kept; every other result would fail of it as well.
    """
    unit = Unit(key.task, draw.rows.family, key.shot_draw, key.selection_draw, key.tuner_seed)
    place = ResultPlace(unit, key.arm, key.view, key.k)
    start = time.perf_counter()
    try:
        result = run_control(draw, place) if arm is None else run_arm(draw, arm, place, _budget(arm, matched))
    except RunError:
        raise
    except Exception as error:  # a unit that crashes must not take the others with it
        result = failed_result(key, draw.rows.family, _reason(error))
    return replace(result, seconds=round(time.perf_counter() - start, 3))


def failed_result(key: ResultKey, family: str, reason: str) -> Result:
    """Return what is kept of a result that could not be measured.

    Args:
        key: what was to be measured.
        family: the task's.
        reason: one line.

    >>> failed_result(ResultKey("dates", 0, 0, 0, "own-out", 4, "nearest"), "time", "MemoryError").status
    'failed'
    """
    unit = Unit(key.task, family, key.shot_draw, key.selection_draw, key.tuner_seed)
    return Result(unit, key.arm, key.view, key.k, key.arm in ORACLES, "failed", reason)


def _budget(arm: Arm, matched: Result | None) -> int | None:
    if not arm.match:
        return None
    if matched is None or matched.status == "failed":
        raise InputError(f"arm '{arm.match}', whose cost it matches, has no result here")
    return matched.forwards


def _reason(error: Exception) -> str:
    """Return an error in one line: the package's own as they are, others with their type."""
    text = " ".join(str(error).split())
    line = text if isinstance(error, MergeAdvisorError) else f"{type(error).__name__}: {text}"
    return line[:_LONGEST_REASON]
