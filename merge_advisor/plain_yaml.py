"""YAML of plain values, from files that may be anyone's: model cards, manifests, setups.

Why not yaml.safe_load alone: it expands aliases (a few lines can stand for terabytes), and libyaml's loader ends the
process with a segmentation fault on deep nesting. Here both are errors that name the line.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from merge_advisor.errors import InputError
from merge_advisor.limits import YAML_DEPTH, Limit
from merge_advisor.regular_files import read_regular_text

_MANY_DIGITS = re.compile(r"[-+]?\.?[0-9][0-9a-fA-FxXoO_:.]{399,}")
"""A number that is none of a setting: some of them take time that grows with the square of their length to read, and
those in other bases than ten Python reads and does not print."""


class YamlError(ValueError):
    r"""Text that is not read as YAML; `line` counts from 1, None where it is unknown.

    >>> try:
    ...     load_yaml("a: &x [1]\nb: *x")
    ... except YamlError as error:
    ...     print(error, error.line)
    aliases (*) are not read; write it out 2
    """

    def __init__(self, problem: str, line: int | None = None) -> None:
        super().__init__(problem)
        self.line = line


def load_yaml(text: str) -> Any:
    r"""Return the plain values of one YAML document.

    >>> load_yaml("version: 1\nmodels: [a0, a1]")
    {'version': 1, 'models': ['a0', 'a1']}

    Args:
        text: the document.

    Raises:
        YamlError: not YAML, an alias, a tag, or more levels of nesting than `YAML_DEPTH`.
    """
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    opening = (yaml.BlockMappingStartToken, yaml.BlockSequenceStartToken, yaml.FlowMappingStartToken,
               yaml.FlowSequenceStartToken)  # fmt: skip
    closing = (yaml.BlockEndToken, yaml.FlowMappingEndToken, yaml.FlowSequenceEndToken)
    # libyaml's loader crashes at some ten thousand levels
    depth, deepest = 0, YAML_DEPTH.most
    try:
        # tokens first: they come without recursion and before any alias is expanded
        for token in yaml.scan(text, Loader=loader):
            line = token.start_mark.line + 1
            depth += isinstance(token, opening) - isinstance(token, closing)
            if depth > deepest:
                raise YamlError(f"nested too deep: {YAML_DEPTH.over} levels; to read it, {YAML_DEPTH.remedy()}", line)
            if isinstance(token, yaml.AliasToken):
                raise YamlError("aliases (*) are not read; write it out", line)
            if isinstance(token, yaml.ScalarToken) and _MANY_DIGITS.fullmatch(token.value):
                raise YamlError("a number of too many digits", line)
        return yaml.load(text, Loader=loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise YamlError(
            getattr(error, "problem", None) or "a bad character", mark.line + 1 if mark else None
        ) from error
    except YamlError:
        raise
    except (ValueError, ArithmeticError, LookupError, AttributeError, TypeError) as error:
        # a date or number that is none: PyYAML's constructors take for granted that a tag fits its text
        raise YamlError("a bad value") from error


def read_mapping(
    path: Path, kind: str, *, needs: str, remedy: str, limit: Limit, error: type[InputError] = InputError
) -> dict[Any, Any]:
    """Return the mapping in a YAML file.

    >>> from merge_advisor.limits import SETUP_BYTES
    >>> read_mapping(Path("examples.jsonl"), "setup", needs="`version: 1`", remedy="check the path", limit=SETUP_BYTES)
    Traceback (most recent call last):
    merge_advisor.errors.InputError: examples.jsonl, line 2: not YAML as read here (...); correct it

    Args:
        path: the file.
        kind: what the file should be, for the messages: "setup".
        needs: what such a file holds at least, for the messages.
        remedy: what to do where it cannot be read.
        limit: of the bytes of the file.
        error: class of the errors.

    Raises:
        InputError: of that class: not there, too large, not UTF-8, not YAML, or no mapping; the message names the file.
    """
    try:
        if (size := path.stat().st_size) > limit.most:
            raise error(f"{path}: has {limit.over}; this is no {kind}; if it is one, {limit.remedy(size)}")
        content = load_yaml(read_regular_text(path, "utf-8-sig"))
    except OSError as reason:
        raise error(f"{path}: cannot be read ({reason.strerror}); {remedy}") from reason
    except UnicodeDecodeError as reason:
        raise error(f"{path}: is no UTF-8 text; save it as UTF-8") from reason
    except YamlError as reason:
        line = f", line {reason.line}" if reason.line else ""
        raise error(f"{path}{line}: not YAML as read here ({reason}); correct it") from reason
    if not isinstance(content, dict):
        raise error(f"{path}: is no {kind}; it needs {needs}")
    return content


def escaped_yaml(text: str) -> str:
    r"""Return YAML that holds the same, with everything that a terminal acts on written as an escape.

    Its writers leave marks that turn the direction of text as they are.

    >>> escaped_yaml("name: right\u202eleft\n")
    'name: "right\\u202Eleft"\n'

    Args:
        text: YAML of plain values, without comments, as a writer made it.
    """
    if text.replace("\n", "").isprintable():
        return text
    import yaml

    return str(yaml.safe_dump(yaml.safe_load(text), sort_keys=False, width=2**20))
