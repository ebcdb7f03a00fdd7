"""The rows of a benchmark: what is held out of a task, what shots are drawn from, and which candidates it may use."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from merge_advisor.benchmark.setup import HUB, TASK_ENDINGS, SetupPlaces
from merge_advisor.benchmark.values import Setup, View
from merge_advisor.benchmark.views import candidate_families, is_allowed
from merge_advisor.errors import InputError, TaskError
from merge_advisor.evaluators.metrics import matches
from merge_advisor.json_form import digest_of
from merge_advisor.limits import JSON_BYTES
from merge_advisor.regular_files import read_regular_text
from merge_advisor.tasks import read_rows
from merge_advisor.types import Candidate, Row, Task

_LABELS = 20
"""Most distinct outputs of a task for which they count as its labels."""


@dataclass(frozen=True, slots=True)
class BenchTask:
    """One task of a benchmark: its held-out rows, and the rows that shots are drawn from.

    >>> rows = tuple(Row(f"{n} + 1 =", f"{n + 1}") for n in range(4))
    >>> task = BenchTask("sums", "numbers", heldout=rows[:2], learning=rows[2:], labels=())
    >>> task.metric, task.valid(" "), task.valid("7")
    ('exact_match', False, True)
    """

    name: str
    family: str
    heldout: tuple[Row, ...]
    """Scored on in every draw, so that a model is scored once a task."""
    learning: tuple[Row, ...]
    """What draws of shots are taken from; no input of it is held out or was seen by the pool."""
    labels: tuple[str, ...]
    """The outputs there are, stripped and sorted; empty where there are more than 20."""
    exact_match: str = "plain"
    """When an output is a label, one of `evaluators.metrics.EXACT_MATCH_RULES`."""

    @property
    def metric(self) -> str:
        """The metric of its score: "accuracy" by choice likelihood where every row has choices, else "exact_match"."""
        return "accuracy" if all(row.choices for row in self.heldout) else "exact_match"

    @property
    def digest(self) -> str:
        """Sha256 over name, family and rows."""
        return digest_of([self.name, self.family, [[row.digest for row in p] for p in (self.heldout, self.learning)]])

    def valid(self, output: str) -> bool:
        """Return whether an output is in the task's format: one of its labels, or not empty where it has none."""
        if not self.labels:
            return bool(output.strip())
        return any(matches(output, label, self.exact_match) for label in self.labels)

    def draw(self, setup: Setup, number: int) -> Task:
        """Return the task with the shots and tuning rows of one draw.

        Args:
            setup: holds the seed and the numbers of rows.
            number: which draw, from 0.
        """
        # by hash, not by a generator: the draw of a row does not depend on the order of the file
        ordered = sorted(self.learning, key=_by_hash(f"{setup.seed}:{number}"))
        shots, tuning = setup.tasks.shots, setup.tasks.tuning
        return Task(self.name, tuple(ordered[:shots]), tuple(ordered[shots : shots + tuning]), self.heldout)


def read_bench_tasks(setup: Setup, places: SetupPlaces, *, offline: bool = False) -> tuple[BenchTask, ...]:
    """Return the setup's tasks, in the order of their names.

    Args:
        setup: says which tasks, and how their rows are divided.
        places: where task files and families are.
        offline: never fetch.

    Raises:
        TaskError: no such folder, a task that is not there, a file that cannot be used, or one with too few rows.
        InputError: the families cannot be read, or a mapping names a task that is not there.
        OfflineError, ExternalError: the tasks have to be fetched and are not.
    """
    families = read_families(places.families)
    files = task_files(setup, task_folder(places, offline=offline))
    strange = next((name for name in setup.tasks.own if name not in files), None)
    if strange is not None:
        raise InputError(f"setup {setup.name}: tasks.own names '{strange}', which is none of the tasks; correct it")
    return tuple(_read(name, path, families.get(name, name), setup) for name, path in files.items())


def task_folder(places: SetupPlaces, *, offline: bool = False) -> Path:
    """Return the folder of task files, fetched from the hub where it is a data set there.

    Args:
        places: where task files are.
        offline: never fetch.

    Raises:
        TaskError: no such folder, or not the id of a data set.
        OfflineError, ExternalError: as `weights.hub.fetch_snapshot`.
    """
    if not places.tasks.startswith(HUB):
        folder = Path(places.tasks)
        if not folder.is_dir():
            raise TaskError(f"tasks {folder}: no such folder; give `tasks=DIR`, or correct tasks.path in the setup")
        return folder
    from merge_advisor.weights.hub import fetch_snapshot, parse_id

    named = parse_id(places.tasks.removeprefix(HUB))
    if named is None:
        raise TaskError(f"tasks {places.tasks}: is no data set of the hub; write hub:org/name@revision")
    return fetch_snapshot(named, [f"*{ending}" for ending in TASK_ENDINGS], offline=offline, kind="dataset").path


