"""Read a setup: strict YAML, checked whole before anything is computed."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

from merge_advisor import registry
from merge_advisor.benchmark.values import Arm, Control, Question, Setup
from merge_advisor.errors import InputError, SpecError
from merge_advisor.json_form import from_json
from merge_advisor.limits import SETUP_BYTES
from merge_advisor.options import FinetuneSettings
from merge_advisor.plain_yaml import read_mapping
from merge_advisor.regular_files import home_expanded
from merge_advisor.tuning.goals import PENALISED

"""Largest setup read, in bytes; a longer file is not a setup (a data set given by mistake, say)."""
_MOST = 100_000
"""Members, rows, draws, trials or tokens at most: more is a mistake, and would take hours to be counted."""
_CONTROL_NAMES: tuple[str, ...] = get_args(Control)
"""Names of all controls."""
ORACLES = ("majority-oracle", "best-single-oracle")
"""Controls that read held-out answers."""
_OBJECTIVES = ("auto", "loss", "choices", "accuracy", *PENALISED)
"""What a tuner may minimise; the last two are the loss with LoraHub's penalty."""
TASK_ENDINGS = (".jsonl", ".json")
"""Endings of task files."""
HUB = "hub:"
"""What the place of tasks begins with where they are a data set of the Hugging Face Hub."""


@dataclass(frozen=True, slots=True)
class SetupPlaces:
    """Where base, pool, task files and families are on this machine or on the hub; no part of a setup's identity.

    >>> SetupPlaces("base", "adapters", "hub:org/tasks@main", families=None).tasks.startswith(HUB)
    True
    """

    base: str
    pool: str
    tasks: str
    """A folder, or `hub:org/dataset[@revision]`."""
    families: Path | None
    """JSON file, task name to family; None: every task is a family of its own."""
    said: tuple[str, ...] = ()
    """What of the setup does not hold for the tasks that were given, one line each."""


def read_setup(
    path: Path, *, base: str | None = None, pool: str | None = None, tasks: str | None = None
) -> tuple[Setup, SetupPlaces]:
    """Read and check a setup; relative paths in it start at its own folder, those given here win.

    Args:
        path: the YAML file.
        base: where the base is, if not where the setup says.
        pool: where the pool is, if not where the setup says.
        tasks: where the task files are, if not where the setup says.

    Returns:
        The setup as it is written, and where its parts are. Where a folder of other tasks was given, none of which the
        setup names, the setup is put to all of them: what it says of its own tasks is left out, and `said` says so.

    Raises:
        InputError: not there, not YAML, an unknown key, a value of another type, names that do not fit together, or a
            number out of range. The message names the file and the key.
        SpecError: a strategy, composition, sampler or embedding that is unknown or wrongly parameterised.
    """
    mapping = read_mapping(
        path, "setup", needs="name, base, pool, tasks, arms, primary and smallest_gain",
        remedy="give the path of a setup (YAML)", limit=SETUP_BYTES,
    )  # fmt: skip
    # YAML has dates: as text they are a value of the wrong type, which is refused with its key
    try:
        text = json.dumps(mapping, default=str)
    except (TypeError, ValueError) as error:  # a key that is a date or bytes, say
        raise InputError(f"{path}: a key is no text; put it in quotes, or correct it") from error
    setup = from_json(Setup, text, str(path))
    check_setup(setup, str(path))
    folder = path.parent

    def place(named: str) -> str:
        # a hub id looks like a relative path: what is not there and not clearly a path is left to whoever resolves it
        near = folder / home_expanded(named)
        return str(near) if near.exists() or named.startswith((".", "/", "~")) else named

    folder_of_tasks = tasks or (
        setup.tasks.path if setup.tasks.path.startswith(HUB) else str(folder / setup.tasks.path)
    )
    families = _families(setup, folder, tasks)
    said: tuple[str, ...] = ()
    if tasks and _are_others(setup, Path(tasks)):
        own = Path(tasks) / Path(setup.tasks.families).name if setup.tasks.families else None
        families = own if own and own.is_file() else None
        setup, said = _put_to_others(setup, tasks, families)
    return setup, SetupPlaces(base or place(setup.base), pool or place(setup.pool), folder_of_tasks, families, said)


