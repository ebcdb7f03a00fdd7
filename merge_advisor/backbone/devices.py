"""What a machine has to compute with: the device and dtype that are taken where none is named, and whether it fits."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from merge_advisor.errors import BaseModelError
from merge_advisor.machine_options import AUTO, MIXED, Machine
from merge_advisor.natural_numbers import natural_number

BYTES = {"float32": 4, MIXED: 4, "bfloat16": 2, "float16": 2}
"""Bytes of an entry, by the dtypes that a base can have."""
_UNITS = frozenset({"amx_bf16", "avx512_bf16"})
"""What Linux calls units that multiply bfloat16; without one, products in bfloat16 take longer than in float32."""
_WITH_UNITS = ("BF16", "FP16", "AMX", "AVX10", "ALL", "DEFAULT")
"""Parts of those values of $ONEDNN_MAX_CPU_ISA that allow bfloat16 units."""
_NODES = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd", "/dev/dri")
"""What a Linux machine with a GPU has: of NVIDIA, below Windows, of AMD, of Intel and others."""


def settle(machine: Machine, config: Mapping[str, Any]) -> tuple[Machine, str]:
    """Return a machine with device, dtype and threads decided, and what there is to say of it.

    The device is CUDA, else MPS, else XPU, else the CPU; the dtype the base's own, but on a CPU `MIXED` where it has
    units for that, else float32. Where other work keeps cores busy, fewer threads are taken: two of which one shares
    its core wait for it at every step.

    >>> settle(Machine(device="cpu", dtype="bfloat16", threads=1), {"dtype": "float16"})
    (Machine(device='cpu', dtype='bfloat16', threads=1), '')

    Args:
        machine: as it was asked for.
        config: config.json of the base.
    """
    device = _best_device() if machine.device == AUTO else machine.device
    dtype = machine.dtype
    if dtype == AUTO:
        dtype = _own_dtype(device, config) if device != "cpu" else MIXED if multiplies_bfloat16() else "float32"
    threads, said = machine.threads, ""
    if threads is None and device == "cpu" and (threads := idle_threads()) is not None:
        said = f"{threads} of {cores()} cores, the others are busy; `threads` takes as many as it says"
    return replace(machine, device=device, dtype=dtype, threads=threads), said


def multiplies_bfloat16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Return whether this machine's CPU has units for products in bfloat16; False where that cannot be told.

    Asked of Linux and not of torch, whose import takes seconds that a dry run does not need. $ONEDNN_MAX_CPU_ISA, by
    which oneDNN (torch's products on a CPU) takes older instructions only, has a say.

    Args:
        cpuinfo: what Linux says of its processors.
    """
    allowed = os.environ.get("ONEDNN_MAX_CPU_ISA", "ALL").upper()
    if not any(word in allowed for word in _WITH_UNITS):
        return False
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # another system
        return False
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), [])
    return not _UNITS.isdisjoint(flags)


def dtype_of_weights(dtype: str) -> str:
    """Return the dtype that a base's weights have in memory, by the one that it is loaded as.

    >>> dtype_of_weights(MIXED), dtype_of_weights("float16")
    ('float32', 'float16')

    Args:
        dtype: as of `model.load_backbone`.
    """
    return "float32" if dtype == MIXED else dtype


def idle_threads() -> int | None:
    """Return how many threads leave other work its cores; None where there is none, or OMP_NUM_THREADS says it.

    What computes at this moment counts, for a tenth of a second. The load average of the last minute would also count
    what has ended, such as the installation of this package.
    """
    found = cores()
    if "OMP_NUM_THREADS" in os.environ or found == 1:
        return None
    import psutil  # not at the top: commands that load no model start without it

    busy = round(psutil.cpu_percent(interval=0.1) / 100 * (psutil.cpu_count() or 1))
    return max(1, found - busy) if busy else None


