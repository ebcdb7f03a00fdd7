"""A merged model as one GGUF file, by llama.cpp's converter where it is installed, in a child process."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from merge_advisor.errors import ExternalError, RunError
from merge_advisor.formats.child_process import run_child
from merge_advisor.whole_files import whole_file

CONVERTER = "convert_hf_to_gguf.py"
"""llama.cpp's script; it lies in the root of its checkout, and on PATH where a package installed it."""
_CONVERTER_VARIABLE = "LLAMA_CPP"
"""Environment variable that names llama.cpp's checkout."""


def find_converter() -> Path:
    """Return llama.cpp's converter: in the folder $LLAMA_CPP names, or on PATH.

    Raises:
        ExternalError: it is in neither.
    """
    checkout = os.environ.get(_CONVERTER_VARIABLE)
    place = str(Path(checkout) / CONVERTER) if checkout else shutil.which(CONVERTER)
    if place is None or not Path(place).is_file():
        where = f"in {checkout}" if checkout else "on PATH"
        raise ExternalError(
            f"{CONVERTER} is not {where}; clone llama.cpp and set {_CONVERTER_VARIABLE} to its folder, "
            "or merge without `gguf`"
        )
    return Path(place)


def run_gguf(model: Path, out: Path) -> None:
    """Convert a model folder into the GGUF file `out`, in float16, whole or not at all.

    Args:
        model: folder of a full model, safetensors.
        out: a file that is not there yet.

    Raises:
        RunError: `out` is there already, or cannot be written.
        ExternalError: the converter is not there, or failed; its log is kept beside `out`.
    """
    if out.exists() or out.is_symlink():
        raise RunError(f"{out}: is there already; name another file, or remove it first")
    command = [sys.executable, str(find_converter()), str(model), "--outtype", "f16", "--outfile"]
    log = out.with_name(f".{out.name}.log").absolute()
    with whole_file(out.absolute()) as partial:
        run_child([*command, str(partial)], log, offline=True, name=CONVERTER)
        # an exit code of 0 alone does not say that a usable file was written
        if not _is_gguf(partial):
            raise ExternalError(f"{CONVERTER} wrote no GGUF file; its log: {log}")
    log.unlink(missing_ok=True)


def _is_gguf(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(4) == b"GGUF"
