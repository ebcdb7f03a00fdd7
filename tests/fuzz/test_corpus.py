"""What was a fault once is none any more, and inputs that are right have none."""

import dataclasses
from pathlib import Path

import pytest

from tests.fuzz.running import Fuzzer, corpus, read_case
from tests.fuzz.targets import TARGETS, make_case

CASES = {path.stem: path for path in corpus(Path(__file__).parent / "corpus")}


@pytest.mark.parametrize("name", CASES)
def test_a_case_that_was_a_fault_is_none(name: str, fuzzer: Fuzzer) -> None:
    case = read_case(CASES[name])
    outcome = fuzzer.cases(case.target, [lambda: case])
    assert outcome.cases == 1 and not outcome.faults, [found.fault for found in outcome.found.values()]


@pytest.mark.parametrize("target", TARGETS)
def test_a_right_input_is_used(target: str, fuzzer: Fuzzer, world: Path) -> None:
    """Where the world's own files stand in place of a case's, the command does what it should: it is no idle check."""
    case = make_case(target, 0, 0, world)
    right = {name: (world / name).read_bytes() for name in case.files if (world / name).is_file()}
    if not right or target == "ledgers":
        pytest.skip("its input is made case by case")
    outcome = fuzzer.cases(target, [lambda: dataclasses.replace(case, files={**case.files, **right})])
    assert not outcome.faults and outcome.codes == {"0": 1}
