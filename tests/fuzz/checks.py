"""A case, and what is looked at after its command: nothing lost, nothing changed unsaid."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from merge_advisor.errors import MergeAdvisorError
from tests.fuzz.oracle import Fault, Said
from tests.fuzz.world import expected_deltas


@dataclass(frozen=True)
class Case:
    """One input: files by their place, and the command that reads them."""

    target: str
    files: Mapping[str, bytes]
    words: tuple[str, ...]
    about: Mapping[str, Any] = field(default_factory=dict)
    """What the check afterwards has to know."""


Check = Callable[[Path, Path, Sequence[Case], Said], list[Fault]]
"""Takes the world, the case's folder, the cases of one command and what was said."""


def check_rows(_: Path, __: Path, cases: Sequence[Case], said: Said) -> list[Fault]:
    """Rows are used, or what became of them is said."""
    lines = cases[0].about["lines"]
    if said.code != 0 or lines is None:
        return []
    told = json.loads(said.out)
    used = sum(sum(parts.values()) for rows in [told["rows"]] for parts in rows.values())
    text = " ".join(told["lines"])
    if used < lines and "note:" not in text and not any(word in text for word in ("of one value", "rows of", "turns")):
        return [Fault("rows that nothing is said of", f"{used} of {lines} lines: {told['lines']}")]
    return []


def check_pool(_: Path, __: Path, cases: Sequence[Case], said: Said) -> list[Fault]:
    """Every model is a candidate or set aside, a good one is never set aside, other numbers are another model."""
    if said.code not in (0, 3):
        return []
    told = json.loads(said.out)
    found = []
    if told["models"] + len(told["refused"]) != len(cases) + 1:
        found.append(
            Fault("a model that nothing is said of", f"{told['models']} + {len(told['refused'])} of {len(cases) + 1}")
        )
    if "a-original" in told["refused"]:
        found.append(Fault("a good model set aside", told["refused"]["a-original"]))
    for number, case in enumerate(cases):
        reason = told["refused"].get(f"m{number}", "")
        if case.about.get("other") and reason.startswith("same weights as a-original"):
            found.append(Fault("other numbers taken for the same", reason))
    return found


def check_run(_: Path, folder: Path, cases: Sequence[Case], said: Said) -> list[Fault]:
    """A run that was made can be read, names every model, and its reports are text."""
    from merge_advisor.advisor.runs.run_folder import read_run

    made = folder / cases[0].words[cases[0].words.index("--out") + 1]
    try:
        told = read_run(made).plan.candidates
    except MergeAdvisorError as error:
        return [Fault("a run that cannot be read", str(error))]
    found = []
    names = {name for number, case in enumerate(cases) for name in _own_models(case, number)}
    if len(told) != len(names) + 1:
        found.append(Fault("a model that a run says nothing of", f"{[one.id for one in told]} of {sorted(names)}"))
    for path in (path for path in made.rglob("*") if path.suffix in (".json", ".md", ".html", ".yaml")):
        try:
            path.read_bytes().decode()
        except UnicodeDecodeError as error:
            found.append(Fault("a file of a run that is no UTF-8", f"{path.name}: {error}"))
    return found


def _own_models(case: Case, number: int) -> set[str]:
    """The models that a case puts into the pool."""
    parts = (name.split("/") for name in case.files)
    return {part[1].replace("@", f"m{number}") for part in parts if part[0] == "pool"}


def check_deltas(world: Path, folder: Path, cases: Sequence[Case], said: Said) -> list[Fault]:
    """What a damaged store still gives is what was kept, or measured anew."""
    if said.code != 0 or cases[0].words[0] != "embed":
        return []
    with np.load(folder / "x.npz", allow_pickle=False) as arrays:
        found = {str(name): delta for name, delta in zip(arrays["ids"], arrays["deltas"], strict=True)}
    wanted = expected_deltas(world)
    same = found.keys() == wanted.keys() and all(
        np.allclose(found[name], wanted[name], rtol=1e-5, atol=1e-6) for name in wanted
    )
    return [] if same else [Fault("other deltas of a damaged store", said.err[-500:])]


def check_answers(world: Path, _: Path, __: Sequence[Case], said: Said) -> list[Fault]:
    """What a damaged ledger still answers is what it answered."""
    if said.code != 0:
        return []
    told, wanted = json.loads(said.out), json.loads((world / "answers.json").read_text())
    return (
        []
        if told["contrasts"] == wanted
        else [Fault("other answers of a damaged ledger", f"{said.err[-300:]} {told['contrasts']}")]
    )


def check_recipe(world: Path, folder: Path, _: Sequence[Case], said: Said) -> list[Fault]:
    """What is tuned by a damaged study is what was tuned by the whole one."""
    if said.code != 0:
        return []
    found, wanted = ((place / "tuned" / "recipe.json").read_bytes() for place in (folder, world))
    return [] if found == wanted else [Fault("another recipe by a damaged study", said.err[-500:])]
