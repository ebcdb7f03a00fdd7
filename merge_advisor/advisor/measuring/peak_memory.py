"""The most memory that this process has taken, as the system and the accelerator tell it."""

from __future__ import annotations

import sys


def peak_memory() -> int | None:
    """Return the peak of this process in bytes, that of CUDA devices added; None where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        peak += sum(torch.cuda.max_memory_allocated(index) for index in range(torch.cuda.device_count()))
    return int(peak)
