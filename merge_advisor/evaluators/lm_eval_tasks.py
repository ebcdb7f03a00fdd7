"""Any task lm-eval knows: its documents, its prompts, its metric, for models in memory.

A model is asked exactly as `lm_eval --model hf` would ask it: lm-eval's own tokens, its few shots (with its own seed),
no template of ours, no end token behind an answer. The values per row come from the samples it logs.
"""

from __future__ import annotations

import contextlib
import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from merge_advisor.errors import ExternalError, MergeAdvisorError, OfflineError, TaskError
from merge_advisor.evaluators.in_memory import undisturbed
from merge_advisor.evaluators.samples import plain_json, prompt_of, row_digests, row_logs, score_of
from merge_advisor.evaluators.task_code import READERS, digest_of_code, read_task_yaml, reasons, sandboxed
from merge_advisor.scores import ModelScore, RowLog
from merge_advisor.types import digest_of

if TYPE_CHECKING:
    from merge_advisor.backbone.model import Backbone

FEWSHOT_SEED = 1234
"""lm-eval's own default: the same few shots as on its command line."""
BATCH_SIZE = 8


@dataclass(frozen=True, slots=True)
class TaskName:
    """A task of lm-eval as a user names it."""

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
    """One task of lm-eval, loaded."""

    name: str
    """"lm-eval:" and lm-eval's name of it."""
    task: Any = field(repr=False)
    """lm-eval's own object."""
    trusted: bool
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


def version() -> str:
    """Name and version of what measures, e.g. "lm-eval 0.4.13"."""
    return f"lm-eval {metadata.version('lm_eval')}"


def load_tasks(named: TaskName, *, offline: bool = False) -> list[LmEvalTask]:
    """Load a task with its documents, or all tasks of a group or tag, sorted by name.

    Raises:
        TaskError: no such task (near names are told), or it runs code of its own and is not trusted.
        OfflineError: its data set is not in the cache and `offline` forbids fetching.
        ExternalError: lm-eval or the fetching of its data failed.
    """
    with running(named.trusted, str(named)):
        manager = _manager(named)
        entries = sorted(_leaves(named.name, manager.task_index), key=lambda entry: str(entry.name))
        if not named.trusted:
            for entry in entries:
                _refuse_code(entry)
        found = [_load(entry, named, manager, offline) for entry in entries]
    if not found:
        raise TaskError(f"{named}: a group without tasks of its own names; name one of its tasks")
    return found


def load_all_tasks(names: Sequence[TaskName], *, offline: bool = False) -> list[LmEvalTask]:
    """Load the tasks that several names stand for, each once, in the order of the names.

    Args:
        names: of tasks, groups or tags.
        offline: never fetch.

    Raises:
        TaskError: as `load_tasks`.
        OfflineError: as `load_tasks`.
        ExternalError: as `load_tasks`.
    """
    tasks = {task.name: task for named in names for task in load_tasks(named, offline=offline)}
    return list(tasks.values())


@contextlib.contextmanager
def running(trusted: bool, what: str) -> Iterator[None]:
    """Keep lm-eval quiet and its templates in the sandbox; turn what it raises into one line."""
    try:
        with undisturbed(), contextlib.nullcontext() if trusted else sandboxed():
            yield
    except (MergeAdvisorError, MemoryError):
        raise
    except Exception as error:  # lm-eval asserts, and raises whatever it meets
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        if type(error).__name__ == "SecurityError":
            reason += "; if you trust the task, add --trust-task-code"
        raise ExternalError(f"{what}: {version()} failed ({reason}); see where with --debug") from error


def _manager(named: TaskName) -> Any:
    """lm-eval's manager of tasks, over as few folders as hold the task: reading all of its 14,000 files takes 7 s."""
    from lm_eval.tasks import TaskManager

    own: list[str] = []
    if named.include is not None:
        if not named.include.is_dir():
            raise TaskError(f"{named.include}: no such folder; give the folder of the task's YAML")
        own = [str(named.include.resolve())]
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
    """The folder of the YAML of lm-eval's own that names a task or group, found without parsing; tags are not."""
    import lm_eval.tasks

    line = re.compile(
        rb"^[\"']?(?:task|group)[\"']?\s*:\s*[\"']?" + re.escape(name.encode()) + rb"[\"']?\s*$", re.MULTILINE
    )
    files = sorted(Path(lm_eval.tasks.__file__).parent.rglob("*.yaml"))
    return next(([str(file.parent)] for file in files if line.search(file.read_bytes())), [])


