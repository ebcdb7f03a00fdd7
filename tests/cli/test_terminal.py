"""On a terminal results are tables of Rich and progress is a bar; names from anyone's files stay what they are."""

import os
import pty
import re
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

BLOCKS = """
import sys
from merge_advisor.cli.printing import print_blocks
from merge_advisor.report.document import Code, Paragraph, Table
name = "[bold red]x[/] :smile: \\x1b[31mred\\x07"
print_blocks([
    Paragraph("task " + name), Table(name, ("member", name), ((name, "0.5"), ("b" * 150, "1")), right=(1,)),
    Code(("merge-advisor try " + "c" * 150,), title=name),
])
"""
PROGRESS = """
from merge_advisor.cli.progress import progress_reporter
progress = progress_reporter("auto")
for done in range(3):
    progress("scoring [bold]x[/bold]", done, 2)
progress("writing", 0, 1)
progress("writing", 1, 1)
progress.announce("found [b]a[/b]")
progress("scoring", 0, 1)
progress.finish()
"""


def on_a_terminal(*words: str, cwd: Path | None = None, columns: int = 80) -> tuple[int, str]:
    """Run python with a pseudo-terminal as stdout and stderr; return its exit code and what it wrote."""
    leader, follower = pty.openpty()
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": str(columns), "LINES": "40"}
    process = subprocess.Popen(
        [sys.executable, *words], stdin=subprocess.DEVNULL, stdout=follower, stderr=follower, cwd=cwd, env=environment
    )
    os.close(follower)
    written, end = b"", time.monotonic() + 240
    while time.monotonic() < end:
        if select.select([leader], [], [], 0.2)[0]:
            try:
                part = os.read(leader, 65536)
            except OSError:  # Linux: the other end was closed
                break
            if not part:
                break
            written += part
    os.close(leader)
    return process.wait(timeout=30), written.decode().replace("\r\n", "\n")


def test_no_name_is_markup_and_tables_fit() -> None:
    code, text = on_a_terminal("-c", BLOCKS)
    assert code == 0, text
    assert text.count("[bold red]x[/] :smile: \\x1b[31mred\\x07") == 5
    assert "\x07" not in text and "\x1b[31m" not in text
    lines = text.splitlines()
    assert any(set(line) <= {"─", " "} and "─" in line for line in lines)
    assert "c" * 150 in text  # a command can be copied whole
    assert sum(line.count("b") for line in lines if set(line.strip()) <= set("b1 ")) >= 150


def test_a_bar_shows_how_far_a_step_is() -> None:
    code, text = on_a_terminal("-c", PROGRESS)
    assert code == 0, text
    assert "scoring [bold]x[/bold]" in text and "2/2" in text and "writing" in text and "1/1" in text
    assert text.index("1/1") < text.index("found [b]a[/b]\n") < text.rindex("scoring")


def test_show_fits_the_terminal() -> None:
    code, text = on_a_terminal("-m", "merge_advisor", "show", "formats", columns=100)
    assert code == 0, text
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    assert "mergekit" in plain and "──" in plain and max(map(len, plain.splitlines())) <= 100


def test_a_plan_on_a_terminal(example_world: Path, tmp_path: Path) -> None:
    (tmp_path / "[red]t.jsonl").write_text((example_world / "examples.jsonl").read_text())
    code, text = on_a_terminal(
        "-m", "merge_advisor", "plan", "--task", "[red]t.jsonl", "--pool", str(example_world / "adapters"), "--base",
        str(example_world / "base"), "--cache", "cache", "--strategy", "top_k", "--lora-steps", "2", "--k", "99",
        "--adaptation", "none", "--heldout", "8", cwd=tmp_path, columns=120,
    )  # fmt: skip
    assert code == 0, text
    assert "[red]t" in text and "verdict:" in text and "──" in text and "anchor" in text
    # who waits for the scores sees what was chosen
    assert text.index("chosen, before") < text.index("anchor ") < text.index("scoring [red]t") < text.index("verdict:")


def test_piped_results_are_plain_text() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "merge_advisor", "show", "formats"], capture_output=True, text=True, check=True
    )
    assert "---" in done.stdout and "\x1b" not in done.stdout and "─" not in done.stdout and done.stderr == ""


@pytest.mark.parametrize("arguments", [["--help"], ["show", "formats", "--json"]])
def test_rich_is_loaded_for_a_terminal_alone(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom merge_advisor.cli import main\ntry:\n    main(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
        "assert 'rich' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, check=True)
