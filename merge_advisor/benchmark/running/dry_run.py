"""`bench --dry-run`: models, bytes, forward passes and hours, from the setup alone where nothing else is there.

What an arm spends on choosing is counted by running its strategy on invented evidence: this works for any registered
strategy, and the rules are those that results are charged by.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from merge_advisor import registry
from merge_advisor.advisor.measuring.adapting import adaptation_passes
from merge_advisor.advisor.planning.choosing import LORA_LOSSES, SEARCH
from merge_advisor.advisor.planning.choosing_cost import choosing_cost, choosing_passes
from merge_advisor.advisor.planning.dry_run import CHOSEN
from merge_advisor.benchmark.running.ledger import ResultKey
from merge_advisor.benchmark.running.rows import read_families, task_files, task_folder
from merge_advisor.benchmark.running.units import result_keys, select_keys
from merge_advisor.benchmark.setup import HUB, SetupPlaces, finetune_of, notes_of, read_setup
from merge_advisor.benchmark.values import Arm, Setup
from merge_advisor.errors import MergeAdvisorError
from merge_advisor.pool.sources import find_models
from merge_advisor.tuning.samplers.gradient import GRADIENT_PARTS
from merge_advisor.types import BACKWARD, ICL, SHOTS_LORA, Row, Task, more_to_choose

RATE = 12.0
"""Forward passes of one row a second by default: SmolLM2-135M in float32 on two cores, rows of about 90 tokens."""


@dataclass(frozen=True, slots=True)
class ArmCost:
    """What one arm spends on one unit, at most, in forward passes over one row.

    >>> ArmCost(choosing=160, finetune=True, by_chance=False).models
    1
    """

    choosing: int
    """Choosing, the search of the scale and the tuner."""
    finetune: bool
    """Whether it needs the LoRA of the shots."""
    by_chance: bool
    """Whether every selection draw is another choice."""
    by_shots: bool = True
    """Whether every draw of the shots is."""
    models: int = 1
    """Models it has scored on the held-out rows."""


def describe_bench(
    path: Path,
    *,
    base: str | None = None,
    pool: str | None = None,
    tasks: str | None = None,
    only: Sequence[str] = (),
    rate: float = RATE,
    follow_links: bool = False,
) -> dict[str, Any]:
    """Say what `bench` would do and cost; nothing is loaded, fetched or written.

    Args:
        path: the setup.
        base: as in `measure_setup`.
        pool: as in `measure_setup`.
        tasks: as in `measure_setup`.
        only: as in `measure_setup`.
        rate: forward passes of one row a second.
        follow_links: as of `find_models`.

    Returns:
        models, bytes, results, passes by step, hours, what is not here, and the same as `lines` of text.

    Raises:
        InputError: the setup, or a pattern, cannot be used.
    """
    setup, places = read_setup(path, base=base, pool=pool, tasks=tasks)
    absent: list[str] = []
    names = _tasks(setup, places, absent)
    models, pool_bytes = _pool(setup, places, len(names), absent, follow_links=follow_links)
    base_bytes = _bytes(Path(places.base)) if Path(places.base).exists() else None
    if base_bytes is None:
        absent.append(f"base {setup.base}: not a folder or file here; its size is not known")
    every = list(result_keys(setup, names))
    keys = select_keys(every, only, setup)
    passes = bench_passes(setup, keys, models)
    total = sum(passes.values())
    draws = setup.draws.shots * setup.draws.selections * setup.draws.tuners
    families = _families(setup, places, names, absent)
    lines = [
        f"setup {setup.name}: {len(names)} tasks of {len(set(families))} families, {draws} units a task",
        f"{len(setup.views)} views, {len(setup.arms)} arms, {len(setup.controls)} controls: {len(every)} results"
        + ("" if len(keys) == len(every) else f", {len(keys)} of them by `only`"),
        f"base {setup.base}: {_size(base_bytes)}; pool {setup.pool}: {models} models, {_size(pool_bytes)}",
        *(f"{step}: {count} forward passes of one row" for step, count in passes.items()),
        f"{total} forward passes of one row in all, at most; {total / rate / 3600:.1f} hours at {rate:g} a second",
        *(f"not here: {what}" for what in absent),
        *(f"note: {note}" for note in (*places.said, *notes_of(setup, families))),
        "dry run: nothing was loaded or written",
    ]
    return {
        "tasks": len(names), "models": models, "bytes": {"base": base_bytes, "pool": pool_bytes}, "results": len(keys),
        "passes": passes, "hours": total / rate / 3600, "rate": rate, "absent": absent, "lines": lines,
    }  # fmt: skip


def bench_passes(setup: Setup, keys: Sequence[ResultKey], models: int) -> dict[str, int]:
    """Return the forward passes by step, at most; what several units share counts once, as it is measured once.

    Args:
        setup: the benchmark.
        keys: the results wanted.
        models: candidates of the pool.
    """
    arms = {arm.name: arm for arm in setup.arms}
    # once for each of them: the same draw by draw, and a strategy has to be run to be counted
    wanted = dict.fromkeys((key.arm, key.k) for key in keys)
    costs = {(name, k): _cost(name, arms.get(name), setup, models, k) for name, k in wanted}
    finetunes, works = set(), dict[tuple[object, ...], ArmCost]()
    for key in keys:
        cost = costs[key.arm, key.k]
        draws = (key.shot_draw if cost.by_shots else 0, key.selection_draw if cost.by_chance else 0)
        tuner = key.tuner_seed if key.arm in arms and arms[key.arm].tuner else 0
        place = (key.view, key.k) if key.arm in arms or key.arm == "random-adapters" else ()
        works[(key.arm, key.task, *draws, tuner, *place)] = cost
        if cost.finetune:
            finetunes.add((key.task, key.shot_draw))
    return {
        "embed the pool": probes_of(setup) * (models + 1),
        "finetune on the shots": len(finetunes) * (finetune_forwards(setup) + probes_of(setup)),
        "choose and tune": sum(cost.choosing for cost in works.values()),
        "score": sum(cost.models for cost in works.values()) * setup.tasks.heldout,
    }


def _cost(name: str, arm: Arm | None, setup: Setup, models: int, k: int) -> ArmCost:
    """What an arm or a control spends on one unit."""
    if arm is not None:
        return spent_by(arm, setup, models, k)
    if name == "random-adapters":
        return ArmCost(SEARCH * _choosing_rows(setup), False, True)
    scored = {"base": 1, ICL: 1, SHOTS_LORA: 1, "best-single-oracle": models}.get(name, 0)
    return ArmCost(0, name == SHOTS_LORA, False, name in (ICL, SHOTS_LORA), scored)


def probes_of(setup: Setup) -> int:
    """Return the forward passes that embedding one model takes.

    Args:
        setup: names the embedding.
    """
    forwards: int = registry.build("embedding", setup.embedding).forwards
    return forwards


def finetune_forwards(setup: Setup) -> int:
    """Return the forward passes of one finetune on the shots, at most.

    Args:
        setup: shots, tuning rows, and settings of the finetune.
    """
    return finetune_of(setup).forwards_for(setup.tasks.shots, setup.tasks.tuning)


def spent_by(arm: Arm, setup: Setup, models: int, k: int) -> ArmCost:
    """Return what an arm spends on one unit, at most, without the finetune.

    Args:
        arm: what chooses.
        setup: rows and other arms.
        models: candidates it chooses among.
        k: members at most.
    """
    rows = _choosing_rows(setup)
    lora = LORA_LOSSES * setup.tasks.tuning if arm.shots_lora else 0
    if arm.match:
        other = next(a for a in setup.arms if a.name == arm.match)
        matched = spent_by(other, setup, models, k)
        finetune = finetune_forwards(setup) + probes_of(setup)
        budget = matched.choosing + finetune * (matched.finetune and not arm.shots_lora)
        # two losses at least: a search of the scale is never shorter
        return ArmCost(max(budget, 2 * rows + lora), arm.shots_lora, True)
    adapting = _adapting(arm, setup, models, k)
    if arm.adaptation and registry.build("adaptation", arm.adaptation).needs() != "merge":
        return ArmCost(adapting, False, False)
    choice = choosing_cost(arm.strategy, models, k, [rows])
    slopes = (BACKWARD - 1) * math.ceil(rows / GRADIENT_PARTS) if _slopes(arm) else 0
    tuner = arm.tuner.trials * (rows + slopes) if arm.tuner else 0
    search = 0 if arm.tuner and arm.tuner.begins_at_zero else SEARCH
    choosing = choice.forwards + search * rows + lora + tuner + adapting
    return ArmCost(choosing, arm.shots_lora or "task_delta" in choice.used, "rng" in choice.used)


def _adapting(arm: Arm, setup: Setup, models: int, k: int) -> int:
    """What an arm's adaptation takes at most, for as many rows as the setup wants."""
    if not arm.adaptation:
        return 0
    rows = tuple(Row(f"row {number}", "") for number in range(setup.tasks.shots + setup.tasks.tuning))
    task = Task("task", rows[: setup.tasks.shots], rows[setup.tasks.shots :], ())
    choosing = partial(choosing_passes, arm.strategy, models, k)
    return adaptation_passes(
        [task], arm.adaptation, finetune_of(setup), min(k, CHOSEN), choosing=choosing, composition=arm.composition
    )