def _complete(name: str, index: dict[str, Any]) -> bool:
    """Whether an index holds a task, and all it stands for; a tag may have more tasks elsewhere."""
    if name not in index or index[name].kind.name == "TAG":
        return False
    if index[name].kind.name != "GROUP":
        return True
    children = read_task_yaml(index[name].yaml_path).get("task") or []
    return all(not isinstance(child, str) or (child != name and _complete(child, index)) for child in children)


def _leaves(name: str, index: dict[str, Any], above: tuple[str, ...] = ()) -> Iterator[Any]:
    """The tasks a name stands for."""
    entry = index[name]
    if entry.kind.name == "TAG":
        yield from (index[child] for child in sorted(entry.tags) if child in index)
    elif entry.kind.name != "GROUP":
        yield entry
    else:
        for child in read_task_yaml(entry.yaml_path).get("task") or []:
            if not isinstance(child, str) or child not in index:
                said = child if isinstance(child, str) else "a task written out in it"
                raise TaskError(f"lm-eval:{name}: a group that holds {said}; name tasks by --lm-eval-task one by one")
            if child not in above:
                yield from _leaves(child, index, (*above, name))


def _refuse_code(entry: Any) -> None:
    found = reasons(entry.yaml_path)
    if found:
        what = "; ".join(found[:3])
        raise TaskError(
            f"lm-eval:{entry.name}: {entry.yaml_path.name} runs code of its own ({what}); read it, and if you trust "
            "it add --trust-task-code"
        )


def _load(entry: Any, named: TaskName, manager: Any, offline: bool) -> LmEvalTask:
    config = read_task_yaml(entry.yaml_path)
    data = str(config.get("dataset_path") or "its data")
    label = f"lm-eval:{entry.name}"
    try:
        with _fetching(offline):
            (task,) = manager.load([entry.name])["tasks"].values()
    except FileNotFoundError as error:
        if data in READERS:
            raise TaskError(f"{label}: {_line(error)}; data_files are looked for from the current folder") from error
        raise _unfetched(label, data, offline, error) from error
    except OSError as error:  # every failure of a network is one
        raise _unfetched(label, data, offline, error) from error
    return LmEvalTask(label, task, named.trusted, digest_of_code(entry.yaml_path))


def _unfetched(label: str, data: str, offline: bool, error: Exception) -> MergeAdvisorError:
    from merge_advisor.weights.hub import switched_off

    if offline or switched_off():
        return OfflineError(f"{label}: data set {data} is not in the cache, and fetching is off; run once online")
    return ExternalError(f"{label}: data set {data} cannot be fetched ({_line(error)}); check the network")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


@contextlib.contextmanager
def _fetching(offline: bool) -> Iterator[None]:
    """Forbid `datasets` and the hub's client to fetch; both read their environment only once, when imported."""
    import datasets
    from huggingface_hub import constants

    before = datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE
    if offline:
        datasets.config.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE = before


@dataclass(frozen=True, slots=True, eq=False)
class LmEvalRequests:
    """The requests of a task, before any model is asked."""

    found: LmEvalTask
    limit: int | None
    skipped: tuple[int, ...]
    """Documents left out, by position."""
    logs: tuple[RowLog, ...]
    row_digests: tuple[str, ...]
    digest: str
    """Sha256 over requests, documents, configuration and code: what a stored score belongs to."""

    @property
    def arguments(self) -> dict[str, Any]:
        """Which documents, as lm-eval is told."""
        if not self.skipped:
            return {"limit": self.limit}
        return {"samples": {self.found.key: _kept(self.found.task, self.skipped, self.limit)}}


