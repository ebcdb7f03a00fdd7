"""One model of a pool: opened, checked against the base, described."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from merge_advisor.errors import PoolError
from merge_advisor.pool.licences import Card, read_card
from merge_advisor.pool.sources import FoundModel, check_id, printable_id
from merge_advisor.types import Candidate
from merge_advisor.weights import adapter, checkpoint, hub
from merge_advisor.weights.adapter_config import CONFIG, read_adapter_config
from merge_advisor.weights.base import HUB_PATTERNS, LocalBase
from merge_advisor.weights.files import Hashes, read_json

_CARD = ("README.md", "config.json", CONFIG, adapter.WEIGHTS)


def fetch_model(found: FoundModel, *, offline: bool, cache: Path | None) -> hub.Snapshot:
    """Return where a model is, fetched from the hub where it comes from there; `revision` is "" for a folder.

    Raises:
        OfflineError: not in the hub's cache and fetching is off.
        InputError: no such model or revision.
        ExternalError: the hub cannot be reached.
    """
    if found.hub is None:
        return hub.Snapshot((found.folder or Path()).absolute(), "")
    snapshot = hub.fetch_snapshot(found.hub, _CARD, offline=offline, cache=cache)
    if not (snapshot.path / CONFIG).exists():
        pinned = hub.HubId(found.hub.repo, snapshot.revision)
        snapshot = hub.fetch_snapshot(pinned, ("README.md", *HUB_PATTERNS), offline=offline, cache=cache)
    return snapshot


def examine_candidate(found: FoundModel, place: hub.Snapshot, base: LocalBase, hashes: Hashes) -> Candidate:
    """Open a model, check it against the base by keys, shapes and values, and describe it.

    Raises:
        PoolError: it cannot be used; the message does not repeat the id.
    """
    check_id(found.id)
    folder = place.path
    if not folder.is_dir():
        raise PoolError(f"{printable_id(folder.name)}: no such folder; correct its path in the manifest")
    card = read_card(folder)
    if (folder / CONFIG).exists():
        return _adapter(found, place, base, hashes, card)
    if (folder / "config.json").exists():
        return _checkpoint(found, place, base, hashes, card)
    raise PoolError("has neither adapter_config.json nor config.json; restore it, or save the model again")


def _adapter(found: FoundModel, place: hub.Snapshot, base: LocalBase, hashes: Hashes, card: Card) -> Candidate:
    settings = read_adapter_config(place.path)
    if found.hub is not None and not (place.path / adapter.WEIGHTS).exists():
        raise PoolError(
            f"the hub has no {adapter.WEIGHTS} of it; where it has adapter_model.bin, a pickle, rewrite that by "
            "`merge-advisor convert SOURCE --out DIR`"
        )
    header = adapter.read_weights_header(place.path)
    placed = adapter.check_and_map(settings, header, base.shapes)
    adapter.check_values(place.path, header, hashes)
    return Candidate(
        id=found.id,
        kind="adapter",
        path=str(place.path),
        fingerprint=adapter.adapter_fingerprint(place.path, settings, header, hashes),
        source=_source(found, place),
        revision=place.revision or None,
        rank=max(part.rank for part in placed.values()),
        modules=_kinds(part.module for part in placed.values()),
        licence=card.licence,
        description=found.description or card.text,
        notes=(*settings.notes, *_base_note(settings.base_name, base)),
    )


def _checkpoint(found: FoundModel, place: hub.Snapshot, base: LocalBase, hashes: Hashes, card: Card) -> Candidate:
    located = checkpoint.check_checkpoint(place.path, base.config, base.shapes)
    checkpoint.check_checkpoint_values(place.path, located, base.path, base.base.digest, hashes)
    config = read_json(place.path / "config.json")
    named = config.get("_name_or_path")
    return Candidate(
        id=found.id,
        kind="checkpoint",
        path=str(place.path),
        fingerprint=checkpoint.checkpoint_fingerprint(place.path, located, hashes),
        source=_source(found, place),
        revision=place.revision or None,
        modules=_kinds(name.removesuffix(".weight") for name in located if name.endswith(".weight")),
        licence=card.licence,
        description=found.description or card.text,
        notes=_base_note(named if isinstance(named, str) else "", base),
    )


def _source(found: FoundModel, place: hub.Snapshot) -> str:
    return found.hub.repo if found.hub else place.path.name


def _kinds(modules: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted({module.rsplit(".", 1)[-1] for module in modules}))


def _base_note(named: str, base: LocalBase) -> tuple[str, ...]:
    """Another base named in the configuration is evidence, not proof: a moved folder and a GGUF file look like that."""
    own = named.rstrip("/\\").replace("\\", "/").rsplit("/", 1)[-1].lower()
    if not named or own == base.base.id.rsplit("/", 1)[-1].lower():
        return ()
    return (f"its configuration names the base '{printable_id(named)}'; keys and shapes fit {base.base.id}",)
