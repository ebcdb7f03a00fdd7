import itertools
import re
from typing import Any

import numpy as np
import pytest

from merge_advisor.errors import TaskError
from merge_advisor.scores import GuardScore, ModelScore, Verdict
from merge_advisor.statistics import rows_to_rule_out
from merge_advisor.verdict import judge

N = 70
DIGESTS = tuple(f"{index:064x}" for index in range(N))
BAD_GUARD = GuardScore(rows=50, base=2.0, merge=2.2, lower=0.1, upper=0.3, regressed=True)
GOOD_GUARD = GuardScore(rows=50, base=2.0, merge=2.01, lower=0.0, upper=0.02, regressed=False)


def model(label: str, right: range | set[int], n: int = N, metric: str = "accuracy") -> ModelScore:
    values = tuple(float(index in right) for index in range(n))
    return ModelScore(label, {metric: float(np.mean(values))}, {metric: values})


def verdict(*models: ModelScore, n: int = N, **options: Any) -> tuple[Verdict, str]:
    found, reason, _ = judge(models, options.pop("metric", "accuracy"), DIGESTS[:n], **options)
    assert "\n" not in reason and ": " in reason
    return found, reason


def losses(label: str, mean: float, noise: float = 0.1, seed: int = 0, n: int = N) -> ModelScore:
    values = np.random.default_rng(seed).normal(0, noise, n)
    values += mean - values.mean()
    return ModelScore(label, {"loss": mean}, {"loss": tuple(values.tolist())})


BASE, ANCHOR, SHOTS = model("base", range(20)), model("anchor", range(35)), model("shots_lora", range(36))
PROMPTED = model("icl", range(34))
CHEAP = ("base", "icl", "anchor", "start", "shots_lora")
"""The contenders beside the merge, from the cheapest."""


def test_a_merge_ahead_of_all_of_them() -> None:
    found, reason = verdict(BASE, PROMPTED, ANCHOR, SHOTS, model("merge", range(60)))
    assert found == Verdict.MERGE
    assert reason.startswith("use the merge: it reaches 85.7% on 70 rows and beats base by +57.1 points")
    assert "icl by +37.1 points" in reason


@pytest.mark.parametrize(
    ("strong", "expected", "advice"),
    [
        ("base", Verdict.NO_GAIN, "use the base as it is"),
        ("icl", Verdict.PROMPT_WITH_EXAMPLES, "put the examples into the prompt of the base (prompt/)"),
        ("anchor", Verdict.USE_ANCHOR, "use the anchor, dates-1, alone"),
        ("start", Verdict.MERGE, "use the merge as it was chosen, before anything was trained (start/)"),
        ("shots_lora", Verdict.TRAIN_ON_EXAMPLES, "use shots_lora, the LoRA trained on the examples"),
    ],
)
def test_one_rival_as_good_is_enough_against_a_merge(strong: str, expected: Verdict, advice: str) -> None:
    models = [model(label, range(59 if label == strong else 30)) for label in CHEAP]
    found, reason = verdict(*models, model("merge", range(60)), adaptation="continue", anchor="dates-1")
    assert found == expected and reason.startswith(f"{advice}: {strong} reaches 84.3%")


def test_the_cheapest_of_equals() -> None:
    found = []
    for worse in range(len(CHEAP)):
        models = [model(label, range(10 if place < worse else 40)) for place, label in enumerate(CHEAP)]
        found.append(verdict(*models, model("merge", range(40)))[0])
    assert found == [
        Verdict.NO_GAIN, Verdict.PROMPT_WITH_EXAMPLES, Verdict.USE_ANCHOR, Verdict.MERGE, Verdict.TRAIN_ON_EXAMPLES,
    ]  # fmt: skip


def test_what_may_still_be_better_has_a_price() -> None:
    models = [model("base", range(10)), model("anchor", {*range(40)}), model("merge", {*range(2, 42)})]
    _, reason = verdict(*models)  # won 2, lost 2: the upper end is above 5 points
    assert reason.endswith("more rows would rule out that merge is better by 5 points")
    more = int(re.search(r"about (\d+) more rows", reason)[1])  # type: ignore[index]
    lead = np.array(models[2].rows["accuracy"]) - np.array(models[1].rows["accuracy"])
    assert N + more == rows_to_rule_out(lead, 0.05) and more > 20
    sure = [losses("base", 1.0, noise=0.01, seed=1), losses("merge", 1.001, noise=0.01, seed=2)]
    assert "more rows" not in verdict(*sure, metric="loss")[1]