def _choosing_rows(setup: Setup) -> int:
    return setup.tasks.tuning + min(setup.tasks.shots, more_to_choose(setup.tasks.tuning))


def _slopes(arm: Arm) -> bool:
    return arm.tuner is not None and arm.tuner.sampler.partition(":")[0].strip() in ("gradient", "auto")


def _tasks(setup: Setup, places: SetupPlaces, absent: list[str]) -> list[str]:
    """Names of the tasks; without the data those that the setup or its families name."""
    try:
        if not places.tasks.startswith(HUB):
            return list(task_files(setup, task_folder(places)))
        absent.append(f"tasks {setup.tasks.path}: nothing is fetched in a dry run")
    except MergeAdvisorError as error:
        absent.append(str(error))
    named = sorted(setup.tasks.only)
    try:
        named = named or sorted(read_families(places.families))
    except MergeAdvisorError:
        named = []
    absent.append(f"estimated for the {len(named)} tasks that the setup names" if named else "estimated for 1 task")
    return named or ["task"]


def _families(setup: Setup, places: SetupPlaces, names: Sequence[str], absent: list[str]) -> list[str]:
    try:
        families = read_families(places.families)
    except MergeAdvisorError as error:
        absent.append(str(error))
        families = {}
    return [families.get(name, name) for name in names]


def _pool(
    setup: Setup, places: SetupPlaces, tasks: int, absent: list[str], *, follow_links: bool
) -> tuple[int, int | None]:
    """Models and bytes of the pool; without it one model a task."""
    try:
        found = find_models(places.pool, follow_links=follow_links).models
    except MergeAdvisorError as error:
        absent.append(f"{error}; estimated with one model a task")
        return max(tasks, *setup.k), None
    absent += [f"{model.id}: {model.refusal}" for model in found if model.refusal]
    models = [model for model in found if not model.refusal]
    if not models:
        absent.append(f"pool {setup.pool}: none of its {len(found)} models can be used; estimated with one a task")
        return max(tasks, *setup.k), None
    folders = [model.folder for model in models if model.folder is not None and model.folder.is_dir()]
    if len(folders) < len(models):
        absent.append(f"{len(models) - len(folders)} of {len(models)} models of the pool; their size is not known")
    return len(models), sum(_bytes(folder) for folder in folders) if folders else None


def _bytes(place: Path) -> int:
    files = [place] if place.is_file() else [file for file in place.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)


def _size(count: int | None) -> str:
    return "size not known" if count is None else f"{count / 1e6:,.1f} MB"
