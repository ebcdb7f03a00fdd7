"""Adapters that are more than plain LoRA, as the weight deltas that PEFT makes of them: once, in a child process.

What PEFT merges (DoRA, whole modules, biases, LoHa, LoKr, IA³, OFT, ...) is a change of the base's weights like any
other. It is kept in the cache under the adapter's fingerprint and the base's digest.
"""

from __future__ import annotations

import functools
import importlib.metadata
import json
import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from merge_advisor.errors import PoolError, RunError
from merge_advisor.json_form import VERSION, digest_of
from merge_advisor.pool.child_reports import printed
from merge_advisor.pool.fitted_rows import fitted_adapter
from merge_advisor.pool.peft_process import run_peft_child
from merge_advisor.progress import Progress, quiet_progress
from merge_advisor.weights.adapter import ADAPTER_WEIGHTS, read_weights_header
from merge_advisor.weights.adapter_config import ADAPTER_CONFIG, is_costly_pattern
from merge_advisor.weights.base import LocalBase
from merge_advisor.weights.by_transformers import model_class_of
from merge_advisor.weights.files import FileError, Hashes, file_digest, finite, read_json
from merge_advisor.weights.naming import find_parameter
from merge_advisor.weights.stored_delta import (
    STORED_WEIGHTS,
    StoredDelta,
    StoredIndex,
    StoredUpdate,
    read_stored_delta,
    write_index,
)
from merge_advisor.whole_files import scratch_folder, whole_folder

_STARTING = 900
"""Seconds a child process gets for one adapter, beside those for the base's size: importing PEFT can take many."""
_SECONDS_A_GIGABYTE = 120
_VOLATILE = re.compile(
    r"base_model_name_or_path|revision|peft_version|inference_mode|task_type|auto_mapping|.*dropout.*"
)
"""Settings that do not change what an adapter is once it is trained."""
_NAMES_CODE = ("auto_mapping", "megatron_config", "megatron_core")
"""Settings that name modules of Python to import: of a finetuned adapter no part."""
_PATTERNS = ("target_modules", "exclude_modules", "layers_pattern", "rank_pattern", "alpha_pattern", "modules_to_save",
             "feedforward_modules", "target_parameters")  # fmt: skip
"""Settings that PEFT may read as regular expressions."""


@dataclass(frozen=True, slots=True)
class _Job:
    """One adapter to merge."""

    folder: Path
    place: Path
    """Where its weight delta goes."""
    memo: str
    """Where it is remembered that it cannot be merged, and why."""
    fitted: str | None = None
    """What is said of the form that PEFT is given, see `fitted_adapter`; None: it is given the adapter as it is."""


