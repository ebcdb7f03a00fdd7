"""The delta of a task for a hub: that of the LoRA of its shots, in the space of the hub's deltas."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from merge_advisor.advisor.measuring.deltas import embedding_space
from merge_advisor.advisor.measuring.shots_lora import target_parameters
from merge_advisor.advisor.planning.plan import delta_of_lora, finetune_on_tasks
from merge_advisor.errors import InputError
from merge_advisor.spaces import Space
from merge_advisor.types import Candidate, Task

if TYPE_CHECKING:
    from merge_advisor.advisor.measuring.session import Session
    from merge_advisor.arrays import Float32Array
    from merge_advisor.hub.opened import OpenHub
    from merge_advisor.options import PlanOptions


def hub_template(hub: OpenHub, base: str, given: str | None) -> str:
    """Return the prompt template that a task is put to the base under.

    Args:
        hub: open.
        base: of the models, as of `Hub.base_of`; one that the hub does not know by that name may still be known.
        given: what the user names; it wins.

    Raises:
        InputError: none is given, and the models were trained under several.
    """
    if given is not None:
        return given
    try:
        digest = hub.base_of(base).base.digest
    except InputError:
        digest = None
    found = hub.catalogue.templates(digest)
    if len(found) > 1:
        raise InputError(
            f"hub {hub.folder}: its models were trained under several templates ({', '.join(found)}); give `template`, "
            f"and with `filter=template={found[0]}` only the models of one"
        )
    return found[0] if found else "alpaca"


def check_base(hub: OpenHub, session: Session) -> str:
    """Return the digest of an open base that a hub holds models of.

    Args:
        hub: open.
        session: open.

    Raises:
        InputError: the hub holds none of it.
    """
    digest = session.local.base.digest
    known = {item.base.digest: item.base.id for item in hub.catalogue.bases(counted=False)}
    if not known:
        raise InputError(f"hub {hub.folder}: holds no models; add some with `merge-advisor hub add POOL`")
    if digest not in known:
        raise InputError(
            f"hub {hub.folder}: holds no models of base {session.local.base.id} with these weights, but of "
            f"{', '.join(known.values())}; give another `base`, or add models of it"
        )
    return digest


def task_vector(
    hub: OpenHub, session: Session, tasks: Sequence[Task], options: PlanOptions
) -> tuple[Space, Float32Array]:
    """Return the space of a plan's deltas and the task delta in it, (d,) float32; finetuned where it is not stored.

    The LoRA changes what adapters of the hub change, so that it is the plan's own wherever the plan's pool does.

    Args:
        hub: open.
        session: the base, open.
        tasks: the tasks of the plan.
        options: of the plan.

    Raises:
        MergeAdvisorError: as `plan`.
    """
    _, space = embedding_space(session.model, options.embedding)
    modules = hub.catalogue.modules(session.local.base.digest)
    stand_in = Candidate("hub", "adapter", "", modules=modules)
    targets = target_parameters(session.local, [stand_in] if modules else [])
    lora = finetune_on_tasks(session, tasks, targets, options)
    return space, delta_of_lora(session.meter, lora, space, options.embedding)
