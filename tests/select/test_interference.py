"""Interference against dense brute force."""

from collections.abc import Sequence

import numpy as np
import pytest

from merge_advisor.arrays import Float64Array
from merge_advisor.select import interference
from merge_advisor.types import Interference
from merge_advisor.weights.updates import DenseUpdate, LowRankUpdate, WeightDelta
from tests.support.select_world import lowrank


def brute(members: Sequence[WeightDelta], weights: Sequence[float]) -> list[tuple[float, float]]:
    """The definition on dense matrices: sign conflict, overlap of each member after the first with those before it."""
    entries: list[tuple[float, float]] = []
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
        entries.append((opposed / mass if mass else 0.0, shared / energy if energy else 0.0))
    return entries


def span(matrix: Float64Array) -> Float64Array:
    left, values, _ = np.linalg.svd(matrix, full_matrices=False)
    kept: Float64Array = left[:, values > 1e-5 * values[0]]
    return kept


def random_member(rng: np.random.Generator, names: Sequence[str] = ("p", "q", "r")) -> WeightDelta:
    # the scale is not 1, the rank differs by module, and one module may be absent
    return {
        name: lowrank(rng, out=7, width=9, rank=int(rng.integers(1, 4)), scale=float(rng.uniform(0.5, 2)))
        for name in names
        if rng.random() < 0.8
    }


def measured(members: Sequence[WeightDelta], weights: Sequence[float] | None = None) -> list[Interference]:
    """The interference of each member after the first, which has none."""
    first, *others = interference.interference(members, weights)
    assert first is None
    entries = [entry for entry in others if entry is not None]
    assert len(entries) == len(others)
    return entries


@pytest.mark.parametrize("seed", range(8))
def test_it_is_the_dense_definition(seed: int) -> None:
    rng = np.random.default_rng(seed)
    members = [random_member(rng) for _ in range(4)]
    weights = [0.4, -0.2, 1.3, 0.6]
    for have, wanted in zip(measured(members, weights), brute(members, weights), strict=True):
        np.testing.assert_allclose(np.array([have.sign_conflict, have.overlap]), np.array(wanted), atol=1e-5)
        assert type(have.sign_conflict) is type(have.overlap) is float


def plain(b: Sequence[Sequence[float]], a: Sequence[Sequence[float]]) -> WeightDelta:
    return {"w": LowRankUpdate(np.asarray(a, np.float32), np.asarray(b, np.float32))}


def test_known_cases() -> None:
    one = plain([[1], [0], [0.0]], [[1, 0, 0.0]])
    apart = plain([[0], [1], [0.0]], [[0, 1, 0.0]])
    opposed = plain([[-2], [0], [0.0]], [[1, 0, 0.0]])
    half = plain([[1], [0], [0.0]], [[0, 1, 0.0]])  # the same rows out, other columns in

    def pair(left: WeightDelta, right: WeightDelta) -> tuple[float, float]:
        (entry,) = measured([left, right])
        return entry.sign_conflict, round(entry.overlap, 9)

    assert pair(one, one) == (0, 1)
    assert pair(one, apart) == (0, 0)
    assert pair(one, opposed) == (1, 1)
    assert pair(one, half) == (0, 0.5)
    assert measured([one, opposed], [1.0, -1.0])[0].sign_conflict == 0
    assert measured([one, opposed], [0.0, 0.0])[0].sign_conflict == 1
    # against the sum of the earlier ones: 1 - 0.3·2 > 0, so the third agrees with what is there
    assert measured([one, opposed, one], [1, 0.3, 1])[1].sign_conflict == 0
    assert measured([one, opposed, one], [1, 0.7, 1])[1].sign_conflict == 1


def test_an_untrained_adapter_has_no_span() -> None:
    one = plain([[1], [0.0]], [[1, 0.0]])
    empty = plain([[0.0], [0.0]], [[1, 0.0]])
    for members in ([one, empty], [empty, one]):
        (entry,) = measured(members)
        assert (entry.sign_conflict, entry.overlap) == (0, 0)


def test_transposed_updates_are_compared_in_the_layout_of_the_base() -> None:
    rng = np.random.default_rng(0)
    updates = [lowrank(rng, 5, 8) for _ in range(3)]
    straight = measured([{"w": update} for update in updates])
    turned = measured([{"w": LowRankUpdate(update.a, update.b, update.scale, True)} for update in updates])
    for left, right in zip(straight, turned, strict=True):
        assert left.sign_conflict == pytest.approx(right.sign_conflict, abs=1e-6)
        assert left.overlap == pytest.approx(right.overlap, abs=1e-6)


def test_checkpoints_have_none_nor_have_those_after_them() -> None:
    rng = np.random.default_rng(0)
    low: WeightDelta = {"w": lowrank(rng)}
    dense: WeightDelta = {"w": DenseUpdate(np.ones((6, 5), np.float32))}
    entries = interference.interference([low, low, dense, low])
    assert [entry is None for entry in entries] == [True, False, True, True]
    assert interference.interference([dense]) == [None]
    assert interference.interference([]) == []


def test_large_parameters_are_sampled_by_rows_and_come_close(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    members = [{"w": lowrank(rng, out=600, width=80, rank=4), "v": lowrank(rng, 10, 20)} for _ in range(3)]
    monkeypatch.setattr(interference, "_ENTRIES", 80 * 600)
    exact = measured(members)
    monkeypatch.setattr(interference, "_ENTRIES", 80 * 150)
    sampled = measured(members)
    assert sampled == measured(members)
    for left, right in zip(exact, sampled, strict=True):
        assert left.sign_conflict != right.sign_conflict
        assert abs(left.sign_conflict - right.sign_conflict) < 0.05
        assert left.overlap == right.overlap
