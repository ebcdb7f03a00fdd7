"""The run folder: everything one plan made, whole or not at all, readable by someone else.

plan.json       what was found, chosen and why; verdict; one `environment` block for what differs between machines
                (it, tune.json and the files of tasks/ and score/ hold a checksum each; recipes are in it by digest)
recipe.json     the merge itself; every other format is a rendering of it
mergekit.yaml, lorahub.json, adapter/      renderings, each only where it gives the same model
shots_lora/     the LoRA finetuned on the shots
residual/       what was trained on top of the merge, where something was
start/          the merge as it was chosen, before that, and its renderings
prompt/         the base's prompt with examples (icl), to paste, see `prompt_folder`
tasks/          each task's rows, split
score/          each task's score table, row by row, and what was asked; tasks of lm-eval under their names
report.md       the same in words
report.html     the same with plots, one page that needs nothing else
cost.txt        what the run took on this machine, and what its alternatives would have: differs each time, as it has to

Once tuned (see `tuned_folder`):
study.sqlite    the trials, as an Optuna study
tune.json       what they were and which won; recipe.json and its renderings are the winner's
plan/           the plan's own recipe, renderings and what was trained for it
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from merge_advisor.advisor.runs.plan_report import (
    UNADAPTED,
    AdaptationReport,
    Plan,
)
from merge_advisor.checked_sqlite import warn_of_damage
from merge_advisor.errors import RunError
from merge_advisor.json_form import digest_of, read_value, to_checked_json, to_json
from merge_advisor.report.values import TuningReport
from merge_advisor.scores import Score
from merge_advisor.types import Recipe, Task
from merge_advisor.whole_files import remove_leftovers, restore, write_text

SCORE_ANEW = "delete it, and `merge-advisor score {}` makes it anew"  # {}: the run folder
ANEW = "make the run anew, by the same `merge-advisor plan` with `force=True`"
"""What is done about a file that is not what was written."""
PLANNED, TUNING = "plan", "tune.json"
"""Folder of the plan's own recipe, and file of what was tried, in a tuned run."""
MEMBERS = "members"
"""Folder of a run: members whose own files PEFT would not load whole, written anew."""
START = "start"
"""Folder of the merge as it was chosen, and label of its row in a score table, where the model is another one."""
PLAN_START = "plan start"
"""Label of the plan's merge before anything was trained, in the score table of a run tuned without its adaptation."""


@dataclass(frozen=True, slots=True)
class Run:
    """A run folder, read.

    >>> run = read_run(Path("run"))
    >>> run.recipe.composition, len(run.tasks), run.scores
    ('exact', 1, ())
    """

    folder: Path
    plan: Plan
    recipe: Recipe
    tasks: tuple[Task, ...]
    scores: tuple[Score, ...]
    planned: Recipe | None = None
    """The plan's own recipe, where `recipe` is a tuned one."""
    tuning: TuningReport | None = None

    @property
    def prompted(self) -> bool:
        """Whether the run's model has the rows in its prompt; its recipe is the model without them."""
        return (self.plan.adaptation or UNADAPTED).prompted

    @property
    def is_base(self) -> bool:
        """Whether the recipe changes nothing: all weights are 0."""
        return not any(member.weight for member in self.recipe.members)

    @property
    def own_adaptation(self) -> AdaptationReport:
        """How the plan's own model was made, whatever `tune` made of it."""
        return self.plan.planned_adaptation or self.plan.adaptation or UNADAPTED

    @property
    def chosen(self) -> Recipe:
        """The merge that the plan's strategy chose, before anything was trained: what `tune` searches around."""
        return self.own_adaptation.start or self.planned or self.recipe


def write_values(folder: Path, plan: Plan, recipe: Recipe, tasks: tuple[Task, ...]) -> None:
    """Write plan.json, recipe.json and the tasks into a new run folder.

    Args:
        folder: the run folder, or one that becomes it.
        plan: what was chosen and why.
        recipe: the merge.
        tasks: with their rows.

    Raises:
        RunError: no permission, or no room.
    """
    write_text(folder / "plan.json", to_checked_json(plan))
    write_text(folder / "recipe.json", to_json(recipe))
    (folder / "tasks").mkdir(exist_ok=True)
    for number, task in enumerate(tasks):
        write_text(folder / "tasks" / f"{number}.json", to_checked_json(task))


