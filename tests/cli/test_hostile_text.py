"""Nothing that others wrote reaches a terminal as more than text: escapes, bells, bidirectional marks, line breaks."""

import ast
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import merge_advisor
from merge_advisor.cli import main
from tests.support.models import LLAMA_MODULES, write_lora
from tests.support.run_files import unchecked

HOSTILE = "\x1b]0;own\x07\x1b[2J\u202e\u009b31m\nerror: "
PLACES = {
    "__main__.py": {"print"},  # of no one's text
    "cli/saying.py": {"print"}, "cli/printing.py": {"print"}, "cli/progress.py": {"write"},
    "cli/hub_commands.py": {"write"},  # a card, whose Markdown has nothing of this (tests/report/test_markdown.py)
    "pool/unpickling.py": {"write"},  # of a child, which its parent reads
}  # fmt: skip
"""Where something is printed, and by what."""


def _is_output(name: str) -> bool:
    return "stdout" in name or "stderr" in name


def test_nothing_else_prints() -> None:
    root = Path(merge_advisor.__file__).parent
    found: dict[str, set[str]] = {}
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root).as_posix()
        if name == "pool/peft_child.py":  # a process of its own, whose output is read and told by its parent
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
                found.setdefault(name, set()).add("print")
            if isinstance(node, ast.Attribute) and node.attr == "write" and _is_output(ast.unparse(node.value)):
                found.setdefault(name, set()).add("write")
    assert found == PLACES


def in_settings(folder: Path) -> str:
    (folder / "merge-advisor.toml").write_text(f"{json.dumps(HOSTILE)} = 1\n")
    return "plan --task examples.jsonl --base base --pool adapters --dry-run"


def in_a_manifest(folder: Path) -> str:
    (folder / "pool.yaml").write_text(f"version: 1\nmodels:\n- path: adapters/a0\n  {json.dumps(HOSTILE)}: 1\n")
    return "plan --task examples.jsonl --base base --pool pool.yaml --dry-run"


def in_a_description(folder: Path) -> str:
    (folder / "pool.yaml").write_text(
        f"version: 1\nmodels:\n- path: adapters/a0\ndescriptions:\n  {json.dumps(HOSTILE)}: what it is\n"
    )
    return "plan --task examples.jsonl --base base --pool pool.yaml --dry-run"


def in_a_header(folder: Path) -> str:
    write_lora(folder / "pool" / "one", {**LLAMA_MODULES, HOSTILE: (32, 32)})
    shutil.copytree(folder / "adapters" / "a0", folder / "pool" / "a0")
    return "plan --task examples.jsonl --base base --pool pool --k 1 --no-score --strategy random --adaptation none"


def in_a_config(folder: Path) -> str:
    write_lora(folder / "pool" / "one", LLAMA_MODULES, peft_type=HOSTILE)
    unknown: dict[str, Any] = {HOSTILE: {"a": HOSTILE}}
    write_lora(folder / "pool" / "two", LLAMA_MODULES, **unknown)
    write_lora(folder / "pool" / "three", LLAMA_MODULES, base_model_name_or_path=HOSTILE)
    write_lora(folder / "pool" / "four", LLAMA_MODULES, target_modules=[HOSTILE])
    shutil.copytree(folder / "adapters" / "a0", folder / "pool" / "a0")
    return "plan --task examples.jsonl --base base --pool pool --k 1 --no-score --strategy random --adaptation none -v"


def in_the_name_of_a_folder(folder: Path) -> str:
    shutil.copytree(folder / "adapters" / "a0", folder / "pool" / HOSTILE.replace("/", ""))
    return (
        "plan --task examples.jsonl --base base --pool pool --k 1 --no-score --strategy top_k --adaptation none -v "
        "--lora-steps 1"
    )


def in_a_setup(folder: Path) -> str:
    (folder / "setup.yaml").write_text(f"version: 1\n{json.dumps(HOSTILE)}: 1\n")
    return "bench setup.yaml --out results"


def in_a_control(folder: Path) -> str:
    (folder / "setup.yaml").write_text(
        "version: 1\nname: bench-x\nbase: base\npool: adapters\ntasks: {path: .}\n"
        "arms:\n- {name: one, strategy: random}\nprimary: {better: one, than: base}\nsmallest_gain: 1\n"
        f"controls: [{json.dumps(HOSTILE)}]\n"
    )
    return "bench setup.yaml --out results"


def in_a_recipe(folder: Path) -> str:
    for part in ("recipe.json", "plan.json"):
        path = folder / "run" / part
        path.write_text(json.dumps(unchecked(path) | {HOSTILE: 1}))
    return "merge run --out model"


def in_the_path_of_a_base(folder: Path) -> str:
    path = folder / "run" / "plan.json"
    plan = unchecked(path)
    plan["environment"]["paths"]["base"] = HOSTILE
    path.write_text(json.dumps(plan))
    return "merge run --out model"


def in_a_task(folder: Path) -> str:
    (folder / "rows.jsonl").write_text(json.dumps({HOSTILE: "x", "y": HOSTILE}) + "\n")
    return "plan --task rows.jsonl --base base --pool adapters --dry-run"


def in_an_argument(folder: Path) -> str:
    return f"plan --task examples.jsonl --k {HOSTILE.split()[0]}"


@pytest.mark.parametrize(
    "route",
    [in_settings, in_a_manifest, in_a_description, in_a_header, in_a_config, in_the_name_of_a_folder, in_a_setup,
     in_a_control, in_a_recipe, in_the_path_of_a_base, in_a_task, in_an_argument],
)  # fmt: skip
def test_what_a_terminal_acts_on_is_escaped(
    route: Callable[[Path], str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = route(folder).split(" ")
    codes: set[int | str | None] = set()
    said = ""
    for more in ([], ["--json"]):
        try:
            codes.add(main([*command, *more, "--force"] if command[0] == "plan" else [*command, *more]))
        except SystemExit as usage:
            codes.add(usage.code)
        printed = capsys.readouterr()
        said += printed.out + printed.err
    assert codes <= {0, 2, 3}
    assert [char for char in said if not char.isprintable() and char != "\n"] == []
    # it was shown, and nowhere did it begin a line of its own
    assert "own" in said or route in (in_a_config, in_a_control)
    assert not any(line.startswith("error: ") for line in said.split("\n"))
