"""The renderings of a run folder: every format that gives the same model as the recipe."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from merge_advisor import registry
from merge_advisor.advisor.runs.run_folder import MEMBERS, START
from merge_advisor.formats import ModelPlaces
from merge_advisor.formats.peft import task_type
from merge_advisor.json_form import to_json
from merge_advisor.types import TRAINED, Candidate, Recipe
from merge_advisor.weights.adapter import ADAPTER_WEIGHTS
from merge_advisor.weights.adapter_config import ADAPTER_CONFIG, REWRITTEN
from merge_advisor.weights.adapter_writing import write_adapter
from merge_advisor.weights.opened import read_candidate
from merge_advisor.weights.peft_names import peft_loads
from merge_advisor.whole_files import write_text

if TYPE_CHECKING:
    from merge_advisor.advisor.measuring.pool_weights import MergedWeights
    from merge_advisor.formats import Format
    from merge_advisor.weights.base import LocalBase


def model_places(local: LocalBase, recipe: Recipe, carried: MergedWeights, folder: Path | None = None) -> ModelPlaces:
    """Return where base and members are, as a format in the run folder names them.

    Args:
        local: the base.
        recipe: the recipe that is rendered.
        carried: its merge, carried out.
        folder: what becomes the run folder; members whose own files PEFT would not load whole are written there anew,
            below `members/`, since the programs that carry a rendering out load them by PEFT. None: nothing is written.

    Raises:
        PoolError: a member cannot be read any more.
        RunError: `folder` cannot be written.
    """
    # by the recipe's ids: a pool may hold the same model under another one
    pairs = list(zip(recipe.members, carried.merge.candidates, strict=True))
    places: dict[str, str] = {}
    rewritten = set()  # ids whose hub revision is not what is named
    for member, candidate in pairs:
        if member.id in TRAINED:
            places[member.id] = member.id  # the folder of that name in the run folder
        elif folder is not None and _needs_copy(candidate, local):
            places[member.id] = _copied(candidate, local, folder)
            rewritten.add(member.id)
        elif candidate.revision and not (candidate.kind == "checkpoint" and _in_cache(candidate)):
            places[member.id] = candidate.source
        else:
            places[member.id] = str(Path(candidate.path).resolve())
            rewritten.add(member.id)
    # of a quantised base the dequantised copy is the one that other programs can add to
    on_hub = local.base.revision is not None and not local.dequantised
    return ModelPlaces(
        base=local.base.id if on_hub else str(local.path.resolve()),
        base_revision=local.base.revision if on_hub else None,
        members=places,
        revisions={member.id: None if member.id in rewritten else candidate.revision for member, candidate in pairs},
        merged=carried.delta,
        rank_error=carried.rank_error,
        shapes=local.shapes,
    )


def _needs_copy(candidate: Candidate, local: LocalBase) -> bool:
    if candidate.kind == "checkpoint":
        return False
    if _in_cache(candidate):
        return True
    if candidate.kind == "dense":
        return _as_peft_loads(candidate) != Path(candidate.path)
    return bool(candidate.delta_path) or not peft_loads(Path(candidate.path), local.shapes)


def _in_cache(candidate: Candidate) -> bool:
    """Whether what is read of it was written into the cache, which may be emptied."""
    folder = Path(candidate.path)
    return any((place / REWRITTEN).is_file() for place in (folder, *folder.parents))


def _as_peft_loads(candidate: Candidate) -> Path:
    """The folder of a dense adapter that PEFT loads beside the base: its own, or one with the base's rows."""
    fitted = Path(candidate.delta_path or candidate.path)
    return fitted if (fitted / ADAPTER_CONFIG).is_file() else Path(candidate.path)


def _copied(candidate: Candidate, local: LocalBase, folder: Path) -> str:
    """Write an adapter under the names that PEFT expects; return its place in the run folder."""
    name = f"{re.sub(r'[^A-Za-z0-9._-]+', '-', candidate.id)[:60]}-{candidate.fingerprint[:8]}"
    (folder / MEMBERS).mkdir(exist_ok=True)
    if (folder / MEMBERS / name).exists():
        return f"{MEMBERS}/{name}"
    if candidate.kind == "dense":  # no LoRA holds it: as PEFT loads it
        (folder / MEMBERS / name).mkdir()
        for file in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
            shutil.copyfile(_as_peft_loads(candidate) / file, folder / MEMBERS / name / file)
    else:
        delta = read_candidate(candidate, local)
        write_adapter(
            folder / MEMBERS / name, delta, base_name=local.base.id, task_type=task_type(local.base.architecture),
            dtype="float32", base_shapes=local.shapes,
        )  # fmt: skip
    return f"{MEMBERS}/{name}"


def write_formats(
    local: LocalBase, recipe: Recipe, carried: MergedWeights, folder: Path, *, trained: Sequence[Candidate] = (),
    prompted: bool = False,
) -> list[str]:  # fmt: skip
    """Write every format that gives the recipe's model, and the adapters that were trained for it.

    Args:
        local: the base.
        recipe: the recipe.
        carried: its merge, carried out.
        folder: the run folder, or one that becomes it.
        trained: to be copied into the folder, each under its id.
        prompted: whether the model has examples in its prompt, which no format holds: of a prompted base none is
            written, of another model that without its prompt.

    Returns:
        Names of the formats written.

    Raises:
        InputError: a format cannot be written.
    """
    for candidate in trained:
        shutil.copytree(candidate.path, folder / candidate.id)
    if prompted and not any(member.weight for member in recipe.members):
        return []
    places = model_places(local, recipe, carried, folder)
    written = []
    for name in registry.names("format"):
        rendering: Format = registry.build("format", name)
        if not rendering.refusal(recipe):
            rendering.write(recipe, places, folder)
            written.append(name)
    return written


def write_start(local: LocalBase, start: Recipe, carried: MergedWeights, folder: Path) -> None:
    """Write the merge that was adapted, so that it can be used where the verdict says that training adds nothing.

    Args:
        local: the base.
        start: its recipe.
        carried: the same, carried out.
        folder: the run folder, or one that becomes it.

    Raises:
        InputError: a format cannot be written.
    """
    (folder / START).mkdir()
    write_text(folder / START / "recipe.json", to_json(start))
    write_formats(local, start, carried, folder / START)


def rendering_names() -> list[str]:
    """Return the files and folders that formats write into a run folder."""
    return [str(registry.load("format", name).writes).rstrip("/") for name in registry.names("format")]
