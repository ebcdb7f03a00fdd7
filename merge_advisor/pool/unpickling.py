"""The child process of `converting`: it writes the tensors of a pickle to a safetensors file, and does nothing else.

A program of its own (`python -I unpickling.py`), which imports nothing of this package. Jobs come on stdin as JSON,
`[[pickle, safetensors], ...]`; each gets a JSON line on stdout, `{"tensors": n}` or `{"error": reason}`. A process that
dies leaves the lines of what it had finished.

The pickle is read by torch's own restricted reader (`weights_only`), which builds tensors and calls nothing. Should
that have a hole, there is little behind it: the process has no network where the system allows it to give that up, no
sockets, no other programs and no file to write but the one asked for, and limits on time, memory and file size. That is
not a sandbox: Python can be left by whoever may run machine code in it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sys
from pathlib import Path
from typing import Any

SECONDS = 120
"""Time for one file."""
_MEMORY_ROOM = 2**30
"""Bytes of memory beyond what four times the file takes."""
_FORBIDDEN = ("socket.", "subprocess.", "os.exec", "os.fork", "os.posix_spawn", "os.spawn", "os.startfile", "os.system",
             "pty.", "ctypes.", "os.remove", "os.rename", "os.rmdir", "os.truncate", "os.link", "os.symlink",
             "os.chmod", "os.chown", "os.putenv", "shutil.", "webbrowser.", "urllib.")  # fmt: skip
"""Audit events (or what they begin with) that end a job."""


class RefusedError(Exception):
    """A file that is not converted; the message is the reason.

    >>> raise RefusedError("holds list and no state dict")
    Traceback (most recent call last):
    merge_advisor.pool.unpickling.RefusedError: holds list and no state dict
    """


def run_jobs() -> None:
    """Convert the files that stdin lists, one JSON line on stdout for each."""
    jobs = [(Path(source), Path(target)) for source, target in json.load(sys.stdin)]
    _leave_network()
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    torch.set_num_threads(1)
    _load_lazily_imported()
    _limit(max((source.stat().st_size for source, _ in jobs), default=0))
    sys.addaudithook(_forbid)
    for source, target in jobs:
        if hasattr(signal, "alarm"):
            signal.alarm(SECONDS)  # what it ends is this process
        try:
            tensors = read_tensors(source)
            try:
                save_file(tensors, target, metadata={"format": "pt"})
            except SafetensorError as error:
                # a full disk is not the file's fault; its number stands in the text
                found = re.search(r"os error ([0-9]+)", str(error))
                report: dict[str, Any] = {"error": _reason(error)} | ({"system": int(found[1])} if found else {})
            else:
                report = {"tensors": len(tensors)}
        except RefusedError as error:
            report = {"error": str(error)}
        except MemoryError:
            report = {"error": "takes more memory than tensors of its size can"}
        except BaseException as error:  # whatever a hostile file makes torch raise
            report = {"error": _reason(error)}
        sys.stdout.write(json.dumps(report) + "\n")
        sys.stdout.flush()


def read_tensors(path: Path) -> dict[str, Any]:
    """Return a pickled state dict: names to dense float tensors, no more bytes of them than the file has.

    Args:
        path: the pickle.

    Raises:
        RefusedError: it holds anything else.
    """
    import zipfile

    import torch

    size = path.stat().st_size
    # weights_only: torch's restricted reader; mmap only works on the newer, zipped form of a pickle
    state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path) or None)
    if not isinstance(state, dict) or not state:
        raise RefusedError(f"holds {type(state).__name__} and no state dict")
    total = 0
    for name, tensor in state.items():
        if type(name) is not str or type(tensor) not in (torch.Tensor, torch.nn.Parameter):
            raise RefusedError(f"holds {type(tensor).__name__} under {str(name)[:60]!r}; only tensors are taken")
        if tensor.layout != torch.strided or tensor.is_quantized or not tensor.is_floating_point():
            raise RefusedError(f"{name[:60]!r} is no dense float tensor")
        total += tensor.numel() * tensor.element_size()
    if total > size:  # a few stored bytes can be expanded to any size by strides of 0
        raise RefusedError(f"its tensors claim {total} bytes, the file has {size}")
    return {name: tensor.detach().clone(memory_format=torch.contiguous_format) for name, tensor in state.items()}


def _reason(error: BaseException) -> str:
    """Say in one line what is wrong, without torch's advice on how to read the file all the same."""
    import pickle

    if isinstance(error, pickle.UnpicklingError):
        first = error.__context__ or error  # what torch's reader met, before the advice
        return f"it holds more than tensors ({_line(first)})"
    return f"torch cannot read it ({_line(error)})"


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:160].rstrip(". ") or type(error).__name__


def _load_lazily_imported() -> None:
    """Have torch import now, before the limits hold, what it imports when it first loads and saves."""
    import io

    import torch
    from safetensors.torch import save

    for zipped in (True, False):
        stream = io.BytesIO()
        torch.save({"a": torch.zeros(1)}, stream, _use_new_zipfile_serialization=zipped)
        stream.seek(0)
        save(torch.load(stream, map_location="cpu", weights_only=True))


def _leave_network() -> None:
    """Move into a network namespace with nothing in it; Linux, where unprivileged users may."""
    with contextlib.suppress(Exception):
        import ctypes

        new_user, new_network = 0x10000000, 0x40000000
        library = ctypes.CDLL(None, use_errno=True)
        if library.unshare(new_network) != 0:
            library.unshare(new_user | new_network)


def _limit(largest: int) -> None:
    """Bound memory, processor time and written bytes, where there are such limits."""
    try:
        import resource
    except ImportError:
        return
    limits = {"RLIMIT_CORE": 0, "RLIMIT_FSIZE": 2 * largest + 2**20}
    with contextlib.suppress(OSError, ValueError, IndexError):
        mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        limits["RLIMIT_AS"] = mapped + 4 * largest + _MEMORY_ROOM
    for name, most in limits.items():
        with contextlib.suppress(OSError, ValueError, AttributeError):
            resource.setrlimit(getattr(resource, name), (most, most))


def _forbid(event: str, arguments: tuple[Any, ...]) -> None:
    """Refuse, for the rest of the process, what reading tensors does not need (safetensors writes below Python)."""
    if event.startswith(_FORBIDDEN):
        raise RefusedError(f"it tried {event}")
    if event == "open" and int(arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR):
        raise RefusedError(f"it tried to write {str(arguments[0])[:60]!r}")


if __name__ == "__main__":
    run_jobs()
