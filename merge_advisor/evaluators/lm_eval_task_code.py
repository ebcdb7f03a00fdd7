"""Does an lm-eval task run code of its own? Read from its YAML alone, before lm-eval acts on it.

A task's YAML is a program more often than it looks: `!function` imports the Python file beside it, a metric that
lm-eval does not know is fetched and run as a script, some readers of data sets unpickle. What is left is data and Jinja
templates; those lm-eval renders without a sandbox, so `lm_eval_process.jinja_sandbox` gives it one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from merge_advisor.errors import TaskError
from merge_advisor.limits import SETUP_BYTES
from merge_advisor.regular_files import is_irregular, read_regular, read_regular_text

PLAIN_READERS = ("csv", "json", "parquet", "text")
"""Readers of the `datasets` package that a task may name instead of a data set: plain data, nothing is unpickled."""


def task_code(path: Path) -> list[str]:
    """Return what in a task's YAML, or in what it includes, runs code of its own; empty where nothing does.

    Args:
        path: the YAML.

    Raises:
        TaskError, ValueError, OSError: as `read_task_yaml`.
    """
    functions: list[str] = []
    config = read_task_yaml(path, functions)
    code = [f"!function {name}" for name in functions]
    code += [f"{key}: {config[key]}" for key in ("class", "use_prompt", "unsafe_code") if config.get(key)]
    if config.get("process_results") is None:
        code += [f"metric {name}, which is none of lm-eval's" for name in _foreign_metrics(config)]
    data = str(config.get("dataset_path") or "")
    # a folder of that name here would be loaded in place of the hub's data set, with the script that may lie in it
    is_local = data.count("/") != 1 or Path(data).exists() or data.startswith((".", "/"))
    if data and data not in PLAIN_READERS and is_local:
        readers = ", ".join(PLAIN_READERS)
        code.append(f"dataset_path {data}, which is no plain reader ({readers}) and no name on the hub")
    if (config.get("dataset_kwargs") or {}).get("trust_remote_code"):
        code.append("trust_remote_code")
    return code


def read_task_yaml(path: Path, functions: list[str] | None = None, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Return a task's YAML with what it includes, its own keys winning; a `!function` stays a name.

    Args:
        path: the file.
        functions: takes the names of all functions, those of overridden keys too: lm-eval imports them all the same.
        above: files that include this one.

    Raises:
        TaskError: larger than `SETUP_BYTES`.
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
    check_yaml_size(path)
    try:
        own = yaml.load(read_regular_text(path), Loader=Loader)
    except (yaml.YAMLError, RecursionError, ArithmeticError, LookupError, AttributeError, TypeError) as error:
        # of nesting, and of tags that do not fit their text
        raise ValueError(f"{path}: not YAML") from error
    if not isinstance(own, dict):
        raise ValueError(f"{path}: no mapping")
    included = own.pop("include", [])
    config: dict[str, Any] = {}
    for name in included if isinstance(included, list) else [included]:
        config |= read_task_yaml(path.parent / str(name), functions, (*above, path))
    return config | own


def check_yaml_size(path: Path) -> None:
    """Refuse a YAML file of tasks that is larger than any is, or no file.

    Args:
        path: the file.

    Raises:
        TaskError: it is larger than `SETUP_BYTES`, or a FIFO, socket or device.
        OSError: it cannot be read.
    """
    if is_irregular(path):
        raise TaskError(f"{path}: is no regular file; remove it from the folder of tasks")
    if (size := path.stat().st_size) > SETUP_BYTES.most:
        raise TaskError(f"{path}: has {SETUP_BYTES.over}; this is no task; if it is one, {SETUP_BYTES.remedy(size)}")


def check_task_file(path: Path) -> None:
    """Refuse what lm-eval, which reads every YAML in a folder with what it includes, would wait for or not come out of.

    Args:
        path: a YAML of that folder; one that is no YAML is passed over, as lm-eval does.

    Raises:
        TaskError: it or a file that it includes is larger than `SETUP_BYTES`, or a FIFO, socket or device.
    """
    check_yaml_size(path)
    with suppress(OSError, ValueError):
        if b"include" in read_regular(path):
            read_task_yaml(path)


def digest_of_code(path: Path) -> str:
    """Return the sha256 over the Python files beside a task's YAML: functions may change while the YAML stays.

    Args:
        path: the YAML.
    """
    state = hashlib.sha256()
    for file in sorted(path.parent.glob("*.py")):
        state.update(file.name.encode() + b"\0" + read_regular(file))
    return state.hexdigest()


def _foreign_metrics(config: dict[str, Any]) -> Iterator[str]:
    from lm_eval.api import metrics, registry

    assert metrics  # importing it fills the registry
    for entry in config.get("metric_list") or []:
        name, elsewhere = (entry.get("metric"), entry.get("hf_evaluate")) if isinstance(entry, dict) else (entry, False)
        if elsewhere or name not in registry.metric_registry:
            yield str(name)
