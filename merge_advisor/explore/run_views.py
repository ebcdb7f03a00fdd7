"""Runs of a hub as the page shows them: listed, opened, compared row by row, their files to download."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from merge_advisor.errors import InputError, MergeAdvisorError
from merge_advisor.hub.results import savings_lines, savings_of
from merge_advisor.json_form import digest_of, to_plain
from merge_advisor.regular_files import open_regular

if TYPE_CHECKING:
    from merge_advisor.advisor.runs.run_folder import Run
    from merge_advisor.hub import Hub
    from merge_advisor.hub.values import HubRun
    from merge_advisor.scores import ModelScore, Score

MOST_COMPARED_RUNS = 3
_ROWS_SHOWN = 200
_TEXT_SHOWN = 600
_OFFERED = (".json", ".yaml", ".yml", ".md", ".html", ".safetensors", ".txt", ".jsonl")
_MOST_FILES = 60
_LOG = "log.jsonl"
_MOST_DECISIONS, _LOG_BYTES = 100, 2**20


def listed_runs(hub: Hub) -> dict[str, Any]:
    """Return runs and gates of a hub, the newest first, and what both took; of a run also whether its folder is there.

    Args:
        hub: open.
    """
    runs = hub.runs()
    listed = [
        {**to_plain(run), "run": _run_id(run), "name": Path(run.folder).name,
         "here": (Path(run.folder) / "plan.json").is_file()}
        for run in runs
    ]  # fmt: skip
    judged = hub.judged()
    savings = savings_of(runs, judged)
    took = savings_lines(savings) if runs else savings_lines(savings)[1:]  # that there are no runs the page says itself
    return {"runs": listed, "judged": [to_plain(one) for one in judged[:_MOST_DECISIONS]], "took": took}


def run_folder_of(hub: Hub, run: str) -> Path:
    """Return the folder of a run that the hub lists: no other folder can be named.

    Args:
        hub: open.
        run: as `listed_runs` names it; a place in the list would be another run's once one more is planned.

    Raises:
        InputError: there is none.
    """
    found = next((Path(one.folder) for one in hub.runs() if _run_id(one) == run), None)
    if found is None:
        raise InputError("the hub lists no such run any more; load the page again")
    return found


def _run_id(run: HubRun) -> str:
    return digest_of(run.folder)[:16]


def run_details(folder: Path) -> dict[str, Any]:
    """Return what a run found, as plain values: members, score tables, verdict, files to download.

    Args:
        folder: the run folder.

    Raises:
        RunError: it is gone, or cannot be read.
    """
    from merge_advisor.advisor.runs.run_folder import read_run

    run = read_run(folder)
    plan = run.plan
    return {
        "folder": str(folder), "name": folder.name, "created": plan.environment.created,
        "tasks": [task.name for task in run.tasks], "base": plan.base.id,
        "strategy": plan.selection.strategy, "stopped": plan.selection.stopped,
        "verdict": None if plan.verdict is None else str(plan.verdict), "reason": plan.reason,
        "members": [to_plain(member) for member in plan.selection.members],
        "adaptation": None if plan.adaptation is None else plan.adaptation.chosen,
        "scores": [_table(score) for score in run.scores], "notes": [*plan.notes, *plan.conflicts],
        "seconds": plan.environment.seconds, "forwards": plan.forwards, "files": offered_files(folder),
        "candidates": len(plan.candidates),
    }  # fmt: skip


def offered_files(folder: Path) -> list[dict[str, Any]]:
    """Return the files of a run folder that can be downloaded: recipes, reports, weights.

    Args:
        folder: the run folder.
    """
    found = sorted(
        path for path in folder.rglob("*")
        if path.suffix in _OFFERED and path.is_file() and not path.is_symlink() and path.stat().st_size
    )  # fmt: skip
    return [{"name": path.relative_to(folder).as_posix(), "size": path.stat().st_size} for path in found[:_MOST_FILES]]


def run_file(folder: Path, name: str) -> Path:
    """Return a file of a run folder that is offered for download; nothing else of the machine can be named.

    Args:
        folder: the run folder.
        name: as `offered_files` has it.

    Raises:
        InputError: it is none of these.
    """
    if name not in {item["name"] for item in offered_files(folder)}:
        raise InputError("the run has no file of this name to download; load the page again")
    return folder / name


def compared_runs(folders: Sequence[Path]) -> dict[str, Any]:
    """Return two or three runs side by side: their members and scores, and each held-out row that all have.

    Rows are the same where they have the same digest: input, output and choices.

    Args:
        folders: their run folders.

    Raises:
        InputError: not two or three, or they share no scored task.
        RunError: one is gone, or cannot be read.
    """
    from merge_advisor.advisor.runs.run_folder import read_run

    if not 2 <= len(folders) <= MOST_COMPARED_RUNS:
        raise InputError(f"{len(folders)} runs: choose 2 or {MOST_COMPARED_RUNS} to compare")
    runs = [read_run(folder) for folder in folders]
    tasks = [_compared_task(runs, score.task) for score in runs[0].scores if _all_have(runs, score.task)]
    note = ""
    if not tasks:
        note = "these runs were not scored on rows of one task: only what they chose can be compared"
    heads = [
        {
            "name": run.folder.name, "verdict": None if run.plan.verdict is None else str(run.plan.verdict),
            "strategy": run.plan.selection.strategy, "adaptation": run.plan.adaptation and run.plan.adaptation.chosen,
            "members": [{"id": member.id, "weight": member.weight} for member in run.plan.selection.members],
        }
        for run in runs
    ]  # fmt: skip
    return {"runs": heads, "tasks": tasks, "note": note}


def _all_have(runs: Sequence[Run], task: str) -> bool:
    return all(any(score.task == task for score in run.scores) for run in runs)


def _compared_task(runs: Sequence[Run], task: str) -> dict[str, Any]:
    scores = [next(score for score in run.scores if score.task == task) for run in runs]
    metric = scores[0].metric
    texts = _row_texts(runs)
    shared = [digest for digest in scores[0].row_digests if all(digest in score.row_digests for score in scores[1:])]
    same = all(score.metric == metric for score in scores)
    rows: list[dict[str, Any]] = []
    for digest in shared if same else ():
        values, outputs = [], []
        for score in scores:
            model, place = _result(score), score.row_digests.index(digest)
            values.append(model.rows[metric][place])
            outputs.append(model.outputs[place][:_TEXT_SHOWN] if place < len(model.outputs) else "")
        asked, wanted = texts.get(digest, ("", ""))
        rows.append({"input": asked, "wanted": wanted, "values": values, "outputs": outputs})
    sign = -1 if metric == "loss" else 1
    ranked = [[sign * value for value in row["values"]] for row in rows]
    won = [sum(values[place] > values[0] for values in ranked) for place in range(len(runs))]
    lost = [sum(values[place] < values[0] for values in ranked) for place in range(len(runs))]
    rows.sort(key=lambda row: len(set(row["values"])) == 1)  # rows that tell the runs apart come first
    return {
        "task": task, "metric": metric, "rows": rows[:_ROWS_SHOWN], "total": len(rows),
        "means": [_result(score).metrics.get(metric) for score in scores], "won": won, "lost": lost,
        "note": "" if same else "they were scored by different metrics: rows cannot be compared",
    }  # fmt: skip


def _result(score: Score) -> ModelScore:
    """The row of the run's own result."""
    return score.model("merge")