def test_base_better_than_everything() -> None:
    found, reason = verdict(model("base", range(60)), ANCHOR, SHOTS, model("merge", range(30)))
    assert found == Verdict.NO_GAIN and "it beats merge" in reason


def test_a_merge_ahead_by_much_but_not_beyond_noise_asks_for_rows() -> None:
    # 16 won, 8 lost: +11.4 points, interval about -2 to +24
    found, reason = verdict(BASE, ANCHOR, model("merge", {*range(27), *range(35, 51)}))
    assert found == Verdict.UNDECIDED
    assert "merge reaches 61.4% against 50.0% of anchor" in reason and "more rows" in reason


def test_more_rows_are_those_of_the_comparison() -> None:
    models = [BASE, ANCHOR, model("merge", {*range(27), *range(35, 51)})]
    _, reason, comparisons = judge(models, "accuracy", DIGESTS)
    needed = next(c.rows_to_decide for c in comparisons if c.against == "anchor")
    assert needed is not None and needed > N and f"about {needed - N} more rows" in reason


def test_a_merge_ahead_by_little_is_not_worth_it() -> None:
    found, reason = verdict(BASE, ANCHOR, model("merge", range(38)))  # +4.3 points
    assert found == Verdict.USE_ANCHOR and "merge +4.3 points" in reason


def test_few_rows_decide_nothing() -> None:
    n = 8
    found, reason = verdict(*(model(m, range(2), n) for m in ("base", "anchor", "merge")), n=n)
    assert found == Verdict.UNDECIDED and "more rows, 8 are too few" in reason


def test_anchor_and_shots_that_cannot_be_told_apart() -> None:
    anchor, shots = model("anchor", {*range(25), *range(40, 50)}), model("shots_lora", range(40))
    found, reason = verdict(BASE, anchor, shots, model("merge", range(40)))
    assert found == Verdict.UNDECIDED and "against 50.0% of anchor" in reason


@pytest.mark.parametrize(("guard", "expected"), [(BAD_GUARD, Verdict.USE_ANCHOR), (GOOD_GUARD, Verdict.MERGE)])
def test_a_guard_that_regresses_rules_the_merge_out(guard: GuardScore, expected: Verdict) -> None:
    found, reason = verdict(BASE, ANCHOR, model("merge", range(60)), guard=guard)
    assert found == expected
    assert ("ruled out" in reason and "+0.200 nats" in reason) == (guard is BAD_GUARD)


def test_a_member_better_beyond_noise_is_told() -> None:
    member = model("member b", range(60))
    found, reason = verdict(BASE, ANCHOR, SHOTS, member, model("merge", range(37)))
    assert found == Verdict.UNDECIDED and "member b beats all" in reason and "make it the anchor" in reason
    uniform = model("uniform", range(60))
    assert "take its weights: uniform beats all" in verdict(BASE, ANCHOR, SHOTS, uniform, model("merge", range(37)))[1]
    plan = model("plan", range(60))
    assert "kept under plan/" in verdict(BASE, ANCHOR, SHOTS, plan, model("merge", range(37)))[1]
    found, reason = verdict(BASE, ANCHOR, SHOTS, member, model("merge", range(48)))
    assert found == Verdict.MERGE and "member b is better still" in reason


def test_the_best_of_many_members_is_not_believed_at_once() -> None:
    lucky = {*range(1, 43)}  # 8 won, 1 lost: beyond noise alone, not as one of eight
    one = verdict(BASE, ANCHOR, model("member 0", lucky), model("merge", range(35)))
    many = verdict(BASE, ANCHOR, *(model(f"member {i}", lucky) for i in range(8)), model("merge", range(35)))
    assert (one[0], many[0]) == (Verdict.UNDECIDED, Verdict.USE_ANCHOR)


def test_the_majority_answer_is_no_model_to_choose_but_is_told() -> None:
    majority = model("majority", range(40))
    found, reason = verdict(model("base", range(35)), majority, model("merge", range(35)))
    assert found == Verdict.NO_GAIN and "commonest answer reaches 57.1%" in reason
    assert "commonest" not in verdict(model("base", range(50)), majority, model("merge", range(35)))[1]


