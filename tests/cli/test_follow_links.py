"""`--follow-links`: what a command says of links out of a pool, and what it does with them when asked."""

import shutil
from pathlib import Path

import pytest

from merge_advisor.cli import main
from merge_advisor.cli.options import COMMANDS
from merge_advisor.cli.settings import all_parts, setting_options
from merge_advisor.option_fields import options_of

PLAN = "plan --task examples.jsonl --pool pool --base base --strategy top_k --k 2 --adaptation none --no-score"


@pytest.fixture
def linked(folder: Path) -> Path:
    """A pool of one adapter and a link to another."""
    shutil.copytree(folder / "adapters" / "b0", folder / "pool" / "b0")
    (folder / "pool" / "a0").symlink_to(folder / "adapters" / "a0")
    return folder


def test_a_link_out_is_set_aside_with_the_flag(linked: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*PLAN.split(), "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "pool of 1 candidates, 1 set aside" in printed
    assert "set aside a0: is a link that leads out of the pool; copy it in" in printed and "--follow-links" in printed
    assert main([*PLAN.split(), "--dry-run", "--follow-links"]) == 0
    assert "pool of 2 candidates, 0 set aside" in capsys.readouterr().out


def test_a_run_made_so_says_what_it_lacks(linked: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*PLAN.split(), "--out", "new", "--follow-links"]) == 0
    capsys.readouterr()
    assert main("merge new --out model".split()) == 2
    said = capsys.readouterr().err
    assert "is not in the pool; name its --pool; or give --follow-links, 1 of its models are behind links" in said
    assert main("merge new --out model --follow-links".split()) == 0
    assert (linked / "model" / "config.json").is_file()


def test_every_command_that_takes_a_pool_has_it_and_no_settings_file() -> None:
    takes = [
        name for name, command in COMMANDS.items()
        if {"pool", "source"} & {item.path for part in command.parts for item in options_of(part)} and name != "init"
    ]  # fmt: skip
    assert {"plan", "embed", "tune", "bench", "merge", "score", "try", "convert", "gate", "hub", "explore"} == set(
        takes
    )
    for name in takes:
        assert "follow_links" in {item.path for part in COMMANDS[name].parts for item in options_of(part)}, name
    assert "follow_links" not in setting_options(all_parts())
