"""The one weight rule, on losses of known shape."""

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from merge_advisor.select import Choice, Pick
from merge_advisor.select.weight_rule import line_search, weights_direction


def test_weights_direction() -> None:
    picks = tuple(Pick(p) for p in (4, 1, 3, 0))
    assert weights_direction(Choice(picks, "k reached")) == (0.25,) * 4
    assert weights_direction(Choice(picks[:2], "k reached", (0.9, 0.1))) == (0.9, 0.1)


def counted(function: Callable[[float], float]) -> tuple[Callable[[float], float], list[float]]:
    calls: list[float] = []

    def loss_at(scale: float) -> float:
        calls.append(scale)
        return function(scale)

    return loss_at, calls


@pytest.mark.parametrize("members", [1, 2, 3, 4, 8, 20])
@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.8, 1.0])
def test_line_search_finds_the_bottom_of_a_bowl(members: int, share: float) -> None:
    best = share * members
    loss_at, calls = counted(lambda scale: 2 + (scale / best - 1) ** 2)
    scale, loss, evaluations = line_search(loss_at, members)
    assert evaluations == len(calls) == len(set(calls)) <= 8
    assert loss == loss_at(scale)
    assert abs(scale / best - 1) < 0.1
    assert 0 in calls and 1 in calls


@given(values=st.lists(st.floats(0, 9) | st.just(float("nan")), min_size=8, max_size=8), members=st.integers(1, 30))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_line_search_is_never_worse_than_anything_it_saw(values: list[float], members: int) -> None:
    answers: dict[float, float] = {}

    def loss_at(scale: float) -> float:
        assert 0 <= scale <= max(members, 1.5)
        assert scale not in answers
        answers[scale] = 3.0 if scale == 0 else values[len(answers)]
        return answers[scale]

    scale, loss, evaluations = line_search(loss_at, members)
    seen = [value for value in answers.values() if value == value]
    assert loss == min(seen) == answers[scale]
    assert evaluations == len(answers) <= 8


def test_line_search_keeps_the_base_where_nothing_helps() -> None:
    assert line_search(lambda scale: 1.0 + scale, 4)[:2] == (0.0, 1.0)
    assert line_search(lambda scale: 1.0, 4)[:2] == (0.0, 1.0)
    assert line_search(lambda scale: 1.0 if scale == 0 else float("nan"), 4)[:2] == (0.0, 1.0)
    assert line_search(lambda scale: 1.0 - scale, 4)[:2] == (4.0, -3.0)


def test_line_search_budget() -> None:
    for budget in (2, 3, 5, 12):
        loss_at, calls = counted(lambda scale: (scale - 0.37) ** 2)
        line_search(loss_at, 4, budget=budget)
        assert calls[:2] == [0.0, 1.0]
        assert len(calls) <= budget