def _are_others(setup: Setup, folder: Path) -> bool:
    """Whether a folder has task files, and none of those that the setup names."""
    if not setup.tasks.only or not folder.is_dir():
        return False
    families = Path(setup.tasks.families).name
    names = {path.stem for path in folder.rglob("*") if path.suffix in TASK_ENDINGS and path.name != families}
    return bool(names) and not names & set(setup.tasks.only)


def _put_to_others(setup: Setup, tasks: str, families: Path | None) -> tuple[Setup, tuple[str, ...]]:
    """Return the setup for other tasks, and what is left out of it."""
    of_families = f"families are those of {families.name} there" if families else "each is a family of its own"
    dropped = [name for name in ("only", "families", "tried", "own") if getattr(setup.tasks, name)]
    left_out = ", ".join(f"tasks.{name}" for name in dropped if name != "families" or families is None)
    seen = f"; the first {setup.tasks.seen:.0%} of each file are left out all the same" if setup.tasks.seen else ""
    said = (
        f"`tasks={tasks}`: has none of the {len(setup.tasks.only)} tasks that the setup names, so all of its own are "
        f"taken and the setup's {left_out} left out; {of_families}{seen}"
    )
    return replace(setup, tasks=replace(setup.tasks, only=(), tried=(), own={})), (said,)


def _families(setup: Setup, folder: Path, tasks: str | None) -> Path | None:
    """Return the file of the families.

    A file that lies among the setup's task files is looked for among the given task files first: they may be a copy
    with families of its own.
    """
    named = setup.tasks.families
    if not named:
        return None
    if tasks and Path(named).is_relative_to(setup.tasks.path):
        beside = Path(tasks) / Path(named).relative_to(setup.tasks.path)
        if beside.is_file():
            return beside
    return folder / named


def check_setup(setup: Setup, where: str) -> None:
    """Refuse a setup whose parts do not fit together.

    Args:
        setup: what to check.
        where: names the setup in messages.

    Raises:
        InputError: see `read_setup`.
        SpecError: see `read_setup`.
    """

    def refuse(what: str) -> InputError:
        return InputError(f"{where}: {what}")

    _check_numbers(setup, refuse)  # first: the other checks take the smallest k and the arms for granted
    names = [arm.name for arm in setup.arms]
    for name in names:
        if not name.strip() or not name.isprintable():
            raise refuse(f"arms: the name {name!r} is empty or cannot be printed; rename it")
        if names.count(name) > 1:
            raise refuse(f"arms: two are named '{name}'; give one another name")
        if name in _CONTROL_NAMES:
            raise refuse(f"arms: '{name}' is the name of a control; give the arm another name")
    # built to be checked: a misspelt strategy would else fail after hours, at its first unit
    try:
        registry.build("embedding", setup.embedding)
        registry.build("evaluator", scorer_of(setup))
        finetune_of(setup)
        for arm in setup.arms:
            _check_arm(arm, setup, refuse)
    except SpecError as error:
        raise SpecError(f"{where}: {error}") from error
    for label, question in (("primary", setup.primary), *(("secondaries", q) for q in setup.secondaries)):
        _check_question(question, setup, f"{label}: {question.better} against {question.than}", refuse)


