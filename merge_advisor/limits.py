"""How much is read of files that may be anyone's: every limit, what it is told as, and how it is raised.

A limit is far above what files of its kind have, and keeps one that is damaged or hostile from taking all memory or
hours. It is raised by $MERGE_ADVISOR_LIMITS and nothing else: a settings file may be as much someone else's as the
files that the limits are for.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from functools import lru_cache

from merge_advisor.errors import InputError

LIMITS_VARIABLE = "MERGE_ADVISOR_LIMITS"
"""The environment variable that changes limits."""
_BYTES = ("B", "KiB", "MiB", "GiB", "TiB")
_DECIMAL = ("B", "kB", "MB", "GB", "TB")
_SIZE = re.compile(r"(?P<number>\d{1,15})\s?(?:(?P<unit>[KMGT])(?P<binary>i)?)?B?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Limit:
    """The most of something that is read.

    >>> ROW_BYTES.most, ROW_BYTES.over, ROW_BYTES.remedy(5_000_000)
    (4194304, 'more than row_bytes, 4 MiB', 'set MERGE_ADVISOR_LIMITS=row_bytes=5MiB')
    """

    name: str
    """What $MERGE_ADVISOR_LIMITS and messages call it; one of bytes ends with "_bytes"."""
    usual: int
    """Where $MERGE_ADVISOR_LIMITS does not name it."""
    what: str
    """What it is of, for the documents."""

    @property
    def most(self) -> int:
        """How much is read.

        Raises:
            InputError: $MERGE_ADVISOR_LIMITS cannot be read.
        """
        return _changed(os.environ.get(LIMITS_VARIABLE, "")).get(self.name, self.usual)

    @property
    def over(self) -> str:
        """What a message says of something that has more."""
        return f"more than {self.name}, {self.shown()}"

    def shown(self, number: int | None = None) -> str:
        """Return a number as messages show it: bytes in their largest unit, what is counted in thousands.

        Args:
            number: the number; None: the limit as it is.
        """
        number = self.most if number is None else number
        return _size_text(number, " ") if self.name.endswith("_bytes") else f"{number:,}"

    def remedy(self, found: int | None = None) -> str:
        """Return what raises the limit far enough, as the end of a message; other limits stay as they are.

        Args:
            found: how much there is; None: it is not known, and the limit is doubled.
        """
        wanted = max(2 * self.most if found is None else found, 1)
        if self.name.endswith("_bytes"):
            unit = next(step for step in range(len(_BYTES)) if wanted < 1024 ** (step + 1) or step == len(_BYTES) - 1)
            wanted = -(-wanted // 1024**unit) * 1024**unit  # rounded up: what is set has to let it in
        changed = _changed(os.environ.get(LIMITS_VARIABLE, "")) | {self.name: wanted}
        parts = (f"{name}={_size_text(size) if name.endswith('_bytes') else size}" for name, size in changed.items())
        return f"set {LIMITS_VARIABLE}={','.join(parts)}"


def _size_text(size: int, gap: str = "") -> str:
    """A size in the largest unit that leaves a whole number of it."""
    binary = bool(size) and size % 1024 == 0
    step, units, unit = (1024, _BYTES, 0) if binary else (1000, _DECIMAL, 0)
    while unit + 1 < len(units) and size and size % step == 0:
        size //= step
        unit += 1
    return f"{size}{gap}{units[unit]}"


ROW_BYTES = Limit(
    "row_bytes", 4 * 2**20, "text of one row of a task (of lm-eval: of one document): its input, answers and choices; "
    "and of one guard text",
)  # fmt: skip
TASK_BYTES = Limit("task_bytes", 2**30, "a task file or a guard file, unpacked where gzip packed it")
TASK_ROWS = Limit("task_rows", 1_000_000, "rows of a task file, or documents of a task of lm-eval")
STREAMED_ROWS = Limit("streamed_rows", 50_000, "rows of a data set that are looked at to choose those that are taken")
JSON_BYTES = Limit(
    "json_bytes", 64 * 2**20, "a JSON file of a model (configuration, index of shards, tokenizer configuration), a "
    "chat template, and a file of families",
)  # fmt: skip
TOKENIZER_BYTES = Limit("tokenizer_bytes", 512 * 2**20, "one file of a base's tokenizer, such as tokenizer.json")
HEADER_BYTES = Limit(
    "header_bytes", 100_000_000, "header of a safetensors file, whose format allows no more, or of a GGUF file"
)
HEADER_VALUES = Limit("header_values", 5_000_000, "numbers and texts in the header of a GGUF file")
TENSORS = Limit("tensors", 1_000_000, "tensors of one safetensors or GGUF file")
RUN_BYTES = Limit("run_bytes", 2**30, "one JSON file of a run folder, such as recipe.json")
CARD_BYTES = Limit("card_bytes", 2**20, "a model card; of a longer one the rest is not read, and a note says so")
MANIFEST_BYTES = Limit("manifest_bytes", 16 * 2**20, "a manifest, or a list of hub ids")
SETTINGS_BYTES = Limit("settings_bytes", 2**20, "merge-advisor.toml")
SETUP_BYTES = Limit("setup_bytes", 4 * 2**20, "setup of a benchmark, or a YAML file of tasks of lm-eval")
YAML_DEPTH = Limit("yaml_depth", 50, "levels of nesting in YAML (manifest, setup, card); aliases are never read")
ARCHIVE_BYTES = Limit("archive_bytes", 64 * 2**30, "what an archive of a model unpacks to")
ARCHIVE_FILES = Limit("archive_files", 10_000, "files in an archive of a model")

LIMITS = (
    ROW_BYTES, TASK_BYTES, TASK_ROWS, STREAMED_ROWS, JSON_BYTES, TOKENIZER_BYTES, HEADER_BYTES, HEADER_VALUES, TENSORS,
    RUN_BYTES, CARD_BYTES, MANIFEST_BYTES, SETTINGS_BYTES, SETUP_BYTES, YAML_DEPTH, ARCHIVE_BYTES, ARCHIVE_FILES,
)  # fmt: skip
"""All of them, in the order of the documents."""


def check_limits() -> None:
    """Refuse a $MERGE_ADVISOR_LIMITS that cannot be read, before anything is read by it.

    >>> check_limits()

    Raises:
        InputError: a name that is no limit, or a value that is no number or size above 0.
    """
    _changed(os.environ.get(LIMITS_VARIABLE, ""))


@lru_cache(maxsize=8)
def _changed(text: str) -> dict[str, int]:
    """The limits that the variable sets, by name."""
    known = {limit.name for limit in LIMITS}
    changed: dict[str, int] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, value = (side.strip() for side in part.partition("="))
        if name not in known:
            raise InputError(
                f"{LIMITS_VARIABLE}: {name[:40]!r} is no limit; write NAME=NUMBER, the names are "
                f"{', '.join(limit.name for limit in LIMITS)}"
            )
        of_bytes = name.endswith("_bytes")
        match = _SIZE.fullmatch(value) if of_bytes else re.fullmatch(r"(?P<number>\d{1,15})", value)
        if match is None or not int(match["number"]):
            wanted = "a size above 0, such as 200MB or 1GiB" if of_bytes else "a whole number above 0"
            raise InputError(f"{LIMITS_VARIABLE}: {name}={value[:40]!r} is not {wanted}; correct it")
        step = "KMGT".index(match["unit"].upper()) + 1 if of_bytes and match["unit"] else 0
        changed[name] = int(match["number"]) * (1024 if of_bytes and match["binary"] else 1000) ** step
    return changed
