"""Deltas of candidates: found in the store, or computed one by one, or many in one forward on a GPU."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from merge_advisor import registry
from merge_advisor.advisor.measuring.common_disk import absolute_candidate, check_candidates_seen
from merge_advisor.backbone.devices import dtype_of_weights
from merge_advisor.errors import BaseModelError, PoolError
from merge_advisor.json_form import digest_of
from merge_advisor.spaces import Deltas, Space
from merge_advisor.types import Candidate, RefusedModel
from merge_advisor.weights.updates import is_low_rank

if TYPE_CHECKING:
    from merge_advisor.advisor.measuring.meter import MergeMeter
    from merge_advisor.advisor.measuring.prompted_model import PromptedModel
    from merge_advisor.arrays import Float32Array
    from merge_advisor.embeddings import Embedding

TOGETHER = 16
"""Adapters in one forward on a GPU; on a CPU the time goes into the products themselves and nothing is gained."""
_GROUP = 16
"""Candidates that a worker is given at a time: few enough that all workers end at about the same time, enough that
handing them over costs nothing beside."""
BASE_FEATURES = "base"
"""Name under which a space keeps the base's own features: no fingerprint is like it."""


@dataclass(frozen=True, slots=True, eq=False)
class EmbeddedCandidates:
    """Candidates with their deltas, and those that could not be embedded.

    >>> from merge_advisor.advisor.measuring.session import open_session
    >>> with open_session("base", "adapters") as session:
    ...     embedded = take_deltas(session.meter, "delta_activations", session.pool.candidates[:2])
    >>> embedded.deltas.ids, embedded.deltas.array.shape, embedded.refused
    (('a0', 'a1'), (2, 32), ())
    """

    deltas: Deltas
    candidates: tuple[Candidate, ...]
    """n candidates, in the order of the deltas."""
    refused: tuple[RefusedModel, ...] = ()


@dataclass(frozen=True, slots=True)
class EmbeddingWork:
    """Candidates that a worker embeds (`crew.Measurement`).

    >>> EmbeddingWork("delta_activations", (Candidate("a0", "adapter", "adapters/a0", "f"),)).name
    'a0'
    """

    spec: str
    candidates: tuple[Candidate, ...]

    @property
    def name(self) -> str:
        """The first candidate, and how many others there are."""
        first, others = self.candidates[0].id, len(self.candidates) - 1
        return f"{first} and {others} more" if others else first

    def measure(self, meter: MergeMeter) -> tuple[RefusedModel, ...]:
        """Return those that cannot be embedded; the deltas of the others are kept.

        Args:
            meter: of the worker.
        """
        check_candidates_seen(self.candidates)
        return take_deltas(meter, self.spec, self.candidates).refused


def embedding_space(model: PromptedModel, spec: str) -> tuple[Embedding, Space]:
    """Return the embedding a spec names and the space its deltas live in.

    Args:
        model: the base.
        spec: name and parameters of the embedding.

    Raises:
        SpecError: unknown name or parameter.
        BaseModelError: not defined for this kind of base.
    """
    embedding: Embedding = registry.build("embedding", spec)
    refusal = embedding.refusal(model.encoder_decoder)
    if refusal:
        raise BaseModelError(f"embedding '{spec}': {refusal}")
    space = Space(
        base=model.local.base.digest,
        embedding=spec,
        probes=digest_of(embedding.probes()),
        layer=embedding.layer,
        pooling=embedding.pooling,
        dtype=dtype_of_weights(model.machine.dtype),
        dim=embedding.dim(model.local.config),
    )
    return embedding, space


def take_deltas(
    meter: MergeMeter, spec: str, candidates: Sequence[Candidate], already: int = 0, total: int | None = None
) -> EmbeddedCandidates:
    """Return the deltas of candidates, computing only those the store lacks; each is stored as soon as it is there.

    Args:
        meter: base, weights and store.
        spec: name and parameters of the embedding.
        candidates: n candidates.
        already: how many are done, of those that these belong to; the progress goes on from there.
        total: how many they are in all; None: these alone.

    Raises:
        SpecError: unknown embedding.
        BaseModelError: an embedding that is not defined for this base.
    """
    embedding, space = embedding_space(meter.model, spec)
    store = meter.memo.store
    rows = {c.fingerprint: store.delta(space, c.fingerprint) for c in candidates}
    missing = [c for c in candidates if rows[c.fingerprint] is None]
    meter.memo.hits += len(candidates) - len(missing)
    meter.memo.misses += len(missing)
    refused: list[RefusedModel] = []
    if missing and meter.crew is not None:
        groups = [missing[at : at + _GROUP] for at in range(0, len(missing), _GROUP)]
        wanted = [EmbeddingWork(spec, tuple(map(absolute_candidate, group))) for group in groups]
        for found in meter.crew.measure(wanted, f"embedding the pool, {_GROUP} at a time", meter.model.progress):
            refused += found
        rows |= {c.fingerprint: store.delta(space, c.fingerprint) for c in missing}
    elif missing:
        already += len(candidates) - len(missing)
        total = already + len(missing) if total is None else total
        for done, (candidate, delta) in enumerate(compute_deltas(meter, embedding, space, missing), already + 1):
            meter.model.progress("embedding the pool", done, total)
            if isinstance(delta, RefusedModel):
                refused.append(delta)
            else:
                # one by one and at once: a run that is killed here goes on where it was
                store.keep_delta(space, candidate.fingerprint, delta)
                rows[candidate.fingerprint] = delta
    embedded = tuple(c for c in candidates if rows[c.fingerprint] is not None)
    stacked = [row for c in embedded if (row := rows[c.fingerprint]) is not None]
    array = np.stack(stacked) if stacked else np.empty((0, space.dim), np.float32)
    return EmbeddedCandidates(Deltas(space, tuple(c.id for c in embedded), array), embedded, tuple(refused))


