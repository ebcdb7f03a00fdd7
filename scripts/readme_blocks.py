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
    from merge_advisor.cli.options import KINDS
    from merge_advisor.cli.parser import build_parser

    if name.endswith("-help"):
        action = next(action for action in build_parser()._actions if action.dest == "command")
        return f"```\n{action.choices[name.removesuffix('-help')].format_help()}```\n"  # type: ignore[index]
    kind = KINDS[name]
    columns = {
        "strategy": ("cost",), "composition": ("weight_means", "takes", "formats"), "format": ("runs_with",),
        "embedding": ("source",), "sampler": ("cost",),
    }[kind]  # fmt: skip
    heads = " | ".join(column.replace("_", " ") for column in columns)
    lines = [f"| {kind} | what it does | {heads} |", "|---" * (2 + len(columns)) + "|"]
    for item in registry.names(kind):
        cells = (f"`{item}`", registry.summary(kind, item), *(_cell(kind, item, column) for column in columns))
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(kind: str, name: str, column: str) -> str:
    from merge_advisor import registry
    from merge_advisor.formats import formats_of

    if column == "formats":
        return ", ".join(formats_of(name)) or "full model only"
    return str(getattr(registry.load(kind, name), column))


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
