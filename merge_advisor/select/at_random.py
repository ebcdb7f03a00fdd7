"""Choosing blindly: the control every other strategy has to beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from merge_advisor.select.evidence import K_REACHED, Choice, Evidence, Pick
from merge_advisor.select.likeness import anchored


@dataclass(frozen=True)
class Random:
    """Take k candidates at random; one seed's smaller choices are the beginnings of its larger ones."""

    name: ClassVar[str] = "random"
    centres: ClassVar[str] = "no"
    cost: ClassVar[str] = "nothing"
    stops: ClassVar[str] = ""

    def select(self, evidence: Evidence, k: int) -> Choice:
        """Choose k of the n candidates, each set equally likely; gains are not measured."""
        order = anchored((int(p) for p in evidence.rng.permutation(len(evidence.ids))), evidence.anchor)
        return Choice(tuple(Pick(position) for position in order[:k]), K_REACHED)