def base_features(meter: MergeMeter, embedding: Embedding, space: Space) -> Float32Array:
    """Return the base's own features, (d,) float32: what the features of a model are compared with.

    Args:
        meter: base and store.
        embedding: gives the features.
        space: where they are stored.
    """
    features = meter.memo.store.delta(space, BASE_FEATURES)
    if features is None:
        features = embedding.features(meter.model.backbone)
        meter.memo.store.keep_delta(space, BASE_FEATURES, features)
    return features


def compute_deltas(
    meter: MergeMeter, embedding: Embedding, space: Space, candidates: Sequence[Candidate]
) -> Iterator[tuple[Candidate, Float32Array | RefusedModel]]:
    """Yield each candidate with its (d,) delta as soon as it is there, or with the reason why it has none.

    Args:
        meter: base and weights.
        embedding: gives the features.
        space: of the deltas.
        candidates: n candidates.
    """
    backbone = meter.model.backbone
    base = base_features(meter, embedding, space)
    size = TOGETHER if backbone.device.type == "cuda" and hasattr(embedding, "features_together") else 1
    for group in _groups(meter, candidates, size):
        for candidate, row in zip(group, _features(meter, embedding, group), strict=True):
            if isinstance(row, str):
                yield candidate, RefusedModel(candidate.id, row)
            elif not np.isfinite(row).all():  # one such delta would make every mean and cosine NaN
                yield candidate, RefusedModel(candidate.id, "its hidden states are not finite; its weights are broken")
            else:
                # unnormalised: lengths matter to `additive`, and who compares takes cosines
                yield candidate, np.asarray(row - base, dtype=np.float32)


def _features(meter: MergeMeter, embedding: Embedding, group: Sequence[Candidate]) -> Sequence[Float32Array | str]:
    """Features of each candidate of a group, or the reason why a lone one has none."""
    from merge_advisor.backbone.place import placed_together

    backbone = meter.model.backbone
    if len(group) > 1:
        # the factors of all run beside the base weight, each for its own copy of the probes
        with placed_together(backbone, [meter.weights.of(c) for c in group]):
            together: Float32Array = embedding.features_together(backbone, len(group))  # type: ignore[attr-defined]
        return list(together)
    try:
        return [meter.placed(meter.weights.passing(group[0]), lambda: embedding.features(backbone))]
    except PoolError as error:
        return [str(error)]


def _runs_beside(meter: MergeMeter, candidate: Candidate) -> bool:
    delta = meter.weights.of(candidate)
    return is_low_rank(delta) and all(meter.model.backbone.module(name) is not None for name in delta)


def _groups(meter: MergeMeter, candidates: Sequence[Candidate], size: int) -> Iterator[list[Candidate]]:
    """Adapters in groups of `size`; a checkpoint always alone, and what changes a part of a weight in memory."""
    group: list[Candidate] = []
    for candidate in candidates:
        # checkpoints replace whole weights, so two of them cannot be on the base at once
        if size == 1 or not _runs_beside(meter, candidate):
            yield [candidate]
            continue
        group.append(candidate)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


def cosine(deltas: Float32Array, task: Float32Array) -> Float32Array:
    """Return the cosine of each row with a vector; 0 where either is zero.

    Args:
        deltas: (n, d) float32.
        task: (d,) float32.

    Returns:
        (n,) float32.
    """
    scale = np.linalg.norm(deltas, axis=1) * np.linalg.norm(task)
    cosines = np.zeros(len(deltas), np.float32)
    np.divide(deltas @ task, scale, out=cosines, where=scale > 0)
    return cosines
