"""The pool's directions: from factors as from the dense matrices, and what is made of them."""

from dataclasses import replace

import numpy as np
import pytest

from merge_advisor.adapt.basis import FORMS, Basis, likeness_of
from merge_advisor.adapt.directions import by_weight, canonical, spectrum
from merge_advisor.adapt.workbench import Workbench
from merge_advisor.arrays import Float32Array
from merge_advisor.backbone.shapes import BasisShape, LoraShape, Shape
from merge_advisor.errors import PoolError
from merge_advisor.merges import WeightedMerge
from merge_advisor.types import Candidate
from merge_advisor.weights.updates import DenseUpdate, LowRankUpdate, Update, WeightDelta

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


def test_the_base_says_which_side_of_a_weight_is_its_input() -> None:
    """A full checkpoint's update does not, and that of a square weight has no other sign of it."""
    square = LowRankUpdate(low_rank(0).a[:, :OUT], low_rank(0).b, 0.7, transposed=True)
    pool = (Candidate("adapter", "adapter", "a", "1"), Candidate("checkpoint", "checkpoint", "c", "2"))
    updates: dict[str, Update] = {"1": square, "2": DenseUpdate(square.dense())}
    inputs = np.linalg.svd(square.dense())[0][:, :3]
    for candidate in pool:
        bench = Workbench((), frozenset(), candidates=(candidate,), targets=("w",), turned=True)
        bench.weights_of = lambda one: {"w": updates[one.fingerprint]}
        shape = Basis("first").shape(bench)
        assert isinstance(shape, LoraShape) and shape.first is not None
        np.testing.assert_allclose(abs(shape.first["w"][:3] @ inputs), np.eye(3), atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_a_weight_that_the_pool_leaves_alone_has_no_directions_to_train_in(form: str) -> None:
    delta: WeightDelta = {"v": low_rank(0), "w": DenseUpdate(np.zeros((OUT, IN), np.float32))}

    def shape_of(*targets: str) -> Shape:
        pool = (Candidate("c", "checkpoint", "c", "1"),)
        return Basis(form).shape(
            Workbench((), frozenset(), candidates=pool, targets=targets, weights_of=lambda candidate: delta)
        )

    without = form in ("core", "output")
    for targets in (("w",), ("x",))[not without :]:
        with pytest.raises(PoolError, match="no adapter of the pool changes the weights that are trained"):
            shape_of(*targets)
    assert (shape_of("v", "w").digest == shape_of("v").digest) == without  # a LoRA may leave the directions


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


def test_likeness_counts_each_adapter_by_its_weight_in_the_chosen_merge() -> None:
    pool = tuple(Candidate(f"a{number}", "adapter", "a", f"{number}") for number in range(4))
    deltas: dict[str, WeightDelta] = {f"{number}": {"w": low_rank(number)} for number in range(4)}
    merge = WeightedMerge(((pool[1], -0.8), (pool[2], 0.4), (pool[3], 0.0)))
    bench = Workbench(
        (), frozenset(), candidates=pool, targets=("w",), merge=merge, weights_of=lambda c: deltas[c.fingerprint]
    )
    assert likeness_of(bench) == [0.1, 1.0, 0.5, 0.1]
    updates = by_weight([deltas[candidate.fingerprint] for candidate in pool], ("w",))
    for likeness, counts in ((True, [0.1, 1.0, 0.5, 0.1]), (False, [1.0] * 4)):
        shape = Basis(count=2, likeness=likeness, start="merge").shape(bench)
        assert isinstance(shape, BasisShape)
        u, v = spectrum(updates, counts)["w"].leading(2)
        np.testing.assert_array_equal(shape.directions["w"][0], u)
        np.testing.assert_array_equal(shape.directions["w"][1], v)
    # which leans towards the member that counts most
    liked, all_alike = (
        np.linalg.norm(spectrum(updates, counts)["w"].leading(3)[0].T @ canonical(low_rank(1)).u)
        for counts in ([0.1, 1.0, 0.5, 0.1], [1.0] * 4)
    )
    assert liked > all_alike
    assert likeness_of(replace(bench, merge=WeightedMerge(((pool[0], 0.0),)))) == [1.0] * 4
