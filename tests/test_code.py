"""What all code keeps to: its types, names, docstrings and sizes."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_types() -> None:
    """mypy passes. Up to a minute without its cache: under xdist conftest.py lets it begin first."""
    done = subprocess.run([sys.executable, "-m", "mypy"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
