"""What a plan measures: deltas, the LoRA of the shots, losses of merges, first-order gains. Everything is stored.

Costs are nominal: forward passes over one row, a backward pass counted as two, whatever the store already held.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from merge_advisor import registry
from merge_advisor.advisor.measuring.session import Session, weights_key
from merge_advisor.compose.layers import compose_layers
from merge_advisor.errors import BaseModelError, InputError, TaskError
from merge_advisor.scores import ModelScore
from merge_advisor.types import (
    SHOTS_LORA,
    STRICT,
    Candidate,
    ChooseBy,
    Deltas,
    LossKind,
    RefusedModel,
    Row,
    Space,
    digest_of,
    from_json,
    to_json,
)
from merge_advisor.weights.adapter import read_adapter, write_adapter
from merge_advisor.weights.naming import count_blocks
from merge_advisor.weights.updates import WeightDelta, along, digest_of_delta
from merge_advisor.whole_files import write_text

if TYPE_CHECKING:
    from merge_advisor.arrays import Float32Array
    from merge_advisor.compose import MergeRule
    from merge_advisor.embeddings import Embedding
    from merge_advisor.options import FinetuneSettings

Model = tuple[str, list[object], Callable[[], WeightDelta]]
"""Label, what it is for a store key, and its weight delta when needed."""
_LOSS_KEYS: dict[LossKind, list[object]] = {"loss": ["losses"], "choices": ["choice losses", 1]}
_GAIN_KEYS: dict[LossKind, list[object]] = {"loss": ["gain"], "choices": ["choice gain", 1]}
OVERFLOWED = 1e9
"""Stands for a loss that is no number (weights far too large): finite, so that the order stays, and the worst."""


def loss_kind_of(rows: Sequence[Row], by: ChooseBy = "auto") -> LossKind:
    """Return the loss that choosing on these rows makes small.

    Raises:
        TaskError: the choices are asked for, and a row has none.
    """
    measured: LossKind = "choices" if rows and all(row.choices for row in rows) else "loss"
    if by == "choices" and measured != by:
        lacking = next((f"row {row.digest[:8]}" for row in rows if not row.choices), "a task without rows")
        raise TaskError(f"{lacking} has no choices to choose by; give every row choices, or choose by the loss")
    return measured if by == "auto" else by


def embedding_space(session: Session, spec: str) -> tuple[Embedding, Space]:
    """Return the embedding a spec names and the space its deltas live in.

    Raises:
        SpecError: unknown name or parameter.
        BaseModelError: not defined for this kind of base.
    """
    embedding: Embedding = registry.build("embedding", spec)
    refusal = embedding.refusal(session.encoder_decoder)
    if refusal:
        raise BaseModelError(f"embedding '{spec}': {refusal}")
    space = Space(
        base=session.local.base.digest,
        embedding=spec,
        probes=digest_of(embedding.probes()),
        layer=embedding.layer,
        pooling=embedding.pooling,
        dtype=session.machine.dtype,
        dim=embedding.dim(session.local.config),
    )
    return embedding, space


def take_deltas(
    session: Session, spec: str, candidates: Sequence[Candidate]
) -> tuple[Deltas, list[Candidate], list[RefusedModel]]:
    """Return the deltas of candidates, computing only those the store lacks; each is stored as soon as it is there.

    Returns:
        The deltas, the candidates they belong to in the same order, and those that could not be embedded.

    Raises:
        SpecError: unknown embedding.
        BaseModelError: an embedding that is not defined for this base.
    """
    embedding, space = embedding_space(session, spec)
    found = {c.fingerprint: session.store.delta(space, c.fingerprint) for c in candidates}
    missing = [c for c in candidates if found[c.fingerprint] is None]
    session.hits += len(candidates) - len(missing)
    session.misses += len(missing)
    refused = []
    if missing:
        from merge_advisor.advisor.measuring.embedding import compute_deltas

        for candidate, delta in compute_deltas(session, embedding, space, missing):
            if isinstance(delta, RefusedModel):
                refused.append(delta)
            else:
                session.store.keep_delta(space, candidate.fingerprint, delta)
                found[candidate.fingerprint] = delta
    kept = [c for c in candidates if found[c.fingerprint] is not None]
    rows = [row for c in kept if (row := found[c.fingerprint]) is not None]
    array = np.stack(rows) if rows else np.empty((0, space.dim), np.float32)
    return Deltas(space, tuple(c.id for c in kept), array), kept, refused


@dataclass(frozen=True, slots=True)
class FinetuneRecord:
    """How the LoRA of the shots was trained."""

    __pydantic_config__ = STRICT

    steps: int
    """Optimiser steps behind it."""
    taken: int
    """Optimiser steps taken; those after `steps` made the loss on the watched rows worse."""
    watched: tuple[float, ...]
    """Mean loss on the watched rows at each check, nats per token."""
    forwards: int
    """Cost in forward passes over one row."""


def lora_of_shots(
    session: Session,
    rows: Sequence[Row],
    targets: Sequence[str],
    settings: FinetuneSettings,
    seed: int,
    *,
    watch: Sequence[Row] = (),
) -> tuple[Candidate, FinetuneRecord]:
    """Finetune a LoRA on the shots, or find it in the cache; the candidate it returns is `shots_lora`.

    Args:
        session: base and store.
        rows: the shots of all tasks.
        targets: parameter names it changes.
        settings: rank, rate and length.
        seed: initial weights and order of rows.
        watch: rows that tell when to stop; none of the shots.
    """
    parts = [[row.digest for row in part] for part in (rows, watch)]
    key = digest_of([session.key, "lora", 2, parts, sorted(targets), settings_plain(settings), seed])
    folder = session.cache / "shots" / key / SHOTS_LORA
    notes = folder.parent / "training.json"
    if not (folder / "adapter_config.json").is_file():
        from merge_advisor.backbone.finetune import finetune_lora

        session.misses += 1
        encoded, watched = (session.encode(part, settings.max_length, cut=True) for part in (rows, watch))

        def progress(done: int, total: int) -> None:
            session.progress("finetuning on the shots", done, total)

        found = finetune_lora(session.backbone, encoded, targets, settings, seed=seed, watch=watched, progress=progress)
        trained = 3 * found.taken * min(settings.batch_size, len(rows))
        forwards = trained + len(found.watched) * len(watch)
        kind = "SEQ_2_SEQ_LM" if session.encoder_decoder else "CAUSAL_LM"
        if folder.exists():  # a folder without its configuration: cut short by a full disk or a kill
            shutil.rmtree(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        write_text(notes, to_json(FinetuneRecord(found.steps, found.taken, found.watched, forwards)))
        write_adapter(
            folder,
            found.delta,
            base_name=session.local.base.id,
            task_type=kind,
            dtype="float32",
            base_shapes=session.local.shapes,
            prefix=session.local.prefix,
        )
    else:
        session.hits += 1
    training = from_json(FinetuneRecord, notes.read_text(encoding="utf-8"), str(notes))
    return shots_candidate(folder, read_adapter(folder, session.local.shapes), settings.rank), training


def shots_candidate(folder: Path, delta: WeightDelta, rank: int) -> Candidate:
    """Describe a `shots_lora` folder as a candidate."""
    modules = sorted({name.removesuffix(".weight").rpartition(".")[2] for name in delta})
    return Candidate(
        id=SHOTS_LORA,
        kind="adapter",
        path=str(folder),
        fingerprint=digest_of_delta(delta),
        source=SHOTS_LORA,
        rank=rank,
        modules=tuple(modules),
        description="LoRA finetuned on the shots",
    )


def settings_plain(settings: FinetuneSettings) -> dict[str, Any]:
    """The settings as JSON values."""
    return {name: getattr(settings, name) for name in type(settings).__slots__}


def target_parameters(session: Session, candidates: Sequence[Candidate]) -> list[str]:
    """Parameters the LoRA of the shots changes: those the pool's adapters change, else the attention's q and v.

    Raises:
        InputError: the base has none of them.
    """
    kinds = {kind for c in candidates if c.kind == "adapter" for kind in c.modules} or {"q_proj", "v_proj", "q", "v"}
    found = [
        name
        for name, shape in session.local.shapes.items()
        if len(shape) == 2 and name.endswith(".weight") and name.removesuffix(".weight").rpartition(".")[2] in kinds
    ]
    if not found:
        raise InputError(
            f"the base has no modules named {', '.join(sorted(kinds))}; no LoRA can be trained on the shots"
        )
    return sorted(found)


def losses_of(
    session: Session,
    rows: Sequence[Row],
    members: Mapping[str, tuple[Candidate, float]],
    *,
    composition: str = "exact",
    measure: LossKind = "loss",
) -> list[float]:
    """Loss of each row under a merge: nats per token, the end token included, or nats over the row's choices.

    Args:
        session: base and store.
        rows: what to measure on.
        members: by id, the candidate and its weight; empty, or all weights zero, is the base.
        composition: spec of the composition.
        measure: "loss", or "choices" where every row has them.
    """
    active = {name: pair for name, pair in members.items() if pair[1] != 0}
    key = weights_key(((c.fingerprint, weight) for c, weight in active.values()), composition)

    def measured() -> list[float]:
        from merge_advisor.backbone.choice_loss import choice_losses
        from merge_advisor.backbone.losses import row_losses
        from merge_advisor.backbone.place import placed

        with placed(session.backbone, merged_weights(session, active, composition)):
            if measure == "choices":
                return finite_or_worst(choice_losses(session.backbone, session.encode_choices(rows)))
            return finite_or_worst(row_losses(session.backbone, session.encode(rows)))

    found = session.remember([*_LOSS_KEYS[measure], [row.digest for row in rows], *key], measured)
    return [float(value) for value in found]  # type: ignore[attr-defined]


def merged_weights(
    session: Session, members: Mapping[str, tuple[Candidate, float]], composition: str = "exact"
) -> WeightDelta:
    """Return the weight delta of a merge given by id; that of no members is empty."""
    candidates = [candidate for candidate, _ in members.values()]
    return composed(session, candidates, [weight for _, weight in members.values()], composition, again=True)


def composed(
    session: Session,
    candidates: Sequence[Candidate],
    weights: Sequence[float],
    composition: str,
    layers: Sequence[float] = (),
    *,
    again: bool = False,
) -> WeightDelta:
    """Return the weight delta of candidates under a composition, weights by layer group included.

    With `again` what merging the same members once more can go without is kept in memory (masks; the result is alike).

    Raises:
        SpecError: the composition cannot take these members.
    """
    members = [session.weights(candidate) for candidate in candidates]
    rule: MergeRule = session.composition(composition) if again else registry.build("composition", composition)
    return compose_layers(rule, members, weights, layers, count_blocks(session.local.shapes))


def finite_or_worst(losses: Sequence[float]) -> list[float]:
    """The losses, those that are no number replaced: a store holds JSON."""
    return [float(loss) if np.isfinite(loss) else OVERFLOWED for loss in losses]


def scored(
    session: Session,
    models: Sequence[Model],
    key: Sequence[object],
    score: Callable[[str], ModelScore],
    what: str,
) -> list[ModelScore]:
    """Score models one after the other; one that is stored under `key` and what it is made of is not run again.

    Args:
        session: base and store.
        models: what to score.
        key: all that a score depends on beside the model.
        score: scores what is placed on the base, by its label.
        what: for the progress.
    """
    from merge_advisor.backbone.place import placed

    found = []
    for number, (label, made_of, delta) in enumerate(models):
        session.progress(what, number, len(models))

        def measure(label: str = label, delta: Callable[[], WeightDelta] = delta) -> str:
            with placed(session.backbone, delta()):
                return to_json(score(label))

        text = cast("str", session.remember([*key, *made_of], measure))
        found.append(replace(from_json(ModelScore, text, "store"), label=label))
    session.progress(what, len(models), len(models))
    return found


def gains_of(
    session: Session,
    rows: Sequence[Row],
    candidates: Sequence[Candidate],
    merge: Mapping[str, tuple[Candidate, float]] | None = None,
    *,
    measure: LossKind = "loss",
) -> Float32Array:
    """First-order drop of the mean loss on `rows` when a candidate is added at weight 1: -⟨∂L/∂W, ΔW⟩.

    One backward pass over the rows gives ∂L/∂W at the base, or at the `exact` merge given by id; each candidate then
    costs a few small products. `measure` as in `losses_of`.

    Returns:
        (n,) float32, positive is better.
    """
    where = weights_key((c.fingerprint, weight) for c, weight in (merge or {}).values())
    digests = [*_GAIN_KEYS[measure], [row.digest for row in rows]]
    keys = [digest_of([session.key, *digests, c.fingerprint, where]) for c in candidates]
    found = [session.store.measured(key) for key in keys]
    missing = [index for index, value in enumerate(found) if value is None]
    session.hits += len(found) - len(missing)
    if missing:
        from merge_advisor.backbone.choice_loss import choice_loss_and_gradient
        from merge_advisor.backbone.gradients import loss_and_gradient
        from merge_advisor.backbone.place import placed

        session.misses += len(missing)
        deltas = {index: session.weights(candidates[index]) for index in missing}
        names = sorted({name for delta in deltas.values() for name in delta})
        session.progress("gradient of the shot loss", 0, 1)
        with placed(session.backbone, merged_weights(session, merge or {})):
            if measure == "choices":
                _, gradient = choice_loss_and_gradient(session.backbone, session.encode_choices(rows), names)
            else:
                gradient = loss_and_gradient(session.backbone, session.encode(rows), names)[1]
        session.progress("gradient of the shot loss", 1, 1)
        for index, delta in deltas.items():
            found[index] = -sum(along(delta[name], gradient[name]) for name in delta)
            session.store.keep_measured(keys[index], found[index])
    return np.asarray(found, dtype=np.float32)
