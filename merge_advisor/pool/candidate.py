"""One model of a pool: opened, checked against the base, described."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from merge_advisor.errors import PoolError
from merge_advisor.plain_text import short_name
from merge_advisor.pool.licences import Card, read_card
from merge_advisor.pool.sources import FoundModel, check_id
from merge_advisor.types import Candidate
from merge_advisor.weights import adapter, checkpoint, hub
from merge_advisor.weights.adapter_config import ADAPTER_CONFIG, read_adapter_config
from merge_advisor.weights.base import HUB_PATTERNS, LocalBase
from merge_advisor.weights.files import Hashes, read_json
from merge_advisor.weights.saved_copies import check_copies

ADAPTER_FILES = ("README.md", "config.json", ADAPTER_CONFIG, adapter.ADAPTER_WEIGHTS)
"""What is fetched of an adapter."""
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
        InputError: no such model or revision.
        ExternalError: the hub cannot be reached.
    """
    if model.hub is None:
        return hub.Snapshot((model.folder or Path()).absolute(), "")
    # first what an adapter has: a checkpoint's weights are large, and fetched only where it turns out to be one
    snapshot = hub.fetch_snapshot(model.hub, ADAPTER_FILES, offline=offline)
    if not (snapshot.path / ADAPTER_CONFIG).exists():
        pinned = hub.HubId(model.hub.repo, snapshot.revision)
        snapshot = hub.fetch_snapshot(pinned, CHECKPOINT_FILES, offline=offline)
    return snapshot


def examine_candidate(model: FoundModel, place: hub.Snapshot, base: LocalBase, hashes: Hashes) -> Candidate:
    """Return a model as a candidate, checked against the base by names, shapes and values.

    Args:
        model: the model.
        place: where its files are, from `fetch_model`.
        base: the base.
        hashes: a memo of file hashes and of what reading the weights showed.

    Raises:
        PoolError: it cannot be used; the message does not repeat the id.
    """
    check_id(model.id)
    folder = place.path
    if not folder.is_dir():
        raise PoolError(f"{short_name(folder.name)}: no such folder; correct its path in the manifest")
    card = read_card(folder)
    if (folder / ADAPTER_CONFIG).exists():
        return _adapter(model, place, base, hashes, card)
    if (folder / "config.json").exists():
        return _checkpoint(model, place, base, hashes, card)
    raise PoolError("has neither adapter_config.json nor config.json; restore it, or save the model again")


def _adapter(model: FoundModel, place: hub.Snapshot, base: LocalBase, hashes: Hashes, card: Card) -> Candidate:
    settings = read_adapter_config(place.path)
    if model.hub is not None and not (place.path / adapter.ADAPTER_WEIGHTS).exists():
        raise PoolError(
            f"the hub has no {adapter.ADAPTER_WEIGHTS} of it; where it has {adapter.ADAPTER_PICKLE}, rewrite that "
            "by `convert(source, out=DIR)`"
        )
    header = adapter.read_weights_header(place.path)
    placed = adapter.map_factors(settings, header, base.shapes)
    check_copies(place.path / adapter.ADAPTER_WEIGHTS, header, base.path, base.base.digest, hashes)
    adapter.check_values(place.path, header, hashes)
    return Candidate(
        id=model.id,
        kind="adapter",
        path=str(place.path),
        fingerprint=adapter.adapter_fingerprint(place.path, settings, header, hashes),
        source=_source(model, place),
        revision=place.revision or None,
        rank=max(part.rank for part in placed.values()),
        modules=_kinds(part.module for part in placed.values()),
        licence=card.licence,
        description=model.description or card.text,
        notes=(*_notes(model), *settings.notes, *_base_note(settings.base_name, base)),
    )


def _checkpoint(model: FoundModel, place: hub.Snapshot, base: LocalBase, hashes: Hashes, card: Card) -> Candidate:
    located = checkpoint.check_checkpoint(place.path, base.config, base.shapes)
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
        notes=(*_notes(model), *_base_note(named if isinstance(named, str) else "", base)),
    )


def _notes(model: FoundModel) -> tuple[str, ...]:
    return (model.note,) if model.note else ()


def _source(model: FoundModel, place: hub.Snapshot) -> str:
    if model.hub:
        return model.hub.repo
    name = place.path.name
    return f"{model.id}/{name}" if model.note and not model.id.endswith(name) else name


def _kinds(modules: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted({module.rsplit(".", 1)[-1] for module in modules}))


def _base_note(named: str, base: LocalBase) -> tuple[str, ...]:
    """Return a note where the configuration names another base.

    That is evidence, not proof: a folder that was moved and a GGUF file look like that as well.
    """
    own = named.rstrip("/\\").replace("\\", "/").rsplit("/", 1)[-1].lower()
    if not named or own == base.base.id.rsplit("/", 1)[-1].lower():
        return ()
    return (f"its configuration names the base '{short_name(named)}'; keys and shapes fit {base.base.id}",)
