"""YAML from files nobody vouches for: safe tags, no aliases, little nesting."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from merge_advisor.errors import InputError

DEEPEST = 50
"""Nesting read; libyaml's loader ends the process with a segmentation fault at some ten thousand levels."""


class YamlError(ValueError):
    """Text that is not read as YAML; `line` counts from 1, None where it is unknown."""

    def __init__(self, problem: str, line: int | None = None) -> None:
        super().__init__(problem)
        self.line = line


def load_yaml(text: str) -> Any:
    """Read one YAML document of plain values.

    Raises:
        YamlError: not YAML, an alias (a few can stand for terabytes), a tag, or nesting beyond `DEEPEST`.
    """
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    opening = (yaml.BlockMappingStartToken, yaml.BlockSequenceStartToken, yaml.FlowMappingStartToken,
               yaml.FlowSequenceStartToken)  # fmt: skip
    closing = (yaml.BlockEndToken, yaml.FlowMappingEndToken, yaml.FlowSequenceEndToken)
    depth = 0
    try:
        for token in yaml.scan(text, Loader=loader):
            line = token.start_mark.line + 1
            depth += isinstance(token, opening) - isinstance(token, closing)
            if depth > DEEPEST:
                raise YamlError("nested too deep", line)
            if isinstance(token, yaml.AliasToken):
                raise YamlError("aliases (*) are not read; write it out", line)
        return yaml.load(text, Loader=loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise YamlError(
            getattr(error, "problem", None) or "a bad character", mark.line + 1 if mark else None
        ) from error
    except YamlError:
        raise
    except ValueError as error:  # a date or number that is none
        raise YamlError("a bad value") from error


def read_mapping(
    path: Path, kind: str, *, needs: str, remedy: str, limit: int, error: type[InputError] = InputError
) -> dict[Any, Any]:
    """Read a YAML file that holds one mapping.

    Args:
        path: the file.
        kind: what it should be, for the messages: "setup".
        needs: what such a file holds at least.
        remedy: what to do where it cannot be read.
        limit: most bytes.
        error: class of the errors.

    Raises:
        InputError: of that class: not there, too large, not UTF-8, not YAML, or no mapping; the message names the file.
    """
    try:
        if path.stat().st_size > limit:
            raise error(f"{path}: larger than {limit >> 20} MiB; this is no {kind}")
        found = load_yaml(path.read_text(encoding="utf-8-sig"))
    except OSError as reason:
        raise error(f"{path}: cannot be read ({reason.strerror}); {remedy}") from reason
    except UnicodeDecodeError as reason:
        raise error(f"{path}: is no UTF-8 text; save it as UTF-8") from reason
    except YamlError as reason:
        line = f", line {reason.line}" if reason.line else ""
        raise error(f"{path}{line}: not YAML as read here ({reason}); correct it") from reason
    if not isinstance(found, dict):
        raise error(f"{path}: is no {kind}; it needs {needs}")
    return found
