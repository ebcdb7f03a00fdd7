"""The generated blocks of README.md: `<!-- begin NAME -->` … `<!-- end NAME -->`. With --check, only compare."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"
BLOCK = re.compile(r"(<!-- begin (?P<name>[a-z-]+) -->\n)(?P<body>.*?)(<!-- end (?P=name) -->)", re.DOTALL)


def body_of(name: str) -> str:
    """What belongs into a block: `plan-help`, or a table of `strategies`, `compositions`, `formats`, `embeddings`."""
    os.environ["COLUMNS"] = "100"
    from merge_advisor import registry
    from merge_advisor.cli.options import KINDS, build_parser

    if name.endswith("-help"):
        action = next(action for action in build_parser()._actions if action.dest == "command")
        return f"```\n{action.choices[name.removesuffix('-help')].format_help()}```\n"  # type: ignore[index]
    kind = KINDS[name]
    column = {"strategy": "cost", "composition": "weight_means", "format": "runs_with", "embedding": "source"}[kind]
    lines = [f"| {kind} | what it does | {column.replace('_', ' ')} |", "|---|---|---|"]
    for item in registry.names(kind):
        cells = (f"`{item}`", registry.summary(kind, item), getattr(registry.load(kind, item), column))
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def renewed(text: str) -> str:
    """README's text with every block made anew."""
    return BLOCK.sub(lambda found: found[1] + body_of(found["name"]) + found[4], text)


def main() -> int:
    """Rewrite README.md, or with --check return 1 where it is out of date."""
    text = README.read_text(encoding="utf-8")
    if "--check" in sys.argv[1:]:
        return int(renewed(text) != text)
    README.write_text(renewed(text), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
