"""What can be asked of the machine: the options that every command which computes shares.

As `merge_advisor.options`: each option is defined here alone, and nothing heavy is imported.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from merge_advisor.errors import InputError
from merge_advisor.option_fields import option

AUTO = "auto"
"""Device or dtype that the machine and the base decide."""
MIXED = "mixed"
"""The dtype of float32 weights whose products of choosing and training are multiplied in bfloat16."""
_MACHINE = "machine"
_WORKERS = "workers"


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


@dataclass(frozen=True, slots=True)
class Workers:
    """Who computes beside this process: no one, processes of this machine, or actors of a Ray cluster.

    >>> Workers().beside, Workers(workers=2).beside, Workers("ray").beside
    (False, True, True)
    """

    engine: Literal["local", "ray"] = option(
        "local", group=_WORKERS,
        help="local (default): processes of this machine; ray: actors of the Ray cluster at $RAY_ADDRESS, or of one of "
        "this machine; the results are the same",
    )  # fmt: skip
    workers: int = option(
        1,
        group=_WORKERS,
        metavar="N",
        help="workers; each loads the base (default {default}: this process, or one actor)",
    )
    silence: float = option(
        300.0, group=_WORKERS, metavar="SECONDS",
        help="end a worker that gives no sign of life for so long, and give its work to another (default {default})",
    )  # fmt: skip

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise InputError(f"`workers={self.workers}`: give 1 or more")
        if not self.silence > 0:
            raise InputError(f"`silence={self.silence}`: give more than 0 seconds")

    @property
    def beside(self) -> bool:
        """Whether anything computes beside this process."""
        return self.engine != "local" or self.workers > 1