def task_files(setup: Setup, folder: Path) -> dict[str, Path]:
    """Return the setup's task files by name, sorted.

    Args:
        setup: says which tasks.
        folder: holds their files, in folders below it as well.

    Raises:
        TaskError: none at all, a task that is not there, or two files of one name.
    """
    # the families may lie among the task files, and are JSON too
    families = Path(setup.tasks.families).name
    files: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix not in TASK_ENDINGS or path.name == families or not path.is_file():
            continue
        if path.stem in files:
            raise TaskError(
                f"tasks {folder}: {files[path.stem].name} and {path.name} are both '{path.stem}'; rename one"
            )
        files[path.stem] = path
    for name in setup.tasks.only:
        if name not in files:
            there = ", ".join(list(files)[:8]) or "no task files"
            raise TaskError(f"tasks {folder}: no file for the task '{name}'; there are {there}")
    wanted = sorted(setup.tasks.only) or sorted(files)
    if not wanted:
        raise TaskError(f"tasks {folder}: holds no task files ({' or '.join(TASK_ENDINGS)}); name another folder")
    return {name: files[name] for name in wanted}


def read_families(path: Path | None) -> dict[str, str]:
    """Return task (or candidate) name to family; empty where no file is named.

    Args:
        path: a JSON object of names.

    Raises:
        InputError: the file is absent, too large, or no JSON object of names.
    """
    if path is None:
        return {}
    try:
        if (size := path.stat().st_size) > JSON_BYTES.most:
            raise InputError(f"{path}: has {JSON_BYTES.over}; correct tasks.families, or {JSON_BYTES.remedy(size)}")
        families = json.loads(read_regular_text(path, "utf-8-sig"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); correct tasks.families") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON ({error}); write one object, task name to family") from error
    if not isinstance(families, dict) or not all(isinstance(name, str) for name in families.values()):
        raise InputError(f"{path}: is no object of task names and families; correct it")
    return families


def _read(name: str, path: Path, family: str, setup: Setup) -> BenchTask:
    """Cut off what the pool saw, hold rows out, leave the rest to the draws; an input is on one side only."""
    file, wanted = read_rows(path), setup.tasks
    # by the number of rows in the file: where repeated ones were dropped this cuts off too many, never too few
    cut = -int(-file.read * wanted.seen // 1)
    seen = {row.input for row in file.rows[:cut]}
    rows = sorted((row for row in file.rows[cut:] if row.input not in seen), key=_by_hash(f"{setup.seed}:heldout"))
    # an input is held out once, or it would count twice in every score
    heldout = tuple({row.input: row for row in rows}.values())[: wanted.heldout]
    scored = {row.input for row in heldout}
    learning = tuple(row for row in rows if row.input not in scored)
    need = wanted.shots + wanted.tuning
    lacks = wanted.heldout - len(heldout) + max(0, need - len(learning))
    if lacks > 0:
        raise TaskError(
            f"{path}: lacks {lacks} rows: {len(rows)} are unseen, and {wanted.heldout} held-out rows, {wanted.shots} "
            f"shots and {wanted.tuning} tuning rows are wanted; leave the task out, or take fewer"
        )
    outputs = sorted({row.output.strip() for row in file.rows})
    labels = tuple(outputs) if len(outputs) <= _LABELS else ()
    return BenchTask(name, family, heldout, learning, labels, setup.exact_match)


def _by_hash(salt: str) -> Callable[[Row], bytes]:
    return lambda row: hashlib.sha256(f"{salt}:{row.digest}".encode()).digest()


def in_view(
    candidates: Sequence[Candidate], task: BenchTask, view: View, own: Mapping[str, str], families: Mapping[str, str]
) -> tuple[int, ...]:
    """Return the positions of the candidates that a task may use in a view.

    Args:
        candidates: the pool.
        task: the task whose view it is.
        view: "own-in": all; "own-out": all but the task's own; "family-out": all but its family's.
        own: task name to the candidate trained on it, where the ids differ.
        families: task or candidate name to family; a name it lacks is a family of its own.

    Raises:
        InputError: no candidate is left.
    """
    of_candidates = candidate_families([candidate.id for candidate in candidates], own, families)
    kept = tuple(
        position
        for position, candidate in enumerate(candidates)
        if is_allowed(candidate.id, of_candidates[candidate.id], task.name, task.family, view, own)
    )
    if not kept:
        raise InputError(
            f"task {task.name}: no candidate is left in the view {view}; give another `pool`, or leave the view out"
        )
    return kept
