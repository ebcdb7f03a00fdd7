"""The verdict: is the merge worth it, or is something cheaper as good?

Base, anchor, `shots_lora` and merge contend, named from the cheapest; those not measured are left out. Differences are
paired, on the same held-out rows; *beaten* means that the 95% interval of a difference lies above 0. `g` is the
smallest gain that matters: 5 points of accuracy or exact match, or 0.05 nats per token of loss.

1. The merge beats each of base, anchor and shots_lora: `merge`.
2. Else they are asked in this order, X = base, anchor, shots_lora:

   | X is                                                                     | then                                 |
   |--------------------------------------------------------------------------|--------------------------------------|
   | beaten by something measured                                             | the next one                         |
   | not beaten, and no contender leads it by g, nor can by 4g (the upper end | X: `no-gain`, `use-anchor` or        |
   | of its lead stays below that)                                            | `train-on-examples`                  |
   | not beaten, but a contender leads it by g or may lead it by 4g           | `undecided`, with the rows that tell |

3. All of them are beaten, and not all by the merge: `undecided`.

So a merge that leads an anchor by little is not worth more than the anchor; one that leads it by much without being
beyond noise asks for more rows, and so do rows too few to see even a gain of 4g; and nothing that costs more is advised
before what costs less is beaten. "Something measured" includes the members alone and the uniform merge, at a level
shared out among them (Bonferroni): the best of many looks good by chance. The majority answer is no model to choose;
the reason tells where it does as well. A guard that regresses takes the merge out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from merge_advisor.errors import TaskError
from merge_advisor.scores import Comparison, GuardScore, ModelScore, Verdict
from merge_advisor.statistics import CONFIDENCE, Interval, paired_interval, rows_to_decide, rows_to_rule_out
from merge_advisor.types import SHOTS_LORA

BASE, MERGE, MAJORITY = "base", "merge", "majority"
SMALLEST_GAIN = 0.05
"""The smallest gain that matters: a share of the rows, of whatever else grows from 0 to 1, or nats per token."""
COARSEST = 4
"""Rows that cannot rule out a gain of this many smallest gains decide nothing."""


@dataclass(frozen=True, slots=True)
class _Table:
    """The per-row values of all models; more is better."""

    metric: str
    values: dict[str, np.ndarray[tuple[int], np.dtype[np.float64]]]
    rows: int

    def differences(self, label: str, over: str) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        return self.values[label] - self.values[over]

    def lead(self, label: str, over: str, level: float = CONFIDENCE) -> Interval:
        return paired_interval(self.differences(label, over), level=level, counts=self.counts)

    @property
    def counts(self) -> bool:
        """Whether a row is right or wrong, and nothing between."""
        return self.shares and all(bool(np.isin(found, (0, 1)).all()) for found in self.values.values())

    @property
    def shares(self) -> bool:
        """Whether values go from 0 to 1, and are told in percent."""
        return self.metric != "loss"

    def score(self, label: str) -> str:
        mean = abs(float(self.values[label].mean()))
        return f"{100 * mean:.1f}%" if self.shares else f"{mean:.3f} nats per token"

    def amount(self, interval: Interval) -> str:
        """A lead in words, e.g. "+7.1 points (-2.0 to +16.2)"."""
        if self.shares:
            mean, low, high = (f"{100 * value:+.1f}" for value in interval)
            return f"{mean} points ({low} to {high})"
        mean, low, high = (f"{value:+.3f}" for value in interval)
        return f"{mean} nats ({low} to {high})"


def judge(
    models: Sequence[ModelScore],
    metric: str,
    row_digests: Sequence[str],
    *,
    anchor_label: str = "anchor",
    smallest_gain: float | None = None,
    guard: GuardScore | None = None,
) -> tuple[Verdict, str, tuple[Comparison, ...]]:
    """Decide what to do with a merge, by the rule in this module's docstring.

    Args:
        models: the score table; "base" and "merge" are in it. Models without `metric` (the majority answer has no
            loss) are passed over.
        metric: "accuracy", "exact_match", "loss", or another one from 0 to 1 that is better when higher.
        row_digests: the rows, in the order of the per-row values.
        anchor_label: label of the anchor's row, if there is one.
        smallest_gain: the g of the rule; None: `SMALLEST_GAIN`.
        guard: loss on unrelated text, where it was measured.

    Returns:
        The verdict; a sentence that gives its numbers; and the merge compared with each other model, in their order
        (positive is better for the merge, whatever the metric).

    Raises:
        TaskError: fewer than two rows.
        ValueError: base or merge is missing, a model has another number of rows, or `smallest_gain` is not above 0.
    """
    if len(row_digests) < 2:
        raise TaskError(f"{len(row_digests)} held-out row: no two models can be told apart on it; give at least two")
    sign = -1.0 if metric == "loss" else 1.0
    values = {model.label: sign * np.asarray(model.rows[metric]) for model in models if metric in model.rows}
    if not {BASE, MERGE} <= values.keys() or any(len(found) != len(row_digests) for found in values.values()):
        raise ValueError("a score table has a base, a merge, and one value per row and model")
    table = _Table(metric, values, len(row_digests))
    gain = SMALLEST_GAIN if smallest_gain is None else smallest_gain
    if not gain > 0:
        raise ValueError(f"a smallest gain of {gain} is not above 0")
    comparisons = tuple(_compare(table, label, row_digests) for label in values if label != MERGE)
    cheap = [label for label in (BASE, anchor_label, SHOTS_LORA) if label in values]
    regressed = guard is not None and guard.regressed
    verdict, reason = _decide(table, cheap, anchor_label, gain, merge=not regressed)
    if guard is not None and regressed:
        cost = f"{guard.merge - guard.base:+.3f} nats ({guard.lower:+.3f} to {guard.upper:+.3f})"
        reason += f"; the merge is ruled out by its loss on unrelated text, {cost} per token"
    return verdict, reason, comparisons


def _compare(table: _Table, label: str, row_digests: Sequence[str]) -> Comparison:
    differences = table.differences(MERGE, label)
    return Comparison(
        label,
        *table.lead(MERGE, label),
        won=tuple(digest for digest, value in zip(row_digests, differences, strict=True) if value > 0),
        lost=tuple(digest for digest, value in zip(row_digests, differences, strict=True) if value < 0),
        rows_to_decide=rows_to_decide(differences, counts=table.counts),
    )


def _decide(table: _Table, cheap: list[str], anchor_label: str, gain: float, *, merge: bool) -> tuple[Verdict, str]:
    """Apply the rule to the contenders; `merge` tells whether the merge is one."""
    contenders = [*cheap, MERGE] if merge else cheap
    others = [label for label in table.values if label not in (*cheap, MERGE, MAJORITY)]
    if merge and all(table.lead(MERGE, label).lower > 0 for label in cheap):
        leads = ", ".join(f"{label} by {table.amount(table.lead(MERGE, label))}" for label in cheap)
        reason = f"the merge reaches {table.score(MERGE)} on {table.rows} rows and beats {leads}"
        return Verdict.MERGE, reason + _caution(table, MERGE, _beaten_by(table, MERGE, [], others))
    verdicts = {
        BASE: Verdict.NO_GAIN,
        anchor_label: Verdict.USE_ANCHOR,
        SHOTS_LORA: Verdict.TRAIN_ON_EXAMPLES,
    }
    for label in cheap:
        rivals = [rival for rival in contenders if rival != label]
        if _beaten_by(table, label, rivals, others):
            continue
        if hidden := _open(table, label, rivals, gain):
            rival = max(hidden, key=lambda name: hidden[name])
            return Verdict.UNDECIDED, _too_few(table, rival, label, hidden[rival])
        return verdicts[label], _as_good(table, label, rivals) + _caution(table, label, [])
    return Verdict.UNDECIDED, _all_beaten(table, cheap, contenders, others)


def _beaten_by(table: _Table, label: str, rivals: Sequence[str], others: Sequence[str]) -> list[str]:
    """Models better than `label` beyond noise: rivals at 95%, the others with the chance of any of them shared out."""
    level = 1 - (1 - CONFIDENCE) / max(1, len(others))
    found = [rival for rival in rivals if table.lead(rival, label).lower > 0]
    return found + [other for other in others if table.lead(other, label, level).lower > 0]


def _open(table: _Table, label: str, rivals: Sequence[str], gain: float) -> dict[str, int]:
    """Rivals that may be better than `label` by something that matters, and about how many rows would tell."""
    found = {}
    for rival in rivals:
        lead = table.lead(rival, label)
        if lead.mean >= gain:
            found[rival] = rows_to_decide(table.differences(rival, label), counts=table.counts) or table.rows
        elif lead.upper >= COARSEST * gain:
            needed = rows_to_rule_out(table.differences(rival, label), COARSEST * gain, counts=table.counts)
            found[rival] = needed or table.rows
    return found


def _as_good(table: _Table, label: str, rivals: Sequence[str]) -> str:
    beaten = [rival for rival in rivals if table.lead(label, rival).lower > 0]
    ahead = [f"it beats {rival} by {table.amount(table.lead(label, rival))}" for rival in beaten]
    level = [f"{rival} {table.amount(table.lead(rival, label))}" for rival in rivals if rival not in beaten]
    told = "; ".join([*ahead, *([f"against it {', '.join(level)}"] if level else [])])
    return f"{label} reaches {table.score(label)} on {table.rows} rows and nothing is better beyond noise" + (
        f": {told}" if told else ""
    )


def _caution(table: _Table, label: str, better: Sequence[str]) -> str:
    told = [f"; {other} is better still, {table.amount(table.lead(other, label))}" for other in better]
    if MAJORITY in table.values and table.lead(MAJORITY, label).mean >= 0:
        told.append(f"; always giving the commonest answer reaches {table.score(MAJORITY)}")
    return "".join(told)


def _all_beaten(table: _Table, cheap: Sequence[str], contenders: Sequence[str], others: Sequence[str]) -> str:
    """Say which model beats everything there is to choose from, or how far the merge is from doing so."""
    best = max(contenders, key=lambda name: float(table.values[name].mean()))  # the cheapest of equals
    for other in _beaten_by(table, best, [], others):
        lead = table.amount(table.lead(other, best))
        advice = "make it the anchor" if other.startswith("member ") else "its weights are the better ones"
        return f"{other} beats all there is to choose from, {best} by {lead} on {table.rows} rows; {advice}"
    # only the merge is left: ahead of all, of some of them not beyond noise
    asked = {label: rows_to_decide(table.differences(MERGE, label), counts=table.counts) or 0 for label in cheap}
    behind = max(asked, key=lambda name: asked[name])
    return _too_few(table, MERGE, behind, asked[behind])


def _too_few(table: _Table, ahead: str, behind: str, rows: int) -> str:
    scores = f"{ahead} reaches {table.score(ahead)} against {table.score(behind)} of {behind}"
    return (
        f"{table.rows} rows are too few: {scores}, {table.amount(table.lead(ahead, behind))}; "
        f"about {max(1, rows - table.rows)} more rows would decide"
    )
