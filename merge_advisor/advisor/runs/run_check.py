"""Is each file of a run folder what was written? Looked at one by one, where `read_run` ends at the first."""

from __future__ import annotations

from pathlib import Path

from merge_advisor.advisor.runs.plan_report import Plan
from merge_advisor.advisor.runs.run_folder import ANEW, PLANNED, SCORE_ANEW, TUNING, check_run
from merge_advisor.errors import MergeAdvisorError
from merge_advisor.json_form import read_checked_value
from merge_advisor.report.values import TuningReport
from merge_advisor.scores import Score
from merge_advisor.types import Recipe, Task


def check_files(folder: Path) -> tuple[dict[str, bool], tuple[str, ...]]:
    """Return the files of a run that are right, each with whether anything would tell if not, and what is wrong.

    >>> check_files(Path("run"))[1]
    ()

    Args:
        folder: the run folder.

    Raises:
        RunError: no run folder.
    """
    check_run(folder)
    kinds: dict[Path, type[object]] = {folder / "plan.json": Plan, folder / "recipe.json": Recipe}
    kinds |= dict.fromkeys(sorted((folder / "tasks").glob("*.json")), Task)
    kinds |= dict.fromkeys(sorted((folder / "score").glob("*.json")), Score)
    later = {folder / TUNING: TuningReport, folder / PLANNED / "recipe.json": Recipe}
    kinds |= {path: cls for path, cls in later.items() if path.exists()}
    right, wrong = dict[str, bool](), list[str]()
    for path, cls in kinds.items():
        try:
            _, compared = read_checked_value(cls, path, anew=SCORE_ANEW.format(folder) if cls is Score else ANEW)
        except MergeAdvisorError as error:
            wrong.append(str(error))
        else:
            # recipes have none: plan.json names them by their digests
            right[path.relative_to(folder).as_posix()] = compared or cls is Recipe
    return right, tuple(wrong)
