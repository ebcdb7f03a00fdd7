"""Which finetuned models to merge for your task, how, and whether it helped.

    import merge_advisor as ma
    plan = ma.plan("examples.jsonl", pool="adapters/", base="HuggingFaceTB/SmolLM2-135M-Instruct", out="run")

Importing this package loads nothing heavy: each public function imports what it needs when it is called.
"""

from __future__ import annotations

import signal
import sys

if (
    sys.orig_argv[1:3] == ["-m", "merge_advisor"] or (sys.argv[:1] and sys.argv[0].endswith("merge-advisor"))
) and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    # as a program, until `__main__.entry` is there to make one line of it, an interrupt ends this process without
    # the traceback of whatever is being imported
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from typing import TYPE_CHECKING, Any

from merge_advisor.version import __version__

if TYPE_CHECKING:
    from merge_advisor.advisor import embed, gate, merge, plan, score, tune
    from merge_advisor.benchmark.bench import bench
    from merge_advisor.hub import Hub

__all__ = ["Hub", "__version__", "bench", "embed", "gate", "merge", "plan", "score", "tune"]


def __getattr__(name: str) -> Any:
    if name in ("embed", "gate", "merge", "plan", "score", "tune"):
        import merge_advisor.advisor as advisor

        return getattr(advisor, name)
    if name == "bench":
        from merge_advisor.benchmark.bench import bench

        return bench
    if name == "Hub":
        from merge_advisor.hub import Hub

        return Hub
    raise AttributeError(f"module 'merge_advisor' has no attribute {name!r}")
