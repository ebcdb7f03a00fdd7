"""mergekit in a child process, on a configuration our own schema has accepted."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from merge_advisor.errors import ExternalError, InputError, RunError
from merge_advisor.formats.mergekit import local_only, parse_mergekit
from merge_advisor.weights.files import FileError
from merge_advisor.weights.tensorfile import open_folder, read_tensor
from merge_advisor.whole_files import whole_folder

GRACE = 5.0
"""Seconds between asking the child to stop and killing it."""


def run_mergekit(
    config_text: str, out: Path, *, cache: Path | None = None, threads: int | None = None, timeout: float | None = None
) -> None:
    """Carry a mergekit configuration out into `out`, whole or not at all.

    mergekit writes a full model for every adapter into its LoRA cache and takes a folder found there as finished, so
    each call gives it a new one, removed afterwards. Adapters are merged in float32 whatever the base is stored in.

    Args:
        config_text: the YAML; it is validated by `mergekit.parse_mergekit` first.
        out: a folder that is not there yet.
        cache: folder in which the passing LoRA cache is made (a full model an adapter); None: beside `out`.
        threads: threads of the child; None leaves it to mergekit.
        timeout: seconds after which the child is stopped; None waits.

    Raises:
        RunError: `out` is there already.
        InputError: the configuration is not one of ours, or `out` or `cache` cannot be written.
        ExternalError: mergekit is not installed, failed, took too long or wrote weights that are not finite; its log
            is kept beside `out`.
    """
    config = parse_mergekit(config_text, "mergekit.yaml")
    if out.exists() or out.is_symlink():
        raise RunError(f"{out}: is there already; name another folder, or remove it first")
    if importlib.util.find_spec("mergekit") is None:
        raise ExternalError("mergekit is not installed; run `pip install mergekit`, or merge without it")
    out = out.absolute()
    log = out.with_name(f"{out.name}.mergekit.log")
    with whole_folder(out) as partial:
        place = out.parent if cache is None else cache
        try:
            place.mkdir(parents=True, exist_ok=True)
            scratch = Path(tempfile.mkdtemp(prefix=f".{out.name}.lora-", dir=place)).absolute()
        except OSError as error:
            raise InputError(f"{place}: cannot be written ({error.strerror}); name a place you may write to") from error
        try:
            (scratch / "config.yaml").write_text(config_text, encoding="utf-8")
            run_child(_command(scratch, partial, threads), log, timeout, offline=local_only(config))
            _check_finite(partial, log)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    log.unlink(missing_ok=True)


def _command(scratch: Path, partial: Path, threads: int | None) -> list[str]:
    # -P: a file of the user's folder must not be imported in place of a library
    command = [sys.executable, "-P", "-m", "mergekit.scripts.run_yaml", str(scratch / "config.yaml"), str(partial)]
    command += ["--lora-merge-cache", str(scratch / "lora"), "--lora-merge-dtype", "float32", "--no-write-model-card"]
    return command + ([] if threads is None else ["--num-threads", str(threads)])


def run_child(command: list[str], log: Path, timeout: float | None, *, offline: bool, name: str = "mergekit") -> None:
    """Run a command with its output in `log` until it ends; whatever ends the wait early ends the command too.

    Raises:
        ExternalError: it failed, with the last line it said, or took longer than `timeout` seconds.
    """
    environment = os.environ | {"TOKENIZERS_PARALLELISM": "false"}
    if offline:  # folders alone: nothing to ask the hub for
        environment |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    with log.open("wb") as stream:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, env=environment, start_new_session=True
        )
        try:
            code = child.wait(timeout)
        except subprocess.TimeoutExpired as error:
            _stop(child)
            raise ExternalError(f"{name} took more than {timeout:g} s and was stopped; its log: {log}") from error
        except BaseException:  # Ctrl-C above all: nobody waits for the child any more
            _stop(child)
            log.unlink(missing_ok=True)
            raise
    if code:
        raise ExternalError(f"{name} failed: {last_line(log)}; its log: {log}")


def _stop(child: subprocess.Popen[bytes]) -> None:
    """End the child and what it started: it leads a process group of its own."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if child.poll() is None:
            os.killpg(child.pid, number)
            try:
                child.wait(GRACE)
            except subprocess.TimeoutExpired:
                continue


def last_line(log: Path) -> str:
    """Return the last line of a log that says something: no blank line, no progress bar; at most 300 characters."""
    text = log.read_text(encoding="utf-8", errors="replace").replace("\r", "\n")
    lines = [line.strip() for line in text.splitlines()]
    said = [line for line in lines if line and "%|" not in line and "it/s" not in line]
    return said[-1][:300] if said else "it said nothing"


def _check_finite(folder: Path, log: Path) -> None:
    try:
        for name, (path, info) in open_folder(folder).items():
            if info.is_float and not np.isfinite(read_tensor(path, info)).all():
                raise ExternalError(f"mergekit wrote NaN or infinity into {name}; lower the weights; its log: {log}")
    except FileError as error:
        raise ExternalError(f"mergekit wrote no usable model: {error}; its log: {log}") from error
