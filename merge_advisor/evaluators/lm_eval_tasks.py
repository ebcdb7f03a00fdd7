"""Tasks that lm-eval knows, or that lie in a folder of one's own: found by name and loaded with their documents.

Loading is a question of trust (see `lm_eval_task_code`) and of time: lm-eval's own index reads 14,000 files.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from merge_advisor.errors import ExternalError, MergeAdvisorError, OfflineError, TaskError
from merge_advisor.evaluators.lm_eval_process import contained_lm_eval
from merge_advisor.evaluators.lm_eval_task_code import (
    PLAIN_READERS,
    check_task_file,
    digest_of_code,
    read_task_yaml,
    task_code,
)
from merge_advisor.regular_files import is_irregular, read_regular
from merge_advisor.weights.hub import fetching


@dataclass(frozen=True, slots=True)
class TaskName:
    """A task of lm-eval as a user names it.

    >>> str(TaskName("arc_easy"))
    'lm-eval:arc_easy'
    """

    name: str
    """Of a task, or of a group or tag, which stands for its tasks."""
    include: Path | None = None
    """Folder with tasks of one's own; they win over lm-eval's."""
    trusted: bool = False
    """Whether code that belongs to the task may run."""

    def __str__(self) -> str:
        return f"lm-eval:{self.name}"


@dataclass(frozen=True, slots=True, eq=False)
class LmEvalTask:
    """One task of lm-eval, loaded.

    >>> from types import SimpleNamespace
    >>> task = SimpleNamespace(config=SimpleNamespace(num_fewshot=5))  # stands for lm-eval's own object
    >>> LmEvalTask("lm-eval:arc_easy", task, trusted=False, code="").template
    'lm-eval:arc_easy, 5 few-shot examples'
    """

    name: str
    """"lm-eval:" and lm-eval's name of it."""
    task: Any = field(repr=False)
    """lm-eval's own object."""
    trusted: bool
    """Whether code that belongs to it may run."""
    code: str
    """Digest of the code beside it."""

    def __str__(self) -> str:
        return self.name

    @property
    def key(self) -> str:
        """lm-eval's name."""
        return self.name.removeprefix("lm-eval:")

    @property
    def template(self) -> str:
        """What a score says about its prompts."""
        return f"{self.name}, {self.task.config.num_fewshot or 0} few-shot examples"


def load_tasks(named: TaskName, *, offline: bool = False) -> list[LmEvalTask]:
    """Return a task with its documents, or all tasks of a group or tag, sorted by name.

    Args:
        named: name, folder and trust.
        offline: whether to take data sets from the cache alone.

    Raises:
        TaskError: no such task (the message lists near names), or it runs code of its own and is not trusted.
        OfflineError: its data set is not in the cache and `offline` forbids fetching.
        ExternalError: lm-eval or the fetching of its data failed.
    """
    with contained_lm_eval(str(named), trusted=named.trusted):
        manager = _manager(named)
        entries = sorted(_leaves(named.name, manager.task_index), key=lambda entry: str(entry.name))
        if not named.trusted:  # before loading: it imports every `!function`
            for entry in entries:
                _refuse_code(entry)
        tasks = [_load(entry, named, manager, offline) for entry in entries]
    if not tasks:
        raise TaskError(f"{named}: a group without tasks of its own names; name one of its tasks")
    return tasks


def load_all_tasks(names: Sequence[TaskName], *, offline: bool = False) -> list[LmEvalTask]:
    """Return the tasks that several names stand for, each once, in the order of the names.

    Args:
        names: of tasks, groups or tags.
        offline: whether to take data sets from the cache alone.

    Raises:
        TaskError: as `load_tasks`.
        OfflineError: as `load_tasks`.
        ExternalError: as `load_tasks`.
    """
    tasks = {task.name: task for named in names for task in load_tasks(named, offline=offline)}
    return list(tasks.values())


def _manager(named: TaskName) -> Any:
    """Return lm-eval's task manager, over as few folders as hold the task: reading all 14,000 files takes 7 s."""
    from lm_eval.tasks import TaskManager

    own: list[str] = []
    if named.include is not None:
        if not named.include.is_dir():
            raise TaskError(f"{named.include}: no such folder; give the folder of the task's YAML")
        own = [str(named.include.resolve())]
        for path in named.include.rglob("*.yaml"):  # lm-eval parses all of them
            check_task_file(path)
    for folders in (own, [*_folder_of(named.name), *own]):
        if folders:
            manager = TaskManager(include_path=list(folders), include_defaults=False)
            if _complete(named.name, manager.task_index):
                return manager
    manager = TaskManager(include_path=list(own))
    if named.name not in manager.task_index:
        near = difflib.get_close_matches(named.name, manager.task_index, n=5, cutoff=0.6)
        hint = f"near names: {', '.join(near)}" if near else "`lm-eval ls tasks` lists them"
        raise TaskError(f"{named}: lm-eval {metadata.version('lm_eval')} has no such task; {hint}")
    return manager