def _row_texts(runs: Sequence[Run]) -> dict[str, tuple[str, str]]:
    texts: dict[str, tuple[str, str]] = {}
    for run in runs:
        for task in run.tasks:
            for row in task.heldout:
                texts[row.digest] = (row.plain_input[:_TEXT_SHOWN], row.output[:_TEXT_SHOWN])
        for score in run.scores:
            for digest, log in zip(score.row_digests, score.logs, strict=False):
                texts.setdefault(digest, (log.prompt[-_TEXT_SHOWN:], log.wanted[:_TEXT_SHOWN]))
    return texts


def _table(score: Score) -> dict[str, Any]:
    against = {comparison.against: comparison for comparison in score.comparisons}
    models = []
    for model in score.models:
        compared = against.get(model.label)
        models.append({
            "label": model.label, "metrics": model.metrics,
            "compared": compared and {
                "difference": compared.difference, "lower": compared.lower, "upper": compared.upper,
                "won": len(compared.won), "lost": len(compared.lost), "rows_to_decide": compared.rows_to_decide,
            },
        })  # fmt: skip
    return {
        "task": score.task, "metric": score.metric, "rows": len(score.row_digests), "evaluator": score.evaluator,
        "verdict": str(score.verdict), "reason": score.reason, "models": models, "notes": list(score.notes),
    }  # fmt: skip


def gate_decisions(logs: Sequence[Path]) -> dict[str, Any]:
    """Return the last decisions of gates that watch a pool, the newest first, and what could be read of each log.

    >>> gate_decisions([Path("none")])["decisions"]
    []

    Args:
        logs: files of a JSON object a line with `model`, `kind` and `text`, or folders with a log.jsonl.
    """
    told: list[dict[str, Any]] = []
    found: list[dict[str, Any]] = []
    for log in dict.fromkeys(log_of(path).resolve() for path in logs):
        decisions, unread, problem = _decisions_in(log)
        found += [{**item, "log": len(told)} for item in decisions]
        told.append({"file": str(log), "shown": len(decisions), "unread": unread, "problem": problem})
    found.sort(key=lambda item: item["at"], reverse=True)  # those of one log stay in its order
    return {"logs": told, "decisions": found[:_MOST_DECISIONS]}


def log_of(path: Path) -> Path:
    """Return the file of decisions that is meant by a path: itself, or the log.jsonl of a folder.

    >>> log_of(Path("runs/watch")).name
    'log.jsonl'

    Args:
        path: as it was named.
    """
    return path if path.suffix == ".jsonl" or path.is_file() else path / _LOG


def _decisions_in(log: Path) -> tuple[list[dict[str, Any]], int, str]:
    """The newest first, how many lines are none, and why it cannot be read."""
    try:
        with open_regular(log) as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(0, size - _LOG_BYTES))
            lines = file.read(_LOG_BYTES).splitlines()[1 if size > _LOG_BYTES else 0 :]
    except FileNotFoundError:
        return [], 0, "there is none yet"
    except OSError as error:
        return [], 0, error.strerror or str(error)
    found, unread = [], 0
    for line in lines[-_MOST_DECISIONS:]:
        try:
            told = json.loads(line)
            item = {name: str(told[name])[:_TEXT_SHOWN] for name in ("model", "kind", "text")}
            found.append({**item, "at": str(told.get("at", ""))[:40]})
        except (ValueError, KeyError, TypeError):
            unread += 1
    return found[::-1], unread, ""


def refusal_line(error: Exception) -> str:
    r"""Return what the page says of an error that was raised on purpose.

    >>> refusal_line(InputError("2 models:\nname 1"))
    '2 models: name 1'

    Args:
        error: the error.
    """
    text = " ".join(str(error).split())
    return text if isinstance(error, MergeAdvisorError) else f"{type(error).__name__}: {text}"
