"""What `gate` comes to: checks of a candidate against a baseline, what they decide, and what it cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from merge_advisor.json_form import STRICT


class GateOutcome(StrEnum):
    """What a check, or a gate over all its checks, decides.

    >>> GateOutcome("cannot-tell").name, GateOutcome.FAILED.exit_code
    ('CANNOT_TELL', 1)
    """

    PASSED = "passed"
    """The candidate is above the bar beyond noise."""
    FAILED = "failed"
    """The candidate is below the bar beyond noise."""
    CANNOT_TELL = "cannot-tell"
    """Neither: too few rows, or too few of them tell the two apart."""

    @property
    def exit_code(self) -> int:
        """What the command line returns for it."""
        return {GateOutcome.PASSED: 0, GateOutcome.FAILED: 1, GateOutcome.CANNOT_TELL: 4}[self]


@dataclass(frozen=True, slots=True)
class GateRow:
    """A row (or a guard's text) on which candidate and baseline differ.

    >>> GateRow("held_out.jsonl:7", "2 + 2", "4", before="4", after="5", change=-1.0).change
    -1.0
    """

    __pydantic_config__ = STRICT

    place: str
    """The file it stands in and the line there."""
    input: str
    wanted: str
    before: str
    """What the baseline gave: its answer, or its loss."""
    after: str
    """What the candidate gave."""
    change: float
    """Candidate minus baseline; positive is better, whatever the metric."""


@dataclass(frozen=True, slots=True)
class GateCheck:
    """Candidate against baseline on one task or guard; positive differences favour the candidate.

    >>> check = GateCheck("sums", "task", "accuracy", 80, -0.05, GateOutcome.FAILED, "worse", difference=-0.2)
    >>> check.worse, check.outcome.exit_code
    ((), 1)
    """

    __pydantic_config__ = STRICT

    name: str
    kind: Literal["task", "guard"]
    metric: str
    """"accuracy", "exact_match" or "loss" (nats per token)."""
    rows: int
    bar: float
    """The difference it has to be above: minus the margin, or the least gain."""
    outcome: GateOutcome
    reason: str
    """What was found and why it decides so, in one sentence."""
    baseline: float | None = None
    """Mean of the metric; None where nothing was run, as both are one model."""
    candidate: float | None = None
    difference: float = 0.0
    lower: float = 0.0
    """Lower end of the paired 95% interval of the difference."""
    upper: float = 0.0
    worse: tuple[GateRow, ...] = ()
    """Rows on which the candidate is worse, the worst first."""
    better: int = 0
    """How many it is better on."""
    rows_to_decide: int | None = None
    """About how many rows in all would decide; None: it is decided, or no number of rows would."""


@dataclass(frozen=True, slots=True)
class GateSide:
    """Candidate or baseline: what was named, and what that is.

    >>> GateSide("adapters/law", "adapter", "1a2b3c", "alpaca").kind
    'adapter'
    """

    __pydantic_config__ = STRICT

    word: str
    """As it was named."""
    kind: str
    """"adapter", "full model" or "run"."""
    digest: str
    """Of its weights, base, prompts and dtype: what its scores are kept under."""
    template: str


@dataclass(frozen=True, slots=True)
class GateCost:
    """What a gate cost, in measured figures.

    >>> GateCost(2.5, 80, scored=4, run=1, forwards=40, seconds_run=1.5, seconds_kept=4.5, peak_bytes=None).kept
    3
    """

    __pydantic_config__ = STRICT

    seconds: float
    """From beginning to end, loading included."""
    rows: int
    """Rows and texts, of all checks."""
    scored: int
    """Measurements that the decision rests on: a model on the rows of a check."""
    run: int
    """Of these, run now; the others were in the store."""
    forwards: int
    """Forward passes over one row that these took, nominally: one a row, whatever it chooses among or generates."""
    seconds_run: float
    """Measured seconds of those run now."""
    seconds_kept: float
    """Seconds that those in the store took when they were run."""
    peak_bytes: int | None
    """Peak memory of this process; None where the system does not tell."""
    candidates: int | None = None
    """Models of the hub folder that was named that could be judged on the same rows; None: none was."""

    @property
    def every_candidate_forwards(self) -> int | None:
        """Forward passes of scoring all of these."""
        return None if self.candidates is None else self.candidates * self.rows

    @property
    def every_candidate_seconds(self) -> float | None:
        """Seconds of that, as measured for these two, now or when they were run; None where nothing was."""
        if self.candidates is None or not self.scored:
            return None
        return round(self.candidates * (self.seconds_run + self.seconds_kept) / 2, 3)

    @property
    def kept(self) -> int:
        """Measurements that were in the store."""
        return self.scored - self.run


@dataclass(frozen=True, slots=True)
class GateReport:
    """All that a gate found; `to_json` writes it.

    >>> side = GateSide("a", "adapter", "1a", "alpaca")
    >>> GateReport(1, GateOutcome.PASSED, side, side, (), ()).outcome.exit_code
    0
    """

    __pydantic_config__ = STRICT

    version: int
    outcome: GateOutcome
    candidate: GateSide
    baseline: GateSide
    checks: tuple[GateCheck, ...]
    notes: tuple[str, ...]
    cost: GateCost | None = None


def overall_outcome(checks: Sequence[GateCheck]) -> GateOutcome:
    """Return what all checks together decide: a failure wins over what cannot be told, that over passing.

    Args:
        checks: one or more.

    >>> passed = GateCheck("a", "task", "loss", 40, -0.05, GateOutcome.PASSED, "")
    >>> overall_outcome([passed, GateCheck("b", "task", "loss", 4, -0.05, GateOutcome.CANNOT_TELL, "")])
    <GateOutcome.CANNOT_TELL: 'cannot-tell'>
    """
    return max((check.outcome for check in checks), key=_SEVERITY.index)


_SEVERITY = (GateOutcome.PASSED, GateOutcome.CANNOT_TELL, GateOutcome.FAILED)
