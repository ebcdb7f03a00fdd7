"""One arm on one unit: choose as `plan` does, tune as `tune` does, score what was held out, charge what it cost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from merge_advisor import registry
from merge_advisor.advisor.measuring.measure import (
    FinetuneRecord,
    composed,
    lora_of_shots,
    loss_kind_of,
    losses_of,
    take_deltas,
    target_parameters,
)
from merge_advisor.advisor.measuring.session import Session, open_session, weights_key
from merge_advisor.advisor.planning.choosing import LORA_LOSSES, SEARCH, ChoosingLosses, choose_merge, rows_in
from merge_advisor.advisor.scoring.score_run import score_models
from merge_advisor.benchmark.running.rows import BenchTask, in_view, read_families
from merge_advisor.benchmark.running.tuners import tune_weights
from merge_advisor.benchmark.setup import SetupPlaces, finetune_of, scorer_of
from merge_advisor.benchmark.values import Arm, Result, Setup, Unit, View
from merge_advisor.errors import InputError, PoolError, TaskError
from merge_advisor.progress import Progress, quiet_progress
from merge_advisor.scores import ModelScore
from merge_advisor.select.halving import HALVING_SHARES, halving_rounds
from merge_advisor.select.weight_rule import first_scales
from merge_advisor.tuning import Point
from merge_advisor.types import Candidate, ChooseBy, Deltas, LossKind, Row, Task, digest_of, same_space

if TYPE_CHECKING:
    from merge_advisor.arrays import Float32Array
    from merge_advisor.weights.updates import WeightDelta

PROBES = 5
"""Forward passes that a delta takes."""


def seed_of(*parts: object) -> int:
    """A seed below 2^48 that follows from the parts."""
    return int(digest_of(list(parts))[:12], 16)


@dataclass(frozen=True, eq=False)
class BenchContext:
    """What all units share."""

    setup: Setup
    session: Session
    families: dict[str, str]
    """Task or candidate name to family."""
    deltas: Deltas
    candidates: tuple[Candidate, ...]
    """The pool's, in the order of the deltas."""
    refused: tuple[str, ...] = ()
    """Models of the pool that were set aside, each with its reason."""


@contextmanager
def open_context(
    setup: Setup, places: SetupPlaces, *, progress: Progress = quiet_progress, **settings: Any
) -> Iterator[BenchContext]:
    """Open base, pool and store, and take the deltas of the pool.

    Args:
        setup: says how.
        places: where they are.
        progress: told of what is not in the store yet; the units are quiet.
        settings: as `open_session` takes them.

    Raises:
        MergeAdvisorError: see `open_session` and `take_deltas`.
    """
    families = read_families(places.families)
    with open_session(
        places.base, places.pool, template=setup.template or None, progress=progress, **settings
    ) as session:
        deltas, candidates, broken = take_deltas(session, setup.embedding, session.pool.candidates)
        refused = [f"{item.id}: {item.reason}" for item in (*session.pool.refused, *broken)]
        if not candidates:
            raise PoolError(f"no model of the pool can be used ({refused[0]}); give another --pool")
        session.progress = quiet_progress
        yield BenchContext(setup, session, families, deltas, tuple(candidates), tuple(refused))


