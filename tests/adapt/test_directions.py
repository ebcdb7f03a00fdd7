"""The pool's directions: from factors as from the dense matrices, and what is made of them."""

import numpy as np
import pytest

from merge_advisor.adapt.directions import by_weight, canonical, spectrum
from merge_advisor.arrays import Float32Array
from merge_advisor.weights.updates import DenseUpdate, LowRankUpdate, Update

OUT, IN = 12, 20


def low_rank(seed: int, rank: int = 3, scale: float = 0.7, *, transposed: bool = False) -> LowRankUpdate:
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(rank, IN)).astype(np.float32), rng.normal(size=(OUT, rank)).astype(np.float32)
    return LowRankUpdate(a, b, scale, transposed)


@pytest.mark.parametrize("transposed", [False, True])
def test_canonical_factors_are_the_svd(transposed: bool) -> None:
    update = low_rank(0, transposed=transposed)
    found = canonical(update)
    np.testing.assert_allclose((found.u * found.singular) @ found.v.T, update.dense(), atol=1e-5)
    np.testing.assert_allclose(found.u.T @ found.u, np.eye(3), atol=1e-9)
    np.testing.assert_allclose(found.singular, np.linalg.svd(update.dense(), compute_uv=False)[:3], rtol=1e-5)


def test_a_checkpoints_leading_directions_are_those_of_its_svd() -> None:
    rng = np.random.default_rng(1)
    u, v = np.linalg.qr(rng.normal(size=(300, 300)))[0], np.linalg.qr(rng.normal(size=(200, 200)))[0]
    values = 2.0 ** -np.arange(200)
    update = DenseUpdate(((u[:, :200] * values) @ v.T).astype(np.float32))
    found = canonical(update, rank=6)
    np.testing.assert_allclose(found.singular, values[:6], rtol=1e-4)
    assert abs(np.sum(found.u * u[:, :6], axis=0)).min() > 0.999
    again = canonical(update, rank=6)
    assert found.u.tobytes() == again.u.tobytes()


def test_no_change_has_no_directions() -> None:
    nothing = LowRankUpdate(np.zeros((2, IN), np.float32), np.zeros((OUT, 2), np.float32))
    assert canonical(nothing).singular.size == 0
    found = spectrum({"w": [nothing, low_rank(0)]}, [1.0, 1.0])["w"]
    alone = spectrum({"w": [low_rank(0)]}, [1.0])["w"]
    np.testing.assert_allclose(found.out_shares[:3], alone.out_shares, atol=1e-12)


def test_a_spectrum_is_that_of_the_summed_squares() -> None:
    updates: list[Update] = [low_rank(seed) for seed in range(4)]
    weights = [1.0, 0.5, 0.0, 2.0]
    found = spectrum({"w": updates}, weights)["w"]
    dense = [update.dense().astype(np.float64) for update in updates]
    outer = sum(w * d @ d.T for w, d in zip(weights, dense, strict=True))
    wanted = np.sort(np.linalg.eigvalsh(outer))[::-1]
    np.testing.assert_allclose(found.out_shares[:9], (wanted / wanted.sum())[:9], atol=1e-5)
    np.testing.assert_allclose(found.out_shares.sum(), 1)
    u, v = found.leading(5)
    assert u.shape == (OUT, 5) and v.shape == (5, IN)
    np.testing.assert_allclose(v @ v.T, np.eye(5), atol=1e-5)
    np.testing.assert_allclose(abs(u.T @ np.linalg.eigh(outer)[1][:, ::-1][:, :5]), np.eye(5), atol=1e-2)


def test_roots_squared_are_the_shrunk_covariances() -> None:
    found = spectrum({"w": [low_rank(seed) for seed in range(3)]}, [1.0] * 3)["w"]
    out, width = found.roots(0.25)
    for root, vectors, shares, size in (
        (out, found.out, found.out_shares, OUT),
        (width, found.width, found.width_shares, IN),
    ):
        wanted = 0.75 * size * (vectors * shares) @ vectors.T + 0.25 * np.eye(size)
        np.testing.assert_allclose(root @ root, wanted, atol=1e-4)
        assert np.trace(root @ root) / size == pytest.approx(1, abs=1e-5)
    flat = found.roots(1.0)
    np.testing.assert_allclose(flat[0], np.eye(OUT), atol=1e-6)


def test_each_adapter_counts_alike_however_long_it_was_trained() -> None:
    one, other = {"w": low_rank(0)}, {"w": low_rank(1)}
    longer = {"w": low_rank(1).times(100)}
    first = spectrum(by_weight([one, other], ["w", "x"]), [1.0, 1.0])
    second = spectrum(by_weight([one, longer], ["w", "x"]), [1.0, 1.0])
    assert list(first) == ["w"]  # nobody changes x
    np.testing.assert_allclose(first["w"].out_shares, second["w"].out_shares, atol=1e-6)


def test_one_that_lacks_a_weight_counts_there_with_nothing() -> None:
    found = by_weight([{"w": low_rank(0)}, {"x": low_rank(1)}], ["w", "x"])
    dense: Float32Array = found["w"][1].dense()
    assert not dense.any() and found["x"][1].dense().any()
