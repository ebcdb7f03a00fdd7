"""The BIG-bench pool from an sdist: rows, resuming, comparison, adapters with their cards, the table. No network."""

import importlib
import io
import json
import sys
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from merge_advisor.benchmark.running.rows import read_families
from merge_advisor.benchmark.setup import read_setup
from merge_advisor.errors import InputError
from merge_advisor.pool.licences import read_card
from merge_advisor.tasks import read_rows
from merge_advisor.weights.tensorfile import read_header

SCRIPTS = Path(__file__).parents[2] / "scripts"
CANARY = "keep out of corpora: 1234"
COLOURS = ("red", "green", "blue ")


def scored(text: str, best: str, choices: Sequence[str] = COLOURS) -> dict[str, dict[str, float] | str]:
    return {"input": text, "target_scores": {choice: float(choice == best) for choice in choices}}


COLOR = {
    "canary": CANARY, "description": "Say the colour.", "preferred_score": "multiple_choice_grade",
    "examples": [scored(f" code {number} ", COLOURS[number % 3]) for number in range(40)],
}  # fmt: skip
TENSE = {
    "canary": CANARY, "description": "Change the tense.", "preferred_score": "bleu", "task_prefix": "Past of ",
    "append_choices_to_input": False,
    "examples": [{"input": f"go {number}", "target": ["went ", "did go"]} for number in range(30)],
}  # fmt: skip
NAMES = ["color__hex", "tense"]


@pytest.fixture(scope="module")
def rows() -> Iterator[ModuleType]:
    """The module of the rows; the script beside it is `build`."""
    sys.path.insert(0, str(SCRIPTS))
    yield importlib.import_module("bigbench_rows")
    sys.path.remove(str(SCRIPTS))


