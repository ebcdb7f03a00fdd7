"""Is what is kept what was written? Store, ledger, study, run folder and hub folder, and what is lost costs."""

from __future__ import annotations

import sqlite3
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from merge_advisor import registry
from merge_advisor.benchmark.running.ledger import LEDGER_FILE, check_ledger
from merge_advisor.checked_sqlite import read_only
from merge_advisor.errors import DamageWarning, InputError, MergeAdvisorError
from merge_advisor.store import Store
from merge_advisor.tuning.study_check import check_study

_STUDY = "study.sqlite"
_AT_MOST = "at most, since what the store has is not measured again"


class CheckedPlace(NamedTuple):
    """What was found of one place.

    >>> CheckedPlace("store", True, "store.sqlite: nothing is stored yet").ok
    True
    """

    what: str
    ok: bool
    says: str


def check_place(path: Path) -> CheckedPlace:
    """Return whether all that is kept somewhere is what was written, and what recomputing the rest costs.

    >>> check_place(Path("run")).what
    'run'

    Args:
        path: a run folder, a hub folder, the folder or file of a benchmark's results, a study, or a store.

    Raises:
        InputError: it is none of these.
    """
    return _checked(path, *_kind_of(path))


def check_store(path: Path) -> CheckedPlace:
    """Return whether every value of a store is what was kept, and what it says; nothing is deleted.

    >>> check_store(Path("store.sqlite")).ok
    True

    Args:
        path: the file.
    """
    return _checked(path, "store", _store)


def _checked(path: Path, what: str, check: Callable[[Path], tuple[bool, str]]) -> CheckedPlace:
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always", DamageWarning)
            ok, says = check(path)
    except MergeAdvisorError as error:
        return CheckedPlace(what, False, str(error))
    lines = [str(one.message) for one in told if issubclass(one.category, DamageWarning)]
    return CheckedPlace(what, ok and not lines, "; ".join([f"{path}: {says}", *lines]))


def _store(path: Path) -> tuple[bool, str]:
    with Store(path) as store:
        found, lost = store.check(), store.damaged_values()
    damaged = sum(bad for _, bad in found.values())
    kept = _counts(found)
    if not damaged:
        return True, kept
    forwards = sum(_forwards_of(name) for name in lost.embeddings)
    costs = [
        *([f"{forwards} forward passes for deltas"] if forwards else []),
        *([f"about {lost.rows} for measurements"] if lost.rows else []),
        *([f"reading {lost.bytes / 1e6:.1f} MB of files"] if lost.bytes else []),
    ]
    cost = f", which takes {' and '.join(costs)}" if costs else ""
    return False, f"{kept}. The damaged ones are made anew when they are asked for{cost}; no command uses them"


def _counts(found: Mapping[str, tuple[int, int]]) -> str:
    return "; ".join(f"{name}: {count} kept, {bad} damaged" for name, (count, bad) in found.items())


def _forwards_of(embedding: str) -> int:
    try:
        return int(registry.build("embedding", embedding).forwards)
    except InputError:  # one of another package, or a name that was damaged
        return int(registry.build("embedding", "delta_activations").forwards)


def _ledger(path: Path) -> tuple[bool, str]:
    found, forwards = check_ledger(path if path.is_dir() else path.parent)
    kept = _counts(found)
    if not any(bad for _, bad in found.values()):
        return True, kept
    if found["made_for"][1]:
        return False, f"{kept}. What it was made for cannot be told any more: `bench` refuses it; give another `out`"
    cost = f"about {forwards} forward passes, by the mean of the others, {_AT_MOST}"
    return False, f"{kept}. The same `bench` measures damaged results anew ({cost})"


def _study(path: Path) -> tuple[bool, str]:
    count, damaged, forwards = check_study(path)
    if not damaged:
        return True, f"{count} trials, 0 damaged"
    cost = f"about {forwards} forward passes, by the mean of the others, {_AT_MOST}"
    told = f"{count} trials, {damaged} damaged. No search goes on with it; "
    return False, f"{told}`merge-advisor tune RUN --force` begins anew ({cost})"


def _run(path: Path) -> tuple[bool, str]:
    from merge_advisor.advisor.runs.run_check import check_files
    from merge_advisor.advisor.runs.run_folder import read_run

    checked, wrong = check_files(path)
    says = [f"{len(checked) + len(wrong)} files, {len(wrong)} damaged or changed", *wrong]
    ok = not wrong
    if ok:
        run = read_run(path)  # whether they belong together
        without = sum(not has for has in checked.values())
        says += [f"{without} of them from before there were checksums"] if without else []
        cost = {part.task: part.rows * part.models for part in run.plan.environment.scoring}
        if cost:
            total = sum(cost.values())
            says.append(f"scoring it again would take {total} forward passes of one row {_AT_MOST}")
    if (path / _STUDY).is_file():
        sound, told = _study(path / _STUDY)
        ok, says = ok and sound, [*says, f"its study: {told}"]
    return ok, "; ".join(says)


def _hub(path: Path) -> tuple[bool, str]:
    from merge_advisor.hub import Hub

    with Hub.open(path) as hub:
        found = hub.check()
    says = [f"{found.entries} models, {found.deltas} deltas", *found.damaged, *found.index]
    if found.index and not found.damaged:
        says.append("`merge-advisor hub check --repair` makes them anew from the catalogue, without a forward pass")
    elif found.damaged:
        each = _forwards_of("delta_activations")
        says.append(
            "`merge-advisor hub check --repair` drops damaged rows; the same `hub add` makes them anew, with "
            f"{each} forward passes for each model whose delta is lost"
        )
    return found.whole, "; ".join(says)


def _kind_of(path: Path) -> tuple[str, Callable[[Path], tuple[bool, str]]]:
    """What a place is, and what looks at it."""
    if path.is_dir():
        for name, what, check in _BY_FILE:
            if (path / name).is_file():
                return what, check
    elif path.is_file():
        tables = _tables(path)
        for table, what, check in _BY_TABLE:
            if table in tables:
                return what, check
    raise InputError(f"{path}: is no run folder, hub folder, store, study or results of a benchmark; name one of these")


_Known = tuple[tuple[str, str, Callable[[Path], tuple[bool, str]]], ...]
_BY_FILE: _Known = (("plan.json", "run", _run), (LEDGER_FILE, "ledger", _ledger), ("catalogue.sqlite", "hub", _hub))
"""A file that only folders of one kind have."""
_BY_TABLE: _Known = (
    ("made_for", "ledger", _ledger), ("measured", "store", _store), ("trials", "study", _study),
    ("entries", "hub", lambda path: _hub(path.parent)),
)  # fmt: skip
"""A table that only files of one kind have."""


def _tables(path: Path) -> frozenset[str]:
    try:
        with read_only(path) as connection:
            return frozenset(str(row[0]) for row in connection.execute("SELECT name FROM sqlite_master"))
    except (sqlite3.Error, UnicodeDecodeError) as error:
        raise InputError(
            f"{path}: is damaged, or no store, study or results of a benchmark ({error}); name one of these, or "
            "delete it: what was in it is made anew"
        ) from error