def cores() -> int:
    """Count the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _best_device() -> str:
    # torch takes seconds to import, and most machines without a GPU can be told apart without it
    if platform.system() == "Linux" and not any(Path(node).exists() for node in _NODES):
        return "cpu"
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if torch.backends.mps.is_available():
        return "mps"
    return "xpu" if torch.xpu.is_available() else "cpu"


def named_devices(device: str) -> tuple[str, ...]:
    """Return the devices that an option names, one or several CUDA devices between commas.

    >>> named_devices("cuda:0, cuda:1")
    ('cuda:0', 'cuda:1')

    Args:
        device: "cpu", "cuda", "cuda:N", "mps", "xpu", or "cuda:N,cuda:M" and so on.

    Raises:
        BaseModelError: several that are not all CUDA devices by number, or one twice.
    """
    names = tuple(name.strip() for name in device.split(","))
    if len(names) > 1:
        numbered = all(name.startswith("cuda:") and name.removeprefix("cuda:").isdecimal() for name in names)
        if not numbered or len(set(names)) < len(names):
            raise BaseModelError(
                f"device '{device}': several devices are CUDA devices by number, each once; for example cuda:0,cuda:1"
            )
    return names


def check_devices(device: str) -> tuple[str, ...]:
    """Return the devices that an option names, all of which are there.

    Args:
        device: as of `named_devices`.

    Raises:
        BaseModelError: torch does not see one of them, or several cannot be taken together.
    """
    names = named_devices(device)
    for name in names:
        if not is_there(name):
            kind = name.partition(":")[0].upper()
            raise BaseModelError(f"device '{name}' is not there (torch sees no {_seen(kind)}); leave out `device`")
    return names


def _seen(kind: str) -> str:
    import torch

    count = torch.cuda.device_count() if kind == "CUDA" else 0
    return f"such device, but {', '.join(cuda_devices())}" if count else f"{kind} device"


def cuda_devices() -> tuple[str, ...]:
    """Return the names of the CUDA devices that torch sees."""
    import torch

    return tuple(f"cuda:{number}" for number in range(torch.cuda.device_count()))


def memory_free(device: str) -> int | None:
    """Return the bytes a device has free; None where that cannot be told.

    Args:
        device: "cpu", "cuda", "cuda:N", "mps" or "xpu".
    """
    if device.startswith("cuda"):
        import torch

        # what this process has freed is kept by torch, and is free for it
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + int(kept)
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if device == "cpu" else None
    except (ValueError, OSError, AttributeError):  # another system
        return None


def remedy(device: str, dtype: str) -> str:
    """Return what to do where a base does not fit.

    >>> remedy("cuda:0", "bfloat16")
    'give more devices (`device=cuda:0,cuda:1`), or `device=cpu`'

    Args:
        device: one, or several between commas.
        dtype: of its weights.
    """
    ways = ["`dtype=bfloat16`"] if dtype_of_weights(dtype) == "float32" else []
    if device.startswith("cuda"):
        ways += ["more devices (`device=cuda:0,cuda:1`)" if "," not in device else "more devices"]
    if device != "cpu":
        ways += ["`device=cpu`"]
    return f"give {', or '.join(ways)}" if ways else "take a smaller base"


def is_there(device: str) -> bool:
    """Return whether torch has a device.

    Args:
        device: "cpu", "cuda", "cuda:N", "mps" or "xpu".
    """
    import torch

    kind, _, number = device.partition(":")
    place = natural_number(number or "0")
    if place is None:
        return False
    if kind == "cuda":
        return torch.cuda.is_available() and (not number or place < torch.cuda.device_count())
    if kind == "mps":
        return bool(torch.backends.mps.is_available())
    return bool(torch.xpu.is_available()) if kind == "xpu" else kind == "cpu"


def _own_dtype(device: str, config: Mapping[str, Any]) -> str:
    """The dtype that the base's files say they are in, as far as the device computes in it."""
    import torch

    own = str(config.get("dtype") or config.get("torch_dtype") or "float32").removeprefix("torch.")
    if own not in BYTES:
        return "float32"
    if own == "bfloat16" and device.startswith("cuda") and not torch.cuda.is_bf16_supported(including_emulation=False):
        return "float16"
    return own
