"""One arm against another: paired by unit, averaged within task, within family; the families are the sample.

Draws and rows are nested in tasks and tasks in families, so that counting them as independent would find a difference
where there is none (`eval/bench_statistics.md`). The standing, with g the smallest gain that matters:

| standing | when |
|---|---|
| better, worse | the 95% interval lies above (below) 0 and the sign-flip test has p < .05 |
| equivalent | neither, and the interval lies inside ±g |
| undecided | all else: interval and test disagree, too few families, an oracle among the two |
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from merge_advisor.benchmark.analysis import resampling
from merge_advisor.benchmark.analysis.means import (
    family_means,
    mean,
    paired_differences,
    task_means,
    values_by_arm,
    without_tried,
)
from merge_advisor.benchmark.analysis.resampling import ALPHA, ENOUGH_FAMILIES
from merge_advisor.benchmark.values import Contrast, ContrastStanding, Question, Result, Setup


def answer_questions(setup: Setup, results: Sequence[Result]) -> tuple[Contrast, ...]:
    """Return the answers to a setup's questions, the primary first.

    Args:
        setup: holds the questions, the smallest gain that matters and the seed of the resamples.
        results: those there are; families that strategies were tried out on are left out.

    Returns:
        One contrast a question. The p values of the secondaries are adjusted for their number, the primary's is not.
    """
    untried = without_tried(results, setup.tasks.tried)

    def answer(question: Question) -> Contrast:
        # the smallest gain is a number in the primary's unit (points or nats); it says nothing about the other metric
        comparable = question.metric == setup.primary.metric
        return contrast(question, untried, setup.smallest_gain if comparable else None, seed=setup.seed)

    # the primary question was fixed before the results and pays for no other: only the secondaries share their alpha
    return answer(setup.primary), *holm_adjusted([answer(question) for question in setup.secondaries])


def contrast(question: Question, results: Sequence[Result], smallest_gain: float | None, *, seed: int = 0) -> Contrast:
    """Say what results tell about a question; those of another view or k are ignored.

    Args:
        question: which arm against which, by what.
        results: of all arms and controls; only units on which both are done count.
        smallest_gain: the g of this module's docstring, in the question's metric: points of accuracy, or nats. None:
            equivalence is not asked.
        seed: draws the resamples.
    """
    arms = values_by_arm(results, question.metric, question.view, question.k)
    pairs = paired_differences(arms.get(question.better, {}), arms.get(question.than, {}))
    asked = [
        result
        for result in results
        if (result.view, result.k) == (question.view, question.k) and result.arm in (question.better, question.than)
    ]
    by_family = family_means(pairs)
    values = tuple(by_family.values())
    ends = resampling.bootstrap_interval(values, seed=seed) or (None, None)
    p = resampling.sign_flip_test(values, seed=seed)
    wins, ties, losses = _signs(values)
    found = Contrast(
        question=question,
        families=tuple(by_family),
        differences=values,
        mean=mean(values) if values else 0.0,
        lower=ends[0],
        upper=ends[1],
        sign_flip=p,
        wilcoxon=resampling.signed_rank_test(values, seed=seed),
        adjusted=p,
        wins=wins,
        ties=ties,
        losses=losses,
        agree=_apart(*ends) == (p < ALPHA),
        standing="undecided",
        reason="",
        tasks=_signs(task_means(pairs).values()),
        units=len(pairs),
        left_out=len({result.unit for result in asked}) - len(pairs),
        smallest_gain=smallest_gain,
    )
    oracles = tuple(sorted({result.arm for result in asked if result.oracle}))
    standing: ContrastStanding = "undecided" if oracles else _standing(found)
    return replace(found, standing=standing, reason=_reason(replace(found, standing=standing), oracles))


def holm_adjusted(contrasts: Sequence[Contrast]) -> list[Contrast]:
    """Adjust the p of contrasts for their number; one that was better or worse stands only if it does after it."""
    found = []
    for one, p in zip(contrasts, resampling.holm_p_values([one.sign_flip for one in contrasts]), strict=True):
        adjusted = replace(one, adjusted=p)
        if one.standing in ("better", "worse") and p >= ALPHA:
            adjusted = replace(adjusted, standing=_standing(adjusted))
            lost = f"; not {one.standing} after Holm's adjustment for {len(contrasts)} contrasts, p = {p:.3g}"
            adjusted = replace(adjusted, reason=_reason(adjusted, ()) + lost)
        found.append(adjusted)
    return found


def _signs(values: Iterable[float]) -> tuple[int, int, int]:
    """How many are above, at and below 0."""
    found = list(values)
    return sum(v > 0 for v in found), sum(v == 0 for v in found), sum(v < 0 for v in found)


def _apart(lower: float | None, upper: float | None) -> bool:
    """Whether the interval leaves 0 out."""
    return lower is not None and upper is not None and (lower > 0 or upper < 0)


def _standing(found: Contrast) -> ContrastStanding:
    if found.lower is None or found.upper is None or len(found.families) < ENOUGH_FAMILIES:
        return "undecided"
    if _apart(found.lower, found.upper) and found.adjusted < ALPHA:
        return "better" if found.lower > 0 else "worse"
    gain = found.smallest_gain
    return "equivalent" if gain is not None and -gain < found.lower and found.upper < gain else "undecided"


def _reason(found: Contrast, oracles: Sequence[str]) -> str:
    """The standing in a sentence, and what it cannot show."""
    question, n = found.question, len(found.families)
    if not n:
        return (
            f"{question.better} against {question.than}: no unit in view {question.view} at k = {question.k} "
            f"has the {question.metric} of both; run them first"
        )
    said = {
        "better": f"{question.better} is better than {question.than}",
        "worse": f"{question.better} is worse than {question.than}",
        "equivalent": f"{question.better} and {question.than} are equivalent",
        "undecided": f"{question.better} against {question.than} is undecided",
    }[found.standing]
    told = [f"{said}: {_numbers(found)}"]
    told += [f"{name} reads held-out answers and is compared with nothing" for name in oracles]
    told += [part for part in (_size(found), _doubt(found)) if part]
    if found.left_out:
        told.append(f"{found.left_out} of {found.units + found.left_out} units left out, not done in both")
    return "; ".join(told)


def _numbers(found: Contrast) -> str:
    n, tasks = len(found.families), sum(found.tasks)
    over = f"{n} {'family' if n == 1 else 'families'} of {tasks} {'task' if tasks == 1 else 'tasks'}"
    if found.lower is None or found.upper is None:
        return f"{_amount(found, found.mean)} in {over}"
    ends = f"{_amount(found, found.lower, unit=False)} to {_amount(found, found.upper, unit=False)}"
    return f"{_amount(found, found.mean)} (95% interval {ends}; {over}; sign-flip p = {found.sign_flip:.3g})"


def _amount(found: Contrast, value: float, *, unit: bool = True) -> str:
    points = found.question.metric == "accuracy"
    text = f"{value:+.2f}" if points else f"{value:+.3f}"
    return f"{text} {'points' if points else 'nats'}" if unit else text


def _size(found: Contrast) -> str:
    """How the interval lies to the smallest gain, where a difference was found."""
    gain = found.smallest_gain
    if gain is None or found.lower is None or found.upper is None or found.standing not in ("better", "worse"):
        return ""
    ends = (found.lower, found.upper) if found.standing == "better" else (-found.upper, -found.lower)
    amount = _amount(found, gain)[1:]
    if ends[0] > gain:
        return f"the whole interval is beyond the {amount} that matter"
    return (
        f"by less than the {amount} that matter" if ends[1] < gain else f"perhaps by less than the {amount} that matter"
    )


def _doubt(found: Contrast) -> str:
    n = len(found.families)
    if n == 1:
        return "one family says nothing about others, and has no interval"
    if n < ENOUGH_FAMILIES:
        return (
            f"with {n} families the sign-flip test cannot fall below p = {2.0 ** (1 - n):.3g}, "
            f"{ENOUGH_FAMILIES} are the least"
        )
    return "" if found.agree else "interval and sign-flip test disagree about 0"
