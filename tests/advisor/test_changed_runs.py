"""A run folder of which something was changed or damaged is refused with what to do, and one of before is read."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from merge_advisor import score, tune
from merge_advisor.advisor.runs.run_folder import read_run
from merge_advisor.cli import main
from merge_advisor.errors import DamageWarning, RunError
from merge_advisor.options import TuneOptions
from tests.support.run_files import unchecked


@pytest.fixture(scope="module")
def kept(example_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that is scored and tuned."""
    folder = tmp_path_factory.mktemp("changed")
    shutil.copytree(example_world / "run", folder / "run")
    where = {"cache": folder / "cache"}
    score(folder / "run", **where)  # type: ignore[arg-type]
    tune(folder / "run", options=TuneOptions(trials=4, sampler="random"), **where)  # type: ignore[arg-type]
    return folder / "run"


@pytest.fixture
def run(kept: Path, tmp_path: Path) -> Path:
    return shutil.copytree(kept, tmp_path / "run")


def in_number(text: str) -> str:
    """Another digit in the first number that has several."""
    import re

    match = re.search(r"(?<=\.)\d(?=\d{4})", text)
    assert match is not None
    return text[: match.start()] + str((int(match[0]) + 5) % 10) + text[match.end() :]


CHANGES: dict[str, tuple[str, Callable[[str], str]]] = {
    "a score": ("score/0.json", in_number),
    "a verdict": ("plan.json", lambda text: text.replace('"verdict": "', '"verdict": "x')),
    "a gain": ("plan.json", in_number),
    "a path": ("plan.json", lambda text: text.replace('"pool": "', '"pool": "/x')),
    "a row": ("tasks/0.json", lambda text: text.replace('"output": "', '"output": "x', 1)),
    "a trial": ("tune.json", in_number),
    "a checksum": ("tasks/0.json", lambda text: text.replace('"checksum": "', '"checksum": "0', 1)),
    "a checksum that is no text": (
        "tasks/0.json",
        lambda text: text.replace('"checksum": "', '"checksum": 1, "x": "', 1),
    ),
}
ANEW = r"make the run anew, by the same `merge-advisor plan` with --force"


@pytest.mark.parametrize("what", CHANGES)
def test_a_changed_file_is_refused(what: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name, change = CHANGES[what]
    path = run / name
    text = path.read_text()
    assert change(text) != text
    path.write_text(change(text))
    for words in (
        ["card", str(run)],
        ["tune", str(run), "--dry-run"],
        ["merge", str(run), "--out", str(run.parent / "m")],
    ):
        assert main([*words, "--offline"]) == 2
        said = capsys.readouterr().err
        remedy = f"delete it, and `merge-advisor score {run}` makes it anew" if name == "score/0.json" else ANEW
        assert said == f"merge-advisor: error: {path}: was changed after it was written, or damaged; {remedy}\n"


def test_what_the_message_says_makes_the_score_anew(run: Path, kept: Path) -> None:
    (run / "score" / "0.json").unlink()
    assert main(["score", str(run), "--cache", str(kept.parent / "cache"), "--threads", "1"]) == 0
    assert (run / "score" / "0.json").read_bytes() == (kept / "score" / "0.json").read_bytes()
    assert read_run(run).plan.verdict == read_run(kept).plan.verdict


def test_a_run_of_before_there_were_checksums_is_read(run: Path, kept: Path) -> None:
    import json

    for name in ("plan.json", "tune.json", "tasks/0.json", "score/0.json"):
        assert unchecked(run / name) != json.loads((run / name).read_text())
        (run / name).write_text(json.dumps(unchecked(run / name)))
    old, new = read_run(run), read_run(kept)
    assert (old.plan, old.tasks, old.scores, old.tuning) == (new.plan, new.tasks, new.scores, new.tuning)


def test_a_changed_recipe_is_refused_or_told(run: Path, kept: Path) -> None:
    """`tune` writes the recipe before the plan that names it: another one may be of a `tune` that was killed."""
    of_plan, tuned = run / "plan" / "recipe.json", run / "recipe.json"
    changed = tuned.read_text().replace('"weight": ', '"weight": 1')
    text = tuned.read_text()
    tuned.write_text(changed)
    with pytest.warns(DamageWarning, match="is not what `tune` found last: it was changed, or"):
        assert read_run(run).recipe == read_run(kept).planned
    tuned.write_text(text)
    assert read_run(run).recipe == read_run(kept).recipe
    of_plan.write_text(changed)
    with pytest.raises(RunError, match="was changed after the plan; make the run anew"):
        read_run(run)
