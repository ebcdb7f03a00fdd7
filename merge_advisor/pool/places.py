"""Where the files of a model are once it can be read: fetched, unpacked, in PEFT's layout, and dequantised."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from merge_advisor.errors import PoolError
from merge_advisor.json_form import digest_of
from merge_advisor.plain_text import short_name
from merge_advisor.pool.archives import UNREAD_ARCHIVES, archive_stem, unpacked
from merge_advisor.pool.layouts import folder_layout, gguf_in_peft_layout, in_peft_layout
from merge_advisor.pool.sources import FoundModel, find_models
from merge_advisor.regular_files import is_irregular
from merge_advisor.weights.adapter_config import ADAPTER_CONFIG
from merge_advisor.weights.base import LocalBase
from merge_advisor.weights.checkpoint import config_meaning, weights_digests
from merge_advisor.weights.dequantised import dequantised_copy, look_at_quantised
from merge_advisor.weights.files import FileError, Hashes
from merge_advisor.weights.hub import Snapshot


def readable(
    model: FoundModel, place: Snapshot, base: LocalBase, cache: Path | None, hashes: Hashes
) -> tuple[FoundModel, Snapshot]:
    """Return a model with what has to be said of it, and the folder that it can be read from.

    Args:
        model: the model.
        place: where its files are.
        base: the base.
        cache: folder for what is unpacked and written anew; None: such models are refused.
        hashes: a memo of file hashes.

    Raises:
        PoolError: an archive, layout or quantisation that cannot be read.
    """
    if place.path.is_symlink() and not place.path.exists():
        raise PoolError("is a link to nothing; correct or remove it")
    if is_irregular(place.path):
        raise PoolError("is no regular file; remove it")
    if place.path.suffix.lower() == ".gguf" and place.path.is_file():
        if cache is None:
            raise PoolError(f"{place.path.name}: has to be written anew, which needs a folder; give `cache`")
        folder = gguf_in_peft_layout(place.path, base, cache / "layouts", hashes)
        return _noted(model, "read from its GGUF file"), replace(place, path=folder)
    model, place = in_own_folder(model, place, cache, hashes)
    return _dequantised(model, place, cache, hashes)


def in_own_folder(
    model: FoundModel, place: Snapshot, cache: Path | None, hashes: Hashes
) -> tuple[FoundModel, Snapshot]:
    """Return a model that is unpacked and in PEFT's layout, as far as that takes no base.

    Args:
        model: the model.
        place: where its files are.
        cache: folder for what is unpacked and written anew; None: such models are refused.
        hashes: a memo of file hashes.

    Raises:
        PoolError: an archive or layout that cannot be read.
    """
    if place.path.is_file():
        model, place = _unpacked(model, place, cache, hashes)
    layout = folder_layout(place.path)
    if not layout:
        return model, place
    if cache is None:
        raise PoolError(f"its layout ({layout}) has to be written anew, which needs a folder; give `cache`")
    folder = in_peft_layout(place.path, layout, cache / "layouts", hashes)
    return _noted(model, f"read from its {layout} layout"), replace(place, path=folder)


def _unpacked(model: FoundModel, place: Snapshot, cache: Path | None, hashes: Hashes) -> tuple[FoundModel, Snapshot]:
    file = place.path
    if file.name.lower().endswith(UNREAD_ARCHIVES):
        raise PoolError(
            f"{file.name}: this kind of archive is not read; unpack it there, or pack it as .zip or .tar.gz"
        )
    if archive_stem(file.name) is None:
        raise PoolError(f"{file.name}: is no folder, archive or GGUF file; give the folder of the model")
    if cache is None:
        raise PoolError(f"{file.name}: has to be unpacked, which needs a folder; give `cache`")
    folder = unpacked(file, cache / "archives", hashes)
    try:
        inside = find_models(folder).models
    except PoolError as error:
        raise PoolError(f"{file.name}: holds no model with adapter_config.json or config.json; remove it") from error
    if len(inside) > 1:
        names = ", ".join(short_name(found.id) for found in inside[:5])
        raise PoolError(f"{file.name}: holds {len(inside)} models ({names}); unpack it there, or pack each alone")
    found = inside[0]
    if found.note:
        model = _noted(model, found.note)
    return _noted(model, f"unpacked from {short_name(file.name)}"), replace(place, path=found.folder or folder)


def _dequantised(model: FoundModel, place: Snapshot, cache: Path | None, hashes: Hashes) -> tuple[FoundModel, Snapshot]:
    """A checkpoint whose weights are quantised as plain weights; any other model as it is."""
    folder = place.path
    if cache is None or (folder / ADAPTER_CONFIG).exists():
        return model, place
    try:
        quantised = look_at_quantised(folder)
        if quantised is None:
            return model, place
        digest = digest_of([config_meaning(quantised.config), weights_digests(quantised.located, hashes)])
        copy = dequantised_copy(quantised, cache / "dequantised" / digest)
    except FileError as error:
        raise PoolError(str(error)) from error
    return _noted(model, quantised.sentence), replace(place, path=copy)


def _noted(model: FoundModel, note: str) -> FoundModel:
    return replace(model, note=f"{model.note}; {note}" if model.note else note)
