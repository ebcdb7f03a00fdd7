"""A slice of the campaigns, the same every time: about a minute on one slow core."""

import pytest

from tests.fuzz.running import Fuzzer
from tests.fuzz.targets import TARGETS

CASES = 6000
"""Of all targets, by weight."""


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_no_fault_in_a_slice(target: str, fuzzer: Fuzzer) -> None:
    weights = {name: kind.weight for name, kind in TARGETS.items()}
    number = max(3, round(CASES * weights[target] / sum(weights.values())))
    outcome = fuzzer.numbers(target, 21, range(number))
    assert outcome.cases == number
    assert not outcome.faults, [
        (kind, found.case.words, found.fault.seen[-600:]) for kind, found in outcome.found.items()
    ]
