"""The gate: is a candidate no worse than a baseline on a task, beyond noise and by more than a margin?

The differences are paired: candidate minus baseline on the same rows, positive where the candidate is better. [L, U] is
their two-sided 95% interval (`statistics.paired_interval`). One number decides, the bar: minus the margin, or the least
gain where one is demanded.

| the interval                         | outcome     |
|--------------------------------------|-------------|
| L above the bar                      | passed      |
| U below the bar                      | failed      |
| neither, or fewer rows than required | cannot tell |

A pass is a non-inferiority test at one-sided 2.5%: a candidate that is truly worse by the margin passes at most about
once in forty times, and so does a gate of several checks, since every one of them has to pass. A candidate that loses
less than the margin beyond noise (U below 0) passes, and the reason says that it is worse. Each failure is a one-sided
2.5% test as well; of m checks whose truth lies exactly on the bar, up to m times as many fail.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from merge_advisor.gate_options import GateOptions
from merge_advisor.gate_values import GateOutcome
from merge_advisor.statistics import Interval, rows_to_settle, strict_interval

_ROUNDING = 1e-12
"""Differences this small are none."""


class GateDecision(NamedTuple):
    """What a gate's check decides, and by which numbers.

    >>> decide_gate([0.0] * 80, "accuracy", GateOptions()).outcome
    <GateOutcome.PASSED: 'passed'>
    """

    outcome: GateOutcome
    interval: Interval
    bar: float
    reason: str
    rows_to_decide: int | None
    found: str = ""
    """Difference, interval and rows in words."""


def decide_gate(
    differences: Sequence[float], metric: str, options: GateOptions, *, guard: bool = False
) -> GateDecision:
    """Return what the differences of candidate and baseline decide, by the rule in this module's docstring.

    >>> decide_gate([-1.0] * 12 + [1.0] * 2 + [0.0] * 66, "accuracy", GateOptions()).reason
    'cannot tell: -12.5 points (-22.4 to -3.0) on 80 rows is neither above the margin, -5.0, nor ...

    Args:
        differences: (n,) candidate minus baseline, positive is better; n at least 2.
        metric: "loss" (nats per token), or a share: "accuracy", "exact_match".
        options: margins, least gain, least rows.
        guard: whether it is a guard, of which no gain is demanded.

    Raises:
        ValueError: as `strict_interval`.
    """
    values, bar = np.asarray(differences, dtype=np.float64), options.bar(metric, guard=guard)
    counts, unit = metric != "loss", "texts" if guard else "rows"
    interval = strict_interval(values, counts=counts)
    found = f"{_amount(interval, metric)} on {len(values)} {unit}"
    held = f"the {'margin' if bar < 0 else 'gain demanded'}, {shown(bar, metric)},"
    outcome, needed = GateOutcome.CANNOT_TELL, None
    if len(values) < options.min_rows:
        needed = max(options.min_rows, rows_to_settle(values, bar, counts=counts) or 0)
        reason = f"cannot tell: {found}, and at least {options.min_rows} decide"
    elif interval.lower > bar:
        outcome, reason = GateOutcome.PASSED, f"passed: {found}, above {held} beyond noise"
        reason += "; it is worse beyond noise, by less than the margin" if interval.upper < -_ROUNDING else ""
    elif interval.upper < bar:
        outcome = GateOutcome.FAILED
        reason = f"failed: {'worse' if bar < 0 else 'no such gain'}, {found}, below {held} beyond noise"
    else:
        needed = rows_to_settle(values, bar, counts=counts)
        would = f"about {needed} {unit} would decide" if needed else "at this difference no number of rows would decide"
        reason = f"cannot tell: {found} is neither above {held} nor below it beyond noise; {would}"
    return GateDecision(outcome, interval, bar, reason, needed, found)


def _amount(interval: Interval, metric: str) -> str:
    mean, low, high = (shown(value, metric) for value in interval)
    return f"{mean} {'nats' if metric == 'loss' else 'points'} ({low} to {high})"


def shown(value: float, metric: str) -> str:
    """Return a difference with its sign, in points or nats.

    Args:
        value: the difference; of shares from 0 to 1.
        metric: "loss", or a share.

    >>> shown(-0.05, "accuracy"), shown(-0.05, "loss")
    ('-5.0', '-0.050')
    """
    return f"{value:+.3f}" if metric == "loss" else f"{100 * value:+.1f}"
