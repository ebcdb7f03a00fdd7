"""Putting a tuned recipe in the place of the plan's, so that a kill at any moment leaves a run that can be read."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from merge_advisor.advisor.runs.plan_report import AdaptationReport
from merge_advisor.advisor.runs.renderings import rendering_names
from merge_advisor.advisor.runs.run_folder import MEMBERS, PLANNED, START, TUNING, Run
from merge_advisor.errors import RunError
from merge_advisor.json_form import to_checked_json, to_json
from merge_advisor.report.values import TuningReport
from merge_advisor.types import RESIDUAL, SHOTS_LORA, Recipe
from merge_advisor.whole_files import discard, remove_leftovers, scratch_folder, whole_folder, write_text
from merge_advisor.write_points import write_point


@dataclass(frozen=True, slots=True)
class TunedValues:
    """What `tune` writes into a run folder as JSON.

    >>> TunedValues.__slots__
    ('recipe', 'rank_error', 'adaptation', 'tuning')
    """

    recipe: Recipe
    """The run's recipe from now on."""
    rank_error: float
    """Relative error of cutting its merge to its rank."""
    adaptation: AdaptationReport
    """How its model was made."""
    tuning: TuningReport
    """What was tried."""


@contextmanager
def tuned_folder(run: Run, values: TunedValues) -> Iterator[Path]:
    """Yield a folder for what goes with a tuned recipe; it takes the place of the plan's when the block ends well.

    That is the renderings, what was trained on top of the merge (`residual/`) and that merge (`start/`), which vanish
    where the block writes none, and `shots_lora/`, which stays where it writes none. recipe.json is written first and
    plan.json, which names the recipe by its digest, last: killed between, the run is read as the plan made it, and
    tuning it again writes everything anew. Scores of another recipe are taken away.

    Args:
        run: as it was read.
        values: what is written beside.

    Raises:
        RunError: no permission, or no room.
    """
    folder = run.folder
    try:
        remove_leftovers(folder)
        with scratch_folder(folder / "tuned") as staged:
            yield staged
            _put_in_place(run, values, staged)
    except OSError as error:
        raise RunError(f"{folder}: cannot be written ({error.strerror}); check permissions and free space") from error


def _put_in_place(run: Run, values: TunedValues, staged: Path) -> None:
    folder, recipe = run.folder, values.recipe
    _set_plan_aside(folder)
    write_text(folder / "recipe.json", to_json(recipe))
    if (staged / SHOTS_LORA).is_dir():
        _set_shots_lora_aside(folder)
    for name in (*_replaced(), SHOTS_LORA):
        if name != SHOTS_LORA or (staged / name).exists():
            discard(folder / name)
        if (staged / name).exists():
            (staged / name).rename(folder / name)
            write_point("part in place", name)
    write_text(folder / TUNING, to_checked_json(values.tuning))
    plan = replace(
        run.plan,
        recipe_digest=recipe.digest,
        rank_error=values.rank_error,
        adaptation=values.adaptation,
        planned_digest=(run.planned or run.recipe).digest,
        planned_adaptation=run.own_adaptation,
    )
    # of plan.json: after a kill the run is read with the plan's recipe, whatever was scored before
    if recipe.digest != run.plan.recipe_digest:
        plan = replace(plan, verdict=None, reason="")
        discard(folder / "score")
    write_text(folder / "plan.json", to_checked_json(plan))


def _replaced() -> list[str]:
    """Files and folders that go with a recipe, `shots_lora/` aside."""
    return [*rendering_names(), MEMBERS, RESIDUAL, START]


def _set_plan_aside(folder: Path) -> None:
    """Copy the plan's own recipe and what goes with it to `plan/`, whole or not at all, unless it is there."""
    if (folder / PLANNED).is_dir():
        return
    with whole_folder(folder / PLANNED) as partial:
        for name in ("recipe.json", *_replaced()):
            if (folder / name).is_dir():
                shutil.copytree(folder / name, partial / name)
            elif (folder / name).exists():
                shutil.copyfile(folder / name, partial / name)


def _set_shots_lora_aside(folder: Path) -> None:
    """Copy the plan's own `shots_lora/` to `plan/`, unless it is there: only before another one takes its place."""
    if not (folder / PLANNED / SHOTS_LORA).is_dir():
        with whole_folder(folder / PLANNED / SHOTS_LORA) as partial:
            shutil.copytree(folder / SHOTS_LORA, partial, dirs_exist_ok=True)
