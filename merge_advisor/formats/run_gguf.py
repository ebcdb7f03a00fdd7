"""A merged model as one GGUF file, by llama.cpp's converter where it is installed, in a child process."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from merge_advisor.errors import ExternalError, RunError
from merge_advisor.formats.run_mergekit import run_child

CONVERTER = "convert_hf_to_gguf.py"
"""llama.cpp's script; it stands in the root of its checkout, and on PATH where a package installed it."""
CONVERTER_VARIABLE = "LLAMA_CPP"
"""Variable that names llama.cpp's checkout."""


def find_converter() -> Path:
    """Return llama.cpp's converter: in the folder $LLAMA_CPP names, or on PATH.

    Raises:
        ExternalError: it is in neither.
    """
    named = os.environ.get(CONVERTER_VARIABLE)
    found = str(Path(named) / CONVERTER) if named else shutil.which(CONVERTER)
    if found is None or not Path(found).is_file():
        where = f"in {named}" if named else "on PATH"
        raise ExternalError(
            f"{CONVERTER} is not {where}; clone llama.cpp and set {CONVERTER_VARIABLE} to its folder, "
            "or merge without --gguf"
        )
    return Path(found)


def run_gguf(model: Path, out: Path, *, timeout: float | None = None) -> None:
    """Convert a model folder into the GGUF file `out`, in float16, whole or not at all.

    Args:
        model: folder of a full model, safetensors.
        out: a file that is not there yet.
        timeout: seconds after which the child is stopped; None waits.

    Raises:
        RunError: `out` is there already.
        ExternalError: the converter is not there, failed or took too long; its log is kept beside `out`.
    """
    if out.exists() or out.is_symlink():
        raise RunError(f"{out}: is there already; name another file, or remove it first")
    command = [sys.executable, str(find_converter()), str(model), "--outtype", "f16", "--outfile"]
    out.parent.mkdir(parents=True, exist_ok=True)
    partial, log = (out.with_name(f".{out.name}.{end}").absolute() for end in ("partial", "log"))
    try:
        run_child([*command, str(partial)], log, timeout, offline=True, name=CONVERTER)
        if not partial.is_file() or partial.read_bytes()[:4] != b"GGUF":
            raise ExternalError(f"{CONVERTER} wrote no GGUF file; its log: {log}")
        partial.rename(out)
    finally:
        partial.unlink(missing_ok=True)
    log.unlink(missing_ok=True)
