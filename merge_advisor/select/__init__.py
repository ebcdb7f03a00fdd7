"""Strategies: which candidates to merge. One file each, numpy on an `Evidence`, nothing of torch.

A strategy is a frozen dataclass (its fields are its parameters, see `registry`) with class attributes and a method:

    name: ClassVar[str]      the registered name
    centres: ClassVar[str]   "no", "yes" or "option": whether it subtracts the pool's mean delta before comparing
    cost: ClassVar[str]      what choosing costs, in words, e.g. "n forward passes over the choosing rows"
    stops: ClassVar[str]     when another partner adds nothing, in words; "" where k is always reached
    def select(self, evidence: Evidence, k: int) -> Choice
"""

from __future__ import annotations

from merge_advisor.select.evidence import Choice, Evidence, Pick

__all__ = ["Choice", "Evidence", "Pick"]
