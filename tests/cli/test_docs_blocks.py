"""The generated documents say what the program says."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from merge_advisor import registry
from merge_advisor.cli.options import COMMANDS, KINDS

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="argparse lays help out differently from 3.13 on")
def test_generated_documents_are_up_to_date() -> None:
    command = [sys.executable, str(ROOT / "scripts" / "docs_blocks.py"), "--check"]
    done = subprocess.run(command, check=False, timeout=120, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_command_and_every_name_is_listed() -> None:
    commands = re.findall(r"^## ([a-z]+)$", (ROOT / "docs" / "cli.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert commands == list(COMMANDS)
    catalogue = (ROOT / "docs" / "catalogue.md").read_text(encoding="utf-8")
    for kind in KINDS.values():
        for name in registry.names(kind):
            assert f"| `{name}` |" in catalogue
    parameters = re.findall(r"^\| `\w+` \| `(\w+)` \| .* \| (.*) \|$", catalogue, re.MULTILINE)
    assert len(parameters) > 40 and not [name for name, meaning in parameters if not meaning]
