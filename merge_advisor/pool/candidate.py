"""One model of a pool: opened, checked against the base, described."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from merge_advisor.errors import PoolError
from merge_advisor.plain_text import short_name
from merge_advisor.pool.layouts import MLX_WEIGHTS, SHARD_INDEX, foreign_adapter
from merge_advisor.pool.licences import Card, read_card
from merge_advisor.pool.merged_by_peft import PeftMerges, peft_fingerprint
from merge_advisor.pool.sources import FoundModel, check_id
from merge_advisor.regular_files import is_irregular
from merge_advisor.types import Candidate
from merge_advisor.weights import adapter, checkpoint, hub
from merge_advisor.weights.adapter_config import (
    ADAPTER_CONFIG,
    AdapterConfig,
    NotPlainLoraError,
    read_adapter_config,
)
from merge_advisor.weights.base import HUB_PATTERNS, LocalBase
from merge_advisor.weights.files import Hashes, read_json
from merge_advisor.weights.same_computation import check_same_computation
from merge_advisor.weights.saved_copies import check_copies
from merge_advisor.weights.tensorfile import TensorInfo


class _Plain(NamedTuple):
    """A plain LoRA, read and placed on the base."""

    settings: AdapterConfig
    header: dict[str, TensorInfo]
    placed: dict[str, adapter.LoraFactors]


ADAPTER_FILES = (
    "README.md", "config.json", ADAPTER_CONFIG, adapter.ADAPTER_WEIGHTS, SHARD_INDEX, "adapter_model-*.safetensors",
    MLX_WEIGHTS,
)  # fmt: skip
"""What is fetched of an adapter, as globs."""
_QUANTISED_NAME = re.compile(
    r"(?:[-_.](?:unsloth|dynamic|bnb|nf4|fp4|[248]-?bits?|int[48]|gptq|awq|fp8(?:-dynamic)?|w4a16|w8a8|w8a16|mxfp4|g128|128g"
    r"|quantized[._-]w\d+a\d+))+$"
)
"""What the names of quantised copies end with."""
CHECKPOINT_FILES = ("README.md", *HUB_PATTERNS)
"""What is fetched of a checkpoint, as globs."""


def fetch_model(model: FoundModel, *, offline: bool) -> hub.Snapshot:
    """Return where a model's files are, fetched from the hub if it is one of there.

    Args:
        model: the model.
        offline: never fetch.

    Returns:
        The folder, and the commit; that is "" for a model in a folder.

    Raises:
        OfflineError: not in the hub's cache and fetching is off.
        InputError: no such model or revision, or one that `find_models` refuses.
        ExternalError: the hub cannot be reached.
    """
    if model.refusal:
        raise PoolError(model.refusal)
    if model.hub is None:
        return hub.Snapshot((model.folder or Path()).absolute(), "")
    # first what an adapter has: a checkpoint's weights are large, and fetched only where it turns out to be one
    snapshot = hub.fetch_snapshot(model.hub, ADAPTER_FILES, offline=offline)
    if not (snapshot.path / ADAPTER_CONFIG).exists():
        pinned = hub.HubId(model.hub.repo, snapshot.revision)
        snapshot = hub.fetch_snapshot(pinned, CHECKPOINT_FILES, offline=offline)
    return snapshot


def examine_candidate(
    model: FoundModel, place: hub.Snapshot, base: LocalBase, hashes: Hashes, merges: PeftMerges | None = None
) -> Candidate:
    """Return a model as a candidate, checked against the base by names, shapes and values.

    Args:
        model: the model.
        place: where its files are, from `fetch_model`.
        base: the base.
        hashes: a memo of file hashes and of what reading the weights showed.
        merges: adapters that PEFT merged; None: those that need it are refused.

    Raises:
        PoolError: it cannot be used; the message does not repeat the id.
    """
    check_id(model.id)
    folder = place.path
    if not folder.is_dir():
        raise PoolError(f"{short_name(folder.name)}: no such folder; correct its path in the manifest")
    card = read_card(folder)
    if (folder / ADAPTER_CONFIG).exists():
        try:
            return _adapter(model, place, base, hashes, card)
        except NotPlainLoraError:
            if merges is None or merges.cache is None:
                raise
        return _merged(model, place, base, merges, card)
    if (folder / "config.json").exists():
        return _checkpoint(model, place, base, hashes, card)
    if (folder / "recipe.json").exists():
        raise PoolError("is a run whose merge has no adapter/; write it by `merge(run, out)` and list that folder")
    if irregular := sorted(path.name for path in folder.glob("*.safetensors") if is_irregular(path)):
        raise PoolError(f"{short_name(irregular[0])}: is no regular file; remove it")
    raise PoolError(
        foreign_adapter(folder)
        or "has neither adapter_config.json nor config.json; restore it, or save the model again"
    )


def _adapter(model: FoundModel, place: hub.Snapshot, base: LocalBase, hashes: Hashes, card: Card) -> Candidate:
    if model.hub is not None and not (place.path / adapter.ADAPTER_WEIGHTS).exists():
        read_adapter_config(place.path)
        raise PoolError(
            f"the hub has no {adapter.ADAPTER_WEIGHTS} of it; where it has {adapter.ADAPTER_PICKLE}, rewrite that "
            "by `convert(source, out=DIR)`"
        )
    settings, header, placed = _read_plain(place.path, base, hashes)
    adapter.check_values(place.path, header, hashes)
    scales = {part.module: part.scale for part in placed.values()}
    return Candidate(
        id=model.id,
        kind="adapter",
        path=str(place.path),
        fingerprint=adapter.adapter_fingerprint(place.path, scales, hashes),
        source=_source(model, place),
        revision=place.revision or None,
        rank=max(part.rank for part in placed.values()),
        modules=_kinds(part.module for part in placed.values()),
        licence=card.licence,
        description=model.description or card.text,
        notes=(*_notes(model, card.note), *settings.notes, *_base_note(settings.base_name, base)),
    )


def _read_plain(folder: Path, base: LocalBase, hashes: Hashes) -> _Plain:
    settings = read_adapter_config(folder)
    header = adapter.read_weights_header(folder)
    placed = adapter.map_factors(settings, header, base.shapes)
    check_copies(folder / adapter.ADAPTER_WEIGHTS, header, base.path, base.base.digest, hashes)
    return _Plain(settings, header, placed)


def _merged(model: FoundModel, place: hub.Snapshot, base: LocalBase, merges: PeftMerges, card: Card) -> Candidate:
    """An adapter as the weight delta that PEFT made of it: an adapter where all of it has factors, else dense."""
    delta = merges.delta_of(place.path)
    config = read_json(place.path / ADAPTER_CONFIG)
    ranks = [delta.rank_of(name) for name in delta]
    dense = ranks.count(0)
    what = f"{short_name(str(config.get('peft_type')))} adapter merged by {delta.made_by}"
    if dense:
        note = f"{what}; {dense} of the {len(ranks)} weights it changes have no factors, so that it is no LoRA"
    else:
        note = f"{what}; its change has factors of rank {max(ranks)} at most, and is used as a LoRA of that rank"
    named = config.get("base_model_name_or_path")
    return Candidate(
        id=model.id,
        kind="dense" if dense else "adapter",
        path=str(place.path),
        fingerprint=peft_fingerprint(place.path, merges.hashes),
        source=_source(model, place),
        revision=place.revision or None,
        rank=0 if dense else max(ranks),
        modules=_kinds(name.removesuffix(".weight") for name in delta if name.endswith(".weight")),
        licence=card.licence,
        description=model.description or card.text,
        notes=(
            *_notes(model, card.note),
            note,
            *delta.notes,
            *_base_note(named if isinstance(named, str) else "", base),
        ),
        delta_path=str(merges.place_of(place.path)),
    )


def _checkpoint(model: FoundModel, place: hub.Snapshot, base: LocalBase, hashes: Hashes, card: Card) -> Candidate:
    located = checkpoint.check_checkpoint(place.path, base.config, base.shapes)
    check_same_computation(place.path, base.path)
    resized = checkpoint.resized_note(located, base.shapes)
    checkpoint.check_checkpoint_values(place.path, located, base.path, base.base.digest, hashes)
    config = read_json(place.path / "config.json")
    named = config.get("_name_or_path")
    return Candidate(
        id=model.id,
        kind="checkpoint",
        path=str(place.path),
        fingerprint=checkpoint.checkpoint_fingerprint(place.path, located, hashes),
        source=_source(model, place),
        revision=place.revision or None,
        modules=_kinds(name.removesuffix(".weight") for name in located if name.endswith(".weight")),
        licence=card.licence,
        description=model.description or card.text,
        notes=(*_notes(model, card.note, resized), *_base_note(named if isinstance(named, str) else "", base)),
    )


def _notes(model: FoundModel, *others: str) -> tuple[str, ...]:
    return tuple(note for note in (model.note, *others) if note)


def _source(model: FoundModel, place: hub.Snapshot) -> str:
    if model.hub:
        return model.hub.repo
    folder = (model.folder or place.path).absolute()  # what is read may be a copy in the cache
    further_down = model.note and folder.is_dir() and not model.id.endswith(folder.name)
    return f"{model.id}/{folder.name}" if further_down else folder.name


def _kinds(modules: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted({module.rsplit(".", 1)[-1] for module in modules}))


def _base_note(named: str, base: LocalBase) -> tuple[str, ...]:
    """Return a note where the configuration names another base.

    That is evidence, not proof: a folder that was moved and a GGUF file look like that as well.
    """
    own = named.rstrip("/\\").replace("\\", "/").rsplit("/", 1)[-1].lower()
    ours = base.base.id.rsplit("/", 1)[-1].lower()
    if not named or own == ours:
        return ()
    if _QUANTISED_NAME.sub("", own) == _QUANTISED_NAME.sub("", ours):
        which = (
            "the base is a quantised copy of that" if _QUANTISED_NAME.search(ours) else "a quantised copy of the base"
        )
        return (
            f"it was trained on '{short_name(named)}', {which}: the weights that it is added to differ by rounding",
        )
    return (f"its configuration names the base '{short_name(named)}'; keys and shapes fit {base.base.id}",)