def write_scores(folder: Path, plan: Plan, scores: tuple[Score, ...], reports: Mapping[str, str]) -> None:
    """Add scores and reports to a run folder.

    Args:
        folder: the run folder.
        plan: with the verdict.
        scores: of its tasks, and of tasks of lm-eval.
        reports: texts by the names of their files.

    Raises:
        RunError: no permission, or no room.
    """
    remove_leftovers(folder)
    (folder / "score").mkdir(exist_ok=True)
    own = [task.name for task in plan.tasks]
    for score in scores:
        name = str(own.index(score.task)) if score.task in own else _file_of(score.task)
        write_text(folder / "score" / f"{name}.json", to_checked_json(score))
    for name, text in reports.items():
        write_text(folder / name, text)
    # last: the verdict is there only where the scores behind it are
    write_text(folder / "plan.json", to_checked_json(plan))


def check_run(folder: Path) -> None:
    """Refuse what is no run folder, before it is locked or read.

    Args:
        folder: the run folder.

    Raises:
        RunError: no such folder, or no plan in it.
    """
    restore(folder)
    if not (folder / "plan.json").is_file():
        raise RunError(f"{folder}: is no run folder (no plan.json); make one with `merge-advisor plan`")


def read_run(folder: Path) -> Run:
    """Return what a run folder holds.

    Args:
        folder: the run folder.

    Raises:
        RunError: no such folder, no plan in it, or a file that cannot be read.
        InputError: a file of it is altered, cut short or of another version.
    """
    plan, recipe, planned = _plan_and_recipes(folder)
    tasks = [folder / "tasks" / f"{number}.json" for number in range(len(plan.tasks))]
    run = Run(folder, plan, recipe, tuple(read_value(Task, path, anew=ANEW) for path in tasks), (), planned)
    if recipe.digest != plan.recipe_digest:
        if planned is None:
            raise RunError(f"{folder / 'recipe.json'}: was changed after the plan; {ANEW}")
        # `tune` was killed while it wrote: the plan still stands, not what an earlier `tune` had made of it
        if plan.planned_digest:
            warn_of_damage(
                f"{folder / 'recipe.json'}: is not what `tune` found last: it was changed, or a later `tune` was ended "
                "while it wrote; the plan's own recipe is used, and the same `tune` makes it anew"
            )
            plan = replace(plan, adaptation=run.own_adaptation, verdict=None, reason="")
        return replace(run, plan=plan, recipe=planned)
    scores = [folder / "score" / f"{number}.json" for number in range(len(plan.tasks))]
    # scores of the run's own tasks are files by number; those of lm-eval tasks are added later, by name
    scores += sorted((folder / "score").glob("lm-eval-*.json"))
    return replace(
        run,
        scores=tuple(read_value(Score, path, anew=SCORE_ANEW.format(folder)) for path in scores if path.is_file()),
        tuning=read_value(TuningReport, folder / TUNING, anew=ANEW) if plan.planned_digest else None,
    )


def recipe_now(folder: Path) -> Recipe:
    """Return the recipe of a run as `read_run` would, without its tasks and scores.

    >>> recipe_now(Path("run")) == read_run(Path("run")).recipe
    True

    Args:
        folder: the run folder.

    Raises:
        RunError: as `read_run`.
        InputError: as `read_run`.
    """
    plan, recipe, planned = _plan_and_recipes(folder)
    return recipe if recipe.digest == plan.recipe_digest else planned or recipe


def _plan_and_recipes(folder: Path) -> tuple[Plan, Recipe, Recipe | None]:
    """The plan of a run, its recipe, and the plan's own where it was tuned."""
    check_run(folder)
    plan = read_value(Plan, folder / "plan.json", anew=ANEW)
    if missing := [name for name in ("base", "pool") if name not in plan.environment.paths]:
        raise RunError(
            f"{folder / 'plan.json'}: environment.paths: has no {missing[0]}; correct it or make the file anew"
        )
    recipe = read_value(Recipe, folder / "recipe.json")
    of_plan = folder / PLANNED / "recipe.json"
    planned = read_value(Recipe, of_plan) if of_plan.is_file() else None
    # either digest: `tune` writes plan/ first and plan.json last
    if planned is not None and planned.digest not in (plan.planned_digest, plan.recipe_digest):
        raise RunError(f"{of_plan}: was changed after the plan; {ANEW}")
    return plan, recipe, planned


def _file_of(task: str) -> str:
    """A file's name for a task of lm-eval; other names never become the same."""
    plain = re.sub(r"[^A-Za-z0-9_.-]", "-", task)
    return plain if plain == task.replace(":", "-", 1) else f"{plain}-{digest_of(task)[:8]}"
