"""The command lines that make a run again, as far as its folder keeps what was asked for."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from merge_advisor.option_fields import options_of
from merge_advisor.options import PlanOptions
from merge_advisor.regular_files import home_expanded
from merge_advisor.tasks import data_set_of
from merge_advisor.weights.hub import parse_id

if TYPE_CHECKING:
    from merge_advisor.advisor.runs.run_folder import Run


def plan_commands(run: Run, base: str = "") -> list[str]:
    """Return the commands that plan and write a run's model, with no path of the machine it was made on.

    >>> from merge_advisor.advisor.runs.run_folder import read_run
    >>> plan_commands(read_run(Path("run")))[0]
    'merge-advisor plan --task examples.jsonl --pool adapters --base base --strategy top_k --k 2 ...'

    Args:
        run: the run.
        base: what others call a base whose name in the run is of this machine, and has no revision.
    """
    plan = run.plan
    paths = plan.environment.paths
    words = ["merge-advisor", "plan"]
    for task in plan.tasks:
        source = paths.get(f"task {task.name}", task.name)
        if task.name.startswith("lm-eval:"):
            words += ["--lm-eval-task", task.name.removeprefix("lm-eval:")]
        else:
            found = data_set_of(Path(source))
            words += ["--task", found.shown if found else Path(source).name]
    words += ["--pool", _shown(paths["pool"])]
    known = run.recipe.base
    words += ["--base", f"{known.id}@{known.revision}" if known.revision else base or known.id]
    words += _settings(run)
    out = shlex.quote(run.folder.resolve().name)
    tune = [] if run.tuning is None else [f"merge-advisor tune {out}  # with the settings in tune.json"]
    adapter = " --adapter" if (run.folder / "adapter").is_dir() else ""
    return [shlex.join([*words, "--out", run.folder.resolve().name]), *tune,
            f"merge-advisor merge {out}{adapter} --out model"]  # fmt: skip


def _shown(pool: str) -> str:
    """A pool without the folders that lead to it: hub ids as they are, of a place its own name."""
    path = home_expanded(pool)
    if not path.exists() and all(parse_id(part.strip()) for part in pool.split(",")):
        return pool
    return path.name or path.resolve().name


def _settings(run: Run) -> list[str]:
    """The flags of the plan's options that differ from their defaults."""
    settings, plan = run.plan.settings, run.plan
    words = []
    for item in options_of(PlanOptions):
        group, _, name = item.path.rpartition(".")
        if group == "finetune":
            value: Any = settings.finetune.get(name, item.default)
        elif name == "template":
            value = plan.template
        else:
            value = getattr(settings, name, item.default)
        if value == item.default or value is None:
            continue
        for part in value if isinstance(value, tuple) else (value,):
            words += [item.flag, str(part)]
    return [*words, *(["--inputs", "INPUTS.jsonl"] if plan.inputs is not None else [])]
