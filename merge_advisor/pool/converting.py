"""Adapters whose weights are a pickle, rewritten as safetensors: only on request, and never in this process."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from merge_advisor.errors import ExternalError, InputError, MergeAdvisorError, OfflineError, PoolError, RunError
from merge_advisor.json_form import VERSION, to_json
from merge_advisor.plain_text import short_name
from merge_advisor.plain_yaml import escaped_yaml
from merge_advisor.pool import unpickling
from merge_advisor.pool.candidate import fetch_model
from merge_advisor.pool.child_reports import last_words, read_report
from merge_advisor.pool.layouts import folder_layout
from merge_advisor.pool.places import in_own_folder
from merge_advisor.pool.remote import copied_pool, is_address
from merge_advisor.pool.sources import FOLDER_MANIFEST, FoundModel, Sources, find_models
from merge_advisor.progress import Progress, quiet_progress
from merge_advisor.types import RefusedModel
from merge_advisor.weights import hub
from merge_advisor.weights.adapter import ADAPTER_PICKLE, ADAPTER_WEIGHTS, pair_factors
from merge_advisor.weights.adapter_config import ADAPTER_CONFIG, NotPlainLoraError, read_adapter_config
from merge_advisor.weights.files import FileError, file_digest
from merge_advisor.weights.tensorfile import read_header
from merge_advisor.whole_files import scratch_folder, whole_folder

_NOTE = "converted.json"
"""Says in each converted folder what it was made of."""
_KEPT = (ADAPTER_CONFIG, "README.md")
"""Files that go along as they are."""
_SAID = 240
"""Characters of what the child process said that a message repeats."""
_STARTING = 120
"""Seconds a child process gets beside its time per file: importing torch can take many."""


@dataclass(frozen=True, slots=True)
class ConversionReport:
    """What `convert` wrote.

    >>> report = convert("adapters", Path("converted"))
    >>> report.written == report.copied, report.refused
    (True, ())
    """

    out: Path
    """The folder."""
    written: tuple[str, ...]
    """Ids of the adapters in it."""
    copied: tuple[str, ...]
    """Those of them that were safetensors already."""
    refused: tuple[RefusedModel, ...]
    """Those left out."""


@dataclass(slots=True)
class _Job:
    """One adapter to write."""

    model: FoundModel
    folder: Path
    """Where its files are."""
    revision: str
    target: Path
    """Where they go."""


def convert(
    source: str | Path,
    out: Path,
    *,
    offline: bool = False,
    follow_links: bool = False,
    progress: Progress = quiet_progress,
) -> ConversionReport:
    """Rewrite adapters whose weights are a pickle as safetensors; those that are safetensors already are copied.

    The pickles are read in a child process by torch's `weights_only` reader (see `unpickling`). An adapter that cannot
    be converted is left out with its reason, the rest goes on. `out` appears whole or not at all: the adapter itself
    where `source` is one adapter, else a folder of them with a manifest that keeps ids, descriptions and template.
    Beside the weights of each lies `converted.json` with the sha256 of the pickle.

    Archives are unpacked, and shards and MLX's layout become PEFT's one file.

    Args:
        source: whatever `open_pool` takes: a folder of adapters or of one, an archive of one, a manifest, a list of hub
            ids, hub ids, or an address.
        out: folder to make.
        offline: never fetch.
        follow_links: as of `find_models`.
        progress: called with (what, done, total).

    Returns:
        What was written, and what was left out and why.

    Raises:
        PoolError: no such source, or none of its adapters can be converted.
        OfflineError: all of them would have to be fetched, and fetching is off.
        RunError: `out` is there already or cannot be written.
        ExternalError: the child process cannot be started.
    """
    with whole_folder(out) as partial, scratch_folder() as scratch:
        copied_from = copied_pool(str(source), scratch, offline=offline) if is_address(str(source)) else source
        sources = find_models(copied_from, follow_links=follow_links)
        alone = len(sources.models) == 1
        names = {model.id: "." if alone else name for model, name in _names(sources.models)}
        jobs, refused = _gather(sources.models, partial, names, scratch, offline=offline, progress=progress)
        pickles = [job for job in jobs if not (job.folder / ADAPTER_WEIGHTS).is_file()]
        reasons = _rewrite(pickles, progress)
        copied = []
        for job in jobs:
            reason = reasons.get(job.model.id, "")
            try:
                if job not in pickles:
                    shutil.copyfile(job.folder / ADAPTER_WEIGHTS, job.target / ADAPTER_WEIGHTS)
                if not reason:
                    _complete(job, converted=job in pickles)
            except (FileError, InputError, OSError) as error:
                if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                    raise
                reason = " ".join(str(error).split())
            if reason:
                refused[job.model.id] = PoolError(reason)
                shutil.rmtree(job.target)
            elif job not in pickles:
                copied.append(job.model.id)
        written = [job for job in jobs if job.model.id not in refused]
        if not written:
            _refuse_all(source, refused)
        if not alone:
            (partial / FOLDER_MANIFEST).write_text(_manifest(sources, written, names), encoding="utf-8")
    left_out = tuple(RefusedModel(short_name(name), _reason(name, error)) for name, error in sorted(refused.items()))
    return ConversionReport(out, tuple(job.model.id for job in written), tuple(copied), left_out)


def _names(models: Sequence[FoundModel]) -> list[tuple[FoundModel, str]]:
    """Return a folder name for each model: the last part of its id, or all of it where two end alike."""
    last = [model.id.rsplit("/", 1)[-1] for model in models]
    return [
        (model, name if last.count(name) == 1 else model.id.replace("/", "--").replace("\\", "--"))
        for model, name in zip(models, last, strict=True)
    ]


def _gather(
    models: Sequence[FoundModel],
    partial: Path,
    names: Mapping[str, str],
    scratch: Path,
    *,
    offline: bool,
    progress: Progress,
) -> tuple[list[_Job], dict[str, MergeAdvisorError]]:
    """Fetch each model and make its target folder; those that are no adapters are refused."""
    jobs: list[_Job] = []
    refused: dict[str, MergeAdvisorError] = {}
    for number, model in enumerate(models, 1):
        try:
            place = _place(model, scratch, offline)
            with suppress(NotPlainLoraError):  # PEFT may be able to merge it
                read_adapter_config(place.path)
            if not any((place.path / name).is_file() for name in (ADAPTER_WEIGHTS, ADAPTER_PICKLE)):
                raise PoolError(
                    f"has neither {ADAPTER_PICKLE} nor {ADAPTER_WEIGHTS}; fetch it again, or take another adapter"
                )
            target = partial / names[model.id]
            target.mkdir(exist_ok=names[model.id] == ".")
            for name in _KEPT:
                if (place.path / name).is_file():
                    shutil.copyfile(place.path / name, target / name)
            jobs.append(_Job(model, place.path, place.revision, target))
        except RunError:  # no room: what is left out for it would be missed
            raise
        except (InputError, OfflineError, ExternalError) as error:
            refused[model.id] = error
        progress("finding adapters", number, len(models))
    return jobs, refused


def _place(model: FoundModel, scratch: Path, offline: bool) -> hub.Snapshot:
    """Return where a model's files are; of a hub model the pickle is fetched only where there is nothing else."""
    place = fetch_model(model, offline=offline)
    if place.path.suffix.lower() == ".gguf":
        raise PoolError(f"{place.path.name}: a LoRA in GGUF is read with its base; give it to a pool as it is")
    if (
        model.hub is not None
        and (place.path / ADAPTER_CONFIG).is_file()
        and not (place.path / ADAPTER_WEIGHTS).is_file()
        and not folder_layout(place.path)
    ):
        return hub.fetch_snapshot(hub.HubId(model.hub.repo, place.revision), (*_KEPT, ADAPTER_PICKLE), offline=offline)
    return in_own_folder(model, place, scratch, {})[1]


