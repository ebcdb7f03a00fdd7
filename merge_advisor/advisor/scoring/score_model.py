"""`score MODEL`: one model folder, an adapter beside its base or a full model, on every row of task files.

All rows are scored, so there are none to show as examples: no row `icl`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from merge_advisor.advisor.measuring.meter import BASE, ScoredModel
from merge_advisor.advisor.measuring.model_scores import score_models
from merge_advisor.advisor.measuring.session import open_session
from merge_advisor.advisor.scoring.lm_eval_scoring import ask_models
from merge_advisor.advisor.scoring.score_run import check_limit, check_metric
from merge_advisor.errors import InputError
from merge_advisor.evaluators.lm_eval_requests import build_requests
from merge_advisor.evaluators.lm_eval_tasks import load_all_tasks
from merge_advisor.evaluators.metrics import majority_score, metric_for
from merge_advisor.merges import WeightedMerge
from merge_advisor.scores import ModelScore
from merge_advisor.tasks import majority, read_rows

if TYPE_CHECKING:
    from merge_advisor.evaluators.lm_eval_tasks import TaskName
    from merge_advisor.session_options import SessionOptions


def score_model(
    model: str | Path,
    tasks: Sequence[Path] = (),
    *,
    lm_eval: Sequence[TaskName] = (),
    limit: int | None = None,
    base: str | None = None,
    template: str | None = None,
    metric: str = "auto",
    fields: str | None = None,
    on_note: Callable[[str], None] = lambda note: None,
    **where: Unpack[SessionOptions],
) -> dict[str, list[ModelScore]]:
    """Score one model folder on every row of task files: an adapter beside its base, or a full model alone.

    Takes more than eight parameters because it is a command of its own: what, on which rows, and how these are read.

    Args:
        model: folder of an adapter (then `base` is needed) or of a full model.
        tasks: task files; all their rows are scored.
        lm_eval: tasks of lm-eval, scored with its own prompts and metrics.
        limit: documents of each of these tasks at most.
        base: the adapter's base.
        template: prompt template; "alpaca" where None.
        metric: "auto", "accuracy", "exact_match" or "loss".
        fields: which fields of the files are input, output and choices, as `read_rows` takes it.
        on_note: called with what each file was understood as, and with what else has to be known of it.
        where: how to compute and where stores are, see `SessionOptions`.

    Returns:
        By task name, the scores of base (for an adapter), model, and always answering the commonest output (marked as
        an oracle: it has read the answers).

    Raises:
        InputError: an adapter without a base, or a folder that holds no model.
        TaskError: a file or a task of lm-eval that cannot be used.
    """
    folder = Path(model)
    check_metric(metric, lm_eval if not tasks else ())
    check_limit(limit, lm_eval)
    is_adapter = (folder / "adapter_config.json").is_file()
    if is_adapter and base is None:
        raise InputError(f"{folder}: is an adapter; name its base by `base`")
    tables: dict[str, list[ModelScore]] = {}
    named = base if is_adapter and base else str(folder)
    with open_session(named, folder if is_adapter else None, template=template, **where) as session:
        models = [ScoredModel("base" if is_adapter else folder.name, BASE)]
        models += [ScoredModel(c.id, WeightedMerge(((c, 1.0),))) for c in session.pool.candidates]
        for path in tasks:
            file = read_rows(path, minimum=1, fields=fields, offline=where.get("offline", False))
            for note in (file.understood, *file.notes):
                on_note(note)
            measured = metric_for(file.rows, metric)
            scores = score_models(session.meter, models, file.rows, measured, what=f"scoring {file.name}")
            if measured != "loss":
                label = "majority (oracle)"
                scores.append(majority_score(file.rows, majority(file.rows), measured, label=label))
            tables[file.name] = scores
        for task in load_all_tasks(lm_eval, offline=where.get("offline", False)):
            tables[task.name] = ask_models(session.meter, models, build_requests(task, limit=limit))
    return tables
