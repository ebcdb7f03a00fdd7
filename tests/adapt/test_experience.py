"""What is believed of a gain: rows against what other tasks have shown."""

from dataclasses import replace

import numpy as np
import pytest

from merge_advisor.adapt.experience import EXPERIENCE, Belief, Experience, believe, experience_of


def test_many_clear_rows_are_believed_and_few_noisy_ones_are_not() -> None:
    other = Experience(gain=0.1, spread=0.3)
    rng = np.random.default_rng(0)
    many = believe((1.0 + 0.1 * rng.normal(size=400)).tolist(), other)
    assert many.mean == pytest.approx(1.0, abs=0.03) and many.error < 0.05 and many.chance > 0.999
    few = believe([3.0, -1.0], other)
    assert 0.1 < few.mean < 0.35 and few.error > 0.2


def test_rows_of_small_losses_are_believed_at_small_differences() -> None:
    """Where both models lose next to nothing, the noise of other tasks' rows says nothing."""
    rng, other = np.random.default_rng(1), Experience(gain=0.02, spread=0.16)
    rows = (0.02 + 0.03 * rng.normal(size=20)).tolist()
    assert believe(rows, other).chance < 0.75 < 0.95 < believe(rows, other, level=0.03).chance
    assert believe(rows, other, level=5.0) == believe(rows, other)


def test_a_task_of_few_rows_is_believed_as_much_as_one_of_many() -> None:
    other = Experience(gain=0.0, spread=10.0)
    rows, weights = [0.1] * 20 + [-0.3] * 4, [1 / 40] * 20 + [1 / 8] * 4
    assert believe(rows, other).mean > 0 > believe(rows, other, weights=weights).mean
    assert believe(rows, other, weights=weights).error > believe(rows, other).error  # they are worth fewer rows
    assert believe(rows, other, weights=[1 / 24] * 24).mean == pytest.approx(believe(rows, other).mean)


def test_what_was_promised_too_much_is_taken_off() -> None:
    rows = [0.5] * 50
    plain, wary = (believe(rows, Experience(0.0, 10.0, optimism)) for optimism in (0.0, 0.2))
    assert plain.mean - wary.mean == pytest.approx(0.2, abs=0.01)


def test_beliefs_are_right_as_often_as_they_say() -> None:
    """On tasks drawn as the model says, the mean is right on average and a chance comes true as often as stated."""
    rng, other = np.random.default_rng(3), Experience(gain=0.1, spread=0.3)
    drawn, said = [], []
    for _ in range(4000):
        gain = other.gain + other.spread * rng.normal()
        drawn.append(gain)
        said.append(believe((gain + 0.6 * rng.normal(size=20)).tolist(), other))
    errors = np.array(drawn) - np.array([belief.mean for belief in said])
    assert abs(errors.mean()) < 0.01
    assert errors.std() == pytest.approx(np.mean([belief.error for belief in said]), rel=0.05)
    sure = [gain > 0 for gain, belief in zip(drawn, said, strict=True) if belief.chance > 0.8]
    assert np.mean(sure) == pytest.approx(np.mean([b.chance for b in said if b.chance > 0.8]), abs=0.03)


def test_chances() -> None:
    assert Belief(0.0, 0.0).chance == 0.5 and Belief(1.0, 0.0).chance == 1.0 and Belief(-1.0, 0.0).chance == 0.0
    assert Belief(-0.1, 0.1).chance == pytest.approx(1 - Belief(0.1, 0.1).chance)


def test_the_reference_gains_nothing_over_itself() -> None:
    assert experience_of("shots", 7) == Experience(0.0, 0.0)
    known = experience_of("continue from merge", 7)
    assert experience_of("shots", 7).than(known).gain == -known.gain


def test_a_merge_alone_promises_too_much_where_rows_have_choices() -> None:
    tokens, choices = experience_of("merge", 20), experience_of("merge", 20, choices=True)
    assert choices.optimism > 4 * tokens.optimism
    assert experience_of("merge", 5, choices=True).optimism == 0  # it is judged by rows that did not choose it


@pytest.mark.parametrize("choices", [False, True])
def test_one_model_that_few_rows_chose_is_another_thing_than_a_merge(choices: bool) -> None:
    assert experience_of("merge", 5, choices=choices) == experience_of("merge", 9, choices=choices)
    assert experience_of("merge", 10, choices=choices) == experience_of("merge", 20, choices=choices)
    assert experience_of("merge", 9, choices=choices).gain > 0 > experience_of("merge", 10, choices=choices).gain


def test_prompts_of_few_rows_are_better_than_they_look_where_rows_have_choices() -> None:
    for name in ("prompt", "prompt on shots", "prompt on merge"):
        few = experience_of(name, 5, choices=True)
        assert few.optimism < -0.5 and experience_of(name, 5).optimism == 0
    for name in ("prompt", "prompt on shots"):
        few = experience_of(name, 5, choices=True)
        assert few == replace(experience_of(name, 5), optimism=few.optimism)
        assert few.optimism < experience_of(name, 9, choices=True).optimism < 0
        assert experience_of(name, 20, choices=True) == experience_of(name, 20)


def test_of_all_else_nothing_is_known_of_choices() -> None:
    for name in set(EXPERIENCE) - {"merge", "prompt", "prompt on shots", "prompt on merge"}:
        for rows in (5, 9, 20):
            assert experience_of(name, rows) == experience_of(name, rows, choices=True)


def test_between_numbers_of_rows_by_their_logarithm_and_beyond_them_the_nearest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known = {5: Experience(0.4, 0.2, 0.1), 20: Experience(0.0, 0.1, 0.0)}
    monkeypatch.setitem(EXPERIENCE, "strange", known)
    assert experience_of("strange", 5) == experience_of("strange", 1) == known[5]
    assert experience_of("strange", 20) == experience_of("strange", 300) == known[20]
    half = experience_of("strange", 10)
    assert (half.gain, half.spread, half.optimism) == pytest.approx((0.2, 0.15, 0.05))
