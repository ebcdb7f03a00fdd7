"""Interference among the parts of a merge, as scripts/bench/interference.py measures it."""

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from merge_advisor.errors import SpecError
from tests.support.compositions import NAMES, SHAPES, adapter, assert_same, build, compose, dense


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    return runpy.run_path(str(Path(__file__).parents[2] / "scripts" / "bench" / "interference.py"))


def test_parts_add_up_to_the_merge(script: dict[str, Any]) -> None:
    members, weights = [adapter(0), adapter(1, names=("q.weight",)), adapter(2)], [0.5, 0.0, -0.75]
    for name in NAMES:
        if hasattr(build(name), "sparsify") or build(name).linear:
            parts = script["parts_of"](build(name), members, weights)
            sums = {key: np.sum(parts[key], axis=0) for key in SHAPES}
            assert_same(sums, dense(compose(name, members, weights)), atol=1e-5)
    for name in ("lorahub", "svd"):
        with pytest.raises(SpecError, match="no sum over the members"):
            script["parts_of"](build(name), members, weights)


def test_interference_by_hand(script: dict[str, Any]) -> None:
    parts = {"w": [np.array([values], dtype=np.float32) for values in ([2, 1, 0, -1], [1, -2, 0, 0])]}
    measured = script["interference"](parts)
    assert measured.norm**2 == pytest.approx(9 + 1 + 1)
    assert measured.cross_terms == pytest.approx(2 * (2 - 2) / 11)
    assert measured.sign_conflict == pytest.approx(1 / 7) and measured.overlap == pytest.approx(6 / 7)


def test_one_part_alone_or_none_interferes_with_nothing(script: dict[str, Any]) -> None:
    for parts in ({name: [update.dense()] for name, update in adapter(0).items()}, {}):
        measured = script["interference"](parts)
        assert (measured.sign_conflict, measured.overlap) == (0, 0)
        assert measured.cross_terms == pytest.approx(0, abs=1e-6)


def test_an_election_leaves_no_conflict_and_trimming_less_overlap(script: dict[str, Any]) -> None:
    members = [adapter(0), adapter(1)]
    before, after = (
        script["interference"](script["parts_of"](build(spec), members, [0.5, 0.5]))
        for spec in ("exact", "ties:density=0.4")
    )
    assert before.sign_conflict > 0.05 and after.sign_conflict == 0 and after.overlap < before.overlap == 1.0
