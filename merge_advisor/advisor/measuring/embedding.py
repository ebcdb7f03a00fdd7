"""Computing deltas: candidates on the base one by one, or many in one forward on a GPU."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from merge_advisor.backbone.place import placed, placed_together
from merge_advisor.errors import PoolError
from merge_advisor.types import RefusedModel
from merge_advisor.weights.updates import is_low_rank

if TYPE_CHECKING:
    from merge_advisor.advisor.measuring.session import Session
    from merge_advisor.arrays import Float32Array
    from merge_advisor.embeddings import Embedding
    from merge_advisor.types import Candidate, Space

TOGETHER = 16
"""Adapters in one forward on a GPU; on a CPU the time goes into the products themselves and nothing is gained."""


def compute_deltas(
    session: Session, embedding: Embedding, space: Space, candidates: Sequence[Candidate]
) -> Iterator[tuple[Candidate, Float32Array | RefusedModel]]:
    """Yield each candidate with its (d,) delta as soon as it is there, or with the reason why it has none."""
    backbone = session.backbone
    base = session.store.delta(space, "base")  # the base's own features, kept under a name no fingerprint has
    if base is None:
        base = embedding.features(backbone)
        session.store.keep_delta(space, "base", base)
    size = TOGETHER if backbone.device.type == "cuda" and hasattr(embedding, "features_together") else 1
    done = 0
    for group in _groups(session, candidates, size):
        for candidate, row in zip(group, _features(session, embedding, group), strict=True):
            done += 1
            session.progress("embedding the pool", done, len(candidates))
            if isinstance(row, str):
                yield candidate, RefusedModel(candidate.id, row)
            elif not np.isfinite(row).all():
                yield candidate, RefusedModel(candidate.id, "its hidden states are not finite; its weights are broken")
            else:
                yield candidate, np.asarray(row - base, dtype=np.float32)


def _features(session: Session, embedding: Embedding, group: Sequence[Candidate]) -> Sequence[Float32Array | str]:
    """Features of each candidate of a group, or the reason why a lone one has none."""
    backbone = session.backbone
    if len(group) > 1:
        with placed_together(backbone, [session.weights(c) for c in group]):
            together: Float32Array = embedding.features_together(backbone, len(group))  # type: ignore[attr-defined]
        return list(together)
    try:
        with placed(backbone, session.weights(group[0])):
            return [embedding.features(backbone)]
    except PoolError as error:
        return [str(error)]


def _groups(session: Session, candidates: Sequence[Candidate], size: int) -> Iterator[list[Candidate]]:
    """Adapters in groups of `size`; a checkpoint always alone."""
    group: list[Candidate] = []
    for candidate in candidates:
        if size == 1 or not is_low_rank(session.weights(candidate)):
            yield [candidate]
            continue
        group.append(candidate)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group
