"""Clusters of models by their deltas, how well apart they are, and names for them from the models' cards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from merge_advisor.explore.projection import SEED, sample_of
from merge_advisor.select.text import words_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from merge_advisor.arrays import FloatingArray

MOST_CLUSTERS = 24
_TRIED = (2, 3, 4, 5, 6, 8, 10, 12, 16, 20, MOST_CLUSTERS)
_FIT_ON = 20_000
_JUDGED_ON = 3_000
_WORDS = 3
_OF_EVERY_CARD = frozenset("adapter lora model models base license trained training finetuned finetune dataset".split())


@dataclass(frozen=True, slots=True, eq=False)
class Clusters:
    """Which cluster each model is in.

    >>> found = find_clusters(np.eye(2, dtype=np.float32)[[0, 0, 0, 1, 1, 1]])
    >>> found.count, round(found.silhouette, 3)
    (2, 1.0)
    """

    of: NDArray[np.uint8]
    """(n,), the largest cluster is 0."""
    count: int
    silhouette: float | None
    """-1 to 1, by cosine, of a sample: above 0.5 they are well apart, near 0 they are not; None of one cluster."""


def find_clusters(vectors: FloatingArray) -> Clusters:
    """Return the clustering, of k-means with some numbers of clusters, whose silhouette is best; the same each time.

    Args:
        vectors: (n, d) of length 1.
    """
    from sklearn.cluster import KMeans, MiniBatchKMeans
    from sklearn.metrics import silhouette_score

    count = len(vectors)
    alone = Clusters(np.zeros(count, np.uint8), min(count, 1), None)
    fit_on = vectors[sample_of(count, _FIT_ON)].astype(np.float32)
    different = len(np.unique(fit_on, axis=0)) if count <= _JUDGED_ON else count
    judged = fit_on[sample_of(len(fit_on), _JUDGED_ON)]
    best, found = -2.0, None
    for number in (k for k in _TRIED if k < min(count, different + 1)):
        kind = KMeans if len(fit_on) <= _JUDGED_ON else MiniBatchKMeans
        model = kind(n_clusters=number, random_state=SEED, n_init=3).fit(fit_on)
        labels = model.predict(judged)
        if not 1 < len(set(labels.tolist())) < len(judged):
            continue
        value = float(silhouette_score(judged, labels, metric="cosine"))
        if value > best + 0.005:  # more clusters only where they are better apart
            best, found = value, model
    if found is None:
        return alone
    labels = np.concatenate([
        found.predict(vectors[start : start + _FIT_ON].astype(np.float32)) for start in range(0, count, _FIT_ON)
    ])  # fmt: skip
    sizes = np.bincount(labels, minlength=found.n_clusters)
    order = np.argsort(-sizes, kind="stable")
    place = np.empty(len(order), np.uint8)
    place[order] = np.arange(len(order))
    return Clusters(place[labels], int((sizes > 0).sum()), round(best, 4))


def name_clusters(of: NDArray[np.uint8], count: int, texts: Sequence[str]) -> list[str]:
    """Return a name for each cluster: the words that its models' names and cards have more than the others' (c-TF-IDF).

    A word that most models of most clusters have, as the pool's own name, names none of them; a cluster that no word
    tells from the others is called by its number.

    >>> name_clusters(np.array([0, 0, 1], np.uint8), 2, ["legal contracts", "legal law", "python code"])
    ['legal, contracts, law', 'code, python']

    Args:
        of: (n,), the cluster of each model.
        count: how many clusters there are.
        texts: (n,), name and card of each model; empty ones say nothing.
    """
    from scipy.sparse import csr_array
    from sklearn.feature_extraction.text import CountVectorizer

    stop = sorted(_stop_words() | _OF_EVERY_CARD)
    counter = CountVectorizer(token_pattern=r"[^\W\d_]{3,}", stop_words=stop, max_features=20_000)
    try:
        by_model = csr_array(counter.fit_transform(words_of(text) for text in texts))
    except ValueError:  # no words at all
        return [f"cluster {number + 1}" for number in range(count)]
    words = counter.get_feature_names_out()
    in_cluster = csr_array((np.ones(len(of)), (of, np.arange(len(of)))), shape=(count, len(of)))
    counts = (in_cluster @ by_model).toarray()
    having = (in_cluster @ (by_model > 0)).toarray()
    speaking = in_cluster @ (by_model.sum(axis=1) > 0).astype(np.float64).reshape(-1, 1)
    usual = (having > speaking / 2).sum(axis=0) > max(1, count / 2)
    totals = counts.sum(axis=1, keepdims=True)
    share = counts / np.where(totals > 0, totals, 1)
    weight = share * np.log(1 + totals.mean() / counts.sum(axis=0))
    names: list[str] = []
    for number, row in enumerate(np.where(usual, 0.0, weight)):
        best = sorted(np.flatnonzero(row > 0).tolist(), key=lambda place: (-row[place], words[place]))
        name = ", ".join(_unlike([str(words[place]) for place in best[:20]])) or f"cluster {number + 1}"
        same = sum(other == name or other.startswith(f"{name} (") for other in names)
        names.append(f"{name} ({same + 1})" if same else name)  # a name stands for one cluster
    return names


def unnamed_clusters(names: Sequence[str]) -> int:
    """Return how many clusters only have a number, because no words tell their models from the others.

    >>> unnamed_clusters(["law", "cluster 2"])
    1

    Args:
        names: as `name_clusters` gives them, which puts no figure into a name made of words.
    """
    return sum(name == f"cluster {number + 1}" for number, name in enumerate(names))


def _unlike(words: Sequence[str]) -> list[str]:
    """The first words that are no other form of one before them, as a plural is."""
    found: list[str] = []
    for word in words:
        if not any(abs(len(word) - len(one)) < 3 and (word.startswith(one) or one.startswith(word)) for one in found):
            found.append(word)
    return [word[:24] for word in found[:_WORDS]]


def _stop_words() -> frozenset[str]:
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    return frozenset(ENGLISH_STOP_WORDS)