@pytest.fixture(scope="module")
def build(rows: ModuleType) -> ModuleType:
    return importlib.import_module("build_bigbench_pool")


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tasks, and what an archive might hold beside them; setup.py would tell if it were run."""
    path = tmp_path_factory.mktemp("sdist") / "bigbench-1.0.0.tar.gz"
    members = {
        "bigbench-1.0.0/setup.py": f"open({str(path.parent / 'ran')!r}, 'w')",
        "bigbench-1.0.0/bigbench/benchmark_tasks/color/hex/task.json": json.dumps(COLOR),
        "../../escaped": "x",
        "bigbench-1.0.0/bigbench/benchmark_tasks/color/hex/results/task.json": "no json",
        "bigbench-1.0.0/bigbench/benchmark_tasks/tense/task.json": json.dumps(TENSE),
    }
    with tarfile.open(path, "w:gz") as archive:
        for name, text in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text.encode()))
    return path


def test_rows_with_choices(rows: ModuleType) -> None:
    found = rows.rows_of("color__hex", COLOR)
    assert found == rows.rows_of("color__hex", COLOR)
    assert sorted(row["input"].split("\n")[0] for row in found) == sorted(f"code {n}" for n in range(40))
    assert found != sorted(found, key=lambda row: row["input"])
    orders = {tuple(row["choices"]) for row in found}
    assert len(orders) > 3 and all(sorted(order) == ["blue", "green", "red"] for order in orders)
    for row in found:
        number = int(row["input"].split("\n")[0].removeprefix("code "))
        assert row["output"] == COLOURS[number % 3].strip()
        listed = [line.removeprefix("- ").strip() for line in row["input"].split("\n")[2:]]
        assert row["input"].split("\n")[1] == "Options:" and listed == row["choices"]


def test_rows_whose_answer_is_written(rows: ModuleType) -> None:
    found = rows.rows_of("tense", TENSE)
    assert {row["input"] for row in found} == {f"Past of go {n}" for n in range(30)}
    assert all(row == {"input": row["input"], "output": "went"} for row in found)
    sums = {"preferred_score": "exact_str_match", "examples": [scored("1 + 1", "2", ("2", "banana")) | {"target": "2"}]}
    assert rows.rows_of("arithmetic__2_digit_addition", sums) == [{"input": "1 + 1", "output": "2"}]


def test_what_is_no_row(rows: ModuleType) -> None:
    kept = [{"input": f"{n}", "target": "x"} for n in range(rows.MOST_ROWS + 50)]
    assert len(rows.rows_of("tense", {"examples": kept})) == rows.MOST_ROWS
    examples = [
        {"input": "a" * 800, "target": "b" * 200},
        {"input": "a" * 801, "target": "x"},
        {"input": "c", "target": "b" * 201},
        {"input": "twice", "target": "first"},
        {"input": " twice ", "target": "second"},
    ]
    found = rows.rows_of("tense", {"examples": examples})
    assert sorted((row["input"], row["output"]) for row in found) == [("a" * 800, "b" * 200), ("twice", "first")]


def test_every_task_has_a_family(rows: ModuleType) -> None:
    assert (len(rows.FAMILIES), len(set(rows.FAMILIES.values()))) == (59, 18)


def test_files_from_the_archive(rows: ModuleType, sdist: Path, tmp_path: Path) -> None:
    folder = tmp_path / "a" / "tasks"
    rows.write_tasks(sdist, folder, NAMES)
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert sorted(files) == ["README.md", "about.json", "color__hex.jsonl", "families.json", "tense.jsonl"]
    assert json.loads(files["families.json"]) == {"color__hex": "color", "tense": "grammar"}
    assert CANARY in files["README.md"].decode() and "at most 800 characters" in files["README.md"].decode()
    assert len(read_rows(folder / "color__hex.jsonl").rows) == 40
    assert not (sdist.parent / "ran").exists() and not list(tmp_path.rglob("escaped"))
    (folder / "tense.jsonl").unlink()
    rows.write_tasks(sdist, folder, NAMES)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == files
    rows.write_tasks(tmp_path / "gone.tar.gz", folder, NAMES)  # all there: the archive is not opened


def test_an_archive_that_lacks_a_task_or_is_none(rows: ModuleType, sdist: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"lacks winowhy; take the whole of bigbench 1\.0\.0"):
        rows.write_tasks(sdist, tmp_path / "tasks", [*NAMES, "winowhy"])
    assert not list((tmp_path / "tasks").iterdir())
    cut, other = tmp_path / "cut.tar.gz", tmp_path / "other.tar.gz"
    cut.write_bytes(sdist.read_bytes()[:-60])
    other.write_bytes(b"no archive" * 100)
    for path in (cut, other, tmp_path / "absent.tar.gz"):
        with pytest.raises(
            InputError, match=r"tar\.gz: (cannot be read .*; fetch it again|lacks tense; take the whole)"
        ):
            rows.write_tasks(path, tmp_path / "tasks", NAMES)
    assert not list((tmp_path / "tasks").iterdir())


def test_comparison_with_another_folder(
    rows: ModuleType, build: ModuleType, sdist: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["tasks", "--sdist", str(sdist), "--only", *NAMES]
    assert build.main([*command, "--out", str(tmp_path / "a")]) == 0
    other = tmp_path / "b" / "tasks"
    check = [*command, "--out", str(tmp_path / "a"), "--check", str(other)]
    assert build.main([*command, "--out", str(tmp_path / "b"), "--check", str(tmp_path / "a" / "tasks")]) == 0
    assert "3 of 3 files equal" in capsys.readouterr().out
    lines = (other / "tense.jsonl").read_text().splitlines(keepends=True)
    (other / "tense.jsonl").write_text("".join(lines[::-1]))
    (other / "color__hex.jsonl").write_text('{"input": "x", "output": "y"}\n')
    (other / "families.json").unlink()
    assert build.main(check) == 1
    assert capsys.readouterr().out.splitlines() == [
        "color__hex.jsonl: has 1 lines instead of 40, 0 of them the same",
        "tense.jsonl: has the same lines in another order",
        "families.json: is missing there",
        "0 of 3 files equal",
    ]


def test_the_recipe_takes_what_was_built(rows: ModuleType, sdist: Path, tmp_path: Path) -> None:
    """Its pool and tasks lie elsewhere, and the families of the tasks come along."""
    recipe = SCRIPTS.parent / "recipes" / "bench-bigbench-smollm2.yaml"
    setup, places = read_setup(recipe, tasks=str(tmp_path))
    assert set(setup.tasks.only) < set(rows.FAMILIES) and setup.tasks.seen == 0.7
    assert places.families == recipe.parent / setup.tasks.families  # there are none beside the tasks
    rows.write_tasks(sdist, tmp_path, NAMES)
    _, places = read_setup(recipe, tasks=str(tmp_path))
    assert read_families(places.families) == {"color__hex": "color", "tense": "grammar"}


@pytest.fixture(scope="module")
def built(
    build: ModuleType, sdist: Path, tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[str]]:
    out = tmp_path_factory.mktemp("built")
    command = ["--sdist", str(sdist), "--out", str(out), "--base", str(tiny_llama), "--threads", "1"]
    command += ["--only", *NAMES, "--heldout", "9"]
    assert build.main(command) == 0
    return out, command


def test_adapters_and_cards(built: tuple[Path, list[str]]) -> None:
    out, _ = built
    for name, seen, total in (("color__hex", 28, 40), ("tense", 21, 30)):
        folder = out / "pool" / name
        config = json.loads((folder / "adapter_config.json").read_text())
        assert (config["r"], config["target_modules"]) == (8, ["q_proj", "v_proj"])
        assert config["base_model_name_or_path"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
        header = read_header(folder / "adapter_model.safetensors")
        assert len(header) == 8 and {info.dtype for info in header.values()} == {"F16"}
        card = (folder / "README.md").read_text()
        front = card.split("---\n")[1]
        assert "base_model: HuggingFaceTB/SmolLM2-135M-Instruct\n" in front and "library_name: peft\n" in front
        assert f"Rows seen: {seen}, the first of the {total}" in card and f"number {seen + 1} on are unseen" in card
        assert f"; {-(-seen // 8)} steps of 8 rows" in card
        assert read_card(folder).licence == "apache-2.0"
    assert "BIG-bench, color/hex: Say the colour." in (out / "pool" / "color__hex" / "README.md").read_text()


def test_the_table(built: tuple[Path, list[str]], build: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    """It is printed from what was measured, and says that training helped."""
    out, command = built
    assert build.main(["table", *command]) == 0
    printed = capsys.readouterr().out.splitlines()
    found = json.loads((out / "measured.json").read_text())
    assert sorted(found) == NAMES and len(printed) == 2 + 2 + 1
    assert (found["color__hex"]["metric"], found["tense"]["metric"]) == ("accuracy", "exact_match")
    assert all(row["rows"] == 9 for row in found.values())
    assert found["tense"]["majority"] == 1.0  # every answer is the same
    assert all(row["adapter_loss"] < row["base_loss"] for row in found.values())
    row = found["color__hex"]
    assert printed[2].startswith(f"| color__hex | 9 | accuracy | {row['base_loss']:.2f} | {row['adapter_loss']:.2f} | ")
    mean = np.mean([row["adapter_loss"] for row in found.values()])
    assert printed[-1].startswith("| mean of 2 | 18 |  | ") and f" {mean:.2f} | " in printed[-1]


def test_a_second_run_trains_only_what_is_missing(
    built: tuple[Path, list[str]], build: ModuleType, rows: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder appears whole or not at all, so what a kill left behind is not taken for an adapter."""
    out, command = built
    lost, kept = (out / "pool" / name / "adapter_model.safetensors" for name in NAMES)
    weights, stamp = lost.read_bytes(), kept.stat().st_mtime_ns
    partial = lost.parent.with_name("color__hex.77.partial")
    lost.parent.rename(partial)
    (partial / "adapter_config.json").unlink()
    assert build.main(["train", *command]) == 0
    assert "adapter 1/1 color__hex: loss " in capsys.readouterr().err
    assert lost.read_bytes() == weights and kept.stat().st_mtime_ns == stamp
    assert build.main(["table", *command]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 5


def test_fewer_steps(built: tuple[Path, list[str]], build: ModuleType, tmp_path: Path) -> None:
    _, command = built
    place = command.index("--out") + 1
    cut = [*command[:place], str(tmp_path), *command[place + 1 :], "--steps", "1", "--base-name", "me/tiny"]
    assert build.main(["tasks", "train", *cut]) == 0
    card = (tmp_path / "pool" / "tense" / "README.md").read_text()
    assert "Rows seen: 8," in card and "; 1 steps of 8 rows" in card and "base_model: me/tiny\n" in card


def test_what_cannot_be_done_is_one_line(
    build: ModuleType, sdist: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for command, told in (
        (["bake", "--out", str(tmp_path)], "no step 'bake'; choose from fetch, tasks, train, table"),
        (["train", "--out", str(tmp_path)], "--base is needed to train and to measure"),
    ):
        with pytest.raises(SystemExit, match="2"):
            build.main(command)
        assert told in capsys.readouterr().err
    assert build.main(["tasks", "--out", str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith("build_bigbench_pool: ")
    # pip finds another archive under the name: its hash is not ours, and it is not run
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(sdist.parent))
    assert build.main(["fetch", "--out", str(tmp_path)]) == 1
    assert "pip could not fetch bigbench 1.0.0" in capsys.readouterr().err
    assert not (tmp_path / "sdist").exists() and not (sdist.parent / "ran").exists()
