"""The verdict: is the merge worth it, or is something cheaper as good?

The contenders are base, `icl` (the base with examples in its prompt), anchor, start (the merge of the pool that all
rows chose, where the model is another one), `shots_lora` and merge, from the cheapest to the most expensive; those not
measured are left out. Examples in a prompt need no pool and no training, so they come second, though every answer pays
for them. Differences are paired, on the same held-out rows; *beaten* means that the 95% interval of a difference lies
above 0. `g` is the smallest gain that matters: 5 points of accuracy or exact match, or 0.05 nats per token of loss.

1. The merge beats each of the others: `merge`, or by what was trained into it `train-from-merge`, `train-in-basis`,
   and `train-on-examples` where nothing of the pool is in it, whatever was asked for.
2. Else X is base, then icl, anchor, start, shots_lora, and the first that this table does not pass over decides:

   | X is                                                                     | then                                 |
   |--------------------------------------------------------------------------|--------------------------------------|
   | beaten by something measured                                             | the next one                         |
   | not beaten, and no contender leads it by g, nor can by 4g (the upper end | X: `no-gain`, `prompt-with-examples`,|
   | of its lead stays below that)                                            | `use-anchor`, `merge` or             |
   |                                                                          | `train-on-examples`                  |
   | not beaten, but a contender leads it by g or may lead it by 4g           | `undecided`, with the rows it takes  |

3. All of them are beaten, and not all by the merge: `undecided`.

So a merge that leads an anchor by little is not worth more than the anchor; one that leads it by much without being
beyond noise asks for more rows, and so do rows too few to see even a gain of 4g; and nothing that costs more is advised
unless what costs less is beaten. "Something measured" includes the members alone and the uniform merge, at a level
shared out among them (Bonferroni): the best of many looks good by chance. The majority answer is not a model to choose;
the reason says so where it does as well. A guard that regresses takes the merge out, and so does an adaptation whose
model is another contender under a second name: `prompt` is icl, `shots` is shots_lora.

The reason begins with what to do and goes on with the numbers; where a contender may still be better by g, it says
about how many more rows would rule that out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from merge_advisor.errors import TaskError
from merge_advisor.scores import Comparison, GuardScore, ModelScore, Verdict
from merge_advisor.statistics import CONFIDENCE, Interval, paired_interval, rows_to_decide, rows_to_rule_out
from merge_advisor.types import ICL, SHOTS_LORA

_BASE, _ANCHOR, _START, _PLAN, _MERGE, _MAJORITY = "base", "anchor", "start", "plan", "merge", "majority"
"""Labels of rows of a score table; that of the shots' LoRA is `SHOTS_LORA`."""
_SMALLEST_GAIN = 0.05
"""The smallest gain that matters: a share of the rows, of whatever else grows from 0 to 1, or nats per token."""
_COARSEST = 4
"""Rows that cannot rule out a gain of this many smallest gains decide nothing."""
_VERDICTS = {
    _BASE: (Verdict.NO_GAIN, "use the base as it is"),
    ICL: (Verdict.PROMPT_WITH_EXAMPLES, "put the examples into the prompt of the base (prompt/)"),
    _ANCHOR: (Verdict.USE_ANCHOR, "use the anchor alone"),
    _START: (Verdict.MERGE, "use the merge as it was chosen, before anything was trained (start/)"),
    SHOTS_LORA: (Verdict.TRAIN_ON_EXAMPLES, "use shots_lora, the LoRA trained on the examples"),
}
"""The verdict where the merge is not worth it and what to do, by the model that is as good; from the cheapest."""
_TRAINED = {
    "basis": (Verdict.TRAIN_IN_BASIS, "use the model trained in the pool's directions"),
    "coefficients": (Verdict.TRAIN_FROM_MERGE, "use the model trained from the merge"),
    "continue": (Verdict.TRAIN_FROM_MERGE, "use the model trained from the merge"),
    "continue from anchor": (Verdict.TRAIN_FROM_MERGE, "use the model trained from the anchor"),
    "continue from mean": (Verdict.TRAIN_FROM_MERGE, "use the model trained from the mean of the pool"),
    "continue from random": (Verdict.TRAIN_FROM_MERGE, "use the model trained from random members of the pool"),
    "prompt on mean": (Verdict.MERGE, "use the mean of the pool with the examples in its prompt (prompt/)"),
    "prompt on merge": (Verdict.MERGE, "use the merge with the examples in its prompt (prompt/)"),
    "prompt on shots": (
        Verdict.TRAIN_ON_EXAMPLES,
        "use the LoRA trained on the examples with the examples in its prompt (prompt/)",
    ),
    "shots": (Verdict.TRAIN_ON_EXAMPLES, "use the LoRA trained on the examples"),
}
"""The same where the merge is worth it, by how it was made: see `adapted_run.way_of`."""
_WORTH = (Verdict.MERGE, "use the merge")
"""The same where nothing was trained on top."""
_SECOND_NAMES = {"prompt": ICL, "shots": SHOTS_LORA}
"""The contender that the model of an adaptation is, unless it came out as the base."""


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
        return self.shares and all(bool(np.isin(column, (0, 1)).all()) for column in self.values.values())

    @property
    def shares(self) -> bool:
        """Whether values go from 0 to 1, and are shown in percent."""
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
    guard: GuardScore | None = None,
    adaptation: str = "none",
    anchor: str = "",
) -> tuple[Verdict, str, tuple[Comparison, ...]]:
    """Decide what to do with a merge, by the rule in this module's docstring.

    >>> from merge_advisor.scores import ModelScore
    >>> right = {"base": (0,) * 30, "merge": (0,) * 5 + (1,) * 25}
    >>> table = [ModelScore(name, {"accuracy": sum(rows) / 30}, {"accuracy": rows}) for name, rows in right.items()]
    >>> verdict, reason, comparisons = judge(table, "accuracy", [f"row {n}" for n in range(30)])
    >>> verdict
    <Verdict.MERGE: 'merge'>
    >>> reason
    'use the merge: it reaches 83.3% on 30 rows and beats base by +83.3 points (+61.4 to +94.9)'

    Args:
        models: the score table; "base" and "merge" are in it. Models without `metric` (the majority answer has no
            loss) are ignored.
        metric: "accuracy", "exact_match", "loss", or another one from 0 to 1 that is better when higher.
        row_digests: the rows, in the order of the per-row values.
        guard: loss on unrelated text, where it was measured.
        adaptation: how the merge of members and rows was made, see `adapted_run.way_of`.
        anchor: id of the anchor, to name it.

    Returns:
        The verdict; a sentence that says what to do and gives its numbers; and the merge compared with each other
        model, in their order (positive is better for the merge, whatever the metric).

    Raises:
        TaskError: fewer than two rows.
        ValueError: base or merge is missing, or a model has another number of rows.
    """
    if len(row_digests) < 2:
        raise TaskError(f"{len(row_digests)} held-out row: it cannot separate two models; give at least two")
    sign = -1.0 if metric == "loss" else 1.0
    values = {model.label: sign * np.asarray(model.rows[metric]) for model in models if metric in model.rows}
    if not {_BASE, _MERGE} <= values.keys() or any(len(column) != len(row_digests) for column in values.values()):
        raise ValueError("a score table has a base, a merge, and one value per row and model")
    table = _Table(metric, values, len(row_digests))
    comparisons = tuple(_compare(table, label, row_digests) for label in values if label != _MERGE)
    regressed = guard is not None and guard.regressed
    merge = not regressed and not _is_another(table, adaptation)
    verdict, reason = _decide(table, _TRAINED.get(adaptation, _WORTH), anchor, merge=merge)
    if guard is not None and regressed:
        cost = f"{guard.merge - guard.base:+.3f} nats ({guard.lower:+.3f} to {guard.upper:+.3f})"
        reason += f"; the merge is ruled out by its loss on unrelated text, {cost} per token"
    return verdict, reason, comparisons


