"""Putting a tuned recipe in the place of the plan's, so that a kill at any moment leaves a run that can be read."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from merge_advisor.advisor.runs.renderings import rendering_names
from merge_advisor.advisor.runs.run_folder import PLANNED, TUNING, Run
from merge_advisor.errors import RunError
from merge_advisor.json_form import to_json
from merge_advisor.report.values import TuningReport
from merge_advisor.types import Recipe
from merge_advisor.whole_files import whole_folder, write_text


@contextmanager
def tuned_folder(folder: Path, run: Run, recipe: Recipe, rank_error: float, tuning: TuningReport) -> Iterator[Path]:
    """Yield a folder for the renderings of a tuned recipe; they take the place of the plan's when the block ends well.

    plan.json is written last and names the recipe by its digest: killed before that, the run is read as the plan made
    it, and tuning it again writes everything anew. Scores of another recipe are taken away.

    Args:
        folder: the run folder.
        run: as it was read.
        recipe: the tuned recipe.
        rank_error: relative error of cutting its merge to its rank.
        tuning: what was tried.

    Raises:
        RunError: no permission, or no room.
    """
    staged = Path(tempfile.mkdtemp(dir=folder, prefix=".tuned."))
    try:
        yield staged
        _set_plan_aside(folder)
        for name in rendering_names():
            _remove(folder / name)
            if (staged / name).exists():
                (staged / name).rename(folder / name)
        write_text(folder / "recipe.json", to_json(recipe))
        write_text(folder / TUNING, to_json(tuning))
        plan = replace(
            run.plan,
            recipe_digest=recipe.digest,
            rank_error=rank_error,
            planned_digest=(run.planned or run.recipe).digest,
        )
        if recipe.digest != run.recipe.digest:
            plan = replace(plan, verdict=None, reason="")
            _remove(folder / "score")
        write_text(folder / "plan.json", to_json(plan))
    except OSError as error:
        raise RunError(f"{folder}: cannot be written ({error.strerror}); check permissions and free space") from error
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _set_plan_aside(folder: Path) -> None:
    """Copy the plan's own recipe and renderings to `plan/`, whole or not at all, unless they are there."""
    if (folder / PLANNED).is_dir():
        return
    with whole_folder(folder / PLANNED) as partial:
        for name in ("recipe.json", *rendering_names()):
            if (folder / name).is_dir():
                shutil.copytree(folder / name, partial / name)
            elif (folder / name).exists():
                shutil.copyfile(folder / name, partial / name)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