@dataclass(eq=False)
class TaskDraw:
    """A task with one draw of its shots; the LoRA of the shots and its delta are made when first needed."""

    world: BenchContext
    rows: BenchTask
    number: int
    alone: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Held-out accuracy and loss of each candidate that was scored alone, by id."""

    @cached_property
    def task(self) -> Task:
        """The task's rows as this draw splits them."""
        return self.rows.draw(self.world.setup, self.number)

    @cached_property
    def _attempt(self) -> tuple[Candidate, FinetuneRecord] | Exception:
        """The LoRA of the shots, or why there is none: every arm that needs it is told, and it is not tried anew."""
        world, task = self.world, self.task
        try:
            return lora_of_shots(
                world.session, task.shots, target_parameters(world.session, world.candidates), finetune_of(world.setup),
                seed_of(world.setup.seed, task.name, self.number, "finetune"), watch=task.tuning,
            )  # fmt: skip
        except Exception as error:  # as a unit that crashes: those that do without must not be taken along
            return error.with_traceback(None)  # its frames hold the tensors

    @property
    def _finetuned(self) -> tuple[Candidate, FinetuneRecord]:
        found = self._attempt
        if isinstance(found, Exception):
            raise found
        return found

    @property
    def lora(self) -> Candidate:
        """The LoRA finetuned on the shots.

        Raises:
            InputError: the finetune failed.
        """
        return self._finetuned[0]

    @property
    def finetune_forwards(self) -> int:
        """What the finetune cost, in forward passes over one row.

        Raises:
            InputError: the finetune failed.
        """
        return self._finetuned[1].forwards

    @cached_property
    def delta(self) -> Float32Array:
        """(d,) the task delta.

        Raises:
            InputError: the finetune failed.
            TaskError: the LoRA of the shots cannot be embedded.
        """
        own, _, failed = take_deltas(self.world.session, self.world.setup.embedding, [self.lora])
        if failed:
            raise TaskError(f"the LoRA of the shots cannot be embedded: {failed[0].reason}; lower finetune.lr")
        same_space(self.world.deltas.space, own.space)
        found: Float32Array = own.array[0]
        return found

    def view(self, view: View, composition: str = "exact") -> tuple[list[Candidate], Float32Array]:
        """The candidates of a view that a composition can take, and their (n, d) deltas.

        Raises:
            InputError: there are none.
        """
        world = self.world
        takes = registry.build("composition", composition).takes
        places = [
            place
            for place in in_view(world.candidates, self.rows, view, world.setup.tasks.own, world.families)
            if takes in ("both", f"{world.candidates[place].kind}s")
        ]
        if not places:
            raise InputError(f"task {self.rows.name}: composition {composition} takes {takes}, and the view has none")
        return [world.candidates[place] for place in places], world.deltas.array[places]

    def score(self, members: Sequence[tuple[Candidate, float]], composition: str = "exact") -> ModelScore:
        """Score a merge on the held-out rows."""
        session = self.world.session
        candidates, weights = [c for c, _ in members], [weight for _, weight in members]

        def delta() -> WeightDelta:
            return composed(session, candidates, weights, composition) if any(weights) else {}

        model = ("merge", key_of_merge(members, composition), delta)
        scorer = scorer_of(self.world.setup)
        return score_models(session, [model], self.rows.heldout, self.rows.metric, evaluator=scorer)[0]

    def singles(self, candidates: Sequence[Candidate]) -> dict[str, tuple[float, float]]:
        """Held-out accuracy and loss of each candidate alone, by id."""
        for candidate in candidates:
            if candidate.id not in self.alone:
                metrics = self.score([(candidate, 1.0)]).metrics
                self.alone[candidate.id] = metrics[self.rows.metric], metrics["loss"]
        return {candidate.id: self.alone[candidate.id] for candidate in candidates}

    def drop(
        self, rows: Sequence[Row], members: Sequence[tuple[Candidate, float]], composition: str, measure: LossKind
    ) -> float:
        """Base's loss minus the merge's on some rows, nats per token, or nats of the right choice among the choices."""
        merge = {c.id: (c, weight) for c, weight in members}
        losses = [
            losses_of(self.world.session, rows, part, composition=composition, measure=measure) for part in ({}, merge)
        ]
        return float(np.mean(losses[0]) - np.mean(losses[1]))

    def result(
        self,
        unit: Unit,
        arm: str,
        view: View,
        k: int,
        members: Sequence[tuple[Candidate, float]],
        *,
        composition: str = "exact",
        forwards: int = 0,
        reason: str = "",
        by: ChooseBy | None = "auto",
        oracle: bool = False,
    ) -> Result:
        """Score a merge and put together what is kept of it; `by` is what choosing made small, None if nothing was."""
        score = self.score(members, composition)
        predicted, came = (None, None) if by is None else self._promise(members, composition, by, score)
        return Result(
            unit=unit, arm=arm, view=view, k=k, oracle=oracle, reason=reason,
            members=tuple((c.id, float(weight)) for c, weight in members),
            merge=digest_of(key_of_merge(members, composition)),
            loss=score.metrics["loss"],
            predicted=predicted,
            came=came,
            forwards=forwards,
            **answered(self.rows, score),
        )  # fmt: skip

    def _promise(
        self, members: Sequence[tuple[Candidate, float]], composition: str, by: ChooseBy, score: ModelScore
    ) -> tuple[float, float | None]:
        """What choosing promised, and what came of it by the merge's score where the held-out loss does not tell."""
        rows = self.task.choosing_among([candidate.id for candidate, _ in members])
        measure = loss_kind_of(rows, by)
        predicted = self.drop(rows, members, composition, measure)
        if measure not in score.metrics or measure == "loss":
            return predicted, None
        return predicted, self.score([]).metrics[measure] - score.metrics[measure]


