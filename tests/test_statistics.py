import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from merge_advisor.statistics import paired_interval, rows_to_decide

TERNARY = st.lists(st.sampled_from([-1, 0, 1]), min_size=1, max_size=80)


def rows(won: int, lost: int, n: int) -> list[int]:
    return [1] * won + [-1] * lost + [0] * (n - won - lost)


@pytest.mark.parametrize("n", [20, 70])
@pytest.mark.parametrize(("won", "lost"), [(0.01, 0.01), (0.05, 0.05), (0.1, 0.02), (0.25, 0.15), (0.5, 0.1)])
def test_the_interval_of_right_or_wrong_differences_covers_the_truth(n: int, won: float, lost: float) -> None:
    rng = np.random.default_rng([n, int(100 * won), int(100 * lost)])
    drawn = rng.choice([1.0, -1.0, 0.0], p=[won, lost, 1 - won - lost], size=(1500, n))
    covered = [low <= won - lost <= high for _, low, high in map(paired_interval, drawn)]
    assert np.mean(covered) > 0.93  # 95% nominal; 1,500 draws have a standard error of 0.006


def test_the_t_interval_covers_the_truth() -> None:
    drawn = np.random.default_rng(0).normal(0.3, 2.0, size=(1500, 12))
    covered = [low <= 0.3 <= high for _, low, high in map(paired_interval, drawn)]
    assert 0.935 < np.mean(covered) < 0.965


def test_no_discordant_row_still_leaves_doubt() -> None:
    few, many = paired_interval([0] * 10), paired_interval([0] * 200)
    assert few.mean == 0 and few.lower == -few.upper
    assert few.upper > 0.1 > 0.02 > many.upper > 0


def test_known_values() -> None:
    # Bonett and Price by hand: (8+1)/42 - (2+1)/42 = 1/7, s = sqrt((12/42 - 1/49)/42)
    half = 1.959964 * math.sqrt((12 / 42 - 1 / 49) / 42)
    assert paired_interval(rows(8, 2, 40)) == pytest.approx((0.15, 1 / 7 - half, 1 / 7 + half), abs=1e-6)
    # t with 3 degrees of freedom: 3.182446
    assert paired_interval([0.5, 1.5, 0.5, 1.5]) == pytest.approx(
        (1.0, 1 - 3.182446 * math.sqrt(1 / 3) / 2, 1 + 3.182446 * math.sqrt(1 / 3) / 2), abs=1e-5
    )


def test_six_wins_to_none_decide_and_five_do_not() -> None:
    assert paired_interval(rows(6, 0, 70)).lower > 0
    assert paired_interval(rows(5, 0, 70)).lower < 0


def test_a_higher_level_is_wider() -> None:
    assert paired_interval(rows(9, 2, 40), level=0.99).lower < paired_interval(rows(9, 2, 40)).lower


@given(TERNARY)
def test_swapping_the_models_mirrors_the_interval(values: list[int]) -> None:
    mean, low, high = paired_interval(values)
    assert paired_interval([-value for value in values]) == pytest.approx((-mean, -high, -low))
    assert -1 <= low <= high <= 1


def test_equal_models_on_a_real_measure_are_equal() -> None:
    assert paired_interval([0.0, 0.0, 0.0], counts=False) == (0, 0, 0)
    assert paired_interval([0.25, 0.25]) == (0.25, 0.25, 0.25)
    assert rows_to_decide([0.25, 0.25]) is None


@pytest.mark.parametrize(
    ("values", "options"),
    [([], {}), ([math.nan], {}), ([0.5], {}), ([1.0], {"counts": False}), ([0.5, 1], {"counts": True}),
     ([1, 0], {"level": 1.0})],
)  # fmt: skip
def test_what_has_no_interval_is_refused(values: list[float], options: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        paired_interval(values, **options)


@pytest.mark.parametrize("values", [rows(9, 5, 70), rows(1, 0, 10), rows(3, 8, 30)])
def test_rows_to_decide_is_where_the_interval_leaves_zero(values: list[int]) -> None:
    needed = rows_to_decide(values)
    assert needed is not None and needed > len(values)
    low, high = paired_interval(np.repeat(values, round(needed / len(values)) + 1))[1:]
    assert low > 0 or high < 0
    fewer = np.repeat(values, max(1, int(0.8 * needed / len(values))))
    low, high = paired_interval(fewer)[1:]
    assert low <= 0 <= high


def test_rows_to_decide_of_losses() -> None:
    values = np.random.default_rng(1).normal(0.1, 1.0, 50)
    values += 0.1 - values.mean()
    needed = rows_to_decide(values)
    assert needed == pytest.approx((1.97 * values.std(ddof=1) / 0.1) ** 2, rel=0.1)


def test_nothing_to_decide() -> None:
    assert rows_to_decide(rows(4, 4, 40)) is None  # equal: no number of rows separates them
    assert rows_to_decide(rows(30, 2, 70)) is None  # separated already
    assert rows_to_decide([1e-9, 0, 0, -1e-9 / 2, 3.0, -3.0]) == 10**7  # hopeless is still a number
