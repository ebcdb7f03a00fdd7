"""A setup as the YAML that repeats the benchmark."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

from merge_advisor.benchmark.values import Setup
from merge_advisor.json_form import to_plain
from merge_advisor.plain_yaml import escaped_yaml


def setup_text(setup: Setup) -> str:
    """Return a setup as YAML that the benchmark reads; what has its default is left out, the version never.

    Args:
        setup: what was asked.

    >>> from merge_advisor.benchmark.values import Arm, Question, Setup, Tasks
    >>> arms = (Arm("ours", "top_k"),)
    >>> print(setup_text(Setup("small", "base", "adapters", Tasks("rows"), arms, Question("ours", "base"), 1.0)))
    name: small
    base: base
    pool: adapters
    tasks:
      path: rows
    arms:
    - name: ours
      strategy: top_k
    primary:
      better: ours
      than: base
    smallest_gain: 1.0
    version: 1
    """
    import yaml

    text = yaml.safe_dump(_without_defaults(setup), sort_keys=False, allow_unicode=True, width=100)
    return escaped_yaml(text).rstrip("\n")


def _without_defaults(value: Any) -> dict[str, Any]:
    """The fields of a dataclass that have no default or differ from it, as plain values."""
    plain: dict[str, Any] = {}
    for item in fields(value):
        given = getattr(value, item.name)
        default = item.default_factory() if callable(item.default_factory) else item.default
        # the version is written even so: without it a later release could not tell how to read the file
        if given == default and item.name != "version":
            continue
        if is_dataclass(given):
            plain[item.name] = _without_defaults(given)
        elif isinstance(given, tuple):
            plain[item.name] = [
                _without_defaults(part) if is_dataclass(part) else to_plain(part) for part in given
            ]  # fmt: skip
        else:
            plain[item.name] = to_plain(given)
    return plain