@dataclass(frozen=True, slots=True, eq=False)
class PeftMerges:
    """The weight deltas that PEFT makes of adapters of one base.

    >>> from merge_advisor.weights.base import resolve_base
    >>> merges = PeftMerges(resolve_base("base", cache=Path("cache")), cache=None, hashes={})
    >>> merges.delta_of(Path("adapters/a0"))
    Traceback (most recent call last):
    merge_advisor.errors.PoolError: has to be merged by PEFT, which needs a folder to keep the result in; give `cache`
    """

    base: LocalBase
    cache: Path | None
    """Folder of the weight deltas; None: nothing is merged."""
    hashes: Hashes
    """A memo of file hashes, and of adapters that cannot be merged."""
    progress: Progress = quiet_progress
    run: Callable[[Mapping[str, Any], Path, float, Progress], tuple[list[dict[str, Any]], str]] = run_peft_child
    """Runs one child process, see `peft_process.run_peft_child`."""
    _failed: dict[Path, str] = field(default_factory=dict)
    """Why a child process merged some not, this time."""

    def prepare(self, folders: Iterable[Path]) -> None:
        """Have all adapters merged that are not yet, by one child process; what fails is told by `delta_of`.

        Args:
            folders: the adapters' folders.
        """
        if self.cache is None:
            return
        jobs = {}
        for folder in folders:
            try:
                job = self._job(folder)
                _check_patterns(folder)
            except (PoolError, FileError) as error:
                self._failed[folder] = str(error)
                continue
            if not job.place.is_dir() and job.memo not in self.hashes:
                jobs[job.place] = job  # by place: copies of one adapter are merged once
        self._merge(list(jobs.values()))

    def delta_of(self, folder: Path) -> StoredDelta:
        """Return the weight delta of an adapter that was prepared.

        Args:
            folder: its folder.

        Raises:
            PoolError: PEFT cannot merge it, or to nothing that fits the base; the message says why.
        """
        if self.cache is None:
            raise PoolError("has to be merged by PEFT, which needs a folder to keep the result in; give `cache`")
        job = self._job(folder)
        if job.place.is_dir():
            return read_stored_delta(job.place, self.base.shapes)
        raise PoolError(self._failed.get(folder) or self.hashes.get(job.memo) or "was not merged; try again")

    def place_of(self, folder: Path) -> Path:
        """Return the folder in the cache for the weight delta of an adapter.

        Args:
            folder: the adapter's folder.
        """
        return self._job(folder).place

    def _job(self, folder: Path) -> _Job:
        key = digest_of([VERSION, peft_fingerprint(folder, self.hashes), self.base.base.digest])
        memo = f"peft {_peft_version()}, rows as the base's|{key}"
        return _Job(folder, (self.cache or Path()) / key, memo)

    def _merge(self, jobs: Sequence[_Job]) -> None:
        if not jobs:
            return
        with scratch_folder() as scratch:
            left = [laid for job in jobs if (laid := self._laid_out(job, scratch)) is not None]
            while left:
                size = sum(path.stat().st_size for path in self.base.path.glob("*.safetensors"))
                limit = len(left) * (_STARTING + _SECONDS_A_GIGABYTE * size / 2**30)
                reports, death = self.run(self._asked(left, scratch), scratch, limit, self.progress)
                for job, report in zip(left, reports, strict=False):
                    self._keep(job, report, scratch)
                done = len(reports)
                if done < len(left):  # it died on the next one; another child goes on after that
                    self._failed[left[done].folder] = f"PEFT did not merge it: {death}"
                    done += 1
                left = left[done:]

    def _keep(self, job: _Job, report: Mapping[str, Any], scratch: Path) -> None:
        """Put what the child wrote in its place, or remember why there is nothing."""
        if "error" in report:
            reason = f"PEFT cannot merge it into this base: {printed(report['error'], 300)}"
            if report.get("final"):
                self.hashes[job.memo] = reason
            self._failed[job.folder] = reason
            return
        try:
            index = self._index(report, job.fitted)
            with whole_folder(job.place) as partial:
                shutil.move(_target(scratch, job), partial / STORED_WEIGHTS)
                write_index(partial, index)
                if job.fitted is not None:  # what loads adapters by PEFT needs this form as well
                    for file in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
                        shutil.copyfile(_given(scratch, job) / file, partial / file)
            read_stored_delta(job.place, self.base.shapes)
        except RunError:
            if not job.place.is_dir():  # else another process was faster, with the same weights
                raise
        except PoolError as error:
            shutil.rmtree(job.place, ignore_errors=True)
            self._failed[job.folder] = str(error)

    def _index(self, report: Mapping[str, Any], fitted: str | None) -> StoredIndex:
        updates = {}
        for number, update in enumerate(report["updates"]):
            names = [name for own in update["names"] if (name := find_parameter(own, self.base.shapes)) is not None]
            if not names:
                raise PoolError(f"changes {update['names'][0]}, which the base's files do not have; give its own base")
            updates[names[0]] = StoredUpdate(number, bool(update["transposed"]))
        if len(updates) < len(report["updates"]):
            raise PoolError("two of its parameters are one in the base's files; give its own base")
        made_by = f"PEFT {report['peft']}"
        notes = [fitted] if fitted else []
        for key in report["unknown"]:
            notes.append(f"{ADAPTER_CONFIG}: {str(key)[:60]!r} is no setting that {made_by} knows; it was ignored")
        return StoredIndex(VERSION, updates, made_by, tuple(notes))

    def _laid_out(self, job: _Job, scratch: Path) -> _Job | None:
        """Put what the child process may read of an adapter into a folder of its own; None where that fails."""
        copy = _given(scratch, job)  # what else lies in its folder is not the child's to read
        try:
            copy.mkdir()
            config = {
                key: value for key, value in read_json(job.folder / ADAPTER_CONFIG).items() if key not in _NAMES_CODE
            }
            fitted = fitted_adapter(job.folder, config, self.base, copy)
            if fitted is None:
                (copy / ADAPTER_CONFIG).write_text(json.dumps(config), encoding="utf-8")
                _link(job.folder / ADAPTER_WEIGHTS, copy / ADAPTER_WEIGHTS)
        except (PoolError, FileError) as error:
            self._failed[job.folder] = str(error)
            return None
        return replace(job, fitted=fitted)

    def _asked(self, jobs: Sequence[_Job], scratch: Path) -> dict[str, Any]:
        """Return what the child process is told."""
        asked = [[str(_given(scratch, job)), str(_target(scratch, job))] for job in jobs]
        parts: dict[str, list[list[Any]]] = {}
        for name, place in self.base.shapes.places.items():
            if not place.whole:
                parts.setdefault(place.parameter, []).append([name, place.shape, place.stride, place.offset])
        loader = model_class_of(self.base.path).__name__
        return {"base": str(self.base.path.resolve()), "loader": loader, "jobs": asked, "parts": parts}


def peft_fingerprint(folder: Path, hashes: Hashes) -> str:
    """Return a sha256 (hex) that is equal for equal adapters of any name: weights, and all settings that matter.

    Args:
        folder: the adapter's folder.
        hashes: a memo of file hashes.

    Raises:
        PoolError: a file cannot be read, or there are pickle weights alone.
    """
    try:
        read_weights_header(folder)
        config = read_json(folder / ADAPTER_CONFIG)
        kept = {key: value for key, value in config.items() if not _VOLATILE.fullmatch(key) and value is not None}
        return digest_of(["merged by PEFT", file_digest(folder / ADAPTER_WEIGHTS, hashes), finite(kept)])
    except ValueError as error:
        raise PoolError(str(error)) from error


@functools.cache
def _peft_version() -> str:
    """Read once: it takes as long as all else that is looked at of an adapter."""
    return importlib.metadata.version("peft")


def _check_patterns(folder: Path) -> None:
    config = read_json(folder / ADAPTER_CONFIG)
    for key in _PATTERNS:
        value = config.get(key)
        patterns = [value] if isinstance(value, str) else list(value) if isinstance(value, (list, dict)) else []
        for pattern in patterns:
            if isinstance(pattern, str) and is_costly_pattern(pattern):
                raise PoolError(
                    f"{ADAPTER_CONFIG}: the pattern {pattern[:60]!r} in {key} is too costly; write plain module names"
                )


def _given(scratch: Path, job: _Job) -> Path:
    return scratch / f"{job.place.name}.adapter"


def _target(scratch: Path, job: _Job) -> Path:
    return scratch / f"{job.place.name}.safetensors"


def _link(source: Path, target: Path) -> None:
    if target.exists():
        return
    try:
        target.symlink_to(source.resolve())
    except OSError:  # a system without links, or where they need permission
        shutil.copyfile(source, target)
