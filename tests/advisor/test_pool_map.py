"""The map of a pool: deltas on two axes, whatever order they come in."""

import numpy as np
import pytest

from merge_advisor.advisor.planning.pool_map import FITTED, pool_map
from merge_advisor.report.maps import similarity_map
from merge_advisor.spaces import Deltas, Space
from merge_advisor.types import Selection
from tests.support.pages import check


def test_the_map_of_a_pool() -> None:
    draw = np.random.default_rng(0)
    array = draw.normal(size=(9, 16)).astype(np.float32)
    space = Space("b", "e", "p", "l", "pool", "float32", 16)
    ids = tuple(f"m{n}" for n in range(9))
    found = pool_map(Deltas(space, ids, array), array[3] * 2)
    assert found.task == found.candidates["m3"]  # length does not matter
    assert found == pool_map(Deltas(space, ids, array.copy()), array[3] * 2)
    assert 0 < found.shares[1] <= found.shares[0] < 1
    order = (4, 2, 0, 1, 8, 7, 5, 6, 3)
    turned = pool_map(Deltas(space, tuple(ids[n] for n in order), array[list(order)]), array[3])
    for name, place in found.candidates.items():
        assert np.allclose(place, turned.candidates[name], atol=2e-4)
    distance = np.linalg.norm(np.subtract(found.candidates["m0"], found.candidates["m1"]))
    unit = array / np.linalg.norm(array, axis=1, keepdims=True)
    assert distance <= np.linalg.norm(unit[0] - unit[1]) + 1e-3  # a projection brings nothing farther apart


@pytest.mark.parametrize("number", [1, 2, FITTED * 2 + 5])
def test_the_map_of_pools_that_span_nothing(number: int) -> None:
    space = Space("b", "e", "p", "l", "pool", "float32", 4)
    for row in (np.zeros(4), np.ones(4)):
        array = np.tile(row.astype(np.float32), (number, 1))
        found = pool_map(Deltas(space, tuple(map(str, range(number))), array), row.astype(np.float32))
        assert found.shares == (0.0, 0.0) and set(found.candidates.values()) == {(0.0, 0.0)}
        check(similarity_map("k", found, Selection("s", (), 1.0, "", 0)))