def _compare(table: _Table, label: str, row_digests: Sequence[str]) -> Comparison:
    differences = table.differences(_MERGE, label)
    return Comparison(
        label,
        *table.lead(_MERGE, label),
        won=tuple(digest for digest, value in zip(row_digests, differences, strict=True) if value > 0),
        lost=tuple(digest for digest, value in zip(row_digests, differences, strict=True) if value < 0),
        rows_to_decide=rows_to_decide(differences, counts=table.counts),
    )


def _is_another(table: _Table, adaptation: str) -> bool:
    """Whether the merge is one of the cheaper contenders: such a model cannot beat itself."""
    if adaptation not in _SECOND_NAMES:
        return False
    merge = table.values[_MERGE]
    names = (_BASE, _SECOND_NAMES[adaptation])
    return any(np.array_equal(table.values[name], merge) for name in names if name in table.values)


def _decide(table: _Table, worth: tuple[Verdict, str], anchor: str, *, merge: bool) -> tuple[Verdict, str]:
    """Apply the rule to the contenders; `merge` says whether the merge is one, `worth` what to do where it wins."""
    cheap = [label for label in _VERDICTS if label in table.values]
    contenders = [*cheap, _MERGE] if merge else cheap
    others = [label for label in table.values if label not in (*cheap, _MERGE, _MAJORITY)]
    if merge and all(table.lead(_MERGE, label).lower > 0 for label in cheap):
        leads = ", ".join(f"{label} by {table.amount(table.lead(_MERGE, label))}" for label in cheap)
        reason = f"{worth[1]}: it reaches {table.score(_MERGE)} on {table.rows} rows and beats {leads}"
        return worth[0], reason + _caution(table, _MERGE, _beaten_by(table, _MERGE, [], others))
    for label in cheap:
        rivals = [rival for rival in contenders if rival != label]
        if _beaten_by(table, label, rivals, others):
            continue
        if hidden := _open(table, label, rivals):
            rival = max(hidden, key=lambda name: hidden[name])
            return Verdict.UNDECIDED, _too_few(table, rival, label, hidden[rival])
        verdict, what = _VERDICTS[label]
        if label == _ANCHOR and anchor:
            what = f"use the anchor, {anchor}, alone"
        return verdict, f"{what}: {_as_good(table, label, rivals)}{_caution(table, label, [])}"
    return Verdict.UNDECIDED, _all_beaten(table, cheap, contenders, others)


