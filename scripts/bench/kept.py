"""What the measurements beside this file share: a file of lines that grows, a record a line, and its options."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return what the lines of a JSONL file hold; nothing where there is none yet."""
    return [json.loads(line) for line in path.read_text().split("\n") if line] if path.is_file() else []


def add_line(path: Path, record: Mapping[str, Any]) -> None:
    """Append a record."""
    with path.open("a") as file:
        file.write(json.dumps(record) + "\n")


def options(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the options of all: base, pool, tasks and the file of lines."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", help="folder or id of the base model")
    parser.add_argument("--pool", type=Path, help="folder of the adapters")
    parser.add_argument("--tasks", type=Path, help="folder of the tasks")
    parser.add_argument("--out", type=Path, required=True, help="file of lines; what is there is not measured again")
    parser.add_argument("--dtype", default="float32", choices=("float32", "mixed", "bfloat16"))
    parser.add_argument("--summary", action="store_true", help="only print what is there")
    return parser


def parsed(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Parse the command line; all but a summary needs base, pool and tasks."""
    arguments = parser.parse_args()
    missing = [name for name in ("base", "pool", "tasks") if getattr(arguments, name) is None]
    if missing and not arguments.summary:
        parser.error("the following arguments are required: " + ", ".join(f"--{name}" for name in missing))
    return arguments
