"""The public API: `plan`, `embed`, `merge`, `score`, `tune`. It composes the rooms below; the command line calls it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from merge_advisor.advisor.measuring.session import open_session
from merge_advisor.advisor.merging import merge_run as merge
from merge_advisor.advisor.planning.plan import make_plan
from merge_advisor.advisor.runs.run_folder import Run
from merge_advisor.evaluators.lm_eval_tasks import TaskName
from merge_advisor.options import Machine, PlanOptions
from merge_advisor.types import Deltas

if TYPE_CHECKING:
    from merge_advisor.options import TuneOptions

__all__ = ["Machine", "PlanOptions", "TaskName", "TuneOptions", "embed", "merge", "plan", "score", "tune"]


def plan(
    task: str | Path | Sequence[str | Path] = (),
    *,
    lm_eval: Sequence[TaskName] = (),
    pool: str | Path,
    base: str,
    out: str | Path,
    options: PlanOptions | None = None,
    scored: bool = True,
    guard: Path | None = None,
    metric: str = "auto",
    **settings: Any,
) -> Run:
    """Choose what to merge for a task, write the run folder, and (unless `scored` is False) say whether it helped.

    Args:
        task: a JSONL file of examples, or several for one merge that serves all.
        lm_eval: tasks of lm-eval to plan for, beside the files: what it scores on is held out, other splits are learned
            from.
        pool: folder of candidates, manifest, or hub ids.
        base: hub id, folder or GGUF file.
        out: the run folder to make.
        options: strategy, k, shots, composition and the rest.
        scored: score the held-out rows where there are any.
        guard: file of unrelated text that must not get worse.
        metric: "auto", "accuracy", "exact_match" or "loss"; where it is one of the last two, choices are not what is
            chosen by unless the options say so.
        settings: `force`, `offline`, `cache`, `store`, `machine`, `progress` as in `make_plan`.

    Raises:
        MergeAdvisorError: see `merge_advisor.errors`; the message is one line.
    """
    from merge_advisor.advisor.scoring.score_run import check_metric

    check_metric(metric)
    options = options or PlanOptions()
    if options.choose_by == "auto" and metric in ("exact_match", "loss"):
        options = replace(options, choose_by="loss")
    paths = [Path(task)] if isinstance(task, (str, Path)) else [Path(item) for item in task]
    run = make_plan(paths, lm_eval=lm_eval, pool=pool, base=base, out=Path(out), options=options, **settings)
    if scored and all(part.heldout for part in run.tasks):
        kept = {key: settings[key] for key in ("offline", "cache", "store", "machine", "progress") if key in settings}
        run = score(run.folder, guard=guard, metric=metric, pool=pool, base=base, **kept)
    return run


def score(run: str | Path, **settings: Any) -> Run:
    """Score a run folder and write score table, verdict and report into it; see `scoring.score_run` for the settings.

    Raises:
        MergeAdvisorError: see `merge_advisor.errors`.
    """
    from merge_advisor.advisor.scoring.score_run import score_run

    return score_run(Path(run), **settings)


def embed(
    *,
    pool: str | Path,
    base: str,
    embedding: str = "delta_activations",
    **settings: Any,
) -> Deltas:
    """Return the deltas of a pool's candidates; only those not stored yet are computed.

    Args:
        pool: folder of candidates, manifest, or hub ids.
        base: hub id, folder or GGUF file.
        embedding: spec of the representation.
        settings: as `open_session` takes them.

    Raises:
        MergeAdvisorError: see `merge_advisor.errors`.
    """
    from merge_advisor.advisor.measuring.measure import take_deltas

    with open_session(base, pool, template=settings.pop("template", None), **settings) as session:
        return take_deltas(session, embedding, session.pool.candidates)[0]


def tune(
    run: str | Path,
    *,
    options: TuneOptions | None = None,
    scored: bool = True,
    metric: str = "auto",
    guard: Path | None = None,
    **settings: Any,
) -> Run:
    """Search the weights of a run's members, write the winner as its recipe, and (unless `scored` is False) score it.

    Args:
        run: the run folder; the plan's own recipe stays under `plan/`.
        options: sampler, objective, budget and the rest, see `TuneOptions`.
        scored: score base, members, plan and tuned merge on the held-out rows where there are any.
        metric: "auto", "accuracy", "exact_match" or "loss", for the scores.
        guard: file of unrelated text that a tuned merge must not get worse on.
        settings: as `tuning.tune_run` takes them.

    Raises:
        MergeAdvisorError: see `merge_advisor.errors`; the message is one line. Finished trials are never lost.
    """
    from merge_advisor.advisor.runs.run_report import html_of, report_of
    from merge_advisor.advisor.searching.tune_run import tune_run
    from merge_advisor.whole_files import write_text

    folder = Path(run)
    found = tune_run(folder, options, guard=guard, **settings)
    if scored and all(task.heldout for task in found.tasks):
        return score(folder, guard=guard, metric=metric, **settings)
    write_text(folder / "report.md", report_of(found))
    write_text(folder / "report.html", html_of(found))
    return found


def __getattr__(name: str) -> Any:
    if name == "TuneOptions":
        from merge_advisor.options import TuneOptions

        return TuneOptions
    raise AttributeError(f"module 'merge_advisor.advisor' has no attribute {name!r}")
