"""The recipe as a mergekit configuration (`mergekit-yaml`), with a strict schema of its own.

mergekit's models accept unknown keys silently, so that a typo would merge something else: what is written or run here
has passed `MergekitRecipe` first.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from merge_advisor.errors import InputError
from merge_advisor.formats import Places
from merge_advisor.types import STRICT, Recipe, from_json

FILE = "mergekit.yaml"

# what mergekit's string form would take apart, or read as something else
_UNSAFE = re.compile(r"[+@\"\s]|^$")


@dataclass(frozen=True, slots=True)
class ModelPath:
    """A folder or hub id, as mergekit names it."""

    __pydantic_config__ = STRICT

    path: str
    revision: str | None = None


@dataclass(frozen=True, slots=True)
class ModelReference:
    """A model, optionally with a LoRA adapter on it: the mapping form, which takes any name."""

    __pydantic_config__ = STRICT

    model: ModelPath
    lora: ModelPath | None = None


@dataclass(frozen=True, slots=True)
class MemberParameters:
    """What mergekit is told about one model."""

    __pydantic_config__ = STRICT

    weight: float


@dataclass(frozen=True, slots=True)
class Member:
    """One entry of `models`."""

    __pydantic_config__ = STRICT

    model: str | ModelReference
    parameters: MemberParameters


@dataclass(frozen=True, slots=True)
class MergeParameters:
    """What mergekit is told about the merge: weights are taken as they are, not divided by their sum."""

    __pydantic_config__ = STRICT

    normalize: Literal[False]


@dataclass(frozen=True, slots=True)
class MergekitRecipe:
    """A mergekit configuration of the only kind written here: base + Σ wᵢ·(modelᵢ - base) in float32."""

    __pydantic_config__ = STRICT

    merge_method: Literal["task_arithmetic"]
    base_model: str | ModelReference
    models: tuple[Member, ...]
    parameters: MergeParameters
    dtype: Literal["float32"]


@dataclass(frozen=True, slots=True)
class MergekitFormat:
    """A mergekit configuration: task arithmetic on `base+adapter` references and checkpoints.

    The tokenizer is not named: without `tokenizer_source` mergekit copies the base's as it is, with it it would cut or
    reorder embeddings whose rows are more than the tokenizer's tokens.
    """

    name: ClassVar[str] = "mergekit"
    writes: ClassVar[str] = FILE
    runs_with: ClassVar[str] = "mergekit-yaml mergekit.yaml OUT --lora-merge-dtype float32  (in the run folder)"

    def refusal(self, recipe: Recipe) -> str:
        """Return why mergekit cannot reproduce the recipe, or an empty string."""
        if recipe.composition != "exact":
            return f"mergekit adds weight deltas, the composition is {recipe.composition}"
        if recipe.rank is not None:
            return f"the merged adapter is cut to rank {recipe.rank}, mergekit keeps every rank"
        return ""

    def write(self, recipe: Recipe, places: Places, folder: Path) -> None:
        """Write `mergekit.yaml` into `folder`.

        Raises:
            InputError: `refusal` is not empty.
        """
        if why := self.refusal(recipe):
            raise InputError(f"{folder / FILE}: {why}; write another format")
        text = render(mergekit_recipe(recipe, places))
        parse_mergekit(text, FILE)
        (folder / FILE).write_text(text, encoding="utf-8")


def mergekit_recipe(recipe: Recipe, places: Places) -> MergekitRecipe:
    """Render a recipe with the places of its models."""
    base = ModelPath(places.base, places.base_revision)
    members = []
    for member in recipe.members:
        place = ModelPath(places.members[member.id], places.revisions.get(member.id))
        reference = ModelReference(base, place) if member.kind == "adapter" else ModelReference(place)
        members.append(Member(_shortest(reference), MemberParameters(member.weight)))
    return MergekitRecipe(
        merge_method="task_arithmetic",
        base_model=_shortest(ModelReference(base)),
        models=tuple(members),
        parameters=MergeParameters(normalize=False),
        dtype="float32",
    )


def _shortest(reference: ModelReference) -> str | ModelReference:
    """The string form people know, `base@revision+adapter@revision`, where mergekit reads it back as it was."""
    parts = [part for part in (reference.model, reference.lora) if part is not None]
    names = [text for part in parts for text in (part.path, part.revision) if text is not None]
    if any(_UNSAFE.search(name) for name in names):
        return reference
    return "+".join(part.path if part.revision is None else f"{part.path}@{part.revision}" for part in parts)


def render(recipe: MergekitRecipe) -> str:
    """Write YAML: the same recipe gives the same bytes."""
    import yaml

    text: str = yaml.safe_dump(_plain(recipe), sort_keys=False, allow_unicode=True, width=2**20)
    return f"# {MergekitFormat.runs_with}\n{text}"


def _plain(value: Any) -> Any:
    """Turn the schema's values into what YAML holds, leaving out what is None."""
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "__dataclass_fields__"):
        found = {key: _plain(getattr(value, key)) for key in value.__dataclass_fields__}
        return {key: item for key, item in found.items() if item is not None}
    return value


def parse_mergekit(text: str, where: str) -> MergekitRecipe:
    """Parse a configuration, strictly; `where` names the file in messages.

    Raises:
        InputError: not YAML, or not this kind of merge: an unknown key, another method or dtype, a weight that is no
            finite number, no models.
    """
    import yaml

    try:
        found = json.dumps(yaml.safe_load(text), allow_nan=False)
    except (yaml.YAMLError, TypeError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{where}: not a mergekit configuration ({reason}); make it anew") from error
    recipe = from_json(MergekitRecipe, found, where)
    if not recipe.models:
        raise InputError(f"{where}: models: there are none; make it anew")
    return recipe


def local_only(recipe: MergekitRecipe) -> bool:
    """True where every model of the configuration is a folder on this machine."""
    return all(Path(path).is_dir() for path in _paths(recipe))


def _paths(recipe: MergekitRecipe) -> list[str]:
    found: list[str] = []
    for reference in (recipe.base_model, *(member.model for member in recipe.models)):
        if isinstance(reference, str):
            found += [part.partition("@")[0] for part in reference.split("+")]
        else:
            found += [part.path for part in (reference.model, reference.lora) if part is not None]
    return found
