"""What the results of a benchmark depend on, as digests by name: two ledgers of one identity hold the same results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from merge_advisor.benchmark.setup import ks_of
from merge_advisor.json_form import digest_of, to_plain

if TYPE_CHECKING:
    from merge_advisor.benchmark.running.context import BenchContext
    from merge_advisor.benchmark.running.rows import BenchTask
    from merge_advisor.benchmark.values import Arm, Setup


def identity(context: BenchContext, tasks: Mapping[str, BenchTask]) -> tuple[dict[str, str], dict[str, str]]:
    """Return all that results depend on, by name, and the parts of the setup that may become more.

    Where things are on this machine is no part of it: results may be measured on several.

    Args:
        context: the setup, and the base, pool and template that are open.
        tasks: the tasks by name.

    Returns:
        What must stay as it is, and what may be added to (see `Ledger.claim`), each name with a digest.
    """
    model = context.meter.model
    fixed = setup_digests(context.setup) | {
        "base": model.local.base.digest,
        "pool": digest_of([[c.id, c.fingerprint] for c in context.candidates]),
        "prompt template": model.template.digest,
        "dtype": model.machine.dtype,
        "rows or families of the tasks": digest_of([[task.digest for task in tasks.values()], context.families]),
    }
    return fixed, setup_parts(context.setup)


def setup_digests(setup: Setup) -> dict[str, str]:
    """Return a digest of every key of the setup that every result depends on, by name.

    Args:
        setup: what is asked. Base, pool, task files and families count by their contents (see `identity`), arms,
            controls, secondary questions, views and k one by one (see `setup_parts`).
    """
    plain = to_plain(setup)
    for name in ("base", "pool", "arms", "controls", "secondaries", "views", "k"):
        del plain[name]
    tasks = plain.pop("tasks")
    digests = {name: digest_of(value) for name, value in plain.items()}
    return digests | {f"tasks.{name}": digest_of(v) for name, v in tasks.items() if name not in ("path", "families")}


def setup_parts(setup: Setup) -> dict[str, str]:
    """Return arms, controls, sizes, views and secondary questions by name, each with a digest of what it is.

    Args:
        setup: what is asked.
    """
    # an arm's sizes are parts of their own, so that a k may be added without the arm becoming another
    parts = {f"arm {arm.name}": _arm_digest(arm) for arm in setup.arms}
    parts |= {f"control {name}": "" for name in setup.controls}
    parts |= {f"k {k} of {arm.name}": "" for arm in setup.arms for k in ks_of(arm, setup)}
    parts |= {f"k {k} of the controls": "" for k in setup.k}
    parts |= {f"view {view}": "" for view in setup.views}
    return parts | {f"question {q.text} ({q.metric})": "" for q in setup.secondaries}


def _arm_digest(arm: Arm) -> str:
    plain = to_plain(replace(arm, k=()))
    if not arm.adaptation:  # digests of arms from before there were adaptations stay valid
        del plain["adaptation"]
    return digest_of(plain)
