"""Does an lm-eval task run code of its own? Read from its YAML alone, before lm-eval acts on it.

A task's YAML is a program more often than it looks: `!function` imports the Python file beside it, a metric that
lm-eval does not know is fetched and run as a script, some readers of data sets unpickle. What is left is data and Jinja
templates; those lm-eval renders without a sandbox, so `sandboxed` gives it one.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from merge_advisor.errors import ExternalError

READERS = ("csv", "json", "parquet", "text")
"""Readers of the `datasets` package that a task may name instead of a data set: plain data, nothing is unpickled."""


def reasons(path: Path) -> list[str]:
    """Say what in a task's YAML, or in what it includes, runs code of its own; empty where nothing does.

    Raises:
        ValueError, OSError: as `read_task_yaml`.
    """
    functions: list[str] = []
    config = read_task_yaml(path, functions)
    found = [f"!function {name}" for name in functions]
    found += [f"{key}: {config[key]}" for key in ("class", "use_prompt", "unsafe_code") if config.get(key)]
    if config.get("process_results") is None:
        found += [f"metric {name}, which is none of lm-eval's" for name in _foreign_metrics(config)]
    data = str(config.get("dataset_path") or "")
    if data and data not in READERS and (data.count("/") != 1 or Path(data).exists() or data.startswith((".", "/"))):
        found.append(f"dataset_path {data}, which is no plain reader ({', '.join(READERS)}) and no name on the hub")
    if (config.get("dataset_kwargs") or {}).get("trust_remote_code"):
        found.append("trust_remote_code")
    return found


def read_task_yaml(path: Path, functions: list[str] | None = None, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Read a task's YAML with what it includes, its own keys winning; a `!function` stays a name.

    Args:
        path: the file.
        functions: takes the names of all functions, those of overridden keys too: lm-eval imports them all the same.
        above: files that include this one.

    Raises:
        ValueError: not YAML, no mapping, or files that include each other.
        OSError: a file cannot be read.
    """
    import yaml

    def keep(loader: yaml.SafeLoader, node: Any) -> str:
        name = str(loader.construct_scalar(node))
        if functions is not None:
            functions.append(name)
        return name

    class Loader(yaml.SafeLoader):
        """Knows `!function`, without acting on it."""

    Loader.add_constructor("!function", keep)
    path = path.resolve()
    if path in above:
        raise ValueError(f"{path} includes itself")
    try:
        own = yaml.load(path.read_text(encoding="utf-8"), Loader=Loader)
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not YAML") from error
    if not isinstance(own, dict):
        raise ValueError(f"{path}: no mapping")
    included = own.pop("include", [])
    found: dict[str, Any] = {}
    for name in included if isinstance(included, list) else [included]:
        found |= read_task_yaml(path.parent / str(name), functions, (*above, path))
    return found | own


def digest_of_code(path: Path) -> str:
    """Sha256 over the Python files beside a task's YAML: what its functions do may change while the YAML stays."""
    state = hashlib.sha256()
    for file in sorted(path.parent.glob("*.py")):
        state.update(file.name.encode() + b"\0" + file.read_bytes())
    return state.hexdigest()


def _foreign_metrics(config: dict[str, Any]) -> Iterator[str]:
    from lm_eval.api import metrics, registry

    assert metrics  # importing it fills the registry
    for entry in config.get("metric_list") or []:
        name, elsewhere = (entry.get("metric"), entry.get("hf_evaluate")) if isinstance(entry, dict) else (entry, False)
        if elsewhere or name not in registry.metric_registry:
            yield str(name)


@contextlib.contextmanager
def sandboxed() -> Iterator[None]:
    """Have lm-eval render templates in Jinja's sandbox, which keeps them from reaching Python behind the values.

    Raises:
        ExternalError: this lm-eval renders them in another way.
    """
    from jinja2.sandbox import SandboxedEnvironment
    from lm_eval import utils

    plain = getattr(utils, "env", None)
    if plain is None:
        raise ExternalError("this lm-eval renders templates in a way that cannot be made safe; add --trust-task-code")
    safe = SandboxedEnvironment(undefined=plain.undefined, keep_trailing_newline=plain.keep_trailing_newline)
    safe.filters.update(plain.filters)
    utils.env = safe
    try:
        yield
    finally:
        utils.env = plain
