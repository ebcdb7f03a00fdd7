"""What can be asked of `gate`: its margins, least gain and least rows, and how a pool is watched.

As `merge_advisor.options`: each option is defined here alone, and nothing heavy is imported.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from merge_advisor.errors import InputError
from merge_advisor.option_fields import option

_BAR = "what it takes to pass"
_WATCH = "watching a pool"


@dataclass(frozen=True, slots=True)
class GateOptions:
    """What a candidate has to show to pass.

    >>> GateOptions().bar("accuracy"), GateOptions().bar("loss"), GateOptions(min_gain=1).bar("exact_match")
    (-0.05, -0.05, 0.01)
    """

    margin: float = option(
        5.0, group=_BAR, metavar="POINTS",
        help="percentage points of accuracy or exact match that it may be worse by (default {default})",
    )  # fmt: skip
    loss_margin: float = option(
        0.05, group=_BAR, metavar="NATS",
        help="nats per token that it may lose on a guard, or on a task by --metric loss (default {default})",
    )  # fmt: skip
    min_gain: float | None = option(
        None, group=_BAR, metavar="G",
        help="demand a gain on every task that is above G points (nats by --metric loss) beyond noise; 0: any gain",
    )  # fmt: skip
    min_rows: int = option(
        30, group=_BAR, metavar="N", help="rows of a task or texts of a guard that decide at least (default {default})"
    )

    def __post_init__(self) -> None:
        for name, value in (("margin", self.margin), ("loss_margin", self.loss_margin)):
            if not 0 < value < math.inf:
                raise InputError(
                    f"`{name}={value:g}`: give more than 0: no number of rows shows that two models are exactly equal"
                )
        if self.margin >= 100:
            raise InputError(f"`margin={self.margin:g}`: is in points of 100; with so many, every model would pass")
        if self.min_gain is not None and not 0 <= self.min_gain < math.inf:
            raise InputError(f"`min_gain={self.min_gain:g}`: give 0 or more; what may be lost is the `margin`")
        if self.min_rows < 2:
            raise InputError(f"`min_rows={self.min_rows}`: give 2 or more; one row has no interval")

    def bar(self, metric: str, *, guard: bool = False) -> float:
        """Return the difference that a candidate has to be above, in the unit of the metric (shares from 0 to 1).

        Args:
            metric: "loss", or one that is a share.
            guard: whether it is a guard, of which no gain is demanded.
        """
        unit = 1.0 if metric == "loss" else 100.0
        if self.min_gain is not None and not guard:
            return self.min_gain / unit
        return -(self.loss_margin if metric == "loss" else self.margin) / unit


@dataclass(frozen=True, slots=True)
class WatchOptions:
    """How a pool is watched for models that are added.

    >>> WatchOptions(watch="pool", once=True).every
    30.0
    """

    watch: str | None = option(
        None, group=_WATCH, metavar="POOL", help="judge each model that is added to this folder, instead of one MODEL"
    )
    once: bool = option(False, group=_WATCH, help="look once and end, for CI; otherwise look again and again")
    every: float = option(30.0, group=_WATCH, metavar="SECONDS", help="time between two looks (default {default})")
    out: Path = option(
        Path("runs/watch"), group=_WATCH, metavar="DIR",
        help="folder for what is known of the pool, log.jsonl and the model cards (default {default})",
    )  # fmt: skip
    judge_known: bool = option(
        False, group=_WATCH, help="judge the models that are there when watching begins, too, not only what is added"
    )

    def __post_init__(self) -> None:
        if self.watch is None and (self.once or self.judge_known):
            raise InputError("`once` and `judge_known` go with `watch`; name a pool")
        if not 1 <= self.every < math.inf:
            raise InputError(f"`every={self.every:g}`: give 1 second or more")
