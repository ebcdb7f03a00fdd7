"""YAML from files nobody vouches for: safe tags, no aliases, little nesting."""

from __future__ import annotations

from typing import Any

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
