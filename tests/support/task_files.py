"""Task files for plans on the tiny models."""

import json
from pathlib import Path


def write_task(
    path: Path, number: int = 40, *, answers: tuple[str, str] = ("yes", "no"), choices: bool = False
) -> Path:
    """Write rows that ask whether a number is even, with the two answers as choices where asked; returns the path."""
    rows = []
    for index in range(number):
        row: dict[str, str | list[str]] = {"input": f"is {index} even?", "output": answers[index % len(answers)]}
        if choices:
            row["choices"] = list(answers)
        rows.append(json.dumps(row))
    path.write_text("\n".join(rows) + "\n")
    return path
