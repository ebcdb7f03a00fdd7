"""mergekit in a child process, on a configuration our own schema has accepted."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from merge_advisor.errors import ExternalError, RunError
from merge_advisor.formats.child_process import run_child
from merge_advisor.formats.mergekit_schema import names_folders_only, parse_mergekit
from merge_advisor.weights.files import FileError
from merge_advisor.weights.tensorfile import open_folder, read_tensor
from merge_advisor.whole_files import scratch_folder, whole_folder


def run_mergekit(
    config_text: str, out: Path, *, threads: int | None, finish: Callable[[Path], object] = lambda _: None
) -> None:
    """Carry a mergekit configuration out into `out`, whole or not at all.

    mergekit writes a full model for every adapter into its LoRA cache and takes a folder found there as finished, so
    each call gives it a new one beside `out`, removed afterwards. Adapters are merged in float32 whatever the base is
    stored in.

    Args:
        config_text: the YAML; it is validated by `mergekit_schema.parse_mergekit` first.
        out: a folder that is not there yet.
        threads: threads of the child; None leaves it to mergekit.
        finish: called with the folder of the model before it takes its place; where it raises, nothing is kept.

    Raises:
        RunError: `out` is there already.
        InputError: the configuration is not one of ours, or `out` cannot be written.
        ExternalError: mergekit is not installed, failed or wrote weights that are not finite; its log is kept beside
            `out`.
    """
    config = parse_mergekit(config_text, "mergekit.yaml")
    if out.exists() or out.is_symlink():
        raise RunError(f"{out}: is there already; name another folder, or remove it first")
    if importlib.util.find_spec("mergekit") is None:
        raise ExternalError("mergekit is not installed; run `pip install mergekit`, or merge without it")
    out = out.absolute()
    log = out.with_name(f"{out.name}.mergekit.log")
    with whole_folder(out) as partial:
        with scratch_folder(out) as scratch:
            (scratch / "config.yaml").write_text(config_text, encoding="utf-8")
            # folders alone: nothing to ask the hub for
            run_child(_command(scratch, partial, threads), log, offline=names_folders_only(config), name="mergekit")
            _check_finite(partial, log)
        log.unlink(missing_ok=True)
        finish(partial)


def _command(scratch: Path, partial: Path, threads: int | None) -> list[str]:
    # -P: a file of the user's folder must not be imported in place of a library
    command = [sys.executable, "-P", "-m", "mergekit.scripts.run_yaml", str(scratch / "config.yaml"), str(partial)]
    command += ["--lora-merge-cache", str(scratch / "lora"), "--lora-merge-dtype", "float32", "--no-write-model-card"]
    return command + ([] if threads is None else ["--num-threads", str(threads)])


def _check_finite(folder: Path, log: Path) -> None:
    """Refuse what mergekit wrote without complaint: large weights overflow to infinity or NaN there."""
    try:
        for name, (path, info) in open_folder(folder).items():
            if info.is_float and not np.isfinite(read_tensor(path, info)).all():
                raise ExternalError(f"mergekit wrote NaN or infinity into {name}; lower the weights; its log: {log}")
    except FileError as error:
        raise ExternalError(f"mergekit wrote no usable model: {error}; its log: {log}") from error