def _rewrite(jobs: Sequence[_Job], progress: Progress) -> dict[str, str]:
    """Have child processes rewrite the pickles; return why some were not, by id."""
    reasons: dict[str, str] = {}
    left = list(jobs)
    while left:
        reports, death = _child([(job.folder / ADAPTER_PICKLE, job.target / ADAPTER_WEIGHTS) for job in left])
        for job, line in zip(left, reports, strict=False):
            if isinstance(number := line.get("system"), int):  # the system's, of a file that it could not write
                raise OSError(number, os.strerror(number))
            if "tensors" not in line:
                reasons[job.model.id] = (
                    f"{ADAPTER_PICKLE}: not converted: {last_words(line.get('error'), _SAID)}; take another adapter"
                )
        done = len(reports)
        if done < len(left):  # it died on the next file; another child goes on after that
            reasons[left[done].model.id] = f"{ADAPTER_PICKLE}: not converted: {death}; take another adapter"
            done += 1
        left = left[done:]
        progress("converting", len(jobs) - len(left), len(jobs))
    return reasons


def _child(jobs: Sequence[tuple[Path, Path]]) -> tuple[list[dict[str, Any]], str]:
    """Run one child process; return what it reported job by job, and what it died of."""
    # -I: neither the user's folders nor their environment say what the child imports
    command = [sys.executable, "-I", "-B", str(Path(unpickling.__file__).resolve())]
    # no tokens, no proxies, no paths: what a library needs to be found, and nothing else
    environment = {name: os.environ[name] for name in ("PATH", "SYSTEMROOT", "LD_LIBRARY_PATH") if name in os.environ}
    asked = json.dumps([[str(source.resolve()), str(target.resolve())] for source, target in jobs])
    limit = _STARTING + unpickling.SECONDS * len(jobs)
    try:
        done = subprocess.run(
            command, input=asked, env=environment | {"OMP_NUM_THREADS": "1"}, cwd=jobs[0][1].parent, text=True,
            capture_output=True, timeout=limit, check=False,
        )  # fmt: skip
        output, death = done.stdout, _death(done.returncode)
        if not output and done.returncode > 0:
            said = last_words(done.stderr, _SAID)
            raise ExternalError(f"convert: the child process failed ({said}); check the installed torch")
    except subprocess.TimeoutExpired as error:
        output = error.stdout.decode() if isinstance(error.stdout, bytes) else error.stdout or ""
        death = f"it took more than {limit} s"
    except OSError as error:
        raise ExternalError(f"convert: no child process can be started ({error.strerror}); try again") from error
    missing = "the process that read it wrote no report"
    lines = [read_report(line, missing) for line in output.split("\n") if line.strip()]
    return lines[: len(jobs)], death


