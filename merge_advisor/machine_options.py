"""What can be asked of the machine: the options that every command which computes shares.

As `merge_advisor.options`: each option is defined here alone, and nothing heavy is imported.
"""

from __future__ import annotations

from dataclasses import dataclass

from merge_advisor.errors import InputError
from merge_advisor.option_fields import option

AUTO = "auto"
"""Device or dtype that the machine and the base decide."""
MIXED = "mixed"
"""The dtype of float32 weights whose products of choosing and training are multiplied in bfloat16."""
_MACHINE = "machine"


@dataclass(frozen=True, slots=True)
class Machine:
    """Where and how to compute; only `dtype` changes what is computed.

    >>> Machine(threads=2).device
    'auto'
    """

    device: str = option(
        AUTO, group=_MACHINE, settings=True,
        help="auto (default: CUDA, several GPUs where one is too small, MPS, XPU, else the CPU), cpu, cuda, cuda:N, "
        "cuda:N,cuda:M, mps or xpu",
    )  # fmt: skip
    dtype: str = option(
        AUTO, group=_MACHINE, settings=True, choices=(AUTO, "float32", MIXED, "bfloat16", "float16"),
        help="auto (default): the base's own; on a CPU mixed (float32, products of choosing and training in bfloat16) "
        "where it has units for that, else float32",
    )  # fmt: skip
    threads: int | None = option(
        None, group=_MACHINE, settings=True, metavar="N", help="CPU threads (default: the cores that are idle)"
    )

    def __post_init__(self) -> None:
        if self.threads is not None and self.threads < 1:
            raise InputError(f"`threads={self.threads}`: give 1 or more")
