"""The merge as it was chosen; nothing is trained into it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from merge_advisor.adapt.values import Adapted, Need
from merge_advisor.adapt.workbench import Workbench


@dataclass(frozen=True)
class Unadapted:
    """Leave the chosen merge as it is.

    >>> Unadapted().needs()
    'merge'
    """

    name: ClassVar[str] = "none"
    trains: ClassVar[str] = "nothing"
    cost: ClassVar[str] = "choosing the merge"

    def needs(self) -> Need:
        """Return that it needs a merge."""
        return "merge"

    def passes(self, members: int) -> tuple[int, int]:
        """See `Adaptation.passes`."""
        return 0, 0

    def adapt(self, bench: Workbench) -> Adapted:
        """See `Adaptation.adapt`; the rows chose the merge, so none of them can judge it."""
        return Adapted(bench.merge, reason="the merge as it was chosen")