def ask(found: LmEvalTask, *, limit: int | None = None, seen: Sequence[str] = ()) -> LmEvalRequests:
    """Build the requests of a task.

    Args:
        found: the task.
        limit: documents at most, the first of the split as with lm-eval's own `--limit`.
        seen: inputs a plan learned from; documents with such a text are left out.

    Raises:
        TaskError: no document is left.
        ExternalError: lm-eval failed.
    """
    task = found.task
    with running(found.trusted, found.name):
        task.set_fewshot_seed(FEWSHOT_SEED)
        known = set(seen)
        skipped = tuple(at for at, doc in enumerate(task.eval_docs) if prompt_of(task, doc) in known) if known else ()
        kept = _kept(task, skipped, limit) if skipped else None
        if kept == [] or len(task.eval_docs) == 0:
            raise TaskError(f"{found.name}: every document of it was used in the plan; score another task")
        task.set_fewshot_seed(FEWSHOT_SEED)
        task.build_all_requests(limit=None if kept else limit, samples=kept, rank=0, world_size=1)
        groups: dict[int, list[Any]] = {}
        for instance in task.instances:
            groups.setdefault(int(instance.doc_id), []).append(instance)
        requests = [sorted(group, key=lambda one: int(one.idx)) for _, group in sorted(groups.items())]
        logs = row_logs(task, requests)
        digests = row_digests(logs)
        asked = [[plain_json(one.arguments) for one in group] for group in requests]
        config = {k: v for k, v in task.dump_config().items() if k != "metadata" and not k.startswith("dataset_")}
        return LmEvalRequests(
            found=found,
            limit=limit,
            skipped=skipped,
            logs=logs,
            row_digests=digests,
            digest=digest_of([found.name, plain_json(config), found.code, digests, asked]),
        )


def _kept(task: Any, skipped: Sequence[int], limit: int | None) -> list[int]:
    left_out = set(skipped)
    return [at for at in range(len(task.eval_docs)) if at not in left_out][:limit]


def evaluate(asked: LmEvalRequests, backbone: Backbone, label: str) -> ModelScore:
    """Ask one model; values per row in the order of `asked.row_digests`, lm-eval's "acc" under the name "accuracy".

    The loss (nats per token of the right answer) is there where the task takes likelihoods.

    Raises:
        ExternalError: lm-eval failed.
    """
    import torch

    task = asked.found.task
    with running(asked.found.trusted, f"{label} on {asked.found.name}"), torch.random.fork_rng(devices=[]):
        from lm_eval.evaluator import evaluate as lm_evaluate
        from lm_eval.models.huggingface import HFLM

        torch.manual_seed(FEWSHOT_SEED)  # as its command line does; matters to tasks that sample
        model = HFLM(
            pretrained=backbone.model,
            tokenizer=backbone.tokenizer,
            backend="seq2seq" if backbone.encoder_decoder else "causal",
            batch_size=BATCH_SIZE,
        )
        task.set_fewshot_seed(FEWSHOT_SEED)
        result = lm_evaluate(
            model,
            {"tasks": {asked.found.key: task}, "groups": {}, "group_map": {}},
            bootstrap_iters=0,
            log_samples=True,
            cache_requests=False,
            confirm_run_unsafe_code=asked.found.trusted,
            **asked.arguments,
        )
        samples = sorted(result["samples"][asked.found.key], key=lambda sample: int(sample["doc_id"]))
        first = samples[0]["filter"]  # of several filters over the same answers, the first counts
        return score_of(label, task, model, [sample for sample in samples if sample["filter"] == first])


def primary_metric(asked: LmEvalRequests, score: ModelScore, wanted: str = "auto") -> str:
    """The metric a verdict rests on: accuracy, exact_match, the first other one from 0 to 1 that grows, or the loss.

    Args:
        asked: the task.
        score: of any model.
        wanted: "auto", or a name; "acc" is the same as "accuracy".

    Raises:
        TaskError: the task has no such value per row, or none at all that a verdict can rest on.
    """
    better = asked.found.task.higher_is_better()
    grows = [name for name in score.rows if name != "loss" and better.get("acc" if name == "accuracy" else name, True)]
    usable = [name for name in grows if all(0 <= value <= 1 for value in score.rows[name])]
    usable = sorted(usable, key=lambda name: name not in ("accuracy", "exact_match"))
    usable += ["loss"] if "loss" in score.rows else []
    wanted = "accuracy" if wanted == "acc" else wanted
    if wanted != "auto" and wanted not in usable:
        raise TaskError(
            f"{asked.found.name}: no metric '{wanted}' per row; choose one of: {', '.join(usable) or 'none'}"
        )
    if not usable:
        metrics = ", ".join(better) or "none"
        raise TaskError(f"{asked.found.name}: no metric of it has a value per row from 0 to 1 (it has: {metrics})")
    return usable[0] if wanted == "auto" else wanted