def _check_numbers(setup: Setup, refuse: Callable[[str], InputError]) -> None:
    tasks, draws = setup.tasks, setup.draws
    if not setup.arms:
        raise refuse("arms: there are none; name at least two ways to choose")
    if not setup.views or not setup.k:
        raise refuse("views and k: there are none; name at least one of each")
    if not 0 <= tasks.seen < 1:
        raise refuse(f"tasks.seen: {tasks.seen:g} is no share of the rows; give 0 or more, below 1")
    if not setup.smallest_gain > 0:
        raise refuse(f"smallest_gain: {setup.smallest_gain:g} is not above 0; say what gain matters")
    least = {
        "tasks.shots": (tasks.shots, 2), "tasks.tuning": (tasks.tuning, 0), "tasks.heldout": (tasks.heldout, 1),
        "draws.shots": (draws.shots, 1), "draws.selections": (draws.selections, 1), "draws.tuners": (draws.tuners, 1),
        "k": (min(setup.k), 1),
    }  # fmt: skip
    for key, (value, minimum) in least.items():
        if value < minimum:
            raise refuse(f"{key}: {value} is too few; give at least {minimum}")
    for key, value in {
        **{key: value for key, (value, _) in least.items()}, "k": max(setup.k), "max_new_tokens": setup.max_new_tokens
    }.items():  # fmt: skip
        if value > _MOST:
            raise refuse(f"{key}: {value} is too many; give at most {_MOST}")
    lists = {
        "views": setup.views, "controls": setup.controls, "k": setup.k, "only": tasks.only, "tasks.tried": tasks.tried,
    }  # fmt: skip
    for key, items in lists.items():
        twice = next((item for item in items if items.count(item) > 1), None)
        if twice is not None:
            raise refuse(f"{key}: {twice} is there twice; keep one")


def _check_arm(arm: Arm, setup: Setup, refuse: Callable[[str], InputError]) -> None:
    where = f"arm '{arm.name}'"
    registry.build("strategy", arm.strategy)
    most = getattr(registry.build("composition", arm.composition), "most", None)
    if arm.adaptation:
        registry.build("adaptation", arm.adaptation)
        if arm.tuner or arm.shots_lora or arm.match:
            raise refuse(f"{where}: an adaptation goes with no tuner, shots_lora or match; leave them out")
    for k in ks_of(arm, setup):
        if k < 1:
            raise refuse(f"{where}: k {k} is too few; a merge needs at least one member")
        if k > _MOST:
            raise refuse(f"{where}: k {k} is too many; give at most {_MOST}")
        if most is not None and k > most:
            raise refuse(f"{where}: composition {arm.composition} merges at most {most} members, not {k}; lower k")
    if arm.shots_lora and not setup.tasks.tuning:
        raise refuse(f"{where}: shots_lora would be judged on the rows it was trained on; give tasks.tuning rows")
    if arm.match:
        other = next((a for a in setup.arms if a.name == arm.match), None)
        if other is None or other is arm or other.match:
            raise refuse(
                f"{where}: match: '{arm.match}' is no other arm that spends its own budget; name one, or leave it out"
            )
        # a budget is spent by measuring as many random sets as it pays for; other strategies have no such number
        if arm.strategy.strip() != "random":
            raise refuse(f"{where}: match goes with strategy random, whose sets it counts; not {arm.strategy}")
        if arm.tuner != other.tuner or (arm.tuner and not arm.tuner.begins_at_zero):
            raise refuse(
                f"{where}: match: give it and '{arm.match}' no tuner, or both the same of sampler lorahub, whose "
                "trials all cost the same"
            )
        if not set(ks_of(arm, setup)) <= set(ks_of(other, setup)):
            raise refuse(f"{where}: match: '{arm.match}' is not run at every k of it; give both the same")
    if arm.tuner:
        if not 1 <= arm.tuner.trials <= _MOST:
            raise refuse(f"{where}: tuner.trials: {arm.tuner.trials} is no number of trials; give 1 to {_MOST}")
        registry.build("sampler", arm.tuner.sampler)
        if arm.tuner.objective not in _OBJECTIVES:
            known = ", ".join(_OBJECTIVES)
            raise refuse(f"{where}: tuner.objective '{arm.tuner.objective}' is unknown; choose one of: {known}")
        if arm.shots_lora and arm.tuner.begins_at_zero:
            raise refuse(f"{where}: sampler lorahub begins at weights 0; shots_lora does not go with it")


