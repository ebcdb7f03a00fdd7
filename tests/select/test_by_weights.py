"""Strategies by weights, text and gradient, where the right answer is known."""

from typing import Any

import numpy as np

from merge_advisor.select import Evidence
from merge_advisor.select.text import words_of
from merge_advisor.weights.updates import LowRankUpdate
from tests.support.select_world import constant_gains, gains_of, places, seeded, world
from tests.support.strategy_contract import choose


def kin_world(**others: Any) -> Evidence:
    """Weights of 0: along e0; 1: half e0, half e1; 2: along e1; 3: opposed; 4: twice e0 (a copy); 5: nothing."""
    rows = np.array([[1, 0], [1, 1], [0, 1], [-1, 0.5], [2, 0], [0, 0]], np.float32)
    made = [{"w": LowRankUpdate(row[None], np.ones((1, 1), np.float32))} for row in rows]
    deltas = np.eye(6) + 0.01
    return world(deltas, deltas[0], weights_of=lambda p: made[p], **others)


def test_weight_kinship_least_and_most_alike() -> None:
    low = choose("weight_kinship", kin_world(), 6)
    assert places(low) == [0, 3, 2, 1]
    np.testing.assert_allclose(gains_of(low)[1:], [1 + 1 / 1.25**0.5, 1, 1 - 0.5**0.5], atol=1e-6)
    high = choose("weight_kinship:kinship=high", kin_world(), 6)
    assert places(high) == [0, 1]
    assert high.stopped == low.stopped == "another partner adds nothing"
    assert places(choose("weight_kinship", kin_world(), 2)) == [0, 3]


def test_words_of_names() -> None:
    assert words_of("gsm8kMathWord_problems-HTTPServer").split() == ["gsm8k", "math", "word_problems-http", "server"]


def test_text_finds_names_and_cards() -> None:
    texts = (
        "qwen-SpanishTranslation",
        "org/legal_bench contracts and statutes",
        "adapter of the a base",
        "med-qa doctors, patients, statutes",
    )
    evidence = world(np.zeros((4, 2)), np.zeros(2), texts=texts, query="Which statutes bind the contracts of a legal?")
    choice = choose("text", evidence, 4)
    assert places(choice) == [1, 3]
    assert gains_of(choice)[0] > gains_of(choice)[1] > 0
    assert places(choose("text", seeded(evidence, query="a spanish sentence"), 4)) == [0]


def test_gradient_takes_gains_above_zero() -> None:
    gains = np.array([-0.1, 0.3, 0.0, 0.5, 0.3])
    choice = choose("gradient", world(np.eye(5), np.ones(5), gradient_gain=constant_gains(gains)), 5)
    assert places(choice) == [3, 1, 4]
    assert gains_of(choice).tolist() == [0.5, 0.3, 0.3]


def test_gradient_distinct_passes_over_copies() -> None:
    gains = np.array([0.9, 0.5, 0.4, 0.3, 1.8, 0.0])  # 4 is twice 0
    choice = choose("gradient:distinct=true", kin_world(gradient_gain=constant_gains(gains)), 6)
    assert places(choice) == [4, 2, 3, 1]
    wanted = [1.8, 0.4, 0.3 * (1 - 0.2**0.5), 0.5 * (1 - 0.5**0.5)]
    np.testing.assert_allclose(gains_of(choice), wanted, atol=1e-5)
    assert choice.stopped == "another partner adds nothing"
