"""The public API: `plan`, `embed`, `merge`, `score`, `tune`, `gate`.

It composes the rooms below; the command line calls it.

Each takes where models, stores and the machine are as keyword arguments (`SessionOptions`, `Where`), and returns frozen
values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from merge_advisor.advisor.measuring.session import PoolFilter, open_session
from merge_advisor.advisor.merge_run import merge_run as merge
from merge_advisor.advisor.planning.plan import PlanPlace, check_choosing, check_options, make_plan
from merge_advisor.advisor.planning.plan_value import StepTimer
from merge_advisor.advisor.planning.sources import find_sources, read_plan_inputs, read_sources
from merge_advisor.advisor.runs.out_folder import UNFINISHED, check_out, is_unfinished
from merge_advisor.advisor.runs.reopening import reopen
from merge_advisor.advisor.runs.run_folder import Run, check_run
from merge_advisor.evaluators.guard import read_guard
from merge_advisor.evaluators.lm_eval_tasks import TaskName
from merge_advisor.json_form import digest_of
from merge_advisor.machine_options import Machine, Workers
from merge_advisor.options import PlanOptions, TuneOptions
from merge_advisor.session_options import SessionOptions, Where
from merge_advisor.spaces import Deltas
from merge_advisor.tuning.lock import run_lock
from merge_advisor.types import Pool
from merge_advisor.whole_files import discard, write_text

if TYPE_CHECKING:
    from merge_advisor.advisor.gating.gate import gate
    from merge_advisor.advisor.scoring.score_run import score_run as score

__all__ = [
    "Machine",
    "PlanOptions",
    "TaskName",
    "TuneOptions",
    "Workers",
    "embed",
    "gate",
    "merge",
    "plan",
    "score",
    "tune",
]


def plan(
    task: str | Path | Sequence[str | Path] = (),
    *,
    lm_eval: Sequence[TaskName] = (),
    pool: str | Path,
    base: str,
    out: str | Path,
    options: PlanOptions | None = None,
    force: bool = False,
    scored: bool = True,
    guard: Path | None = None,
    metric: str = "auto",
    notes: Callable[[Pool], Sequence[str]] | None = None,
    seconds: Mapping[str, float] | None = None,
    fitting: int | None = None,
    **where: Unpack[SessionOptions],
) -> Run:
    """Return the run of what to merge for a task: chosen, written and (unless `scored` is False) scored.

    Takes more than eight parameters because it is the whole main use in one call: what, from which models, to where,
    and how it is judged.

    >>> run = plan("examples.jsonl", pool="adapters", base="base", out="planned", options=PlanOptions(k=1),
    ...            scored=False)
    >>> len(run.recipe.members) <= 2, (run.folder / "recipe.json").is_file()
    (True, True)

    Args:
        task: a file of examples, or a data set (`hf:org/name:split`); or several for one merge that serves all.
        lm_eval: tasks of lm-eval to plan for, beside the files: what it scores on is held out, other splits are learned
            from.
        pool: folder of candidates, manifest, or hub ids.
        base: hub id, folder or GGUF file.
        out: the run folder to make.
        options: strategy, k, shots, composition and the rest.
        force: replace a run folder that is there.
        scored: score the held-out rows where there are any.
        guard: file of unrelated text that must not get worse.
        metric: "auto", "accuracy", "exact_match" or "loss"; where it is one of the last two, choices are not what is
            chosen by unless the options say so.
        notes: gives what the report says of the open pool and where it comes from, a sentence each.
        seconds: of steps that were done before, as naming the pool; they count as the run's.
        fitting: models that could have been in the pool, where that is more than are.
        where: `offline`, `follow_links`, `cache`, `store`, `machine`, `beside`, `progress`, see `SessionOptions`.

    Raises:
        MergeAdvisorError: see `merge_advisor.errors`; the message is one line.
    """
    from merge_advisor.advisor.scoring.score_run import Judging, check_metric, score_open_run

    # what can be refused without models is refused before they are opened
    check_metric(metric)
    if guard is not None and scored:
        read_guard(guard)
    options = options or PlanOptions()
    if options.choose_by == "auto" and metric in ("exact_match", "loss"):
        # choices would be what neither the metric nor the user asks for
        options = replace(options, choose_by="loss")
    asked = digest_of(list(map(repr, (task, lm_eval, str(pool), base, options, metric, guard))))
    # what the same call left unscored is made again from what is stored, and scored from where it was
    force = force or (scored and is_unfinished(Path(out), asked))
    place = PlanPlace(Path(out), str(pool), force, asked if scored else "", fitting=fitting)
    check_out(place.out, force=force)
    check_options(options)
    paths = [Path(task)] if isinstance(task, (str, Path)) else [Path(item) for item in task]
    offline = where.get("offline", False)
    tasks = read_sources(find_sources(paths, lm_eval, offline=offline), options, offline=offline)
    check_choosing([item.task for item in tasks], options)
    inputs = read_plan_inputs([item.task for item in tasks], options, offline=offline)
    timer = StepTimer(dict(seconds or {}))
    wanted = PoolFilter(options.include, options.exclude, options.licence)
    with timer.step("open"):
        session = open_session(base, pool, template=options.template, wanted=wanted, **where)
    with session:
        if notes is not None:
            place = replace(place, notes=tuple(notes(session.pool)))
        run = make_plan(session, tasks, options, place, timer, inputs)
        if scored and all(part.heldout for part in run.tasks):
            with run_lock(run.folder, "plans it"):
                run = score_open_run(session, run, Judging(metric, guard))
    discard(run.folder / UNFINISHED)
    return run


def embed(
    *,
    pool: str | Path,
    base: str,
    embedding: str = "delta_activations",
    template: str | None = None,
    wanted: PoolFilter | None = None,
    **where: Unpack[SessionOptions],
) -> Deltas:
    """Return the deltas of a pool's candidates; only those not stored yet are computed.

    >>> deltas = embed(pool="adapters", base="base")
    >>> deltas.ids, deltas.array.shape
    (('a0', 'a1', 'a2', 'b0', 'b1', 'b2'), (6, 32))

    Args:
        pool: folder of candidates, manifest, or hub ids.
        base: hub id, folder or GGUF file.
        embedding: spec of the embedding.
        template: prompt template; None: the pool's.
        wanted: which models of the pool are candidates; None: all that fit the base.
        where: `offline`, `follow_links`, `cache`, `store`, `machine`, `beside`, `progress`, see `SessionOptions`.

    Raises:
        MergeAdvisorError: see `merge_advisor.errors`.
    """
    from merge_advisor.advisor.measuring.deltas import take_deltas

    with open_session(base, pool, template=template, wanted=wanted, **where) as session:
        return take_deltas(session.meter, embedding, session.pool.candidates).deltas


def tune(
    run: str | Path,
    *,
    options: TuneOptions | None = None,
    scored: bool = True,
    guard: Path | None = None,
    metric: str = "auto",
    **where: Unpack[Where],
) -> Run:
    """Return a run tuned: its members' weights searched, the winner its recipe, and (unless `scored` is False) scored.

    The run's adaptation, if it has one, begins anew from the merge that was found; the plan's model stays unless what
    comes of it is better. The plan's own recipe stays under `plan/`. Called again the search goes on where it ended;
    finished trials are never lost.

    >>> tuned = tune(plan("examples.jsonl", pool="adapters", base="base", out="tuned", scored=False).folder,
    ...              options=TuneOptions(trials=5), scored=False)
    >>> len(tuned.tuning.trials) >= 5
    True

    Args:
        run: the run folder.
        options: sampler, objective, budget, adaptation and the rest.
        scored: score base, members, plan and tuned merge on the held-out rows where there are any.
        guard: file of unrelated text that a tuned merge must not get worse on.
        metric: "auto", "accuracy", "exact_match" or "loss", for the scores.
        where: where members and base are, and how to compute, see `Where`.

    Raises:
        MergeAdvisorError: see `merge_advisor.errors`; the message is one line.
    """
    from merge_advisor import registry
    from merge_advisor.advisor.runs.run_report import reports_of
    from merge_advisor.advisor.scoring.score_run import Judging, score_open_run
    from merge_advisor.advisor.searching.tune_run import budget_of, tune_open_run

    options = options or TuneOptions()
    # what can be refused without the models is refused before they are opened
    budget_of(options)
    registry.build("sampler", options.sampler)
    if options.adaptation is not None:
        registry.build("adaptation", options.adaptation)
    folder, does = Path(run), "tunes it"
    check_run(folder)
    # processes that share a search take turns where they write, and wait
    with nullcontext() if options.share else run_lock(folder, does):
        opened, session = reopen(folder, **where)
        with session:
            tuned = tune_open_run(session, opened, options, guard=guard)
            with run_lock(folder, does, wait=True) if options.share else nullcontext():
                if scored and all(task.heldout for task in tuned.tasks):
                    return score_open_run(session, tuned, Judging(metric, guard))
                for name, text in reports_of(tuned).items():
                    write_text(folder / name, text)
                return tuned


def __getattr__(name: str) -> Any:
    if name == "score":  # imports more than `plan --no-score` needs
        from merge_advisor.advisor.scoring.score_run import score_run

        return score_run
    if name == "gate":
        from merge_advisor.advisor.gating.gate import gate

        return gate
    raise AttributeError(f"module 'merge_advisor.advisor' has no attribute {name!r}")
