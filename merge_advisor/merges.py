"""`WeightedMerge`: the one value for a merge, and its written form, the recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from merge_advisor.json_form import VERSION, digest_of
from merge_advisor.types import Base, Candidate, Recipe, RecipeMember


@dataclass(frozen=True, slots=True)
class WeightedMerge:
    """Candidates with weights under a composition: one model. Without members, or with weights of 0 alone, the base.

    The one value for a merge: strategies, the search and the benchmark make it, everything that measures takes it, and
    a recipe is its written form.

    >>> from merge_advisor.types import Candidate
    >>> a = Candidate("a", "adapter", "adapters/a", fingerprint="f1")
    >>> WeightedMerge(((a, 0.5),)).key
    ['merge', 'exact', None, [['f1', 0.5]]]
    >>> WeightedMerge().key == WeightedMerge(((a, 0.0),)).key
    True
    """

    members: tuple[tuple[Candidate, float], ...] = ()
    """Candidate and weight, the anchor first."""
    composition: str = "exact"
    """Spec of the composition: what the weights mean."""
    layers: tuple[float, ...] = ()
    """Factor on all weights in each layer group, as `Recipe.layers`."""
    rank: int | None = None
    """Rank the merged adapter is cut to; None keeps it exact."""

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """The k candidates."""
        return tuple(candidate for candidate, _ in self.members)

    @property
    def weights(self) -> tuple[float, ...]:
        """(k,) their weights."""
        return tuple(weight for _, weight in self.members)

    @property
    def key(self) -> list[object]:
        """What the model is, for a store key: fingerprints with weights (zeros dropped), composition, rank, layers.

        Two merges of one key are one model; the order of the members does not matter.
        """
        # pairs and no mapping: two members may be one adapter under two ids
        kept = sorted((candidate.fingerprint, weight) for candidate, weight in self.members if weight != 0)
        parts: list[object] = ["merge", self.composition, self.rank, [list(pair) for pair in kept]]
        if not kept:
            return ["merge", "", None, []]
        return [*parts, list(self.layers)] if self.layers else parts

    @property
    def digest(self) -> str:
        """Sha256 of `key`."""
        return digest_of(self.key)

    def without_zeros(self) -> WeightedMerge:
        """Return the merge without the members of weight 0; it is the same model."""
        return replace(self, members=tuple(pair for pair in self.members if pair[1] != 0))

    def with_weights(self, weights: Sequence[float]) -> WeightedMerge:
        """Return the merge of the same members with other weights.

        Args:
            weights: (k,).
        """
        return replace(self, members=tuple(zip(self.candidates, weights, strict=True)))


def merge_of(recipe: Recipe, candidates: Mapping[str, Candidate]) -> WeightedMerge:
    """Return the merge a recipe writes down.

    Args:
        recipe: the recipe.
        candidates: its members' candidates, by the recipe's ids.

    Raises:
        KeyError: a member has no candidate.
    """
    members = tuple((candidates[member.id], member.weight) for member in recipe.members)
    return WeightedMerge(members, recipe.composition, recipe.layers, recipe.rank)


def recipe_of(merge: WeightedMerge, base: Base, template: str) -> Recipe:
    """Return the written form of a merge.

    Args:
        merge: the merge.
        base: the base its members were finetuned from.
        template: name of the prompt template.
    """
    return Recipe(
        version=VERSION,
        base=base,
        template=template,
        composition=merge.composition,
        rank=merge.rank,
        members=tuple(
            RecipeMember(c.id, c.fingerprint, c.kind, c.source, c.revision, float(weight))
            for c, weight in merge.members
        ),
        layers=merge.layers,
    )