def _death(code: int) -> str:
    """Say what a child process died of, in the middle of a file."""
    if code == -getattr(signal, "SIGALRM", 0):
        return f"reading it took more than {unpickling.SECONDS} s"
    names = {-number: number.name for number in signal.Signals}
    return f"the process that read it died ({names.get(code, code)})"


def _complete(job: _Job, *, converted: bool) -> None:
    """Check names and shapes of what was written, and note what it was made of.

    Raises:
        PoolError: it is a plain LoRA whose tensors do not go together.
        FileError: a file cannot be read.
    """
    header = read_header(job.target / ADAPTER_WEIGHTS)
    with suppress(NotPlainLoraError):
        read_adapter_config(job.target)
        pair_factors(header)
    if converted:
        note = {
            "version": VERSION,
            "source": job.model.hub.repo if job.model.hub else (job.model.folder or job.folder).resolve().name,
            "revision": job.revision or None,
            "file": ADAPTER_PICKLE,
            "sha256": file_digest(job.folder / ADAPTER_PICKLE, {}),
        }
        (job.target / _NOTE).write_text(to_json(note), encoding="utf-8")


def _refuse_all(source: str | Path, refused: Mapping[str, MergeAdvisorError]) -> None:
    reasons = [f"{short_name(name)}: {_reason(name, error)}" for name, error in sorted(refused.items())]
    more = f"; and {len(reasons) - 3} more" if len(reasons) > 3 else ""
    message = f"{source}: none of its {len(reasons)} adapters can be converted: {'; '.join(reasons[:3])}{more}"
    if all(isinstance(error, OfflineError) for error in refused.values()):
        raise OfflineError(message)
    raise PoolError(message)


def _reason(name: str, error: MergeAdvisorError) -> str:
    return " ".join(str(error).split()).removeprefix(f"{name}: ")


def _manifest(sources: Sources, written: Sequence[_Job], names: Mapping[str, str]) -> str:
    """The manifest of a folder of converted adapters."""
    import yaml

    models = []
    for job in written:
        entry = {"id": job.model.id, "path": names[job.model.id], "description": job.model.description}
        models.append({key: value for key, value in entry.items() if value})
    head = {"template": sources.template} if sources.template else {}
    return escaped_yaml(
        yaml.safe_dump({"version": VERSION, **head, "models": models}, sort_keys=False, allow_unicode=True)
    )
