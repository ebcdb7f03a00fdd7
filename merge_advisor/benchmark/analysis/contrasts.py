"""One arm against another: paired by unit, averaged within task, then within family; the families are the sample.

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
    """Return what the results say on a question; those of another view or k are ignored.

    Args:
        question: which arm against which, by which metric.
        results: of all arms and controls; only units on which both are done count.
        smallest_gain: the g of this module's docstring, in the question's metric: points of accuracy, or nats. None:
            equivalence is not asked.
        seed: draws the resamples.

    >>> from merge_advisor.benchmark.values import Unit
    >>> gains = [0.03, 0.01, 0.04, 0.02, 0.05, 0.01, 0.03, 0.02]
    >>> units = [Unit(f"task {number}", f"family {number}") for number in range(len(gains))]
    >>> results = [Result(unit, "a", "own-out", 4, accuracy=0.5 + gain) for unit, gain in zip(units, gains)]
    >>> results += [Result(unit, "b", "own-out", 4, accuracy=0.5) for unit in units]
    >>> answer = contrast(Question("a", "b"), results, smallest_gain=1.0)
    >>> answer.mean, answer.sign_flip, answer.standing
    (2.625, 0.0078125, 'better')
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
    undecided = Contrast(
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
    # an oracle has read the answers it is scored by: its numbers are shown, but nothing is concluded from them
    standing: ContrastStanding = "undecided" if oracles else _standing(undecided)
    decided = replace(undecided, standing=standing)
    return replace(decided, reason=_reason(decided, oracles))


def holm_adjusted(contrasts: Sequence[Contrast]) -> list[Contrast]:
    """Return contrasts with their p adjusted for their number; "better" or "worse" has to stand after that.

    Args:
        contrasts: of questions asked together.
    """
    judged = []
    for one, p in zip(contrasts, resampling.holm_p_values([one.sign_flip for one in contrasts]), strict=True):
        adjusted = replace(one, adjusted=p)
        # the interval is not adjusted: it may still lie inside the smallest gain, and the arms be equivalent
        if one.standing in ("better", "worse") and p >= ALPHA:
            adjusted = replace(adjusted, standing=_standing(adjusted))
            lost = f"; not {one.standing} after Holm's adjustment for {len(contrasts)} contrasts, p = {p:.3g}"
            adjusted = replace(adjusted, reason=_reason(adjusted, ()) + lost)
        judged.append(adjusted)
    return judged


def _signs(values: Iterable[float]) -> tuple[int, int, int]:
    """Return how many are above, at and below 0."""
    numbers = list(values)
    return sum(v > 0 for v in numbers), sum(v == 0 for v in numbers), sum(v < 0 for v in numbers)


def _apart(lower: float | None, upper: float | None) -> bool:
    """Return whether the interval leaves 0 out."""
    return lower is not None and upper is not None and (lower > 0 or upper < 0)


def _standing(answer: Contrast) -> ContrastStanding:
    # with so few families the sign-flip test cannot reach p < .05, whatever the differences are
    if answer.lower is None or answer.upper is None or len(answer.families) < ENOUGH_FAMILIES:
        return "undecided"
    if _apart(answer.lower, answer.upper) and answer.adjusted < ALPHA:
        return "better" if answer.lower > 0 else "worse"
    gain = answer.smallest_gain
    return "equivalent" if gain is not None and -gain < answer.lower and answer.upper < gain else "undecided"


def _reason(answer: Contrast, oracles: Sequence[str]) -> str:
    """Return the standing in a sentence, and what it cannot show."""
    question, n = answer.question, len(answer.families)
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
    }[answer.standing]
    parts = [f"{said}: {_numbers(answer)}"]
    parts += [f"{name} reads held-out answers and is compared with nothing" for name in oracles]
    parts += [part for part in (_size(answer), _doubt(answer)) if part]
    if answer.left_out:
        parts.append(f"{answer.left_out} of {answer.units + answer.left_out} units left out, not done in both")
    return "; ".join(parts)


def _numbers(answer: Contrast) -> str:
    n, tasks = len(answer.families), sum(answer.tasks)
    over = f"{n} {'family' if n == 1 else 'families'} of {tasks} {'task' if tasks == 1 else 'tasks'}"
    if answer.lower is None or answer.upper is None:
        return f"{_amount(answer, answer.mean)} in {over}"
    ends = f"{_amount(answer, answer.lower, unit=False)} to {_amount(answer, answer.upper, unit=False)}"
    return f"{_amount(answer, answer.mean)} (95% interval {ends}; {over}; sign-flip p = {answer.sign_flip:.3g})"


def _amount(answer: Contrast, value: float, *, unit: bool = True) -> str:
    points = answer.question.metric == "accuracy"
    text = f"{value:+.2f}" if points else f"{value:+.3f}"
    return f"{text} {'points' if points else 'nats'}" if unit else text


def _size(answer: Contrast) -> str:
    """Return how the interval lies to the smallest gain, where a difference was found."""
    gain = answer.smallest_gain
    if gain is None or answer.lower is None or answer.upper is None or answer.standing not in ("better", "worse"):
        return ""
    ends = (answer.lower, answer.upper) if answer.standing == "better" else (-answer.upper, -answer.lower)
    amount = _amount(answer, gain)[1:]
    if ends[0] > gain:
        return f"the whole interval is beyond the {amount} that matter"
    return (
        f"by less than the {amount} that matter" if ends[1] < gain else f"perhaps by less than the {amount} that matter"
    )


def _doubt(answer: Contrast) -> str:
    n = len(answer.families)
    if n == 1:
        return "one family says nothing about others, and has no interval"
    if n < ENOUGH_FAMILIES:
        return (
            f"with {n} families the sign-flip test cannot fall below p = {2.0 ** (1 - n):.3g}, "
            f"{ENOUGH_FAMILIES} are the least"
        )
    return "" if answer.agree else "interval and sign-flip test disagree about 0"
