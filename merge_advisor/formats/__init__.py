"""Recipe formats: renderings of one neutral recipe that other tools run. One file each.

A format is a frozen dataclass with class attributes and two methods:

    name: ClassVar[str]        the registered name
    writes: ClassVar[str]      what appears in the run folder: "mergekit.yaml", "lorahub.json", "adapter/"
    runs_with: ClassVar[str]   the command or call that carries it out
    def refusal(self, recipe: Recipe) -> str    "" where it reproduces the recipe, else why it cannot
    def write(self, recipe: Recipe, places: Places, folder: Path) -> None

A format that cannot reproduce a recipe is not written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol

if TYPE_CHECKING:
    from merge_advisor.backbone.weights import WeightDelta
    from merge_advisor.types import Recipe

__all__ = ["Format", "Places"]


@dataclass(frozen=True, eq=False)
class Places:
    """Where the models of a recipe are on this machine, and the merged weights."""

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
    blocks: int = 0
    """Transformer blocks of the base, for recipes with weights by layer group."""


class Format(Protocol):
    """What the registry's formats look like."""

    name: ClassVar[str]
    writes: ClassVar[str]
    runs_with: ClassVar[str]

    def refusal(self, recipe: Recipe) -> str:
        """Return why this format cannot reproduce the recipe, or an empty string."""
        ...

    def write(self, recipe: Recipe, places: Places, folder: Path) -> None:
        """Write the rendering into `folder`.

        Raises:
            InputError: `refusal` is not empty.
        """
        ...
