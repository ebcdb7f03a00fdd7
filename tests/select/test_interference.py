"""Interference against dense brute force."""

import numpy as np
import pytest

from merge_advisor.select import interference
from merge_advisor.weights.updates import DenseUpdate, LowRankUpdate
from tests.support.select_world import lowrank


def brute(members, weights):
    """The definition on dense matrices: sign conflict, overlap of member i with those before it."""
    found = [None]
    for i in range(1, len(members)):
        opposed = mass = shared = energy = 0.0
        for name in members[i]:
            own = weights[i] * members[i][name].dense().astype(float)
            before = [m[name].dense().astype(float) for m in members[:i] if name in m]
            earlier = sum(
                (w * m[name].dense().astype(float) for w, m in zip(weights, members[:i], strict=False) if name in m),
                np.zeros_like(own),
            )
            opposed += np.abs(own)[own * earlier < 0].sum()
            mass += np.abs(own).sum()
            size = np.sum(members[i][name].dense().astype(float) ** 2)
            energy += size
            before = [b for b in before if np.abs(b).max() > 0]
            if before and size:
                phis = []
                for side in (lambda m: m, np.transpose):
                    ours = span(side(members[i][name].dense().astype(float)))
                    theirs = span(np.hstack([side(b) / np.linalg.norm(b) for b in before]))
                    phis.append(np.sum((ours.T @ theirs) ** 2) / min(ours.shape[1], theirs.shape[1]))
                shared += size * np.mean(phis)
        found.append((opposed / mass if mass else 0.0, shared / energy if energy else 0.0))
    return found


def span(matrix):
    left, values, _ = np.linalg.svd(matrix, full_matrices=False)
    return left[:, values > 1e-5 * values[0]]


def random_member(rng, names=("p", "q", "r")):
    # the scale is not 1, the rank differs by module, and one module may be absent
    return {
        name: lowrank(rng, out=7, width=9, rank=int(rng.integers(1, 4)), scale=float(rng.uniform(0.5, 2)))
        for name in names
        if rng.random() < 0.8
    }


@pytest.mark.parametrize("seed", range(8))
def test_it_is_the_dense_definition(seed):
    rng = np.random.default_rng(seed)
    members = [random_member(rng) for _ in range(4)]
    weights = [0.4, -0.2, 1.3, 0.6]
    found = interference.interference(members, weights)
    assert found[0] is None
    for have, wanted in list(zip(found, brute(members, weights), strict=True))[1:]:
        np.testing.assert_allclose([have.sign_conflict, have.overlap], wanted, atol=1e-5)
        assert type(have.sign_conflict) is type(have.overlap) is float


def plain(b, a, **kwargs):
    return {"w": LowRankUpdate(np.asarray(a, np.float32), np.asarray(b, np.float32), **kwargs)}


def test_known_cases():
    one = plain([[1], [0], [0.0]], [[1, 0, 0.0]])
    apart = plain([[0], [1], [0.0]], [[0, 1, 0.0]])
    opposed = plain([[-2], [0], [0.0]], [[1, 0, 0.0]])
    half = plain([[1], [0], [0.0]], [[0, 1, 0.0]])  # the same rows out, other columns in

    def pair(left, right):
        found = interference.interference([left, right])[1]
        return found.sign_conflict, round(found.overlap, 9)

    assert pair(one, one) == (0, 1)
    assert pair(one, apart) == (0, 0)
    assert pair(one, opposed) == (1, 1)
    assert pair(one, half) == (0, 0.5)
    assert interference.interference([one, opposed], [1.0, -1.0])[1].sign_conflict == 0
    assert interference.interference([one, opposed], [0.0, 0.0])[1].sign_conflict == 1
    # against the sum of the earlier ones: 1 - 0.3·2 > 0, so the third agrees with what is there
    assert interference.interference([one, opposed, one], [1, 0.3, 1])[2].sign_conflict == 0
    assert interference.interference([one, opposed, one], [1, 0.7, 1])[2].sign_conflict == 1


def test_an_untrained_adapter_has_no_span():
    one = plain([[1], [0.0]], [[1, 0.0]])
    empty = plain(np.zeros((2, 1)), [[1, 0.0]])
    for members in ([one, empty], [empty, one]):
        found = interference.interference(members)[1]
        assert (found.sign_conflict, found.overlap) == (0, 0)


def test_transposed_updates_are_compared_in_the_layout_of_the_base():
    rng = np.random.default_rng(0)
    members = [{"w": lowrank(rng, 5, 8)} for _ in range(3)]
    turned = [{"w": LowRankUpdate(m["w"].a, m["w"].b, m["w"].scale, True)} for m in members]
    straight, other = interference.interference(members), interference.interference(turned)
    for left, right in list(zip(straight, other, strict=True))[1:]:
        np.testing.assert_allclose([left.sign_conflict, left.overlap], [right.sign_conflict, right.overlap], atol=1e-6)


def test_checkpoints_have_none_nor_have_those_after_them():
    rng = np.random.default_rng(0)
    low, dense = {"w": lowrank(rng)}, {"w": DenseUpdate(np.ones((6, 5), np.float32))}
    found = interference.interference([low, low, dense, low])
    assert [entry is None for entry in found] == [True, False, True, True]
    assert interference.interference([dense]) == [None]
    assert interference.interference([]) == []


def test_large_parameters_are_sampled_by_rows_and_come_close(monkeypatch):
    rng = np.random.default_rng(3)
    members = [{"w": lowrank(rng, out=600, width=80, rank=4), "v": lowrank(rng, 10, 20)} for _ in range(3)]
    monkeypatch.setattr(interference, "_ENTRIES", 80 * 600)
    exact = interference.interference(members)
    monkeypatch.setattr(interference, "_ENTRIES", 80 * 150)
    sampled = interference.interference(members)
    assert sampled == interference.interference(members)
    for left, right in list(zip(exact, sampled, strict=True))[1:]:
        assert left.sign_conflict != right.sign_conflict
        assert abs(left.sign_conflict - right.sign_conflict) < 0.05
        assert left.overlap == right.overlap