def _folder_of(name: str) -> list[str]:
    """Return the folder of lm-eval's own YAML that names a task or group, found without parsing; tags are not found."""
    import lm_eval.tasks

    line = re.compile(
        rb"^[\"']?(?:task|group)[\"']?\s*:\s*[\"']?" + re.escape(name.encode()) + rb"[\"']?\s*$", re.MULTILINE
    )
    files = sorted(Path(lm_eval.tasks.__file__).parent.rglob("*.yaml"))
    return next(([str(file.parent)] for file in files if line.search(read_regular(file))), [])


def _complete(name: str, index: dict[str, Any]) -> bool:
    """Return whether an index holds a task, and all it stands for; a tag may have more tasks elsewhere."""
    if name not in index or index[name].kind.name == "TAG":
        return False
    if index[name].kind.name != "GROUP":
        return True
    children = read_task_yaml(index[name].yaml_path).get("task") or []
    return all(not isinstance(child, str) or (child != name and _complete(child, index)) for child in children)


def _leaves(name: str, index: dict[str, Any], above: tuple[str, ...] = ()) -> Iterator[Any]:
    """Yield the tasks a name stands for; a group may hold groups, and even itself."""
    entry = index[name]
    if entry.kind.name == "TAG":
        yield from (index[child] for child in sorted(entry.tags) if child in index)
    elif entry.kind.name != "GROUP":
        yield entry
    else:
        for child in read_task_yaml(entry.yaml_path).get("task") or []:
            if not isinstance(child, str) or child not in index:
                what = child if isinstance(child, str) else "a task written out in it"
                raise TaskError(f"lm-eval:{name}: a group that holds {what}; name its tasks in `lm_eval` one by one")
            if child not in above:
                yield from _leaves(child, index, (*above, name))


def _refuse_code(entry: Any) -> None:
    code = task_code(entry.yaml_path)
    if code:
        what = "; ".join(code[:3])
        raise TaskError(
            f"lm-eval:{entry.name}: {entry.yaml_path.name} runs code of its own ({what}); read it, and if you trust "
            "it add `trusted=True`"
        )


def _load(entry: Any, named: TaskName, manager: Any, offline: bool) -> LmEvalTask:
    config = read_task_yaml(entry.yaml_path)
    data = str(config.get("dataset_path") or "its data")
    label = f"lm-eval:{entry.name}"
    _refuse_irregular(label, config)
    try:
        with fetching(offline):
            (task,) = manager.load([entry.name])["tasks"].values()
    except FileNotFoundError as error:
        if data in PLAIN_READERS:
            raise TaskError(f"{label}: {_line(error)}; data_files are looked for from the current folder") from error
        raise _unfetched(label, data, offline, error) from error
    except OSError as error:  # every failure of a network is one
        raise _unfetched(label, data, offline, error) from error
    return LmEvalTask(label, task, named.trusted, digest_of_code(entry.yaml_path))


def _refuse_irregular(label: str, config: dict[str, Any]) -> None:
    """Refuse a task whose data are files here that would be waited for, or that do not end."""
    settings = config.get("dataset_kwargs")
    settings = settings if isinstance(settings, dict) else {}
    parts, named = [settings.get("data_files")], list[str]()
    while parts:
        part = parts.pop()
        if isinstance(part, (dict, list)):
            parts += part.values() if isinstance(part, dict) else part
        elif isinstance(part, str) and "\0" not in part:
            named.append(part)
    files = [Path(settings.get("data_dir") or "") / name for name in named]
    if isinstance(settings.get("data_dir"), str) and not named:
        files = list(Path(settings["data_dir"]).glob("*"))
    for file in files:
        if is_irregular(file):
            raise TaskError(f"{label}: its data file {file} is no regular file; name one in data_files")


def _unfetched(label: str, data: str, offline: bool, error: Exception) -> MergeAdvisorError:
    from merge_advisor.weights.hub_errors import switched_off

    if offline or switched_off():
        return OfflineError(f"{label}: data set {data} is not in the cache, and fetching is off; run once online")
    return ExternalError(f"{label}: data set {data} cannot be fetched ({_line(error)}); check the network")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
