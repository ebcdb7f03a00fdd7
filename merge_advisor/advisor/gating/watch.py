"""`gate --watch`: a model that is added to a pool is judged on the known tasks, alone and merged with the best.

Of each task's rows a third chooses how the newcomer is used: alone, the mean with the best model known, or the sum (the
least loss). The rest judges that one against the best model known, by the rule of `gate_rule` with a gain demanded:
one test a task. What improves becomes the best.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Unpack
from urllib.parse import quote

import numpy as np

from merge_advisor.advisor.gating.gate import check_judging_files
from merge_advisor.advisor.gating.gated_model import HubFinder, find_gated, open_gated
from merge_advisor.advisor.gating.near_copies import near_copy
from merge_advisor.advisor.gating.watch_state import DecisionKind, KnownBest, PoolDecision, TaskDecision, WatchState
from merge_advisor.advisor.gating.watched_card import watched_card
from merge_advisor.advisor.gating.watched_tasks import WatchedTask, split_watched
from merge_advisor.advisor.measuring.meter import BASE, MergeMeter, ScoredModel, loss_kind_of
from merge_advisor.advisor.measuring.model_scores import guard_losses, score_models
from merge_advisor.advisor.measuring.peak_memory import peak_memory
from merge_advisor.advisor.measuring.session import Session, open_session
from merge_advisor.errors import InputError, MergeAdvisorError, PoolError
from merge_advisor.evaluators.guard import read_guard
from merge_advisor.evaluators.metrics import check_rows, metric_for
from merge_advisor.gate_options import GateOptions, WatchOptions
from merge_advisor.gate_rule import decide_gate
from merge_advisor.gate_values import GateOutcome
from merge_advisor.json_form import digest_of
from merge_advisor.merges import WeightedMerge
from merge_advisor.pool.sources import find_models
from merge_advisor.regular_files import home_expanded
from merge_advisor.session_options import Where, session_options
from merge_advisor.tasks import read_rows
from merge_advisor.types import Candidate
from merge_advisor.whole_files import write_text

if TYPE_CHECKING:
    from merge_advisor.session_options import SessionOptions

_SAME_WEIGHTS = "same weights as "
"""How a pool says that it has a model twice."""


@dataclass(frozen=True, slots=True)
class Watching:
    """What is watched, and by what it is judged.

    >>> Watching("pool", (Path("sums.jsonl"),)).template
    """

    pool: str
    tasks: tuple[Path, ...]
    options: GateOptions = GateOptions()  # noqa: RUF009 - frozen
    watch: WatchOptions = WatchOptions()  # noqa: RUF009 - frozen
    baseline: str | None = None
    """What new models are compared with as long as none improved anything; None: the base."""
    guards: tuple[Path, ...] = ()
    """Files of unrelated text; what loses on one against the best known improves nothing."""
    metric: str = "auto"
    fields: str | None = None
    template: str | None = None
    find_in_hub: HubFinder | None = None
    """Finds a baseline that is hub:ID."""

    @property
    def demands(self) -> GateOptions:
        """The options, with a gain demanded in any case."""
        gain = 0.0 if self.options.min_gain is None else self.options.min_gain
        return GateOptions(self.options.margin, self.options.loss_margin, gain, self.options.min_rows)


def watch_pool(
    watching: Watching, on_decision: Callable[[PoolDecision], None], on_trouble: Callable[[str], None],
    **where: Unpack[Where],
) -> list[PoolDecision]:  # fmt: skip
    """Return the decisions of one look at a pool; without `once`, look again whenever it changes, and never return.

    Args:
        watching: pool, tasks, demands.
        on_decision: called with each decision as it is made.
        on_trouble: called, where it goes on, with what kept a look from being made.
        where: base of the pool, where stores are, and how to compute, see `Where`.

    Raises:
        InputError: no base, no task, or with `once` a pool none of whose models can be used.
        MergeAdvisorError: see `merge_advisor.errors`.
    """
    if not watching.tasks:
        raise InputError("gate: no task is known to judge new models on; give `tasks=FILE`")
    if where.get("base") is None:
        raise InputError("gate: a pool is watched with its base; give `base`")
    tasks = read_watched(watching, offline=where.get("offline", False))
    for path in watching.guards:
        read_guard(path)
    if watching.watch.once:
        return look_at_pool(watching, tasks, on_decision, **where)
    looked, before = None, None
    while True:
        now = _files_of(watching.pool)
        # twice the same: a model that is still being copied is not looked at half
        if now == before and now != looked:
            looked = now
            try:
                look_at_pool(watching, tasks, on_decision, **where)
            except MergeAdvisorError as error:
                on_trouble(str(error))
        before = now
        time.sleep(watching.watch.every)


def read_watched(watching: Watching, *, offline: bool = False) -> list[WatchedTask]:
    """Return the known tasks.

    Args:
        watching: names them.
        offline: whether data sets are taken from the cache alone.

    Raises:
        TaskError: a file that cannot be used, or with too few rows, or a task of lm-eval.
    """
    tasks = []
    check_judging_files(watching.tasks)
    for path in watching.tasks:
        file = read_rows(path, minimum=1, fields=watching.fields, offline=offline)
        metric = metric_for(file.rows, watching.metric)
        check_rows(file.rows, metric)
        tasks.append(split_watched(file.name, file.rows, metric))
    if len({task.name for task in tasks}) < len(tasks):
        raise InputError("two tasks have one name; rename a file, so that the log tells them apart")
    return tasks


def _files_of(pool: str) -> object:
    """What changes when a model is added to a folder; something new each time for what is no folder."""
    folder = home_expanded(pool)
    if not folder.is_dir():
        return time.monotonic()
    found = []
    for path in sorted(folder.rglob("*")):
        try:
            state = path.stat()
        except OSError:  # gone since
            continue
        found.append((str(path), state.st_size, state.st_mtime_ns))
    return tuple(found)


def look_at_pool(
    watching: Watching, tasks: Sequence[WatchedTask], on_decision: Callable[[PoolDecision], None],
    **where: Unpack[Where],
) -> list[PoolDecision]:  # fmt: skip
    """Return the decisions of one look.

    Args:
        watching: pool, demands, folder of the record.
        tasks: that are known.
        on_decision: called with each decision as it is made.
        where: as of `watch_pool`.

    Raises:
        MergeAdvisorError: see `merge_advisor.errors`.
    """
    own: SessionOptions = session_options(where)
    with open_session(
        str(where.get("base")), _pool_if_any(watching.pool), template=watching.template, **own
    ) as session:
        begin, digest = _beginning(watching, session, **where)
        with WatchState(watching.watch.out, digest_of([list(session.memo.context), digest])) as state:
            return _Look(watching, tasks, session, state, begin, on_decision).all()


def _pool_if_any(pool: str) -> str | None:
    """The pool; None for a folder without models, which is no error: there will be some."""
    try:
        find_models(pool)
    except PoolError:
        if not home_expanded(pool).is_dir():
            raise
        return None
    return pool


def _beginning(watching: Watching, session: Session, **where: Unpack[Where]) -> tuple[WeightedMerge, str]:
    """What new models are compared with as long as none improved anything, and its digest."""
    if watching.baseline is None:
        return BASE, ""
    opened = open_gated(
        find_gated(watching.baseline, find_in_hub=watching.find_in_hub),
        watching.template or session.model.template.name,
        **where,
    )
    with opened.session as other:
        if other.memo.context != session.memo.context or opened.prompted:
            raise InputError(
                f"{watching.baseline}: has another base or template than the pool, or is a prompt; new models cannot "
                "be merged with it, leave `baseline` out"
            )
        return opened.merge, opened.side.digest


@dataclass(frozen=True, slots=True, eq=False)
class _Look:
    """One look at a pool whose base, models and record are open."""

    watching: Watching
    tasks: Sequence[WatchedTask]
    session: Session
    state: WatchState
    begin: WeightedMerge
    on_decision: Callable[[PoolDecision], None]
    passes: list[int] = field(default_factory=list)
    """Rows of each measurement that the session has timed."""

    def all(self) -> list[PoolDecision]:
        pool, state = self.session.pool, self.state
        if not state.begun and not self.watching.watch.judge_known:
            marks = {c.id: c.fingerprint for c in pool.candidates} | {r.id: r.reason for r in pool.refused}
            there = f"{len(pool.candidates)} models are there, {len(pool.refused)} set aside"
            text = f"watching began: {there}; judged is what is added"
            return [self._keep(PoolDecision("", "", "begun", text), marks=marks)]
        lost = [(decision, best) for decision, best in map(self._lost, self.tasks) if decision is not None]
        made = [self._keep(decision, best, {}) for decision, best in lost]
        for candidate in pool.candidates:
            if state.known(candidate.id) != candidate.fingerprint:
                made.append(self._judged(candidate))
        for refused in pool.refused:
            # of two that are the same, the pool keeps the one whose name comes first: perhaps the new one
            twin = refused.reason.startswith(_SAME_WEIGHTS)
            known = state.known(refused.id)
            if known == refused.reason or (twin and known is not None):
                continue
            kind: DecisionKind = "duplicate" if twin else "set-aside"
            said = refused.reason if twin else f"set aside: {refused.reason}"
            decision = PoolDecision(refused.id, "", kind, f"{refused.id}: {said}")
            made.append(self._keep(decision, marks={refused.id: refused.reason}))
        return made

    def _keep(
        self, decision: PoolDecision, best: dict[str, KnownBest] | None = None, marks: dict[str, str] | None = None
    ) -> PoolDecision:
        self.state.decide(decision, best, marks)
        self.on_decision(decision)
        return decision

    def _lost(self, task: WatchedTask) -> tuple[PoolDecision | None, dict[str, KnownBest]]:
        """Whether a member of the best model of a task is gone; then what watching began with stands in."""
        best = self.state.best(task.digest)
        here = {c.fingerprint for c in (*self.session.pool.candidates, *self.begin.candidates)}
        if best is None or all(fingerprint in here for fingerprint, _ in best.members):
            return None, {}
        text = f"task {task.name}: {' and '.join(best.ids)}, the best model known, is no longer in the pool"
        back = {task.digest: KnownBest(task.name, (), ())}
        return PoolDecision("", "", "lost", f"{text}; what watching began with stands in for it"), back

    def _best(self, task: WatchedTask) -> WeightedMerge:
        """The best model known of a task."""
        best = self.state.best(task.digest)
        if best is None or not best.members:
            return self.begin
        here = {c.fingerprint: c for c in (*self.session.pool.candidates, *self.begin.candidates)}
        return WeightedMerge(tuple((here[fingerprint], weight) for fingerprint, weight in best.members))

    def _judged(self, candidate: Candidate) -> PoolDecision:
        """The decision on a model that is not known under its id, kept."""
        known = self.state.id_of(candidate.fingerprint)
        if known is not None:
            text = f"{candidate.id}: {_SAME_WEIGHTS}{known}"
            return self._keep(PoolDecision(candidate.id, candidate.fingerprint, "duplicate", text))
        started, memo = time.perf_counter(), self.session.memo
        first = self._counted(0)
        found, chosen = [], 0
        for task in self.tasks:
            how, merge, passes = _chosen(self.session.meter, candidate, self._best(task), task)
            found.append((task, self._on_task(candidate, task, how, merge), merge))
            chosen += passes
        decided = tuple(decision for _, decision, _ in found)
        best = {task.digest: _as_best(task, merge) for task, decision, merge in found if decision.improves}
        card = Path("cards") / f"{quote(candidate.id, safe='')}.md"
        write_text(self.state.folder / card, watched_card(candidate, self.session.local.base, decided))
        timed = memo.timed[first:]
        number = len(self.session.pool.candidates)
        each = [item.seconds for item in timed if item.seconds is not None]
        everyone = round(number * len(self.tasks) * median(each), 1) if each else None
        is_version = self.state.known(candidate.id) is not None
        decision = PoolDecision(
            candidate.id, candidate.fingerprint, "version" if is_version else "new",
            f"{candidate.id}: {'new weights under a known id' if is_version else 'new'}{self._nearly(candidate)}; "
            + "; ".join(f"{task.task} {task.reason}" for task in decided),
            decided, str(card), round(time.perf_counter() - started, 2), sum(item.now for item in timed), everyone,
            forwards=chosen + sum(rows for rows, item in zip(self.passes[first:], timed, strict=True) if item.now),
            peak_bytes=peak_memory(), candidates=number,
            all_candidates_forwards=number * sum(len(task.judging) for task in self.tasks),
        )  # fmt: skip
        return self._keep(decision, best)

    def _nearly(self, candidate: Candidate) -> str:
        """What is said where it is nearly the same as one that is known."""
        known = [c for c in self.session.pool.candidates if self.state.known(c.id) == c.fingerprint]
        near = near_copy(self.session.weights, candidate, known)
        return f", nearly the same as {near[0].id} (its change differs by {near[1]:.1%})" if near else ""

    def _counted(self, rows: int) -> int:
        """Note that all that was timed since was on so many rows; return how much was timed in all."""
        timed = len(self.session.memo.timed)
        self.passes.extend([rows] * (timed - len(self.passes)))
        return timed

    def _on_task(self, candidate: Candidate, task: WatchedTask, how: str, merge: WeightedMerge) -> TaskDecision:
        """What a new model does for a task, on rows that did not choose how it is used."""
        meter, best = self.session.meter, self._best(task)
        models = [ScoredModel("best known", best), ScoredModel(candidate.id, merge)]
        scores = score_models(meter, models, task.judging, task.metric, what=f"judging {candidate.id} on {task.name}")
        self._counted(len(task.judging))
        before, after = (np.asarray(score.rows[task.metric], dtype=np.float64) for score in scores)
        sign = -1.0 if task.metric == "loss" else 1.0
        decided = decide_gate((sign * (after - before)).tolist(), task.metric, self.watching.demands)
        improves = decided.outcome == GateOutcome.PASSED
        used = "" if how == "alone" else f" (as the {how} with the best)"
        words = {
            GateOutcome.PASSED: f"improves{used}: {decided.found}",
            GateOutcome.FAILED: f"does not improve{used}: {decided.found}",
            GateOutcome.CANNOT_TELL: f"may improve{used}, {decided.reason}",
        }
        reason = words[decided.outcome]
        if improves and (against := self._guarded(models)):
            improves, reason = False, f"does not improve: ruled out by {against}; on the task {decided.found}"
        return TaskDecision(
            task.name, how, improves, task.metric, len(task.judging), float(before.mean()), float(after.mean()),
            decided.interval.mean, decided.interval.lower, decided.interval.upper, reason,
        )  # fmt: skip

    def _guarded(self, models: Sequence[ScoredModel]) -> str:
        """What of the guards rules out the second model beside the first; "" where nothing does."""
        for path in self.watching.guards:
            texts = read_guard(path)
            before, after = (np.asarray(guard_losses(self.session.meter, model, texts)) for model in models)
            self._counted(len(texts))
            decided = decide_gate((before - after).tolist(), "loss", self.watching.demands, guard=True)
            if decided.outcome == GateOutcome.FAILED:
                return f"guard {path.stem}, {decided.reason}"
        return ""


def _chosen(
    meter: MergeMeter, candidate: Candidate, best: WeightedMerge, task: WatchedTask
) -> tuple[str, WeightedMerge, int]:
    """The use of a new model with the least loss on the choosing rows, of equals the simplest; and what it took."""
    alone = WeightedMerge(((candidate, 1.0),))
    uses = {"alone": alone}
    if any(best.weights) and best.composition == "exact" and best.rank is None and not best.layers:
        halves = (*((member, weight / 2) for member, weight in best.members), (candidate, 0.5))
        uses |= {"mean": WeightedMerge(halves), "sum": WeightedMerge((*best.members, (candidate, 1.0)))}
    if len(uses) == 1:
        return "alone", alone, 0
    kind = loss_kind_of(task.choosing)
    missed = meter.memo.misses
    losses = {how: float(np.mean(meter.losses(merge, task.choosing, kind))) for how, merge in uses.items()}
    how = min(losses, key=lambda name: losses[name] if math.isfinite(losses[name]) else math.inf)
    return how, uses[how], (meter.memo.misses - missed) * len(task.choosing)


def _as_best(task: WatchedTask, merge: WeightedMerge) -> KnownBest:
    members = tuple((candidate.fingerprint, weight) for candidate, weight in merge.members)
    return KnownBest(task.name, tuple(candidate.id for candidate in merge.candidates), members)
