"""The best of several uses of rows and pool, by rows that each was not trained on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from merge_advisor.adapt.basis import Basis
from merge_advisor.adapt.mix import Mix
from merge_advisor.adapt.prompting import Prompting
from merge_advisor.adapt.shots import SCALES, ShotsAlone
from merge_advisor.adapt.workbench import NOTHING, Adapted, Alternative, Need, Workbench
from merge_advisor.errors import TaskError


@dataclass(frozen=True)
class Auto:
    """Take what has the least cross-fitted loss: base, `prompt`, `shots`, `mix`, `basis` from zero or from the merge.

    `basis` is its form `prior`. The models of the folds are shared: the LoRAs that `shots` trains are those that `mix`
    mixes.

    >>> Auto().needs(), Auto(pool=False).needs()
    ('merge', 'nothing')
    """

    pool: bool = True
    """Whether merges are looked at; without, the best of what needs no pool."""
    folds: int = 3
    """As of `shots`."""
    choices: float = 1.0
    """As of `shots`."""
    margin: float = 0.0
    """Loss that something with the pool has to be better by, since the rows chose the merge as well, in nats."""

    name: ClassVar[str] = "auto"
    trains: ClassVar[str] = "what the best of them trains"
    cost: ClassVar[str] = "choosing the merge, and three finetunes for each fold"

    def needs(self) -> Need:
        """Return that it needs a merge, or nothing at all."""
        return "merge" if self.pool else "nothing"

    def passes(self, members: int) -> tuple[int, int]:
        """See `Adaptation.passes`."""
        # the LoRAs of `shots` and `mix` are the same
        alone = len(SCALES) + 1 + Prompting(self.folds).passes(members)[1]
        return (3, alone + Mix(self.folds).passes(members)[1]) if self.pool else (1, alone)

    def adapt(self, bench: Workbench) -> Adapted:
        """See `Adaptation.adapt`."""
        found: dict[str, Adapted] = {}
        spent: dict[str, int] = {}
        lacking = []
        for name, run in self._runs(bench).items():
            before = bench.forwards
            try:
                found[name] = run()
            except TaskError as error:
                if name != "prompt":
                    raise
                lacking.append(f"prompt cannot be: {error}")  # no example fits, and the others need none
            spent[name] = bench.forwards - before
        # a name is never worse placed than an equal one after it: from the cheapest
        means = {name: adapted.loss + (self.margin if name in WITH_POOL else 0.0) for name, adapted in found.items()}
        ordered = sorted(found, key=lambda name: (round(means[name], 9), list(found).index(name)))
        best = found[ordered[0]]
        options = tuple(
            Alternative(name, means[name], _error(found[name], best), spent[name]) for name in ordered
        )  # fmt: skip
        second = f"; next best {ordered[1]}, {means[ordered[1]] - means[ordered[0]]:+.3f} nats" if options[1:] else ""
        alone = found["shots"].merge
        return replace(
            best,
            name=ordered[0].partition(" ")[0],  # as it is registered
            options=options,
            without_pool=alone,
            reason="; ".join([f"{ordered[0]}: {best.reason}{second}", *lacking]),
        )

    def _basis(self, start: str) -> Basis:
        return Basis("prior", start=start, folds=self.folds, choices=self.choices)

    def _runs(self, bench: Workbench) -> dict[str, Callable[[], Adapted]]:
        def base() -> Adapted:
            return Adapted(NOTHING, tuple(bench.losses(NOTHING, bench.learning).tolist()), reason="the base as it is")

        runs: dict[str, Callable[[], Adapted]] = {
            "none": base,
            "shots": lambda: ShotsAlone(self.folds, self.choices).adapt(bench),
        }
        if len(bench.tasks) == 1:  # one prompt cannot show the examples of several tasks
            runs["prompt"] = lambda: Prompting(self.folds).adapt(bench)
        if self.pool:
            runs["mix"] = lambda: Mix(self.folds, self.choices).adapt(bench)
            runs["basis"] = lambda: self._basis("base").adapt(bench)
            runs["basis from merge"] = lambda: self._basis("merge").adapt(bench)
        return runs


WITH_POOL = ("mix", "basis", "basis from merge")
"""What is compared whose result has members of the pool, or directions of it."""


def _error(one: Adapted, other: Adapted) -> float:
    """Standard error of the mean difference of two, row by row."""
    differences = np.asarray(one.losses) - np.asarray(other.losses)
    if len(differences) < 2:
        return 0.0
    return float(differences.std(ddof=1) / np.sqrt(len(differences)))
