"""Recipe formats: renderings of one neutral recipe that other tools run. One file each.

A format is a frozen dataclass with class attributes and two methods:

    name: ClassVar[str]        the registered name
    writes: ClassVar[str]      what appears in the run folder: "mergekit.yaml", "lorahub.json", "adapter/"
    runs_with: ClassVar[str]   the command or call that carries it out
    def refusal(self, recipe: Recipe) -> str    "" where it reproduces the recipe, else why it cannot
    def write(self, recipe: Recipe, places: ModelPlaces, folder: Path) -> None

A format that cannot reproduce a recipe is not written. `full_model` writes the merged model itself; `run_mergekit` and
`run_gguf` carry out what other programs do, through `child_process`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol

from merge_advisor import registry
from merge_advisor.types import Base, Kind, Recipe, RecipeMember
from merge_advisor.weights.naming import Shapes

if TYPE_CHECKING:
    from merge_advisor.weights.updates import WeightDelta

__all__ = ["Format", "ModelPlaces", "formats_of"]


@dataclass(frozen=True, eq=False)
class ModelPlaces:
    """Where the models of a recipe are on this machine, and the merged weights.

    >>> places = ModelPlaces("/models/base", None, {"a0": "/pool/a0"}, {"a0": None}, merged={})
    >>> places.members["a0"]
    '/pool/a0'
    """

    base: str
    """Hub id (where the base came from the hub) or absolute folder."""
    base_revision: str | None
    members: Mapping[str, str]
    """Candidate id -> hub id or folder (absolute; relative to the run folder for `shots_lora`)."""
    revisions: Mapping[str, str | None]
    """Candidate id -> commit, for hub members."""
    merged: WeightDelta
    """The merged weight delta of the recipe, for formats that write weights."""
    rank_error: float = 0.0
    """Relative Frobenius error of cutting it to the recipe's rank."""
    shapes: Shapes = field(default_factory=dict)
    """The base's parameters: names for recipes with weights by layer group, and for PEFT those in memory."""


class Format(Protocol):
    """What the registry's formats look like.

    >>> rendering: Format = registry.build("format", "mergekit")
    >>> rendering.writes
    'mergekit.yaml'
    """

    name: ClassVar[str]
    writes: ClassVar[str]
    runs_with: ClassVar[str]

    def refusal(self, recipe: Recipe) -> str:
        """Return why this format cannot reproduce the recipe, or an empty string.

        Args:
            recipe: any.
        """
        ...

    def write(self, recipe: Recipe, places: ModelPlaces, folder: Path) -> None:
        """Write the rendering into `folder`.

        Args:
            recipe: one that `refusal` accepts.
            places: where its models are.
            folder: the run folder, or another one that is there.

        Raises:
            InputError: `refusal` is not empty.
        """
        ...


def formats_of(composition: str) -> list[str]:
    """Return the formats that can carry a composition out: two members of a kind it takes, at half weight each.

    Args:
        composition: a spec, e.g. "ties:density=0.4".

    Raises:
        SpecError: no such composition.

    >>> formats_of("ties"), formats_of("lorahub")
    (['mergekit'], ['lorahub', 'peft'])
    """
    takes = registry.load("composition", composition.partition(":")[0].strip()).takes
    kind: Kind = "checkpoint" if takes == "checkpoints" else "adapter"
    members = tuple(RecipeMember(name, name, kind, name, None, 0.5) for name in ("one", "other"))
    recipe = Recipe(1, Base("base", None, "", "LlamaForCausalLM"), "plain", composition, None, members)
    return [name for name in registry.names("format") if not registry.build("format", name).refusal(recipe)]
