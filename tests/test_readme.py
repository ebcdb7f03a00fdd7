"""README says what the program says."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="argparse lays help out differently from 3.13 on")
def test_generated_blocks_are_up_to_date():
    found = subprocess.run([sys.executable, ROOT / "scripts" / "readme_blocks.py", "--check"], check=False, timeout=60)
    assert found.returncode == 0, "run ./scripts/readme"
    assert (ROOT / "README.md").read_text().count("<!-- begin ") >= 4


def test_nothing_names_a_machine():
    """No path of one machine stands in what is shipped."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split(
        "\n"
    )
    for name in filter(None, listed):
        path = ROOT / name
        if path.suffix in {".safetensors", ".png"} or not path.is_file():
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        for place in ("/" + "work/", "/" + "root/", "/" + "home/"):
            assert place not in text, f"{name} names {place}"