def test_only_the_merge_left_and_not_beyond_noise() -> None:
    # base is beaten by the anchor, the anchor by shots_lora; the merge beats both of these and just leads shots_lora
    shots = model("shots_lora", {*range(20), *range(30, 54)})
    found, reason = verdict(
        model("base", range(20)), model("anchor", range(30)), shots, model("merge", {*range(36), *range(40, 55)})
    )
    assert found == Verdict.UNDECIDED and "merge reaches 72.9% against 62.9% of shots_lora" in reason


def test_losses_are_better_when_smaller() -> None:
    models = [losses("base", 2.0, seed=1), losses("anchor", 1.0, seed=2), losses("merge", 0.5, seed=3)]
    found, reason = verdict(*models, metric="loss")
    assert found == Verdict.MERGE and "0.500 nats per token" in reason and "anchor by +0.500 nats" in reason
    found, reason = verdict(*models[:2], losses("merge", 0.98, seed=3), metric="loss")
    assert found == Verdict.USE_ANCHOR and "merge +0.020 nats" in reason
    found, reason = verdict(*models[:2], losses("merge", 0.8, noise=3.0, seed=3), metric="loss")
    assert found == Verdict.UNDECIDED
    identical = [ModelScore(name, models[1].metrics, models[1].rows) for name in ("base", "anchor", "merge")]
    assert verdict(*identical, metric="loss")[0] == Verdict.NO_GAIN


def test_comparisons_are_the_merge_against_the_rest() -> None:
    members = [model("majority", range(5)), ANCHOR, model("uniform", range(30))]
    _, _, comparisons = judge([BASE, *members, model("merge", range(1, 40))], "accuracy", DIGESTS)
    assert [c.against for c in comparisons] == ["base", "majority", "anchor", "uniform"]
    anchor = comparisons[2]
    assert anchor.won == DIGESTS[35:40] and anchor.lost == DIGESTS[:1]
    assert anchor.difference == pytest.approx(4 / 70) and anchor.lower < anchor.difference < anchor.upper


def test_examples_in_the_prompt_that_a_merge_does_not_beat() -> None:
    merge = model("merge", range(60))
    assert verdict(BASE, ANCHOR, SHOTS, merge)[0] == Verdict.MERGE  # no example fits: left out
    assert verdict(BASE, model("icl", range(69)), ANCHOR, SHOTS, merge)[0] == Verdict.PROMPT_WITH_EXAMPLES
    # as good as the anchor: the anchor needs the pool
    assert verdict(BASE, model("icl", range(35)), ANCHOR, model("merge", range(37)))[0] == Verdict.PROMPT_WITH_EXAMPLES
    assert verdict(BASE, model("icl", range(21)), ANCHOR, model("merge", range(37)))[0] == Verdict.USE_ANCHOR
    prompted = losses("icl", 0.5, seed=3)
    models = [losses("base", 2.0, seed=1), prompted, losses("anchor", 1.0, seed=2), losses("merge", 0.49, seed=4)]
    assert verdict(*models, metric="loss")[0] == Verdict.PROMPT_WITH_EXAMPLES


@pytest.mark.parametrize(
    ("adaptation", "label", "expected"),
    [("prompt", "icl", Verdict.PROMPT_WITH_EXAMPLES), ("shots", "shots_lora", Verdict.TRAIN_ON_EXAMPLES)],
)
def test_a_model_that_is_a_contender_already_is_judged_as_it(adaptation: str, label: str, expected: Verdict) -> None:
    same = [model("base", range(5)), model("anchor", range(20)), model(label, range(60)), model("merge", range(60))]
    found, reason = verdict(*same, adaptation=adaptation)
    assert found == expected and "merge" not in reason
    # of 8 rows an equal merge may be better by 20 points, the model itself cannot be
    few = [model("base", range(0), 8), model(label, range(8), 8), model("merge", range(8), 8)]
    assert verdict(*few, n=8, adaptation="continue")[0] == Verdict.UNDECIDED
    assert verdict(*few, n=8, adaptation=adaptation)[0] == expected
    rows = [model("base", range(40)), ANCHOR, model("merge", range(40))]
    found, reason = verdict(*rows, adaptation=adaptation)  # it came out as the base
    assert found == Verdict.NO_GAIN and "merge" not in reason


