"""The best of several uses of rows and pool, by rows it was not trained on and by what other tasks have shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from merge_advisor.adapt.basis import Basis
from merge_advisor.adapt.continuing import Continue, no_start
from merge_advisor.adapt.experience import Belief, believe, experience_of
from merge_advisor.adapt.folds import folds_of, judged_merges, judged_out
from merge_advisor.adapt.prompting import Prompting
from merge_advisor.adapt.shots import ShotsAlone
from merge_advisor.adapt.task_weights import moments
from merge_advisor.adapt.values import NOTHING, Adapted, Alternative, Need
from merge_advisor.adapt.workbench import Workbench
from merge_advisor.errors import TaskError
from merge_advisor.select.evidence import FEW_ROWS


@dataclass(frozen=True)
class Auto:
    """Take what is believed best: base, `prompt`, `shots`, the merge, or `continue` on top of it.

    Each is judged on rows that it was not trained on, by its difference to `shots`; the differences are shrunk towards
    what other tasks have shown (see `experience`), and what needs a pool is taken only where it leads all that needs
    none by two thirds of the error of that lead. `continue` takes as many steps as `shots` does: the rows have chosen
    the merge, and would say to stay there. The merge of all rows stands for each part of them, and what it promises too
    much is taken off. Of fewer than ten rows that would be far too much: each part is judged by a merge chosen without
    it. The LoRA of so few rows, and the merge, are tried with the rows in the prompt as well (of twenty rows the LoRA
    is better without), and nothing is trained on top of the merge, which was hardly ever best of five rows.
    Where nothing can be trained on top of the merge, the merge alone is compared; and it stays where one row alone
    leaves nothing to judge by.

    >>> Auto().needs(), Auto(pool=False).needs()
    ('merge', 'nothing')
    """

    pool: bool = True
    """Whether what needs a pool is looked at; without, the best of what needs none."""
    folds: int = 2
    """As of `shots`, of ten rows or more."""
    few: int = 4
    """The same of fewer than ten rows. The fewer the rows, the more it costs to train without half of them, and the
    less to train more often: four finetunes of five rows cost less than two of twenty."""
    anew: bool = False
    """Judge merges by rows that did not choose them; of fewer than ten rows always. `basis`, its form `prior`, then
    stands for `continue`."""
    prompts: bool = False
    """Compare `prompt:on=shots` as well, and `prompt:on=merge` where nothing is trained on top of the merge; of fewer
    than ten rows always."""
    onwards: bool = True
    """Compare what is trained on top of the merge as well; of fewer than ten rows never."""
    choices: float = 1.0
    """As of `shots`."""
    rates: int = 1
    """As of `shots`."""

    any_merge: ClassVar[bool] = True
    """It compares a merge that nothing can be trained on top of as it is."""
    name: ClassVar[str] = "auto"
    trains: ClassVar[str] = "what the best of them trains"
    cost: ClassVar[str] = (
        "choosing the merge, two finetunes for each fold; of fewer than ten rows choosing once more in parts, and one "
        "finetune for each fold"
    )

    def __post_init__(self) -> None:
        for name, folds in (("folds", self.folds), ("few", self.few)):
            if folds < 2:
                raise ValueError(f"{name}={folds}: what is compared is judged on rows held out, so at least 2")
        self._shots()  # which says what it takes

    def for_rows(self, rows: int) -> Auto:
        """Return what it is with so many rows: folds, whether they choose merges anew, what it compares.

        >>> Auto().for_rows(5) == Auto(folds=4, anew=True, prompts=True, onwards=False), Auto().for_rows(20) == Auto()
        (True, True)

        Args:
            rows: learned from.
        """
        few = rows < FEW_ROWS
        return replace(
            self,
            folds=self.few if few else self.folds,
            anew=self.pool and (few or self.anew),
            prompts=few or self.prompts,
            onwards=self.onwards and not few,
        )

    def needs(self) -> Need:
        """Return that it needs a merge, or nothing at all."""
        return "merge" if self.pool else "nothing"

    def passes(self, members: int) -> tuple[int, int]:
        """See `Adaptation.passes`."""
        shots = self._shots().passes(members)
        # a LoRA or a merge with examples is judged at each scale; at 0 it is the base with examples
        prompted = ["shots" if self.prompts else "base", *(["merge"] if self._prompts_merge else [])]
        prompts = sum(Prompting(self.folds, on).passes(members)[1] for on in prompted)
        # with a pool a finetune from the merge, and a pass each over the rows it is judged by and those of the merge
        tops = int(self.pool and self.onwards)
        return shots[0] + tops, 1 + shots[1] + prompts + int(self.pool) + tops

    def adapt(self, bench: Workbench) -> Adapted:
        """See `Adaptation.adapt`."""
        rows = len(bench.learning)
        how = self.for_rows(rows)
        if how != self:
            return how.adapt(bench)
        if rows < 2:
            stays = bench.merge if self.pool else NOTHING
            what = "the merge as it was chosen" if self.pool else "the base"
            return Adapted(stays, name="none", reason=f"one row cannot both train and judge: {what}")
        found: dict[str, Adapted] = {}
        spent: dict[str, int] = {}
        obstacle = no_start(bench.merge) if self.pool else ""
        lacking = [f"nothing was trained on top of the merge: {obstacle}"] if obstacle and self.onwards else []
        for name, run in self._runs(bench, obstacle).items():
            before = bench.forwards
            try:
                found[name] = run()
            except TaskError as error:
                if name not in ("prompt", *_PROMPTED):
                    raise
                if name == "prompt":
                    lacking.append(f"prompt cannot be: {error}")  # no example fits, and the others need none
            spent[name] = bench.forwards - before
            if name in _PROMPTED and name in found and not found[name].merge.members:
                del found[name]  # one model under two names would be believed twice
                lacking.append(f"{name} came out as prompt")
        gains = {name: self._gain(bench, found, name, "shots") for name in found}
        # a name is never worse placed than an equal one after it: from the cheapest
        ordered = sorted(found, key=lambda name: (-round(gains[name].mean, 9), list(found).index(name)))
        alone = next(name for name in ordered if name not in WITH_POOL)
        leads = {name: self._gain(bench, found, name, alone) for name in ordered if name in WITH_POOL}
        # what needs a pool has to be better, not just look so: what needs none is the simpler model
        kept = [name for name in ordered if name not in leads or leads[name].chance >= SURE]
        best, weights = found[kept[0]], bench.weights(bench.learning)
        ordered = [kept[0], *(name for name in ordered if name != kept[0])]
        options = tuple(
            Alternative(
                name, bench.mean(found[name].losses), _error(found[name], best, weights), spent[name], gains[name].mean
            )
            for name in ordered
        )
        return replace(
            best,
            name=best.name or _REGISTERED.get(ordered[0], ordered[0]),
            options=options,
            without_pool=found["shots"].merge,
            chance=leads[ordered[0]].chance if ordered[0] in leads else None,
            reason="; ".join([f"{ordered[0]}: {best.reason}{_second(ordered, gains, leads, alone)}", *lacking]),
        )

    @property
    def _prompts_merge(self) -> bool:
        return self.pool and self.prompts and not self.onwards

    def _shots(self) -> ShotsAlone:
        return ShotsAlone(self.folds, self.choices, rates=self.rates)

    def _gain(self, bench: Workbench, found: Mapping[str, Adapted], name: str, over: str) -> Belief:
        """What is believed of how much less loss one has than another."""
        ours, theirs = np.asarray(found[name].losses), np.asarray(found[over].losses)
        differences = theirs - ours
        if not differences.any():  # the same model, as the base is where `shots` at scale 0 is best
            return Belief(0.0, 0.0)
        choices = 2 * sum(bool(row.choices) for row in bench.learning) > len(bench.learning)
        known, other = (experience_of(one, len(differences), choices=choices) for one in (name, over))
        level = (bench.mean(ours) + bench.mean(theirs)) / 2
        return believe(differences.tolist(), known.than(other), level, bench.weights(bench.learning))

    def _merge(self, bench: Workbench, *, apart: bool) -> Adapted:
        """The merge as it was chosen; `apart` says whether rows judge the merge that was chosen without them."""
        folds = folds_of(bench.tasks, self.folds)
        losses = judged_out(bench, folds, judged_merges(bench, folds, apart=apart))
        return Adapted(bench.merge, tuple(losses.tolist()), reason="the merge as it was chosen")

    def _runs(self, bench: Workbench, obstacle: str) -> dict[str, Callable[[], Adapted]]:
        """What is compared; `obstacle` says why nothing can be trained on top of the merge, if it cannot."""

        def base() -> Adapted:
            return Adapted(NOTHING, tuple(bench.losses(NOTHING, bench.learning).tolist()), reason="the base as it is")

        runs: dict[str, Callable[[], Adapted]] = {"base": base}
        single = len(bench.tasks) == 1  # one prompt cannot show the examples of several tasks
        if single:
            runs["prompt"] = lambda: Prompting(self.folds).adapt(bench)
        runs["shots"] = lambda: self._shots().adapt(bench)
        if single and self.prompts:
            runs[PROMPTED_SHOTS] = lambda: Prompting(self.folds, "shots", self.choices).adapt(bench)
        if self.pool:
            apart = self.anew or bool(obstacle)
            runs["merge"] = lambda: self._merge(bench, apart=apart)
            if single and self._prompts_merge:
                runs[PROMPTED_MERGE] = lambda: Prompting(self.folds, "merge", anew=apart).adapt(bench)
        if self.pool and self.onwards and not obstacle:
            if self.anew:  # what has been measured on merges of few rows
                basis = Basis("prior", start="merge", anew=True, folds=self.folds, choices=self.choices)
                runs["basis from merge"] = lambda: basis.adapt(bench)
            else:
                onwards = Continue(folds=self.folds, choices=self.choices, stop="shots")
                runs["continue from merge"] = lambda: onwards.adapt(bench)
        return runs


SURE = 0.75
"""Probability of being better than the best that needs no pool, from which on what needs one is taken, as the beliefs
have it: a lead of 0.674 of its error. No plan says it, since it is not calibrated. On the tried tasks
(`eval/adaptations_tried.md`) all three merges of five rows that looked better with less were worse on the held-out
rows; all four of twenty rows above it were better, of eighteen. Of one model with the rows in its prompt, five of
eleven were better (`eval/adaptations.md`)."""
PROMPTED_SHOTS, PROMPTED_MERGE = _PROMPTED = "prompt on shots", "prompt on merge"
"""The LoRA of the rows, and the merge, with the rows in the prompt, as they are compared."""
WITH_POOL = ("continue from merge", "basis from merge", "merge", PROMPTED_MERGE)
"""What is compared whose result has members of the pool, or directions of it."""
_REGISTERED = {
    "base": "none", "merge": "none", "continue from merge": "continue", "basis from merge": "basis",
    PROMPTED_SHOTS: "prompt", PROMPTED_MERGE: "prompt",
}  # fmt: skip
"""Names of adaptations, where what is compared has another one."""


def _second(
    ordered: Sequence[str], gains: Mapping[str, Belief], leads: Mapping[str, Belief], alone: str
) -> str:  # fmt: skip
    """What is said of the next best, with its gap; and where that looks better, why it is not taken.

    No probability: gains came less often than the beliefs say (`eval/adaptations.md`).
    """
    if not ordered[1:]:
        return ""
    name = ordered[1]
    gap = gains[name].mean - gains[ordered[0]].mean
    said = f"; next best {name}, {gap:+.3f} nats of gain"
    if gap <= 0 or name not in leads:
        return said
    lead = f"{leads[name].mean:+.3f} nats with an error of {leads[name].error:.3f}"
    return (
        f"{said}, not taken: its lead over {alone} is {lead}, and what needs a pool has to lead by two thirds of that"
    )


def _error(one: Adapted, other: Adapted, weights: Sequence[float]) -> float:
    """Standard error of the mean difference of two, row by row."""
    differences = np.asarray(one.losses) - np.asarray(other.losses)
    if len(differences) < 2:
        return 0.0
    if not weights:
        return float(differences.std(ddof=1) / np.sqrt(len(differences)))
    found = moments(differences, weights)
    return float(np.sqrt(found.variance / (found.rows - 1)))