def _check_question(question: Question, setup: Setup, where: str, refuse: Callable[[str], InputError]) -> None:
    arms = {arm.name: arm for arm in setup.arms}
    if question.better == question.than:
        raise refuse(f"{where}: compares an arm with itself; name another")
    if question.view not in setup.views:
        raise refuse(f"{where}: view {question.view} is none of the setup's ({', '.join(setup.views)}); add it")
    for name in (question.better, question.than):
        if name in ORACLES:
            raise refuse(f"{where}: '{name}' has read held-out answers, so nothing is compared with it; name another")
        if name not in arms and name not in setup.controls:
            known = ", ".join((*arms, *(c for c in setup.controls if c not in ORACLES)))
            raise refuse(f"{where}: no arm or control is named '{name}'; there are {known}")
        if question.k not in (ks_of(arms[name], setup) if name in arms else setup.k):
            raise refuse(f"{where}: '{name}' is not run at k {question.k}; add it, or ask at another k")
        if question.metric != "accuracy" and name == "majority":
            raise refuse(f"{where}: a label has no loss; compare by accuracy")


def ks_of(arm: Arm, setup: Setup) -> tuple[int, ...]:
    """Return the sizes that an arm is run at: its own, or else the setup's.

    Args:
        arm: one of the setup's.
        setup: holds the sizes of arms without their own.
    """
    return arm.k or setup.k


def scorer_of(setup: Setup) -> str:
    """Return the spec of the evaluator that scores held-out rows.

    Args:
        setup: holds the number of tokens and the rule of a match.
    """
    matched = "" if setup.exact_match == "plain" else f",exact_match={setup.exact_match}"
    return f"fast:max_new_tokens={setup.max_new_tokens}{matched}"


def finetune_of(setup: Setup) -> FinetuneSettings:
    """Return the settings of the finetune on the shots: the defaults of `plan` with what the setup changes.

    Args:
        setup: holds the changes.

    Raises:
        InputError: an unknown setting, or a value it cannot have.
    """
    known = [field.name for field in fields(FinetuneSettings)]
    hints = get_type_hints(FinetuneSettings)
    changes: dict[str, Any] = {}
    for name, value in setup.finetune.items():
        if name not in known:
            raise InputError(f"setup {setup.name}: finetune.{name} is unknown; choose one of: {', '.join(known)}")
        # YAML gives 3 and 3.0 alike as numbers of a `dict[str, float]`
        if hints[name] is not float and value != int(value):
            raise InputError(f"setup {setup.name}: finetune.{name} is {value:g}; give a whole number")
        changes[name] = value if hints[name] is float else int(value)
    return replace(FinetuneSettings(), **changes)


def notes_of(setup: Setup, families: Sequence[str]) -> list[str]:
    """Return what the setup cannot show, one line each.

    Args:
        setup: what is asked.
        families: the family of each task.
    """
    draws, notes = setup.draws, []
    if draws.shots * draws.selections * draws.tuners == 1:
        notes.append("one draw of everything: how much of a difference is luck of the seed cannot be shown")
    elif draws.shots == 1:
        notes.append("one draw of the shots: how much depends on which examples are given cannot be shown")
    tried = [family for family in setup.tasks.tried if family in families]
    if tried:
        notes.append(
            f"strategies were tried out on {', '.join(tried)}: in the tables by task, in no contrast and no mean"
        )
    number = len(set(families) - set(tried))
    if number < 6:
        notes.append(f"{number} families: a sign-flip test cannot reach p < .05 with fewer than 6")
    if not setup.tasks.tuning:
        notes.append("no tuning rows: members and weights are chosen on the shots themselves")
    return notes
