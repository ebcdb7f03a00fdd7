"""Two dimensions of many: PCA is PCA, the same each time; what UMAP and trust say holds on groups known to be apart."""

from pathlib import Path

import numpy as np
import pytest

from merge_advisor.explore import projection
from merge_advisor.explore.clusters import find_clusters, name_clusters, unnamed_clusters
from merge_advisor.explore.layouts import keep_layout, kept_layout, layout_file, made_layout
from merge_advisor.explore.map_points import read_points, texts_of
from merge_advisor.explore.projection import fit_axes, fitted_square, lay_out, place_among, trust_in
from merge_advisor.hub import Hub
from merge_advisor.progress import quiet_progress
from tests.explore.explore_world import clustered


def unit(rows: np.ndarray) -> np.ndarray:
    found: np.ndarray = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return found


def groups(count: int, each: int, dim: int = 12, apart: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    centres = apart * rng.normal(size=(count, dim))
    of = np.repeat(np.arange(count), each)
    return unit(centres[of] + 0.08 * rng.normal(size=(count * each, dim))), of


@pytest.mark.parametrize("shape", [(200, 9), (40, 60), (3, 5)])
def test_the_axes_are_those_of_an_exact_decomposition(shape: tuple[int, int]) -> None:
    vectors = unit(np.random.default_rng(0).normal(size=shape) * np.linspace(3, 0.2, shape[1]))
    axes = fit_axes(vectors)
    centred = vectors - vectors.mean(axis=0)
    _, values, exact = np.linalg.svd(centred, full_matrices=False)
    for number in range(2):
        assert abs(axes.directions[:, number] @ exact[number]) == pytest.approx(1, abs=2e-3)
        assert axes.explained[number] == pytest.approx(values[number] ** 2 / (centred**2).sum(), abs=1e-3)
    np.testing.assert_allclose(axes.place(vectors), centred @ axes.directions, atol=1e-5)
    assert fit_axes(vectors).directions.tobytes() == axes.directions.tobytes()


@pytest.mark.parametrize("count", [0, 1, 2])
def test_few_or_equal_vectors_have_places_all_the_same(count: int) -> None:
    vectors = unit(np.ones((count, 4))) if count else np.zeros((0, 4), np.float32)
    places = fitted_square(fit_axes(vectors).place(vectors))[0]
    assert places.shape == (count, 2) and np.isfinite(places).all()
    assert trust_in(vectors, places) is None
    found = find_clusters(vectors)
    assert found.count == min(count, 1) and found.silhouette is None
    zeros = np.zeros((5, 4), np.float32)  # models that do not change the base
    assert np.isfinite(fit_axes(zeros).place(zeros)).all() and find_clusters(zeros).count == 1


def test_a_vector_is_put_on_the_known_one_that_it_equals() -> None:
    known = np.eye(8, dtype=np.float32)
    places = np.random.default_rng(2).normal(size=(8, 2)).astype(np.float32)
    np.testing.assert_allclose(place_among(known[:4], known, places), places[:4], atol=1e-5)
    between = unit(known[:1] + known[1:2])
    np.testing.assert_allclose(place_among(between, known, places)[0], places[:2].mean(axis=0), atol=1e-3)
    one = place_among(known[:1], known[:1], places[:1])
    np.testing.assert_allclose(one, places[:1])


def test_trust_is_high_where_neighbours_are_true_and_low_where_they_are_chance() -> None:
    vectors, _ = groups(4, 30)
    good = trust_in(vectors, fit_axes(vectors).place(vectors))
    chance = trust_in(vectors, np.random.default_rng(3).normal(size=(120, 2)).astype(np.float32))
    assert good is not None and chance is not None and good > 0.85 > 0.65 > chance


def test_clusters_are_the_groups_and_are_named_by_their_own_words() -> None:
    vectors, of = groups(3, 20)
    found = find_clusters(vectors)
    assert found.count == 3 and found.silhouette is not None and found.silhouette > 0.8
    assert len({(a, b) for a, b in zip(of.tolist(), found.of.tolist(), strict=True)}) == 3
    assert find_clusters(vectors).of.tolist() == found.of.tolist()
    # "demo" and "shop" are said of nearly all: they name none of them, however often one says them
    said = ("legal contracts contract model shop", "python code model shop demo demo", "algebra sums model demo shop")
    texts = [said[group] for group in of.tolist()]
    names = name_clusters(found.of, found.count, texts)
    assert sorted(names) == ["algebra, sums", "code, python", "contract, legal"]
    assert name_clusters(found.of, found.count, ["demo"] * 60) == ["cluster 1", "cluster 2", "cluster 3"]
    assert name_clusters(found.of, found.count, [""] * 60) == ["cluster 1", "cluster 2", "cluster 3"]
    same = ["red"] * 2 + ["green"] * 2 + ["red"] * 2 + ["blue"] * 2
    numbered = np.repeat(np.arange(4), 2).astype(np.uint8)
    assert name_clusters(numbered, 4, same) == ["red", "green", "red (2)", "blue"]
    assert unnamed_clusters(names) == 0 and unnamed_clusters(["cluster 1", "cluster, law", "cluster 3"]) == 2


@pytest.mark.slow
def test_umap_keeps_groups_together_and_is_the_same_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("umap", reason="umap-learn is not installed")
    vectors, of = groups(3, 12)
    # of more than the sample, the others are put among it
    monkeypatch.setattr(projection, "UMAP_SAMPLE", 24)
    placed = lay_out(vectors)
    assert placed.tobytes() == lay_out(vectors).tobytes()
    away = np.linalg.norm(placed[:, None] - placed[None], axis=2)
    np.fill_diagonal(away, np.inf)
    assert np.mean(of[away.argmin(axis=1)] == of) > 0.9


def test_a_layout_is_kept_clusters_first_and_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clustered(tmp_path / "hub", groups=2, each=4)
    with Hub.open(tmp_path / "hub") as hub:
        points = read_points(hub, 1)
        texts = texts_of(hub, points, range(8))
    path = layout_file(tmp_path, points)
    assert kept_layout(path, 8) is None
    seen = []

    def progress(what: str, done: int, total: int) -> None:
        kept = kept_layout(path, 8)
        seen.append((what, kept is not None and kept.pending))

    made = made_layout(path, points, lambda: texts, progress)
    assert ("laying out by UMAP", True) in seen, "clusters were there before UMAP was begun"
    assert made.umap is None and made.note.startswith("8 models are too few for UMAP, which needs 12")
    assert sorted(made.clusters) == ["code, python", "contracts, legal"] or len(made.clusters) == 2
    kept = kept_layout(path, 8)
    assert kept is not None and not kept.pending and kept.clusters == made.clusters
    assert kept_layout(path, 9) is None, "of another number of models"
    monkeypatch.setattr("merge_advisor.explore.layouts.find_groups", lambda *_: pytest.fail("made again"))
    made_layout(path, points, lambda: texts, quiet_progress)
    path.write_bytes(path.read_bytes()[:50])
    assert kept_layout(path, 8) is None, "a damaged file is as none"
    keep_layout(path, made)
    assert kept_layout(path, 8) is not None
