"""What a scored run tells a hub: what models of it reached on the run's tasks."""

from __future__ import annotations

from math import sqrt
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING

from merge_advisor.advisor.runs.run_cost import run_cost
from merge_advisor.hub.values import HubRun, HubScore
from merge_advisor.hub.writing import now
from merge_advisor.statistics import CONFIDENCE, paired_interval

if TYPE_CHECKING:
    from merge_advisor.advisor.runs.run_folder import Run
    from merge_advisor.hub.opened import OpenHub

_RIGHT_OR_WRONG = ("accuracy", "exact_match")


def add_run_scores(hub: OpenHub, run: Run) -> int:
    """Return how many scores a run has brought a hub; the run is listed. See `Hub.add_run`.

    Args:
        hub: open.
        run: a run folder, read.

    Raises:
        RunError: another process writes, or nothing can be written.
    """
    members = {f"member {member.id}": member.fingerprint for member in run.chosen.members}
    if run.chosen.members:
        members["anchor"] = run.chosen.members[0].fingerprint
    kept = 0
    with hub.writing(), hub.catalogue.file.transaction():
        for score in run.scores:
            for model in score.models:
                entry = hub.catalogue.by_fingerprint(run.plan.base.digest, members.get(model.label, ""))
                if entry is None:
                    continue
                for metric, values in model.rows.items():
                    found = score_of(metric, values)
                    if found is None:
                        continue
                    mean, lower, upper = found
                    told = HubScore(
                        score.task, metric, mean, lower, upper, len(values), score.evaluator, score.task_digest
                    )
                    hub.results.keep_score(entry.number, told, now())
                    kept += 1
        verdict = "" if run.plan.verdict is None else str(run.plan.verdict)
        tasks = tuple(task.name for task in run.tasks)
        hub.results.keep_run(HubRun(str(Path(run.folder).absolute()), now(), tasks, verdict, run_cost(run.plan)))
    return kept


def score_of(metric: str, values: tuple[float, ...]) -> tuple[float, float, float] | None:
    """Return mean, lower and upper end of the 95% interval of a metric over rows; None where rows are too few.

    Shares of right answers have Wilson's interval, which covers as it says with few rows too; losses the t interval.

    >>> [round(value, 3) for value in score_of("exact_match", (1.0, 0.0, 1.0, 1.0))]
    [0.75, 0.301, 0.954]

    Args:
        metric: its name.
        values: one a row.
    """
    n = len(values)
    if metric not in _RIGHT_OR_WRONG:
        if n < 2:
            return None
        mean, lower, upper = paired_interval(values, counts=False)
        return mean, lower, upper
    if not n:
        return None
    share, z = sum(values) / n, NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    centre, half = share + z * z / (2 * n), z * sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return share, max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)