def key_of_merge(members: Sequence[tuple[Candidate, float]], composition: str) -> list[object]:
    """What a merge is, for a store key."""
    return weights_key([(c.fingerprint, weight) for c, weight in members], composition)


def answered(rows: BenchTask, score: ModelScore) -> dict[str, Any]:
    """Number of rows, accuracy, share of valid outputs and accuracy on those, as `Result` has them.

    Where choices are scored by likelihood every output is one of them, and so valid.
    """
    hits = score.rows[rows.metric]
    fits = [rows.metric == "accuracy" or rows.valid(output) for output in score.outputs]
    among = [hit for hit, fit in zip(hits, fits, strict=True) if fit]
    return {
        "rows": len(hits),
        "accuracy": float(np.mean(hits)),
        "valid": float(np.mean(fits)),
        "accuracy_valid": float(np.mean(among)) if among else None,
    }


def run_arm(draw: TaskDraw, arm: Arm, unit: Unit, view: View, k: int, budget: int | None = None) -> Result:
    """Choose, tune where the arm says so, and score.

    Args:
        draw: the task and its shots.
        arm: how to choose.
        unit: the draws of chance.
        view: who may be chosen.
        k: members of the pool at most.
        budget: forward passes it may spend, of an arm that matches another's.

    Raises:
        MergeAdvisorError: whatever choosing, finetuning or merging refuses.
    """
    setup, task = draw.world.setup, draw.task
    candidates, deltas = draw.view(view, arm.composition)
    losses, judging = (
        ChoosingLosses(draw.world.session, [rows], arm.composition, arm.choose_by)
        for rows in (task.choosing, task.tuning)
    )
    strategy, search = arm.strategy, 0 if arm.tuner and arm.tuner.begins_at_zero else SEARCH
    if budget is not None:
        paid = draw.finetune_forwards + LORA_LOSSES * len(task.tuning) if arm.shots_lora else 0
        paid += arm.tuner.trials * len(task.choosing) if arm.tuner else 0
        sets, search = sets_within(budget - paid, len(task.choosing), min(k, len(candidates)), search)
        strategy = f"random:sets={sets}"
    choice = choose_merge(
        draw.world.session, strategy, k, candidates, deltas, lambda: draw.delta, losses, anchor=None,
        lora=draw.lora if arm.shots_lora else None, search=search, judging=judging,
        seed=seed_of(setup.seed, task.name, unit.shot_draw, unit.selection_draw),
    )  # fmt: skip
    selection = choice.selection
    chosen, weights = [choice.members[m.id] for m in selection.members], [m.weight for m in selection.members]
    forwards, reason = selection.forwards, selection.stopped
    if arm.tuner:
        seed = seed_of(setup.seed, task.name, unit.shot_draw, unit.tuner_seed, "tuner")
        start = Point(tuple(weights), arm.composition)
        tuning = tune_weights(draw.world.session, chosen, start, arm.tuner, task.choosing_among(choice.members), seed)
        weights, forwards = list(tuning.weights), forwards + tuning.forwards
        reason = f"{reason}; {tuning.reason}"
    if "task_delta" in choice.used:
        forwards += draw.finetune_forwards + PROBES
    elif arm.shots_lora:
        forwards += draw.finetune_forwards
    members = list(zip(chosen, weights, strict=True))
    return draw.result(
        unit, arm.name, view, k, members, composition=arm.composition, forwards=forwards, reason=reason,
        by=arm.choose_by,
    )  # fmt: skip


def sets_within(budget: int, rows: int, k: int, most: int = SEARCH) -> tuple[int, int]:
    """How many random sets a budget pays for, with halving, and how many losses the search of the scale may measure.

    Args:
        budget: forward passes over one row.
        rows: choosing rows; a loss costs one pass over each.
        k: members of a set; each set is measured at two scales, of one member at one. The search finds those of the
            best set measured.
        most: losses that the search of the scale may measure at most; 0 where a tuner does without its scale.
    """
    search = min(most, max(2, budget // rows))
    scales = {1.0, float(k)}
    left = budget - (search - len(scales.intersection(first_scales(k)[:search]))) * rows
    sets = 1
    while len(scales) * halving_passes(sets + 1, rows) <= left:
        sets += 1
    return sets, search


def halving_passes(size: int, rows: int, shares: Sequence[float] = HALVING_SHARES) -> int:
    """Forward passes that the best of so many takes to find, each row of a loss one."""
    spent = before = 0
    for left, share in halving_rounds(size, shares):
        now = rows_in(share, rows)
        spent, before = spent + left * (now - before), now
    return spent