def test_a_model_without_the_metric_is_passed_over() -> None:
    _, _, comparisons = judge([losses("base", 2.0), model("majority", range(3)), losses("merge", 1.0)], "loss", DIGESTS)
    assert [c.against for c in comparisons] == ["base"]


def test_every_table_has_a_verdict_that_keeps_the_rules() -> None:
    rng = np.random.default_rng(0)
    found = []
    for _ in range(300):
        n = int(rng.integers(2, N))
        labels = [
            "base",
            *rng.permutation(["icl", "anchor", "shots_lora", "member x", "uniform"])[: rng.integers(0, 6)],
            "merge",
        ]
        models = [model(str(label), set(np.flatnonzero(rng.random(n) < rng.random()).tolist()), n) for label in labels]
        decided, reason, comparisons = judge(
            models, "accuracy", DIGESTS[:n], guard=BAD_GUARD if rng.random() < 0.2 else None
        )
        lower = {c.against: c.lower for c in comparisons if c.against in CHEAP}
        ruled_out = "ruled out" in reason
        assert (decided == Verdict.MERGE) == (not ruled_out and all(low > 0 for low in lower.values()))
        if decided == Verdict.USE_ANCHOR:
            assert "anchor" in lower
        if decided == Verdict.TRAIN_ON_EXAMPLES:
            assert "shots_lora" in lower
        if decided == Verdict.PROMPT_WITH_EXAMPLES:
            assert "icl" in lower
        if decided == Verdict.NO_GAIN and not ruled_out:
            assert lower["base"] <= 0
        found.append(decided)
    trained = {Verdict.TRAIN_FROM_MERGE, Verdict.TRAIN_IN_BASIS}
    assert set(found) == set(Verdict) - trained


@pytest.mark.parametrize(
    ("adaptation", "verdict"),
    [
        ("none", Verdict.MERGE), ("mix", Verdict.MERGE), ("continue", Verdict.TRAIN_FROM_MERGE),
        ("coefficients", Verdict.TRAIN_FROM_MERGE), ("basis", Verdict.TRAIN_IN_BASIS),
        ("shots", Verdict.TRAIN_ON_EXAMPLES), ("prompt on shots", Verdict.TRAIN_ON_EXAMPLES),
        ("prompt on merge", Verdict.MERGE), ("continue from mean", Verdict.TRAIN_FROM_MERGE),
        ("continue from random", Verdict.TRAIN_FROM_MERGE), ("continue from anchor", Verdict.TRAIN_FROM_MERGE),
    ],
)  # fmt: skip
def test_a_model_that_wins_is_called_by_how_it_was_made(adaptation: str, verdict: Verdict) -> None:
    rivals = [BASE, ANCHOR, model("start", range(10)), model("shots_lora", range(12))]
    best, reason, comparisons = judge([*rivals, model("merge", range(60))], "accuracy", DIGESTS, adaptation=adaptation)
    assert best == verdict and "start" in [c.against for c in comparisons]
    begun = adaptation.partition(" from ")[2]
    assert not begun or (f"trained from {begun}" in reason) or (f"trained from the {begun}" in reason)


def test_a_start_as_good_as_what_was_trained_on_it_is_the_merge_to_use() -> None:
    rows = [BASE, ANCHOR, model("start", range(60)), model("shots_lora", range(12)), model("merge", range(60))]
    verdict, reason, _ = judge(rows, "accuracy", DIGESTS, adaptation="continue")
    assert verdict == Verdict.MERGE and "start reaches" in reason
    assert "the merge as it was chosen" in reason and "training began" not in reason  # which may be elsewhere


def test_the_order_of_the_table_changes_nothing() -> None:
    models = [BASE, PROMPTED, ANCHOR, SHOTS, model("merge", {*range(27), *range(35, 51)})]
    assert len({verdict(*order) for order in itertools.permutations(models)}) == 1


def test_what_cannot_be_judged() -> None:
    with pytest.raises(TaskError, match="at least two"):
        judge([model("base", {0}, 1), model("merge", {0}, 1)], "accuracy", DIGESTS[:1])
    with pytest.raises(ValueError, match="a merge"):
        judge([BASE, ANCHOR], "accuracy", DIGESTS)
    with pytest.raises(ValueError, match="per row"):
        judge([BASE, model("merge", range(3), 5)], "accuracy", DIGESTS)