def _beaten_by(table: _Table, label: str, rivals: Sequence[str], others: Sequence[str]) -> list[str]:
    """Models better than `label` beyond noise: rivals at 95%, the others with the chance of any of them shared out."""
    level = 1 - (1 - CONFIDENCE) / max(1, len(others))
    better = [rival for rival in rivals if table.lead(rival, label).lower > 0]
    return better + [other for other in others if table.lead(other, label, level).lower > 0]


def _open(table: _Table, label: str, rivals: Sequence[str]) -> dict[str, int]:
    """Rivals that may be better than `label` by something that matters, and about how many rows it takes to know."""
    rows = {}
    for rival in rivals:
        lead = table.lead(rival, label)
        if lead.mean >= _SMALLEST_GAIN:
            rows[rival] = rows_to_decide(table.differences(rival, label), counts=table.counts) or table.rows
        elif lead.upper >= _COARSEST * _SMALLEST_GAIN:
            needed = rows_to_rule_out(table.differences(rival, label), _COARSEST * _SMALLEST_GAIN, counts=table.counts)
            rows[rival] = needed or table.rows
    return rows


def _as_good(table: _Table, label: str, rivals: Sequence[str]) -> str:
    beaten = [rival for rival in rivals if table.lead(label, rival).lower > 0]
    ahead = [f"it beats {rival} by {table.amount(table.lead(label, rival))}" for rival in beaten]
    level = [f"{rival} {table.amount(table.lead(rival, label))}" for rival in rivals if rival not in beaten]
    comparisons = [*ahead, *([f"against it {', '.join(level)}"] if level else [])]
    reached = f"{label} reaches {table.score(label)} on {table.rows} rows and nothing is better beyond noise"
    return "; ".join([reached, *comparisons, *_surer(table, label, rivals)])


def _surer(table: _Table, label: str, rivals: Sequence[str]) -> list[str]:
    """What it costs to know that no rival is better than `label` by the smallest gain; nothing where that is known."""
    asked = {
        rival: rows_to_rule_out(table.differences(rival, label), _SMALLEST_GAIN, counts=table.counts) or 0
        for rival in rivals
    }
    hardest = max(asked, key=lambda name: asked[name], default="")
    if not asked.get(hardest):
        return []
    gain = f"{100 * _SMALLEST_GAIN:g} points" if table.shares else f"{_SMALLEST_GAIN:g} nats"
    more = max(1, asked[hardest] - table.rows)
    return [f"about {more} more rows would rule out that {hardest} is better by {gain}"]


def _caution(table: _Table, label: str, better: Sequence[str]) -> str:
    cautions = [f"; {other} is better still, {table.amount(table.lead(other, label))}" for other in better]
    if _MAJORITY in table.values and table.lead(_MAJORITY, label).mean >= 0:
        cautions.append(f"; always giving the commonest answer reaches {table.score(_MAJORITY)}")
    return "".join(cautions)


def _all_beaten(table: _Table, cheap: Sequence[str], contenders: Sequence[str], others: Sequence[str]) -> str:
    """Say which model beats everything there is to choose from, or how far the merge is from doing so."""
    best = max(contenders, key=lambda name: float(table.values[name].mean()))  # the cheapest of equals
    for other in _beaten_by(table, best, [], others):
        lead = table.amount(table.lead(other, best))
        advice = "make it the anchor" if other.startswith("member ") else "take its weights"
        advice = "take it, it is kept under plan/" if other == _PLAN else advice
        return f"{advice}: {other} beats all there is to choose from, {best} by {lead} on {table.rows} rows"
    # only the merge is left: ahead of all, of some of them not beyond noise
    asked = {label: rows_to_decide(table.differences(_MERGE, label), counts=table.counts) or 0 for label in cheap}
    behind = max(asked, key=lambda name: asked[name])
    return _too_few(table, _MERGE, behind, asked[behind])


def _too_few(table: _Table, ahead: str, behind: str, rows: int) -> str:
    scores = f"{ahead} reaches {table.score(ahead)} against {table.score(behind)} of {behind}"
    more = f"hold out about {max(1, rows - table.rows)} more rows, {table.rows} are too few"
    return f"{more}: {scores}, {table.amount(table.lead(ahead, behind))}"
